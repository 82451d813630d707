"""The portal's process: judge, checks, GPU reader and pages put together and run until SIGTERM.

Nothing here decides anything: it makes the parts, hands them to each other and closes them in the right order.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from socket import socket
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from checker.engine import Judge
from gradlab.checks import Checks, judge_config
from gradlab.course import Course
from gradlab.credentials import Credentials
from gradlab.errors import ServerError
from gradlab.gpu.nvml import Nvml
from gradlab.gpu.reader import Reader
from gradlab.portal import HubClient, create_app
from gradlab.settings import Settings
from gradlab.store import Store

__all__ = ["run"]

log = logging.getLogger(__name__)

# Open event streams never end by themselves; whoever stops the server does not want to wait for them.
_STREAMS_SECONDS = 2


@dataclass(frozen=True)
class _Parts:
    app: FastAPI
    judge: Judge
    checks: Checks


def run(settings: Settings) -> None:
    """Serve the portal at JUPYTERHUB_SERVICE_URL until SIGTERM or SIGINT; then end every process of the judge."""
    host, port = _address(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
    # uvicorn raises the signal once more when it has stopped; the default action would end us before we close.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with _compose(settings) as parts:
        config = uvicorn.Config(
            parts.app,
            host=host,
            port=port,
            log_config=None,
            log_level=settings.log_level.lower(),
            access_log=False,
            timeout_graceful_shutdown=_STREAMS_SECONDS,
            # The proxy in front is ours and on this machine.
            proxy_headers=True,
            forwarded_allow_ips="127.0.0.1",
        )
        _Server(config, lambda: _begin(parts)).run()


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
        parts.judge.warm()
    except Exception:
        log.exception("What an earlier run left could not be taken up again.")


@contextmanager
def _compose(settings: Settings) -> Iterator[_Parts]:
    """Make the parts; closing goes backwards: no new checks, then the judge's processes, then the database."""
    with ExitStack() as stack:
        credentials = Credentials.ensure(settings.credentials_file)
        course = Course.load(settings.labs_dir, settings.checks_dir)
        store = Store.open(settings.store_url)
        stack.callback(store.close)
        nvml = Nvml()
        executor = ThreadPoolExecutor(settings.check_workers, thread_name_prefix="check")
        stack.callback(executor.shutdown, cancel_futures=True)
        judge = Judge(judge_config(settings))
        stack.callback(judge.close)
        checks = Checks(course, store, judge, executor, notebook_bytes=settings.notebook_mb << 20)
        stack.callback(checks.close, seconds=2.0)
        app = create_app(
            settings=settings,
            credentials=credentials,
            course=course,
            store=store,
            checks=checks,
            hub=HubClient.from_env(os.environ),
            gpu=Reader(nvml.read, deadline=1.5),
        )
        yield _Parts(app, judge, checks)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise ServerError(
            f"JUPYTERHUB_SERVICE_URL is {url!r}, not an address like http://127.0.0.1:10001: the portal is started "
            "by the server, which sets it. Start everything with `gradlab up`."
        )
    return parts.hostname, parts.port
