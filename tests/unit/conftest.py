"""A store on a real file, and checks on it with judges that do as they are told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradlab.checks import Checks
from gradlab.course import Course
from gradlab.store import Store
from tests.checks import MIB, Make
from tests.courses import write_course
from tests.judges import ScriptedJudge
from tests.postgres import Postgres


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that names DATABASES has its tests on each of them; those of others have SQLite."""
    if "store_url" in metafunc.fixturenames and (names := getattr(metafunc.module, "DATABASES", None)):
        kinds = [
            pytest.param(name, marks=pytest.mark.xdist_group("postgresql")) if name != "sqlite" else name
            for name in names
        ]
        metafunc.parametrize("store_url", kinds, indirect=True)


@pytest.fixture
def store_url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Of SQLite in a folder that is not there yet, or of an empty database of PostgreSQL."""
    if getattr(request, "param", "sqlite") == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        return postgres.create()
    return f"sqlite:///{tmp_path / 'deep' / 'gradlab.sqlite'}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store.open(store_url)
    yield store
    store.close()


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return write_course(tmp_path / "course").load()


@pytest.fixture
def make(course: Course, store: Store) -> Iterator[Make]:
    """Checks on the test's store; closed, and its threads ended, after the test."""
    opened: list[tuple[Checks, ThreadPoolExecutor, ScriptedJudge]] = []

    def make(judge: ScriptedJudge, *, workers: int = 2, course: Course = course) -> Checks:
        executor = ThreadPoolExecutor(workers)
        checks = Checks(course, store, judge, executor, notebook_bytes=MIB, retry_seconds=0.01)
        opened.append((checks, executor, judge))
        return checks

    yield make
    for checks, executor, judge in opened:
        judge.gate.set()
        checks.close()
        executor.shutdown()


@pytest.fixture
def notebook(course: Course) -> bytes:
    return course.labs[0].notebook.encode()
