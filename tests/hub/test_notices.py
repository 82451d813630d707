"""Notices on a real server: from the store through the portal to a learner's own server, and to nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from gradlab.store import Store
from tests.servers import Person, RunningServer

PATH = "/user/notified/labkit/notices"


@pytest.fixture
def store(running_server: RunningServer) -> Iterator[Store]:
    store = Store.open(running_server.settings.store_url)
    yield store
    store.close()


@pytest.fixture
def learner(running_server: RunningServer) -> Iterator[Person]:
    person = running_server.log_in("notified")
    person.start_server()
    yield person
    person.stop_server()


def test_a_learner_s_server_tells_its_owner_and_nobody_else(
    running_server: RunningServer, store: Store, learner: Person
) -> None:
    active = learner.api("GET", "/user/notified/api/status").json()["last_activity"]
    now = time.time()
    store.notify("notified", "Your GPU goes back.", key="gpu", until=now + 600, now=now)
    store.notify("somebody else", "Not for you.", key="gpu", until=now + 600, now=now)
    answer = learner.api("GET", PATH)
    assert answer.status_code == 200, answer.text
    assert answer.json() == [{"key": "gpu", "text": "Your GPU goes back.", "at": now, "until": now + 600}]
    assert learner.api("GET", "/user/notified/api/status").json()["last_activity"] == active

    assert httpx.get(running_server.url + PATH).status_code == 403
    for name, password in (("curious", None), ("watching", running_server.instructor_password)):
        other = running_server.log_in(name, password)
        assert other.api("GET", PATH).status_code == 403
