"""The rules of culling at work: notices to learners, the hub's configuration, and the real idle-culler."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from traitlets.config import Config

from gradlab.gpu.activity import Activity as Account
from gradlab.hub.culling import SCOPES, Culler, Server, set_culling
from gradlab.settings import ROOT, Settings
from gradlab.store import Store
from tests import gpuframes
from tests.hubs import hosted
from tests.idleness import MINUTE, NOW, SETTINGS, activity
from tests.monitors import ADA, BOB, serving
from tests.waiting import until

# -- the hook ------------------------------------------------------------------------------------------------------


def model(
    name: str = "ada", *, gpu: bool = True, container: str = ADA, started: float = NOW - 36_000
) -> dict[str, Any]:
    """A server as the Hub has it."""
    return {
        "name": "",
        "full_name": f"{name}/",
        "last_activity": "2026-11-20T10:00:00.000000Z",
        "started": datetime.fromtimestamp(started, UTC).isoformat().replace("+00:00", "Z"),
        "pending": None,
        "ready": True,
        "url": f"/user/{name}/",
        "user_options": {"gpu": True} if gpu else {},
        "state": {"object_id": container},
    }


def test_the_hubs_model_is_understood() -> None:
    found = Server.of(model(), timedelta(minutes=3), NOW)
    assert found == Server("ada/", "ada", True, ADA, NOW - 36_000, NOW - 180)
    bare = {"full_name": "bob/second", "user_options": None, "started": None, "state": None}
    assert Server.of(bare, timedelta(0), NOW) == Server("bob/second", "bob", False, "", NOW, NOW)


@dataclass
class Class:
    """A culler at work, its monitor, and time."""

    culler: Culler
    store: Store
    answer: dict[str, Any] = field(default_factory=dict)
    now: float = NOW

    async def look(self, minutes: float = 0.0, *, idle: float = 0.0, **options: Any) -> bool:
        self.now += minutes * MINUTE
        return await self.culler.arbitrate(timedelta(minutes=idle), 0, model(**options))

    @property
    def told(self) -> list[str]:
        return [notice.text for notice in self.store.notices("ada", self.now)]


@pytest.fixture
def classroom(tmp_path: Path, store: Store) -> Iterator[Class]:
    settings = SETTINGS.model_copy(update={"run_dir": tmp_path})
    app = FastAPI()
    found = Class(Culler(settings, store, clock=lambda: found.now), store, activity(busy=21))
    app.get("/activity")(lambda: found.answer)
    with serving(app, settings.gpu_socket):
        yield found


WARNING = (
    "Your server holds a GPU and has not computed anything for 20 minutes. 5 minutes after this message it is stopped, "
    "so that somebody else can have the GPU; your files stay. To keep it, run a cell that computes for some seconds."
)


def test_a_learner_is_warned_once_and_then_stopped_and_told_why(classroom: Class) -> None:
    async def minutes_pass() -> None:
        assert not await classroom.look()
        assert classroom.told == [WARNING]
        assert not await classroom.look(3)
        assert len(classroom.store.notices("ada", classroom.now)) == 1
        assert await classroom.look(2)

    asyncio.run(minutes_pass())
    assert classroom.told[-1] == (
        "Your server was stopped. Its GPU has not been used for 26 minutes. Your files are as you left them."
    )


def test_a_warning_is_withdrawn_when_the_gpu_is_used(classroom: Class) -> None:
    async def minutes_pass() -> None:
        await classroom.look()
        classroom.answer["containers"][ADA]["busy_at"] = NOW + 2 * MINUTE
        assert not await classroom.look(3)

    asyncio.run(minutes_pass())
    assert classroom.told == []


def test_a_warning_outlives_the_culler_but_not_a_long_absence(classroom: Class) -> None:
    def another() -> None:
        classroom.culler = Culler(classroom.culler._settings, classroom.store, clock=lambda: classroom.now)

    asyncio.run(classroom.look())
    another()
    assert asyncio.run(classroom.look(6))
    another()
    classroom.store.withdraw("ada", "stopped")
    assert not asyncio.run(classroom.look(30))
    assert classroom.told == [WARNING]


def test_servers_of_one_learner_are_warned_for_each(classroom: Class) -> None:
    async def both() -> None:
        await classroom.look()
        classroom.now += 1
        second = model() | {"full_name": "ada/second", "name": "second"}
        await classroom.culler.arbitrate(timedelta(0), 0, second)

    asyncio.run(both())
    assert {notice.key for notice in classroom.store.notices("ada", classroom.now)} == {"gpu idle/", "gpu idle/second"}


def test_the_silence_of_the_monitor_is_logged_once_and_its_end(
    classroom: Class, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gradlab.hub.culling")

    async def minutes_pass() -> None:
        classroom.answer = activity(ok=False)
        for _ in range(3):
            assert not await classroom.look(1, idle=600)
        classroom.answer = activity(busy=0)
        await classroom.look(1)

    asyncio.run(minutes_pass())
    assert [record.getMessage() for record in caplog.records] == [
        "The GPU monitor is of no use. The driver hangs. Servers that hold a GPU are kept until it is.",
        "The GPU monitor is of use again.",
    ]


@pytest.mark.parametrize("answer", [[], {}, "nothing"])
def test_a_monitor_that_says_nonsense_is_a_silent_one(classroom: Class, answer: Any) -> None:
    classroom.answer = answer
    assert not asyncio.run(classroom.look(idle=600))
    assert classroom.told == []


def test_a_monitor_that_is_away_is_named_with_its_socket(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    culler = Culler(SETTINGS.model_copy(update={"run_dir": tmp_path}), store, clock=lambda: NOW)
    assert not asyncio.run(culler.arbitrate(timedelta(hours=10), 0, model()))
    assert asyncio.run(culler.arbitrate(timedelta(hours=10), 0, model(gpu=False)))
    assert f"It does not answer at {tmp_path / 'gpus.sock'} (" in caplog.records[0].getMessage()


def test_an_idle_server_is_stopped_even_if_its_learner_cannot_be_told(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.close()

    class Broken:
        def notify(self, *_: Any, **__: Any) -> None:
            raise OSError("the disk is full")

    culler = Culler(SETTINGS.model_copy(update={"gpus": "none"}), Broken(), clock=lambda: NOW)  # type: ignore[arg-type]
    assert asyncio.run(culler.arbitrate(timedelta(hours=2), 0, model()))
    assert caplog.messages == ["ada could not be told why the server was stopped: the disk is full"]


def test_a_server_of_which_nothing_is_known_is_kept(store: Store) -> None:
    assert not asyncio.run(Culler(SETTINGS, store).arbitrate(None, 0, model()))


# -- the hub's configuration ---------------------------------------------------------------------------------------


def configured(**settings: Any) -> Config:
    c = Config()
    c.JupyterHub.services = [{"name": "portal"}]
    c.JupyterHub.load_roles = [{"name": "server"}]
    set_culling(c, Settings(**settings))
    return c


def test_the_hub_starts_the_culler_with_what_it_needs_and_no_secret() -> None:
    c = configured(oauth_client_secret="hidden", cull_minutes=30, database_url="sqlite:////x.sqlite")
    portal, service = c.JupyterHub.services
    assert portal == {"name": "portal"}
    assert service["command"][-3:] == [sys.executable, "-m", "gradlab.hub.culling"]
    assert service["environment"]["GRADLAB_CULL_MINUTES"] == "30"
    assert "hidden" not in json.dumps(service)
    assert c.JupyterHub.load_roles[1] == {"name": "idle-culler", "services": ["idle-culler"], "scopes": SCOPES}
    assert "admin" not in service
    assert c.JupyterHub.last_activity_interval == 60


def test_the_culler_reads_the_settings_it_is_given() -> None:
    given = {"cull_minutes": 7, "gpu_idle_minutes": 8, "gpu_warn_minutes": 9, "gpus": "shared:4"}
    _, service = configured(**given).JupyterHub.services
    assert Settings.from_env(service["environment"], None).model_dump(include=set(given)) == given


def test_a_hosted_hub_has_the_culler_and_a_trial_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {
        spawner: [service["name"] for service in hosted(monkeypatch, tmp_path, spawner=spawner).JupyterHub.services]
        for spawner in ("docker", "process")
    }
    assert services == {"docker": ["portal", "metrics", "idle-culler"], "process": ["portal"]}


def test_with_nothing_to_cull_there_is_no_culler() -> None:
    assert configured(cull_minutes=0, gpu_idle_minutes=0).JupyterHub.services == [{"name": "portal"}]
    assert len(configured(cull_minutes=0).JupyterHub.services) == 2


# -- the real idle-culler ------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """As much of the Hub's API as the idle-culler asks for."""

    daemon_threads = True

    def __init__(self, users: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.users = users
        self.deleted: list[str] = []
        self.passes = 0


class _Api(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "token of-the-culler"
        if self.path.startswith("/hub/api/users"):
            self._answer({"items": self.server.users, "_pagination": {"next": None}})
            self.server.passes += 1
        else:
            self._answer({"version": "6.1.1"})

    def do_DELETE(self) -> None:
        self.server.deleted.append(self.path)
        self.send_response(204)
        self.end_headers()

    def _answer(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def api(users: list[dict[str, Any]]) -> Iterator[Hub]:
    with Hub(users) as hub:
        threading.Thread(target=hub.serve_forever, args=(0.05,)).start()
        try:
            yield hub
        finally:
            hub.shutdown()


def user(name: str, *, idle: float, **options: Any) -> dict[str, Any]:
    active = datetime.fromtimestamp(time.time() - idle * MINUTE, UTC).isoformat()
    return {"name": name, "servers": {"": model(name, **options) | {"last_activity": active}}}


def test_the_real_culler_stops_whom_the_rules_name(tmp_path: Path, store: Store, store_url: str) -> None:
    """Idle, active, idle with a busy GPU, with an idle one, with an idle one after a warning; and one gone wrong."""
    warned, busy, quiet = "c" * 64, "d" * 64, "e" * 64
    users = [
        user("idle", idle=61, gpu=False, container=BOB),
        user("active", idle=1, gpu=False, container=BOB),
        user("busy", idle=600, container=busy),
        user("quiet", idle=1, container=quiet),
        user("warned", idle=1, container=warned),
        user("unknown", idle=600, container=""),
    ]
    now = time.time()
    store.notify("warned", "Soon.", key="gpu idle/", until=now + 300, now=now - 301)
    account = Account()
    owners = {1: warned, 2: busy, 3: quiet}
    # Who began an hour ago to hold a GPU, and has been sampled every few seconds since.
    for at in range(int(now) - 3600, int(now) + 1, 5):
        holding = [gpuframes.process(pid, 1 << 20, sm=80 if pid == 2 else 0) for pid in owners]
        account.take(
            gpuframes.frame(gpuframes.device("GPU-0", *holding), at=at), owners, dict.fromkeys(owners.values(), 1.0), at
        )
    app = FastAPI()
    app.get("/activity")(lambda: account.report(int(now)))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GRADLAB_")}
    environ |= {"GRADLAB_RUN_DIR": str(tmp_path), "GRADLAB_DATABASE_URL": store_url, "GRADLAB_GPUS": "exclusive"}
    environ |= {"JUPYTERHUB_API_TOKEN": "of-the-culler"}
    with serving(app, tmp_path / "gpus.sock"), api(users) as hub:
        environ["JUPYTERHUB_API_URL"] = f"http://127.0.0.1:{hub.server_port}/hub/api"
        with (
            (tmp_path / "log").open("w") as log,
            subprocess.Popen(
                [sys.executable, "-m", "gradlab.hub.culling"], cwd=ROOT, env=environ, stderr=log
            ) as process,
        ):
            try:
                until(lambda: hub.passes and len(hub.deleted) >= 2, 30, what="the culler's first round")
                until(lambda: store.notices("quiet", now), 10, what="the warning")
            finally:
                process.terminate()
    said = (tmp_path / "log").read_text()
    assert sorted(hub.deleted) == ["/hub/api/users/idle/server", "/hub/api/users/warned/server"], said
    assert [notice.text for notice in store.notices("quiet", time.time())] == [WARNING]
    assert "idle/ is stopped. It has not been used for 61 minutes." in said
    assert "Traceback" not in said
