"""The database of a store: migrations, durability, concurrency, and databases that are of no use."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from gradlab.errors import StoreError
from gradlab.settings import ROOT
from gradlab.store import Fault, Store
from gradlab.store.tables import Base
from tests.stores import judged

DATABASES = ("sqlite", "postgresql")

# -- tables ----------------------------------------------------------------------------------------------------------


def test_migrations_make_exactly_the_tables(store: Store, store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_database_of_the_first_version_is_brought_up_to_date_and_keeps_its_results(store_url: str) -> None:
    if store_url.startswith("sqlite"):
        Path(store_url.removeprefix("sqlite:///")).parent.mkdir()
    engine = create_engine(store_url)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "gradlab" / "store" / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "INSERT INTO learner VALUES ('ada', 1, 1)",
            "INSERT INTO submission VALUES (7, 'ada', 'tensors', NULL, '', 1, 'judged', 3, 1, 2, '{}', NULL)",
            "INSERT INTO result VALUES (7, 'rank_of', 'ada', 'tensors', 'our fault', 0, 2, 2)",
            "INSERT INTO result VALUES (7, 'double', 'ada', 'tensors', 'passed', 3, 3, 2)",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()
    store = Store.open(store_url)
    assert [(cell.exercise, cell.points) for cell in store.cells()] == [("double", 3)]
    assert store.faults(since=0) == [Fault(7, "ada", "tensors", ("rank_of",), (), 2.0)]
    store.close()


def test_opening_again_keeps_everything(store: Store, store_url: str) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", seed=1, now=1.0)
    again = Store.open(store_url)
    assert again.unjudged() == [(number, "ada")]
    again.close()


@pytest.mark.parametrize("bad", ["no url at all", "sqlite:////proc/nowhere/gradlab.sqlite", "oracle9://x"])
def test_a_database_that_cannot_be_opened_is_named_with_a_remedy(bad: str) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(bad)
    assert f"The database {bad!r} cannot be opened: " in str(error.value)
    assert "Check GRADLAB_DATABASE_URL and the folder's permissions." in str(error.value)


def test_a_database_of_a_newer_version_is_left_alone(store: Store, store_url: str) -> None:
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"was made by a newer Gradlab: .*'9999'.* Run that version, or restore"):
        Store.open(store_url)


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


def test_kill_9_right_after_accept_keeps_the_submission(store_url: str) -> None:
    child = subprocess.run([sys.executable, "-c", ACCEPT_AND_DIE, store_url], capture_output=True, timeout=120)
    assert child.returncode == -signal.SIGKILL
    number = int(child.stdout)
    store = Store.open(store_url)
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


def test_processes_that_start_together_make_the_tables_once(store_url: str) -> None:
    children = at_once("Store.open(sys.argv[1]).see('ada', now=1.0)", *([store_url] for _ in range(4)))
    assert [child.communicate(timeout=120)[1] for child in children] == [""] * 4
    assert [child.returncode for child in children] == [0] * 4


def test_two_processes_see_and_accept_at_the_same_time(store: Store, store_url: str) -> None:
    children = at_once(SEE_AND_ACCEPT, [store_url, "one"], [store_url, "two"])
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
