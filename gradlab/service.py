"""The portal's process: judge, checks, GPU monitor and pages put together and run until SIGTERM; and the processes of
judge and GPU monitor, where a hosted server has those.

Nothing here decides anything: it makes the parts, hands them to each other and closes them in the right order.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from checker.engine import Judge
from gradlab.checks import Checks
from gradlab.course import Course
from gradlab.credentials import Credentials
from gradlab.errors import ServerError
from gradlab.gpu.monitor import Monitor
from gradlab.gpu.remote import RemoteMonitor
from gradlab.gpu.sampling import Sampling
from gradlab.gpu.web import create_monitor_app
from gradlab.hub.config import portal_environment
from gradlab.hub.environment import Addresses
from gradlab.judge_service import JUDGE_SOCKET, RemoteJudge, create_judge_app
from gradlab.judging import judge_config
from gradlab.portal import HubClient, create_app
from gradlab.roster import Roster, RosterFile
from gradlab.settings import Settings
from gradlab.store import Store
from gradlab.usage import Collector

__all__ = ["run", "run_gpu_monitor", "run_judge"]

log = logging.getLogger(__name__)

# Open event streams never end by themselves; whoever stops the server does not want to wait for them.
_STREAMS_SECONDS = 2


@dataclass(frozen=True)
class _Parts:
    app: FastAPI
    checks: Checks
    warm: Callable[[], None]


def run(settings: Settings, *, roster: Callable[[], Roster] | None = None) -> None:
    """Serve the portal at JUPYTERHUB_SERVICE_URL until SIGTERM or SIGINT; then end every process of the judge.

    ``roster`` says which learners' servers there are, where that is not what the hub of a trial has written.
    """
    environ = os.environ | _hosted_environment(settings)
    host, port = _address(environ.get("JUPYTERHUB_SERVICE_URL", ""))
    _prepare(settings)
    with _compose(settings, environ, roster) as parts:
        # The proxy in front is ours and, in a trial, on this machine.
        forwarded = {"proxy_headers": True, "forwarded_allow_ips": "127.0.0.1"}
        _Server(_config(settings, parts.app, host=host, port=port, **forwarded), lambda: _begin(parts)).run()


def run_judge(settings: Settings) -> None:
    """Serve the judge at its socket until SIGTERM or SIGINT; then end every process of it."""
    _prepare(settings)
    socket = settings.run_dir / JUDGE_SOCKET
    with ExitStack() as stack:
        judge = Judge(judge_config(settings))
        stack.callback(judge.close)
        app = create_judge_app(Course.load(settings.labs_dir, settings.checks_dir), judge)
        socket.unlink(missing_ok=True)  # of a service that was killed; uvicorn binds no name that is there
        _Server(_config(settings, app, uds=str(socket)), judge.warm).run()


def run_gpu_monitor(settings: Settings) -> None:
    """Serve the GPU monitor at its socket until SIGTERM or SIGINT."""
    _prepare(settings)
    socket = settings.gpu_socket
    with ExitStack() as stack:
        monitor = _monitor(settings, settings.run_dir)
        stack.callback(monitor.close)
        socket.unlink(missing_ok=True)  # of a service that was killed; a new name is open to every service's user
        _Server(_config(settings, create_monitor_app(monitor), uds=str(socket)), monitor.start).run()


def _prepare(settings: Settings) -> None:
    # uvicorn raises the signal once more when it has stopped; the default action would end us before we close.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _config(settings: Settings, app: FastAPI, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level=settings.log_level.lower(),
        access_log=False,
        timeout_graceful_shutdown=_STREAMS_SECONDS,
        **options,
    )


class _Server(uvicorn.Server):
    """Tells when it listens: starting judges takes whole cores, and the first page should not wait for that."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        threading.Thread(target=self._ready, name="begin", daemon=True).start()


def _begin(parts: _Parts) -> None:
    try:
        left = parts.checks.resume()
        if left:
            log.info("Judging %d submissions that were accepted before the last stop.", left)
        parts.warm()
    except Exception:
        log.exception("What an earlier run left could not be taken up again.")


@contextmanager
def _compose(settings: Settings, environ: Mapping[str, str], roster: Callable[[], Roster] | None) -> Iterator[_Parts]:
    """Make the parts; closing goes backwards: no new checks, then the judge's processes, then the database."""
    with ExitStack() as stack:
        course = Course.load(settings.labs_dir, settings.checks_dir)
        store = Store.open(settings.store_url)
        stack.callback(store.close)
        executor = ThreadPoolExecutor(settings.check_workers, thread_name_prefix="check")
        stack.callback(executor.shutdown, cancel_futures=True)
        judge, warm = _judge(settings)
        stack.callback(judge.close)
        checks = Checks(course, store, judge, executor, notebook_bytes=settings.notebook_mb << 20)
        stack.callback(checks.close, seconds=2.0)
        gpus = _gpus(settings, stack, roster)
        collector = Collector(gpus, store)
        stack.callback(collector.close)
        collector.start()
        app = create_app(
            settings=settings,
            credentials=_credentials(settings),
            course=course,
            store=store,
            checks=checks,
            hub=HubClient.from_env(environ),
            gpu=gpus,
        )
        yield _Parts(app, checks, warm)


def _judge(settings: Settings) -> tuple[Judge | RemoteJudge, Callable[[], None]]:
    """The judge, and what starts processes of it ahead: a hosted server has it in a service of its own."""
    if settings.spawner == "docker":
        return RemoteJudge(settings.run_dir / JUDGE_SOCKET), lambda: None
    judge = Judge(judge_config(settings))
    return judge, judge.warm


def _gpus(settings: Settings, stack: ExitStack, roster: Callable[[], Roster] | None) -> Monitor | RemoteMonitor:
    """What knows of the GPUs: a hosted server has a service for that, whose container sees the machine's processes."""
    if settings.spawner == "docker":
        remote = RemoteMonitor(settings.gpu_socket)
        stack.callback(remote.close)
        return remote
    monitor = _monitor(settings, settings.state_dir, roster)
    stack.callback(monitor.close)
    monitor.start()
    return monitor


def _monitor(settings: Settings, folder: Path, roster: Callable[[], Roster] | None = None) -> Monitor:
    """``folder`` is where it keeps its account."""
    return Monitor(
        lambda hear: Sampling(on_frame=hear),
        roster=roster or RosterFile(settings.roster_file),
        account=folder / "gpu-account.json",
    )


def _credentials(settings: Settings) -> Credentials:
    if settings.spawner == "docker":
        return Credentials.from_env("portal_token", "cookie_key")
    return Credentials.ensure(settings.credentials_file)


def _hosted_environment(settings: Settings) -> dict[str, str]:
    """A trial's portal is told by the command that starts it; on a hosted server every service has its known place."""
    if settings.spawner != "docker":
        return {}
    return portal_environment(settings, _credentials(settings), Addresses.of(settings))


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise ServerError(
            f"JUPYTERHUB_SERVICE_URL is {url!r}, not an address like http://127.0.0.1:10001: the portal is started "
            "by the server, which sets it. Start everything with `gradlab up`."
        )
    return parts.hostname, parts.port
