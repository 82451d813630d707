"""The store on SQLite: the file, its indexes, and whoever else has it open."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from gradlab.errors import StoreError
from gradlab.store import Store, database
from tests.stores import judged


def test_the_file_is_written_ahead_and_synced_in_full(store: Store) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 15000


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


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, " * 200)
    with pytest.raises(StoreError, match="file is not a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_text() == "my notes, " * 200


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


def test_a_database_that_somebody_else_prepares_is_waited_for(store_url: str) -> None:
    with closing(about_to_write(store_url)) as other:
        timer = threading.Timer(0.3, other.execute, ["COMMIT"])
        timer.start()
        with closing(Store.open(store_url)) as store:
            store.see("ada", now=1.0)
        timer.join()


def test_a_database_that_somebody_else_never_lets_go_is_named(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    with (
        closing(about_to_write(store_url)),
        pytest.raises(StoreError, match=r"cannot be opened: .*database is locked.* Check GRADLAB_DATABASE_URL"),
    ):
        Store.open(store_url)


def test_what_no_waiting_mends_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE one (x)")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        started = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database._write_ahead(connection.cursor())
        assert time.monotonic() - started < database._BUSY_SECONDS / 3


def about_to_write(store_url: str) -> sqlite3.Connection:
    """A connection for which SQLite lets nobody switch to WAL, and waits for no moment."""
    path = Path(store_url.removeprefix("sqlite:///"))
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    locked = pytest.raises(sqlite3.OperationalError, match="database is locked")
    with closing(sqlite3.connect(path, timeout=5)) as connection, locked:
        connection.execute("PRAGMA journal_mode=WAL")
    return other


def test_a_reader_is_not_held_up_by_a_writer(store: Store, store_url: str) -> None:
    number = judged(store, "ada", ("rank_of", "passed", 2))
    writer = sqlite3.connect(store_url.removeprefix("sqlite:///"))
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE submission SET tries = 9")
    assert store.submission(number) is not None
    assert len(store.cells()) == 1
    writer.rollback()
    writer.close()
