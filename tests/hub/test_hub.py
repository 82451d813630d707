"""A real hub, proxy and learner's server: who may log in, what runs, what is visible from inside."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from gradlab.settings import ROOT
from tests.servers import Kernel, Person, RunningServer, login_error, until

pytestmark = pytest.mark.hub


def groups_of(person: Person) -> list[str]:
    groups: list[str] = person.api("GET", "/hub/api/user").json()["groups"]
    return groups


@pytest.fixture(scope="module")
def ada(running_server: RunningServer) -> Person:
    """A learner whose server runs."""
    person = running_server.log_in("ada")
    person.start_server()
    return person


@pytest.fixture(scope="module")
def kernel(ada: Person) -> Iterator[Kernel]:
    kernel = ada.kernel()
    yield kernel
    kernel.close()


def test_each_password_leads_to_its_group(running_server: RunningServer) -> None:
    assert groups_of(running_server.log_in("login-learner")) == ["learners"]
    assert groups_of(running_server.log_in("login-teacher", running_server.instructor_password)) == ["instructors"]


def test_a_kernel_computes_through_the_proxys_websocket(kernel: Kernel) -> None:
    assert kernel.run("1 + 1") == "2"
