"""A whole portal for tests: the real app on a real port, a real store, and a small HTTP server that answers as the Hub
does where the portal asks it (``/hub/api/user``, ``/hub/api/users/NAME`` and ``…/server``,
``/hub/api/oauth2/authorize`` and ``…/token``)."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import httpx
import uvicorn
from fastapi import FastAPI

from checker.engine import Assignment
from checker.results import CheckLine, Outcome, Result, Verdict
from gradlab.checks import Checks
from gradlab.course import Course
from gradlab.credentials import Credentials
from gradlab.portal import HubClient, create_app
from gradlab.settings import Settings
from gradlab.store import Store
from tests.gpuframes import gpu_view, silent
from tests.handlers import JsonHandler, serving
from tests.waiting import until

__all__ = ["NAVIGATION", "PREFIX", "Gpus", "HubStandIn", "Running", "StubJudge", "running_portal", "verdict"]

PREFIX = "/services/portal/"
SCOPE = "access:services!service=portal"
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
NO_GPU = {
    "available": False,
    "message": "No NVIDIA driver is installed here.",
    "driver_version": None,
    "simulated": False,
    "devices": [],
}


class HubStandIn:
    """Answers as JupyterHub 6.1 does. ``logged_in`` is who the browser's Hub session belongs to; ``stop_looks`` is how
    often a server that was told to stop is still found."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, tuple[str, str]] = {}
        self.logged_in = "mira"
        self.groups: dict[str, list[str]] = {"grace": ["instructors"], "mira": ["learners"], "noor": ["learners"]}
        self.servers: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.stop_looks = 1.0
        self._looks_left: dict[str, float] = {}
        self.answers_500 = False
        self.user_requests = 0
        self.failures = 0
        self._server = contextlib.ExitStack()
        self.url = f"http://127.0.0.1:{self._server.enter_context(serving(_handler(self)))}"

    def close(self) -> None:
        self._server.close()

    def token(self, name: str, *, scopes: tuple[str, ...] = (SCOPE,), kind: str = "user") -> str:
        """A new token of this person."""
        token = secrets.token_hex(16)
        self.tokens[token] = {
            "name": name,
            "kind": kind,
            "admin": False,
            "groups": self.groups.get(name, []),
            "scopes": [*scopes, f"read:users:name!user={name}", f"read:users:groups!user={name}"],
        }
        return token

    def user(self, token: str) -> dict[str, Any] | None:
        self.user_requests += 1
        return self.tokens.get(token)

    def start_server(self, name: str, *, gpu: bool = False) -> None:
        """This person's server, as it was asked for on the Hub's page."""
        options = {"gpu": "yes"} if gpu else {}
        self.servers[name] = {"name": "", "ready": True, "pending": None, "stopped": False, "user_options": options}

    def stop_server(self, name: str) -> None:
        self.stopped.append(name)
        if name in self.servers:
            self.servers[name] |= {"ready": False, "pending": "stop"}
            self._looks_left[name] = self.stop_looks

    def person(self, name: str) -> dict[str, Any]:
        """Somebody, with their server if there is one."""
        if self.servers.get(name, {}).get("pending") == "stop":
            self._looks_left[name] -= 1
            if self._looks_left[name] < 0:
                del self.servers[name]
        servers = {"": self.servers[name]} if name in self.servers else {}
        return {"name": name, "kind": "user", "admin": False, "groups": self.groups.get(name, []), "servers": servers}


def _handler(hub: HubStandIn) -> type[JsonHandler]:
    class Handler(JsonHandler):
        def user(self, path: str) -> str | None:
            """The name in a path that only the portal may ask for."""
            found = re.fullmatch(path, urlsplit(self.path).path)
            return unquote(found[1]) if found and self.headers["Authorization"] == "token portal-secret" else None

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if hub.answers_500:
                hub.failures += 1
                self.answer(500, {"status": 500, "message": "broken"})
            elif url.path == "/hub/api/user":
                model = hub.user(self.headers["Authorization"].removeprefix("token "))
                self.answer(200 if model else 403, model or {"status": 403, "message": "Forbidden"})
            elif url.path == "/hub/api/oauth2/authorize":
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                assert query["client_id"] == "service-portal"
                assert query["code_challenge_method"] == "S256"
                code = secrets.token_hex(8)
                hub.codes[code] = (hub.logged_in, query["code_challenge"])
                back = f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
                self.send_response(302)
                self.send_header("Location", back)
                self.end_headers()
            elif name := self.user("/hub/api/users/([^/]+)"):
                self.answer(200, hub.person(name))
            else:
                self.answer(404, {"status": 404})

        def do_DELETE(self) -> None:
            name = self.user("/hub/api/users/([^/]+)/server")
            if name is None:
                self.answer(404, {"status": 404})
            else:
                hub.stop_server(name)
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            name, challenge = hub.codes.pop(form["code"][0], ("", ""))
            if self.path != "/hub/api/oauth2/token" or not name or not _proves(form, challenge):
                self.answer(400, {"error": "invalid_grant"})
            else:
                self.answer(200, {"access_token": hub.token(name), "token_type": "Bearer", "scope": SCOPE})

    return Handler


def _proves(form: dict[str, list[str]], challenge: str) -> bool:
    import base64
    import hashlib

    digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
    proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return proof == challenge and form["client_secret"] == ["portal-secret"]


class Gpus(dict[str, Any]):
    """A GPU monitor: as a dict the reading that it gives, beside it the view, history and usage."""

    def __init__(self) -> None:
        super().__init__(NO_GPU)
        message = str(NO_GPU["message"])
        self.shown = gpu_view(silent(time.time(), message=message), state="no driver")
        self.past: dict[str, Any] = {"from": 0, "step": 1, "count": 0, "devices": {}}
        self.looks = 0

    def reading(self) -> dict[str, Any]:
        return dict(self)

    def view(self) -> dict[str, Any]:
        self.looks += 1
        return self.shown

    def history(self, since: float = 0.0) -> dict[str, Any]:
        return self.past

    def usage(self) -> dict[str, Any]:
        return {"run": "run", "rows": []}


@dataclass
class StubJudge:
    """Judges as it is told: ``outcomes`` by exercise, else passed; ``hold`` keeps every check waiting until set."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        self.hold.wait(30)
        results = tuple(
            verdict_result(task.name, self.outcomes.get(task.name, Outcome.PASSED), task.points, self.messages)
            for task in assignment.tasks
            if only in (None, task.name)
        )
        return Verdict(lab=assignment.slug, results=results, seed=seed, seconds=0.1, report="hidden checks")


def verdict_result(name: str, outcome: Outcome, points: int, messages: dict[str, str]) -> Result:
    message = messages.get(name, "")
    return Result(
        exercise=name,
        outcome=outcome,
        points=points if outcome is Outcome.PASSED else 0,
        max_points=points,
        message=message,
        checks=(CheckLine("shapes", outcome, message),),
        output="printed",
        seconds=0.05,
    )


def verdict(lab: str, *results: Result) -> dict[str, Any]:
    """A verdict as the store keeps it."""
    return Verdict(lab=lab, results=results, seed=1, seconds=0.1).to_dict()


@dataclass
class Running:
    """A portal that listens, and everything behind it."""

    url: str
    app: FastAPI
    store: Store
    course: Course
    checks: Checks
    judge: StubJudge
    hub: HubStandIn
    settings: Settings
    gpu: Gpus
    clock: Callable[[], float]

    @contextlib.contextmanager
    def client(self, name: str | None = None) -> Iterator[httpx.Client]:
        """A program with this person's token; without a name, somebody unknown."""
        headers = {} if name is None else {"Authorization": f"token {self.hub.token(name)}"}
        with self._client(headers) as client:
            yield client

    @contextlib.contextmanager
    def browser(self, name: str | None = None) -> Iterator[httpx.Client]:
        """A browser that keeps cookies and has logged in as this person, if one is given."""
        with self._client(NAVIGATION) as client:
            if name is not None:
                self.login(client, name)
            yield client

    def _client(self, headers: dict[str, str]) -> httpx.Client:
        # Without TLS there is nothing to verify, and reading the certificates takes longer than most tests.
        return httpx.Client(base_url=self.url + PREFIX, headers=headers, trust_env=False, timeout=30, verify=False)

    def login(self, client: httpx.Client, name: str, page: str = "") -> httpx.Response:
        """Follow the login through the Hub, as a browser does, to the page it began with."""
        self.hub.logged_in = name
        answer = client.get(page)
        assert answer.status_code == 302, answer.text
        at_hub = client.get(self.hub.url + answer.headers["Location"])
        back = client.get(self.url + at_hub.headers["Location"])
        assert back.status_code == 302, back.text
        return client.get(self.url + back.headers["Location"])

    def notebook(self, lab: str = "tensors") -> bytes:
        """The blank notebook of a lab."""
        return self.course.lab(lab).notebook.encode()


@contextlib.contextmanager
def running_portal(
    folder: Path, course: Course, *, public: Mapping[str, str] | None = None, **changes: Any
) -> Iterator[Running]:
    """Start a portal on a free port of 127.0.0.1; ``changes`` are settings, and ``public`` is what HubClient takes
    where portal and Hub have host names of their own."""
    settings = Settings(state_dir=folder, **changes)
    store = Store.open(f"sqlite:///{folder / 'portal.sqlite'}")
    hub = HubStandIn()
    judge = StubJudge()
    executor = ThreadPoolExecutor(2)
    checks = Checks(course, store, judge, executor, notebook_bytes=settings.notebook_mb << 20, clock=time.time)
    gpu = Gpus()
    client = HubClient(
        api_url=f"{hub.url}/hub/api", api_token="portal-secret", client_id="service-portal", **(public or {})
    )
    app = create_app(
        settings=settings,
        credentials=Credentials("l", "i", "p", "x", "0123456789abcdef" * 4),
        course=course,
        store=store,
        checks=checks,
        hub=client,
        gpu=gpu,
    )
    try:
        with _serving(app) as url:
            yield Running(url, app, store, course, checks, judge, hub, settings, gpu, time.time)
    finally:
        judge.hold.set()
        checks.close()
        executor.shutdown()
        hub.close()
        store.close()


@contextlib.contextmanager
def _serving(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1, lifespan="on")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the portal did not stop"
