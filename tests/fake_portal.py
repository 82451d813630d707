"""A portal for tests of labkit: a real HTTP server in a thread that keeps what it was sent and judges as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-of-the-test"


def result(exercise: str, outcome: str = "passed", **changes: Any) -> dict[str, Any]:
    """One exercise's part of a verdict, worth two points."""
    passed = outcome == "passed"
    data = {"exercise": exercise, "outcome": outcome, "points": 2 if passed else 0, "max_points": 2, "message": ""}
    return {**data, "checks": [], "output": "", "seconds": 0.01, **changes}


def verdict(*results: dict[str, Any]) -> dict[str, Any]:
    """A verdict as the portal's API gives it."""
    return {
        "lab": "tensors",
        "results": list(results),
        "seconds": 0.2,
        "points": sum(one["points"] for one in results),
        "max_points": sum(one["max_points"] for one in results),
        "passed": all(one["outcome"] == "passed" for one in results),
    }


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes


def _pass(_notebook: dict[str, Any], only: str | None) -> dict[str, Any]:
    return verdict(result(only or "rank_of"))


@dataclass
class FakePortal:
    """Answers like the portal. ``judge`` makes a verdict of a notebook and the exercise asked for, or None: not yet."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    judge: Callable[[dict[str, Any], str | None], dict[str, Any] | None] = _pass
    refuse: tuple[int, str] | None = None  # a status and the body of every answer
    outages: int = 0  # so many requests get the proxy's 503 first
    state: str = "judged"
    hints: tuple[str, ...] = ("Look at `x.shape`.", "Count its entries.")
    opened: int = 0
    notices: list[dict[str, Any]] = field(default_factory=list)
    gpu: dict[str, Any] | None = None  # what is known of the learner's GPUs; None: there is no such address
    silent: threading.Event | None = None  # until it is set no question for notices or GPUs is answered

    @property
    def notebooks(self) -> list[dict[str, Any]]:
        """What was handed in."""
        return [json.loads(one.body) for one in self.requests if one.path.endswith("/checks")]

    def answer(self, request: Request) -> tuple[int, str]:
        if self.outages > 0:
            self.outages -= 1
            return 503, "<html>Service Unavailable</html>"
        self.requests.append(request)
        if self.refuse is not None:
            return self.refuse
        if request.path.endswith("/checks"):
            return 202, json.dumps({"id": len(self.notebooks), "state": "accepted"})
        if request.path.endswith("/deliveries"):
            return 204, ""
        if request.path.endswith("/notices"):
            if self.silent is not None:
                self.silent.wait(30)
            return 200, json.dumps(self.notices)
        if request.path.endswith("/gpu/mine"):
            if self.silent is not None:
                self.silent.wait(30)
            return (
                (404, json.dumps({"detail": "Not Found"}))
                if self.gpu is None
                else (200, json.dumps({"at": time.time()} | self.gpu))
            )
        if request.path.endswith("/hints"):
            self.opened = min(self.opened + 1, len(self.hints))
            hint = self.hints[self.opened - 1]
            return 200, json.dumps({"number": self.opened, "of": len(self.hints), "hint": hint})
        return 200, json.dumps(self._submission(int(request.path.rsplit("/", 1)[1])))

    def _submission(self, number: int) -> dict[str, Any]:
        posted = [one for one in self.requests if one.path.endswith("/checks")][number - 1]
        only = posted.query.get("only", [None])[0]
        found = self.judge(json.loads(posted.body), only) if self.state == "judged" else None
        passed = [one["exercise"] for one in found["results"] if one["outcome"] == "passed"] if found else []
        answers = {name: {"title": name, "answer": f"About {name}.", "follow_up": "And then?"} for name in passed}
        if found is None:
            time.sleep(0.05)  # the real one holds the question as long as it was asked to
        state = "accepted" if self.state == "judged" and found is None else self.state
        return {"id": number, "lab": "tensors", "only": only, "state": state, "verdict": found, "answers": answers}


@contextmanager
def fake_portal(**changes: Any) -> Iterator[FakePortal]:
    """A portal that listens on a free port until the block ends."""
    portal = FakePortal(**changes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            if self.headers.get("Authorization") != f"token {TOKEN}":
                status, text = 403, json.dumps({"detail": "Who are you?"})
            else:
                status, text = portal.answer(Request(self.command, parts.path, parse_qs(parts.query), body))
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            with suppress(ConnectionError):  # whoever asked may be gone by now
                self.end_headers()
                self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    portal.url = f"http://127.0.0.1:{server.server_port}/services/portal"
    try:
        yield portal
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
