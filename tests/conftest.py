"""What all tests share: the running server, and the rule for what a machine may lack.

A test that needs something a machine may lack asks for it by name, ``require("chromium")``. Where it is missing the
test is skipped with the reason. But if the variable TEST_REQUIRE names it (``.ci/run`` sets it to what it has
installed), the test fails: what was prepared must not be skipped.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version

import hypothesis
import pytest

from checker.sandbox.confinement import detect
from gradlab.settings import ROOT
from tests.courses import write_course
from tests.postgres import Postgres, lacks_postgres, postgres_image, running_postgres
from tests.servers import RunningServer, settings_for, start

# A property is right or wrong, however busy the machine is.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

Require = Callable[..., None]


def _lacks(name: str) -> str:
    """Why ``name`` cannot be used here; empty if it can."""
    if name == "root":
        return "" if os.getuid() == 0 else "the tests do not run as root"
    if name in ("bubblewrap", "unshare"):
        try:
            detect(name)
        except RuntimeError as error:
            return str(error)
        return ""
    if name == "postgresql":
        return lacks_postgres()
    if name == "postgres-image":
        return "" if postgres_image() else "the image postgres:17-bookworm is not on this machine: docker pull it"
    if name == "docker":
        return _lacks_image("lab")
    if name == "images":
        return _lacks_image("hub") or _lacks_image("checker")
    return "" if shutil.which(name) else f"{name} is not on PATH"


@functools.cache
def _lacks_image(name: str) -> str:
    """Docker is of use to the tests with images that have the code they test."""
    done = subprocess.run([ROOT / "scripts" / "images", "--check", name], capture_output=True, text=True, timeout=60)
    return done.stderr.strip()


@pytest.fixture(scope="session")
def require() -> Require:
    """``require("bubblewrap")``: skip the test where that is missing, or fail it where CI was to provide it."""
    return partial(demand, required=os.environ.get("TEST_REQUIRE", ""))


def demand(name: str, reason: str | None = None, *, required: str) -> None:
    """Skip for want of ``name``, or fail if it is one of ``required`` (names separated by commas).

    ``reason`` says what is wrong with it (empty: nothing), if the test has found out for itself.
    """
    reason = _lacks(name) if reason is None else reason
    if reason and name in required.split(","):
        pytest.fail(f"{name} was prepared for (TEST_REQUIRE) and is not usable: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"needs {name}: {reason}")


def pytest_report_header() -> list[str]:
    names = ("jupyterhub", "jupyterlab", "papermill", "torch")
    return [
        f"python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names),
        f"confinement: {detect()}; required: {os.environ.get('TEST_REQUIRE') or 'nothing'}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared server go to one process (with --dist loadgroup), or each would start a server of its own.

    It is the one of the tests that change this machine's networks: of the shared server's some have a browser, and
    Chromium gives up what it loads when networks come or go.
    """
    for item in items:
        if "running_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("networks"))
            item.add_marker(pytest.mark.hub)


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One real server with the course of tests/courses.py for all tests of a session; use names of your own in it."""
    folder = tmp_path_factory.mktemp("server")
    course = write_course(folder)
    server = start(settings_for(folder, labs_dir=course.labs, checks_dir=course.checks))
    yield server
    server.destroy()


@pytest.fixture(scope="session")
def postgres(require: Require) -> Iterator[Postgres]:
    """A PostgreSQL server for all tests of a session."""
    require("postgresql")
    with running_postgres() as server:
        yield server
