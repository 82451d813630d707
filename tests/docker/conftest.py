"""Docker, asked for by every test here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import docker
import pytest

from tests.conftest import Require


@pytest.fixture(autouse=True, scope="session")
def engine(require: Require) -> Iterator[docker.DockerClient]:
    require("docker")
    with contextlib.closing(docker.from_env()) as client:
        yield client
