"""labkit's HTTP against a real server: what is sent, and what a learner reads when the portal refuses or is away."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from labkit.client import Portal
from labkit.errors import LabError
from tests.fake_portal import TOKEN, FakePortal, fake_portal, result, verdict


@pytest.fixture
def portal() -> Iterator[FakePortal]:
    with fake_portal() as portal:
        yield portal


def client(portal: FakePortal, **options: float) -> Portal:
    return Portal(portal.url, TOKEN, **options)


def test_a_notebook_is_sent_as_it_is_to_its_lab(portal: FakePortal) -> None:
    data = json.dumps({"cells": [], "note": "ü ☃"}, ensure_ascii=False).encode()
    assert client(portal).submit("gpu-usage", data, None) == 1
    sent = portal.requests[0]
    assert (sent.method, sent.path, sent.query) == ("POST", "/services/portal/api/labs/gpu-usage/checks", {})
    assert sent.body == data


def test_one_exercise_is_named_in_the_query_whatever_its_name(portal: FakePortal) -> None:
    client(portal).submit("a/../b", b"{}", "x&only=y/ü")
    assert portal.requests[0].query == {"only": ["x&only=y/ü"]}
    assert portal.requests[0].path == "/services/portal/api/labs/a%2F..%2Fb/checks"


def test_a_verdict_and_a_hint_come_back_as_data(portal: FakePortal) -> None:
    client(portal).submit("tensors", b"{}", "rank_of")
    assert client(portal).submission(1, wait=20)["verdict"] == verdict(result("rank_of"))
    assert portal.requests[-1].query == {"wait": ["20"]}
    assert client(portal).next_hint("tensors", "rank_of") == {"number": 1, "of": 2, "hint": "Look at `x.shape`."}


def test_an_answer_without_content_is_one(portal: FakePortal) -> None:
    told = [{"lab": "tensors", "version": "0123456789ab", "filename": "04_tensors.ipynb"}]
    client(portal).delivered(told)
    [sent] = portal.requests
    assert (sent.method, sent.path) == ("POST", "/services/portal/api/deliveries")
    assert json.loads(sent.body) == told


def test_the_portals_own_sentence_is_the_error(portal: FakePortal) -> None:
    portal.refuse = (404, json.dumps({"detail": "Lab 'tensors' has no exercise 'rnk'. It has: rank_of, double."}))
    with pytest.raises(LabError, match=r"^Lab 'tensors' has no exercise 'rnk'\. It has: rank_of, double\.$"):
        client(portal).submit("tensors", b"{}", "rnk")
    assert len(portal.requests) == 1


@pytest.mark.parametrize("status", [302, 401, 403])
def test_a_login_that_is_not_accepted_says_how_to_renew_it(portal: FakePortal, status: int) -> None:
    portal.refuse = (status, "<html>Log in</html>")
    with pytest.raises(LabError, match=rf"did not accept this server's login \(HTTP {status}\)\. Restart your server"):
        client(portal).submission(1, wait=0)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"detail": [{"loc": []}]}', ""])
def test_an_answer_that_is_not_the_portals_is_named(portal: FakePortal, body: str) -> None:
    portal.refuse = (500, body)
    with pytest.raises(LabError, match=r"The portal at http://\S+ answered 500 with something that is not its own"):
        client(portal).submission(1, wait=0)


def test_a_portal_that_restarts_is_waited_for_and_the_learner_is_told(portal: FakePortal) -> None:
    portal.outages = 2
    told: list[str] = []
    assert Portal(portal.url, TOKEN, patience=30, tell=told.append).submit("tensors", b"{}", None) == 1
    assert set(told) == {"The portal does not answer, it may be restarting. Trying again …"}


def test_a_portal_that_comes_back_on_its_port_gets_the_notebook() -> None:
    with socket.socket() as reserved:  # bound but not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        answers: list[int] = []
        caller = Portal(f"http://127.0.0.1:{port}/services/portal", TOKEN, patience=30)
        thread = threading.Thread(target=lambda: answers.append(caller.submit("tensors", b"{}", None)))
        thread.start()
        time.sleep(0.3)
    server = socket.create_server(("127.0.0.1", port))
    with server, server.accept()[0] as connection:
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{"id": 7}')
        thread.join(30)
    assert answers == [7]


def test_a_connection_that_breaks_off_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = Portal(f"http://127.0.0.1:{server.getsockname()[1]}/services/portal", TOKEN, patience=30)
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(caller.submit("tensors", b"{}", None)))
        thread.start()
        for reply in (
            b"",
            b"HTTP/1.1 202 Accepted\r\nContent-Length: 900\r\n\r\n{",
            b"HTTP/1.1 202 A\r\n\r\n" + b'{"id": 3}',
        ):
            with server.accept()[0] as connection:
                asked = b""
                while not asked.endswith(b"\r\n\r\n{}"):  # head and body come one by one; what is left unread resets
                    asked += connection.recv(65536)
                connection.sendall(reply)
        thread.join(30)
    assert answers == [3]


def test_an_answer_that_always_breaks_off_is_named_as_that() -> None:
    def answer(server: socket.socket) -> None:
        with server.accept()[0] as connection:
            request = b""
            while not request.endswith(b"\r\n\r\n{}"):  # what is left unread would make the end a reset
                request += connection.recv(65536)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 900\r\n\r\n{")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        caller = Portal(f"http://127.0.0.1:{server.getsockname()[1]}/services/portal", TOKEN, patience=0)
        with pytest.raises(LabError, match=r"for 0 s \(its answer broke off: IncompleteRead\)\. Your notebook is kept"):
            caller.submit("tensors", b"{}", None)
        thread.join(30)


def test_after_its_patience_it_says_that_nothing_is_lost(portal: FakePortal) -> None:
    portal.outages = 10**6
    with pytest.raises(
        LabError, match=r"has not answered for 0 s \(it answered 503\)\. Your notebook is kept, and so is"
    ):
        client(portal, patience=0.2).submit("tensors", b"{}", None)


@pytest.mark.parametrize("missing", ["GRADLAB_PORTAL_URL", "JUPYTERHUB_API_TOKEN"])
def test_outside_of_a_lab_server_it_says_so(missing: str) -> None:
    there = {"GRADLAB_PORTAL_URL": "http://127.0.0.1:1/services/portal", "JUPYTERHUB_API_TOKEN": TOKEN}
    with pytest.raises(LabError, match=rf"does not run in one: {missing} is not set\. Open the lab from the portal"):
        Portal.from_environment({**there, missing: ""})
    assert Portal.from_environment(there).url == there["GRADLAB_PORTAL_URL"]


def test_importing_labkit_loads_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import labkit; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.split(".")[0] == "labkit"}
    assert ours == {"labkit"}
    assert len(loaded) < 15, loaded  # typing and what it needs


def test_everything_exported_is_there_and_explains_itself() -> None:
    import labkit

    assert {"check", "gpu", "hint"} <= set(labkit.__all__)
    for name in labkit.__all__:
        assert getattr(labkit, name).__doc__
