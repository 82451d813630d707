"""The store on PostgreSQL, where that differs: text it does not take, connections that end, servers that are away."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from gradlab.errors import StoreError
from gradlab.store import Store
from tests.postgres import Postgres
from tests.stores import verdict

DATABASES = ("postgresql",)


def test_a_cause_with_a_zero_byte_is_kept_without_it(store: Store) -> None:
    number, _ = store.accept("ada", "tensors", b"\0", seed=1, now=1.0)
    assert store.record(
        number, verdict(("rank_of", "our fault", 0)), causes={"rank_of": "printed \0 and died"}, now=2.0
    )
    assert [fault.causes for fault in store.faults(since=0)] == [("printed \ufffd and died",)]


def test_the_largest_seed_has_room(store: Store) -> None:
    number, _ = store.accept("ada", "tensors", b"{}", seed=2**31 - 1, now=1.0)
    found = store.submission(number)
    assert found is not None
    assert found.seed == 2**31 - 1


def test_a_connection_that_the_server_ended_is_replaced(store: Store, postgres: Postgres) -> None:
    store.see("ada", now=1.0)
    with psycopg.connect(host=str(postgres.folder), user="gradlab", dbname="postgres") as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'"
        ).fetchall()
    assert ended
    store.see("ada", now=2.0)
    assert [learner.last_seen for learner in store.learners()] == [2.0]


def test_a_server_that_is_away_is_named_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(f"postgresql+psycopg://gradlab:secret@/gradlab?host={tmp_path}")
    said = str(error.value)
    assert "The database 'postgresql+psycopg://gradlab:***@/gradlab" in said
    assert "cannot be opened: " in said
    assert said.endswith("Check GRADLAB_DATABASE_URL, and that its server runs and lets this user in.")
    assert "secret" not in said
