"""A server on PostgreSQL: JupyterHub's tables, NativeAuthenticator's and ours, and an update of JupyterHub's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from gradlab.hub.login.accounts import reset_password
from tests.postgres import Postgres
from tests.servers import RunningServer, browser, fill_in, serving, start, who

pytestmark = [pytest.mark.hub, pytest.mark.xdist_group("postgresql")]

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[RunningServer]:
    yield from serving(
        tmp_path_factory.mktemp("postgres"),
        "c.SignUpAuthenticator.rounds = 4",
        login="signup",
        database_url=postgres.create(),
        hub_database_url=postgres.create(),
    )


def ask(server: RunningServer, statement: str) -> list[tuple[object, ...]]:
    """Something of the hub's database."""
    url = make_url(server.settings.hub_database_url)
    host = str(url.query["host"])
    with psycopg.connect(host=host, user=url.username, dbname=url.database, autocommit=True) as connection:
        answer = connection.execute(statement)
        return answer.fetchall() if answer.description else []


def test_people_sign_up_come_back_and_are_remembered_by_the_store(classroom: RunningServer) -> None:
    client = browser(classroom)
    sent = {"username": "ada", "password": PASSWORD, "again": PASSWORD, "code": classroom.learner_password}
    assert fill_in(client, "/hub/signup", **sent).status_code == 302
    assert who(classroom.log_in("ada", PASSWORD).client, "ada")["groups"] == ["learners"]
    client.follow_redirects = True
    assert client.get("/services/portal/").status_code == 200
    assert ask(classroom, "SELECT name FROM users") == [("ada",)]
    assert not [*Path(classroom.state_dir).glob("*.sqlite")]


def test_a_forgotten_password_is_changed_there(classroom: RunningServer) -> None:
    password = reset_password(classroom.settings, "ada")
    assert who(classroom.log_in("ada", password).client, "ada")["groups"] == ["learners"]


def test_tables_of_an_older_jupyterhub_are_brought_up_to_date_at_the_start(classroom: RunningServer) -> None:
    (head,) = ask(classroom, "SELECT version_num FROM alembic_version")
    classroom.stop()
    # As the revision before the one that came last has them.
    ask(classroom, "ALTER TABLE spawners DROP COLUMN display_name")
    ask(classroom, "UPDATE alembic_version SET version_num = 'ff1860e38070'")
    again = start(classroom.settings)
    try:
        assert ask(again, "SELECT version_num FROM alembic_version") == [head]
        assert ask(again, "SELECT display_name FROM spawners") == [(None,)] * len(ask(again, "SELECT id FROM spawners"))
        assert ask(again, "SELECT name FROM users") == [("ada",)]
    finally:
        again.destroy()
