"""Real servers for tests: ``start`` runs ``gradlab up`` in a child process; the rest is what a person does with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import websocket

from gradlab.credentials import Credentials
from gradlab.hub.environment import Ports, instance_of
from gradlab.hub.processes import end_all, marked, tree
from gradlab.settings import ROOT, Settings
from tests.waiting import until

# Of a websocket that was not read, for no more than this.
_PATIENCE_SECONDS = 20

SERVE = """
import sys
from gradlab.errors import GradlabError
from gradlab.server import serve
from gradlab.settings import Settings
try:
    sys.exit(serve(Settings.from_env(env_file=None)))
except GradlabError as error:
    sys.exit(str(error))
"""


def command_line(process: psutil.Process) -> list[str]:
    """A process's command and arguments; none of one that has ended since it was found."""
    with suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


@dataclass
class Person:
    """Somebody who logged in: a client with their cookies, and a token of theirs for the APIs."""

    name: str
    client: httpx.Client
    _token: str = ""

    @property
    def token(self) -> str:
        """A hub token with everything this person may do."""
        if not self._token:
            answer = self.client.post(f"/hub/api/users/{self.name}/tokens", headers=self._xsrf, json={"note": "test"})
            assert answer.status_code == 201, answer.text
            self._token = answer.json()["token"]
        return self._token

    @property
    def _xsrf(self) -> dict[str, str]:
        tokens = [
            cookie.value for cookie in self.client.cookies.jar if cookie.name == "_xsrf" and cookie.path == "/hub/"
        ]
        return {"X-XSRFToken": str(tokens[0]), "Referer": f"{self.client.base_url}/hub/home"}

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A request with the token and without cookies."""
        headers = {"Authorization": f"token {self.token}"}
        return httpx.request(method, f"{self.client.base_url}".rstrip("/") + path, headers=headers, timeout=60, **more)

    def start_server(self, options: Mapping[str, Any] | None = None) -> None:
        """Start this person's JupyterLab and wait until it answers through the proxy."""
        answer = self.api("POST", f"/hub/api/users/{self.name}/server", json=options)
        assert answer.status_code in (201, 202), answer.text
        until(lambda: self.api("GET", f"/user/{self.name}/api/status").status_code == 200, what="the server's start")

    def stop_server(self) -> None:
        answer = self.api("DELETE", f"/hub/api/users/{self.name}/server")
        assert answer.status_code in (202, 204), answer.text
        until(lambda: not self.api("GET", f"/hub/api/users/{self.name}").json()["servers"], what="the server's end")

    def kernel(self) -> Kernel:
        """A new kernel in this person's running server."""
        answer = self.api("POST", f"/user/{self.name}/api/kernels", json={"name": "python3"})
        assert answer.status_code == 201, answer.text
        url = f"{self.client.base_url}".rstrip("/").replace("http", "ws", 1)
        url = f"{url}/user/{self.name}/api/kernels/{answer.json()['id']}/channels"
        header = [f"Authorization: token {self.token}"]
        return Kernel(lambda: websocket.create_connection(url, header=header, timeout=120))


class KernelDied(Exception):
    """The kernel's process ended while it ran something."""


class Kernel:
    """A kernel behind the proxy's websocket."""

    def __init__(self, connect: Callable[[], websocket.WebSocket]) -> None:
        self._connect = connect
        self._socket = connect()
        self._used = time.monotonic()

    def _reconnect(self) -> None:
        """As JupyterLab does. The server hangs up on who leaves its pings unanswered, and we read only while we run."""
        if time.monotonic() - self._used > _PATIENCE_SECONDS:
            self.close()
            self._socket = self._connect()
        self._used = time.monotonic()

    def run(self, code: str) -> str:
        """Execute, and return what was printed and the last value; an error fails the test with its traceback."""
        self._reconnect()
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": "execute_request", "username": "", "session": number, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))
        printed = ""
        while True:
            answer = json.loads(self._socket.recv())
            kind, content = answer["msg_type"], answer["content"]
            if kind == "status" and content["execution_state"] in ("restarting", "dead"):
                raise KernelDied
            if answer["parent_header"].get("msg_id") != number:
                continue
            if kind == "stream":
                printed += content["text"]
            elif kind == "execute_result":
                printed += content["data"]["text/plain"]
            elif kind == "error":
                raise AssertionError("\n".join(re.sub(r"\x1b\[[\d;]*m", "", line) for line in content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return printed

    def json(self, code: str) -> Any:
        """Execute code that prints JSON."""
        return json.loads(self.run(code))

    def close(self) -> None:
        self._socket.close()
        self._socket.shutdown()  # type: ignore[no-untyped-call]  # whatever state it is in


@dataclass
class RunningServer:
    """A server in a child process, started with ``settings``."""

    settings: Settings
    process: subprocess.Popen[str]
    output: Path
    people: list[Person] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def state_dir(self) -> Path:
        return self.settings.state_dir

    @property
    def credentials(self) -> Credentials:
        return Credentials.ensure(self.settings.credentials_file)

    @property
    def learner_password(self) -> str:
        return self.credentials.learner_password

    @property
    def instructor_password(self) -> str:
        return self.credentials.instructor_password

    def said(self) -> str:
        return self.output.read_text()

    def post_login(self, name: str, password: str) -> tuple[httpx.Client, httpx.Response]:
        """Fill in the login form as a browser does; redirects are not followed."""
        client = httpx.Client(base_url=self.url, timeout=60)
        return client, fill_in(client, "/hub/login", username=name, password=password)

    def log_in(self, name: str, password: str | None = None) -> Person:
        """Log in; without a password as a learner."""
        client, answer = self.post_login(name, password or self.learner_password)
        assert answer.status_code == 302, f"{answer.status_code}: {login_error(answer)}"
        client.follow_redirects = True
        client.get("/hub/home")
        person = Person(name, client)
        self.people.append(person)
        return person

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to this server, the supervisor included."""
        return [*{*tree(self.process.pid), *marked(instance_of(self.settings))}]

    def stop(self) -> int:
        """Ctrl-C, and wait for the end. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def destroy(self) -> None:
        """Leave nothing behind, however the test ended."""
        for person in self.people:
            person.client.close()
        with suppress(subprocess.TimeoutExpired):
            self.stop()
        end_all(self.processes, seconds=10)


def fill_in(client: httpx.Client, page: str, **values: str) -> httpx.Response:
    """Fill in a form of the hub as a browser does; redirects are not followed."""
    html = client.get(page).text
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', html)
    assert xsrf is not None, html
    return client.post(page, data={"_xsrf": xsrf[1], **values})


def serving(folder: Path, configuration: str = "", **changes: Any) -> Iterator[RunningServer]:
    """A server with these settings and additions to the configuration, for a fixture, which destroys it after."""
    if configuration:
        (folder / "config.d").mkdir()
        (folder / "config.d" / "10-test.py").write_text(configuration + "\n")
    server = start(settings_for(folder, check_pool=0, **changes))
    yield server
    server.destroy()


def browser(server: RunningServer) -> httpx.Client:
    """A browser of somebody who is not logged in; closed with the server."""
    client = httpx.Client(base_url=server.url, timeout=60)
    server.people.append(Person("", client))
    return client


def who(client: httpx.Client, name: str) -> dict[str, Any]:
    """What the hub says of the person who is logged in."""
    client.follow_redirects = True
    client.get("/hub/home")
    model: dict[str, Any] = Person(name, client).api("GET", "/hub/api/user").json()
    return model


def login_error(answer: httpx.Response) -> str:
    """What the login page says is wrong."""
    found = re.search(r'class="login_error[^"]*"[^>]*>(.*?)</p>', answer.text, re.DOTALL)
    return " ".join(found[1].split()) if found else answer.text


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a server of its own: state below ``folder``, a free port, nothing from the project's .env."""
    values: dict[str, Any] = {
        "state_dir": folder / "state",
        "config_dir": folder / "config.d",
        "port": Ports.choose().hub,
        "check_pool": 1,
    }
    return Settings(**(values | changes))


def reachable() -> list[str]:
    """A command prefix (for root) under which every user can reach this Python and this project, wherever they lie.

    In a mount namespace of its own, a folder that is closed to others gives way to an open one with the same contents
    where we need them. The process stays the same, so signals reach it.
    """
    steps = ["set -e", "mount --make-rprivate /", "mount -t tmpfs -o mode=755 aside /mnt"]
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT}
    for number, path in enumerate(sorted(needed)):
        closed = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001]
        if closed:
            steps += [f"mkdir /mnt/{number}", f"mount --bind {path} /mnt/{number}"]
            steps += [f"mount -t tmpfs -o mode=755 open {closed[0]}", f"mkdir -p {path}"]
            steps += [f"mount --move /mnt/{number} {path}"]
    return ["unshare", "--mount", "/bin/sh", "-c", "\n".join([*steps, 'exec "$@"']), "reachable"]


def launch(
    settings: Settings, *, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None, script: str = SERVE
) -> RunningServer:
    """Start a server in a child process without waiting for anything."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    output = settings.state_dir.parent / f"up-{uuid.uuid4().hex[:6]}.txt"
    names = {f"GRADLAB_{name.upper()}": str(getattr(settings, name)) for name in Settings.model_fields}
    with output.open("w") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", script],
            env={**os.environ, **names, **(env or {})},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    return RunningServer(settings, process, output)


def start(settings: Settings, *, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None) -> RunningServer:
    """Start a server and return when it says that it is ready."""
    server = launch(settings, prefix=prefix, env=env)

    def ready() -> bool:
        assert server.process.poll() is None, server.said()
        return "Ready after" in server.said()

    try:
        until(ready, seconds=180, what="the server's start")
    except BaseException:
        server.destroy()
        raise
    return server
