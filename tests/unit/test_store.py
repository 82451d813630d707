"""The store on real SQLite files: durability, concurrency, migrations, and what its queries mean."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event

from gradlab.errors import StoreError
from gradlab.settings import ROOT
from gradlab.store import Cell, Fault, Store
from gradlab.store.tables import Base


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'gradlab.sqlite'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


def verdict(*results: tuple[str, str, int]) -> dict[str, Any]:
    rows = [
        {"exercise": name, "outcome": outcome, "points": points, "max_points": 2} for name, outcome, points in results
    ]
    return {"results": rows, "points": sum(points for _, _, points in results)}


def judged(store: Store, learner: str, *results: tuple[str, str, int], lab: str = "tensors", now: float = 10.0) -> int:
    number, _ = store.accept(learner, lab, b"{}", seed=1, now=now)
    assert store.record(number, verdict(*results), now=now + 1)
    return number


# -- the file ------------------------------------------------------------------------------------------------------


def test_migrations_make_exactly_the_tables(store: Store, url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_database_of_the_first_version_is_brought_up_to_date_and_keeps_its_results(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gradlab.sqlite'}"
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "gradlab" / "store" / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "INSERT INTO learner VALUES ('ada', 1, 1)",
            "INSERT INTO submission VALUES (7, 'ada', 'tensors', NULL, x'', 1, 'judged', 3, 1, 2, '{}', NULL)",
            "INSERT INTO result VALUES (7, 'rank_of', 'ada', 'tensors', 'our fault', 0, 2, 2)",
            "INSERT INTO result VALUES (7, 'double', 'ada', 'tensors', 'passed', 3, 3, 2)",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()
    store = Store.open(url)
    assert [(cell.exercise, cell.points) for cell in store.cells()] == [("double", 3)]
    assert store.faults(since=0) == [Fault(7, "ada", "tensors", ("rank_of",), (), 2.0)]
    store.close()


def test_opening_again_keeps_everything(store: Store, url: str) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", seed=1, now=1.0)
    again = Store.open(url)
    assert again.unjudged() == [(number, "ada")]
    again.close()


def test_the_file_is_written_ahead_and_synced_in_full(store: Store) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 15000


@pytest.mark.parametrize("bad", ["no url at all", "sqlite:////proc/nowhere/gradlab.sqlite", "oracle9://x"])
def test_a_database_that_cannot_be_opened_is_named_with_a_remedy(bad: str) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(bad)
    assert f"The database {bad!r} cannot be opened: " in str(error.value)
    assert "Check GRADLAB_DATABASE_URL and the folder's permissions." in str(error.value)


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, " * 200)
    with pytest.raises(StoreError, match="file is not a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_text() == "my notes, " * 200


def test_a_database_of_a_newer_version_is_left_alone(store: Store, url: str) -> None:
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"was made by a newer Gradlab: .*'9999'.* Run that version, or restore"):
        Store.open(url)


def test_a_database_without_its_driver_is_named_without_its_password() -> None:
    with pytest.raises(StoreError) as error:
        Store.open("mysql+asyncmy://gradlab:secret@db.example/gradlab")
    assert "The database 'mysql+asyncmy://gradlab:***@db.example/gradlab' cannot be opened: No module" in str(
        error.value
    )
    assert "secret" not in str(error.value)


# -- crashes and concurrency ---------------------------------------------------------------------------------------

ACCEPT_AND_DIE = """
import os, signal, sys
from gradlab.store import Store
store = Store.open(sys.argv[1])
number, _ = store.accept("ada", "tensors", b"notebook", seed=7, now=1.0)
os.write(1, str(number).encode())
os.kill(os.getpid(), signal.SIGKILL)
"""

SEE_AND_ACCEPT = """
store = Store.open(sys.argv[1])
for turn in range(25):
    store.see(f"new-{turn}", now=float(turn))
    number, _ = store.accept("ada", "tensors", f"{sys.argv[2]} {turn}".encode(), seed=turn, now=float(turn))
    store.count_try(number)
print("done")
"""


def test_kill_9_right_after_accept_keeps_the_submission(url: str) -> None:
    child = subprocess.run([sys.executable, "-c", ACCEPT_AND_DIE, url], capture_output=True, timeout=120)
    assert child.returncode == -signal.SIGKILL
    number = int(child.stdout)
    store = Store.open(url)
    assert [found for found, _ in store.unjudged()] == [number]
    found = store.submission(number)
    assert found is not None
    assert (found.notebook, found.seed, found.state, found.tries) == (b"notebook", 7, "accepted", 0)
    store.close()


def at_once(script: str, *arguments: list[str]) -> list[subprocess.Popen[str]]:
    """One process for each list of arguments; all have imported everything before any of them goes on."""
    script = f"from gradlab.store import Store\nprint('ready', flush=True)\nimport sys; sys.stdin.readline()\n{script}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in arguments
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return children


def test_processes_that_start_together_make_the_tables_once(url: str) -> None:
    children = at_once("Store.open(sys.argv[1]).see('ada', now=1.0)", *([url] for _ in range(4)))
    assert [child.communicate(timeout=120)[1] for child in children] == [""] * 4
    assert [child.returncode for child in children] == [0] * 4


def test_two_processes_see_and_accept_at_the_same_time(store: Store, url: str) -> None:
    children = at_once(SEE_AND_ACCEPT, [url, "one"], [url, "two"])
    for child in children:
        out, err = child.communicate(timeout=200)
        assert (out, child.returncode) == ("done\n", 0), err
    submissions = [store.submission(number) for number, _ in store.unjudged()]
    assert len(submissions) == 50
    assert {s.notebook.decode() for s in submissions if s} == {
        f"{n} {turn}" for n in ("one", "two") for turn in range(25)
    }
    assert all(s is not None and s.tries == 1 for s in submissions)
    assert [learner.name for learner in store.learners()] == sorted({"ada", *(f"new-{turn}" for turn in range(25))})


def test_a_reader_is_not_held_up_by_a_writer(store: Store, url: str) -> None:
    number = judged(store, "ada", ("rank_of", "passed", 2))
    writer = sqlite3.connect(url.removeprefix("sqlite:///"))
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE submission SET tries = 9")
    assert store.submission(number) is not None
    assert len(store.cells()) == 1
    writer.rollback()
    writer.close()


def test_threads_share_one_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for turn in range(10):
                judged(store, name, ("rank_of", "passed", 2), now=float(turn))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"learner-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [cell.attempts for cell in store.cells()] == [10, 10, 10, 10]


# -- submissions ---------------------------------------------------------------------------------------------------


def test_accept_names_the_learners_own_waiting_ones(store: Store) -> None:
    first, none = store.accept("ada", "tensors", b"1", seed=1, now=1.0)
    store.accept("bob", "tensors", b"x", seed=1, now=1.0)
    second, one = store.accept("ada", "cuda", b"2", seed=1, now=2.0)
    judged_id, two = store.accept("ada", "tensors", b"3", seed=1, now=3.0)
    assert (none, one, two) == ([], [first], [first, second])
    store.record(judged_id, verdict(), now=4.0)
    assert store.accept("ada", "tensors", b"4", seed=1, now=5.0)[1] == [first, second]


def test_a_verdict_is_recorded_once_and_whole(store: Store) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", only="rank_of", seed=1, now=1.0)
    assert store.record(number, verdict(("rank_of", "passed", 2)), report='{"cells": []}', now=3.0)
    assert not store.record(number, verdict(("rank_of", "failed", 0)), now=4.0)
    found = store.submission(number)
    assert found is not None
    assert (found.state, found.only, found.accepted_at, found.judged_at) == ("judged", "rank_of", 1.0, 3.0)
    assert found.verdict == verdict(("rank_of", "passed", 2))
    assert found.report == '{"cells": []}'
    assert store.unjudged() == []
    (cell,) = store.cells()
    assert cell.passed


def test_what_is_judged_is_never_superseded_and_the_other_way_round(store: Store) -> None:
    done = judged(store, "ada", ("rank_of", "passed", 2))
    waiting, _ = store.accept("ada", "tensors", b"{}", seed=1, now=5.0)
    assert store.supersede([done, waiting]) == [(waiting, "ada", "tensors")]
    states = {number: found.state for number in (done, waiting) if (found := store.submission(number))}
    assert states == {done: "judged", waiting: "superseded"}
    assert not store.record(waiting, verdict(("rank_of", "failed", 0)), now=6.0)
    assert store.unjudged() == []


def test_tries_are_counted_on_disk(store: Store, url: str) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", seed=1, now=1.0)
    assert [store.count_try(number) for _ in range(3)] == [1, 2, 3]
    again = Store.open(url)
    assert again.count_try(number) == 4
    again.close()


def test_attempts_come_newest_first_and_without_notebooks(store: Store) -> None:
    numbers = [judged(store, "ada", ("rank_of", "passed", 2), now=float(turn)) for turn in range(3)]
    other = judged(store, "ada", ("x", "failed", 0), lab="cuda", now=9.0)
    judged(store, "bob", ("rank_of", "passed", 2))
    assert [attempt.id for attempt in store.attempts("ada")] == [other, *reversed(numbers)]
    assert [attempt.id for attempt in store.attempts("ada", "tensors", limit=2)] == [numbers[2], numbers[1]]
    assert store.attempts("ada", "cuda")[0].verdict == verdict(("x", "failed", 0))


def test_an_unknown_submission_is_none(store: Store) -> None:
    assert store.submission(99) is None


# -- standing ------------------------------------------------------------------------------------------------------


def test_a_cell_keeps_the_best_points_and_the_latest_outcome(store: Store) -> None:
    judged(store, "ada", ("rank_of", "passed", 2), now=1.0)
    judged(store, "ada", ("rank_of", "failed", 0), ("double", "timed out", 0), now=5.0)
    assert store.cells(learner="ada", lab="tensors") == [
        Cell("ada", "tensors", "double", 0, False, 1, "timed out", 6.0),
        Cell("ada", "tensors", "rank_of", 2, True, 2, "failed", 6.0),
    ]


def test_what_was_not_tried_is_no_attempt_and_hides_no_outcome(store: Store) -> None:
    judged(store, "ada", ("rank_of", "failed", 0), now=1.0)
    judged(store, "ada", ("rank_of", "not attempted", 0), ("double", "skipped", 0), now=5.0)
    judged(store, "ada", ("rank_of", "our fault", 0), ("double", "our fault", 0), now=6.0)
    (cell,) = store.cells()
    assert (cell.exercise, cell.attempts, cell.last_outcome, cell.last_at) == ("rank_of", 1, "failed", 2.0)


def test_cells_are_of_one_learner_or_lab_when_asked(store: Store) -> None:
    judged(store, "ada", ("rank_of", "passed", 2))
    judged(store, "bob", ("rank_of", "passed", 2))
    judged(store, "bob", ("x", "passed", 2), lab="cuda")
    assert {(cell.learner, cell.lab) for cell in store.cells()} == {
        ("ada", "tensors"),
        ("bob", "tensors"),
        ("bob", "cuda"),
    }
    assert {(cell.learner, cell.lab) for cell in store.cells(learner="bob")} == {("bob", "tensors"), ("bob", "cuda")}
    assert {(cell.learner, cell.lab) for cell in store.cells(lab="cuda")} == {("bob", "cuda")}


# -- faults of ours ------------------------------------------------------------------------------------------------


def faulty(store: Store, learner: str, causes: dict[str, str], *, lab: str = "tensors", now: float = 10.0) -> int:
    number, _ = store.accept(learner, lab, b"{}", seed=1, now=now)
    found = verdict(*((name, "our fault", 0) for name in causes))
    assert store.record(number, found, causes=causes, now=now + 1)
    return number


def test_a_fault_of_ours_is_listed_with_its_causes_newest_first(store: Store) -> None:
    judged(store, "ada", ("rank_of", "passed", 2))
    first = faulty(store, "ada", {"rank_of": "no kernel", "double": "no kernel"})
    second = faulty(store, "bob", {"y": "one", "z": "two"}, lab="cuda", now=20.0)
    assert store.faults(since=0) == [
        Fault(second, "bob", "cuda", ("y", "z"), ("one", "two"), 21.0),
        Fault(first, "ada", "tensors", ("double", "rank_of"), ("no kernel",), 11.0),
    ]
    assert [fault.submission for fault in store.faults(since=21.0)] == [second]
    assert store.faults(since=21.5) == []


@pytest.mark.parametrize("outcome", ["passed", "failed", "not attempted", "skipped"])
def test_a_fault_ends_with_the_next_verdict_on_the_same_exercise_of_the_same_learner(
    store: Store, outcome: str
) -> None:
    number = faulty(store, "ada", {"rank_of": "broken", "double": "broken"})
    judged(store, "bob", ("rank_of", outcome, 0), ("double", outcome, 0))
    judged(store, "ada", ("rank_of", outcome, 0), ("double", outcome, 0), lab="cuda")
    assert [fault.exercises for fault in store.faults(since=0)] == [("double", "rank_of")]
    judged(store, "ada", ("rank_of", outcome, 0))
    assert store.faults(since=0) == [Fault(number, "ada", "tensors", ("double",), ("broken",), 11.0)]
    judged(store, "ada", ("double", outcome, 0))
    assert store.faults(since=0) == []


def test_of_a_fault_that_happens_again_the_latest_is_listed(store: Store) -> None:
    faulty(store, "ada", {"rank_of": "first"})
    second = faulty(store, "ada", {"rank_of": "second"})
    assert [(fault.submission, fault.causes) for fault in store.faults(since=0)] == [(second, ("second",))]


def test_the_cause_is_in_nothing_that_a_learner_may_ask_for(store: Store) -> None:
    number = faulty(store, "ada", {"rank_of": "the hidden check"})
    found = (store.submission(number), store.attempts("ada"), store.cells())
    assert "the hidden check" not in repr(found)


def test_faults_are_found_by_an_index_however_many_results_there_are(store: Store) -> None:
    seen: list[str] = []
    event.listen(store._engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    store.faults(since=0)
    with store._engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {seen[-1]}", ("our fault", 0.0)).all()
    steps = " ".join(row[-1] for row in plan)
    assert "SEARCH result USING INDEX ix_result_outcome (outcome=? AND judged_at>?)" in steps
    assert "USING INDEX ix_result_learner_lab (learner=? AND lab=? AND exercise=?)" in steps
    assert "SCAN" not in steps


# -- people, hints, deliveries -------------------------------------------------------------------------------------


def test_last_seen_never_goes_back(store: Store) -> None:
    store.see("ada", now=5.0)
    store.see("ada", now=9.0)
    store.see("ada", now=7.0)
    (learner,) = store.learners()
    assert (learner.name, learner.first_seen, learner.last_seen) == ("ada", 5.0, 9.0)


def test_hints_open_one_by_one_up_to_what_there_is(store: Store) -> None:
    assert [store.open_hint("ada", "tensors", "rank_of", available=2, now=1.0) for _ in range(3)] == [1, 2, 2]
    assert store.open_hint("ada", "tensors", "double", available=0, now=1.0) == 0
    assert store.hints("ada", "tensors") == {"rank_of": 2, "double": 0}
    assert store.hints("bob", "tensors") == {}


def test_deliveries_are_listed_oldest_first_and_told_twice_only_once(store: Store) -> None:
    store.deliver("ada", "tensors", "v2", "04_tensors-v2.ipynb", now=5.0)
    store.deliver("ada", "tensors", "v1", "04_tensors.ipynb", now=1.0)
    store.deliver("ada", "tensors", "v1", "04_tensors.ipynb", now=1.0)
    assert store.deliveries("ada") == {"tensors": [("v1", "04_tensors.ipynb"), ("v2", "04_tensors-v2.ipynb")]}
    assert store.deliveries("bob") == {}


def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = Store.open(f"sqlite:///{tmp_path / 'gradlab.sqlite'}")
        store.see("ada", now=1.0)
        modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("gradlab.sqlite", "gradlab.sqlite-wal", "gradlab.sqlite-shm"), 0)
