"""The supervisor behind ``gradlab up``: starts the hub and the portal, says where to go, and leaves nothing behind.

Nothing survives it, whichever process dies first and however:

* Ctrl-C, SIGTERM or a closed terminal end hub and portal, which end their children; whatever is left is killed.
* If this process gets ``kill -9``, the kernel sends SIGTERM to hub and portal (``setpriv --pdeathsig``).
* If all are gone, the next start of the same state folder kills what carries the folder's mark.

The portal opens the store first and migrates it; the hub uses it when the first learner's server starts.

A lock on the state folder keeps a second server away from it; the kernel drops it with its owner.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import psutil

from checker.sandbox.confinement import Confinement, Limits, Method, command, describe, detect
from gradlab.credentials import Credentials
from gradlab.errors import ServerError
from gradlab.hub.config import PROXY_SCRIPT, portal_environment, public_url
from gradlab.hub.environment import PART, Addresses, Ports, instance_of, server_environment, uid_of
from gradlab.hub.login import caution, who
from gradlab.hub.login import check as check_login
from gradlab.hub.output import tail
from gradlab.hub.processes import become_subreaper, end_all, marked, port_fault, reap_adopted, tree
from gradlab.settings import ROOT, Settings

__all__ = ["serve"]

PORTAL = (sys.executable, "-m", "gradlab.cli", "portal")
_READY_SECONDS = 120
_HUB_STOP_SECONDS = 8  # learners' servers end their kernels
_PORTAL_STOP_SECONDS = 2  # it may be killed at any time: submissions without a verdict are judged at the next start


def serve(
    settings: Settings, *, portal: Sequence[str] = PORTAL, beside: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> int:
    """Run the server until it is told to stop. Returns 0 after a wanted end; ServerError tells why it could not run.

    ``portal`` is the command of the portal's process, ``beside`` has the commands of further ones by name: they start
    and stop with the hub, and the server ends with them as it does with its hub.
    """
    with _locked(settings.state_dir):
        swept = _sweep(settings)
        if swept:
            _say(f"Ended {swept} processes that an earlier run had left behind.")
        method = _check(settings)
        warnings = _warnings(settings, method)
        credentials = Credentials.ensure(settings.credentials_file)
        for line in _welcome(settings, credentials, describe(method)):
            _say(line)
        for line in warnings:
            _say(f"Warning: {line}")
        return _Supervisor(settings, credentials, portal, beside).run()


class _Child:
    """One process we start, in a session of its own, with a log file. It gets SIGTERM should we die without a word."""

    def __init__(self, name: str, argv: Sequence[str], env: dict[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._argv = ["setpriv", "--pdeathsig", "TERM", *argv]
        self._env = env | {PART: name}
        logs.mkdir(parents=True, exist_ok=True)
        logs.chmod(0o700)
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        self.start()

    def start(self) -> None:
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                env=self._env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        if not self.ended:
            self.process.terminate()

    def epitaph(self) -> str:
        return (
            f"The {self.name} ended by itself (exit status {self.process.returncode}). "
            f"The last lines of {self.log}:\n{tail(self.log)}\n"
            "Nothing is lost. `gradlab doctor` looks for causes; `make up` starts again."
        )


class _Supervisor:
    """The hub, the portal and what runs beside them, from start to end."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        portal: Sequence[str],
        beside: Mapping[str, Sequence[str]],
    ) -> None:
        self._settings = settings
        self._signals = 0
        self._begun = time.monotonic()
        self._early_ends = 0
        become_subreaper()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._credentials = credentials
        self._ports = ports = Ports.choose()
        env = server_environment(settings)
        logs = settings.state_dir / "logs"
        hub = [sys.executable, "-m", "jupyterhub", "--config", str(ROOT / "jupyterhub_config.py")]
        self._hub = _Child("hub", hub, env | ports.environment(), logs)
        self._portal = _Child(
            "portal", portal, env | portal_environment(settings, credentials, Addresses.of_trial(ports)), logs
        )
        self._beside = [_Child(name, argv, env, logs) for name, argv in beside.items()]

    @property
    def _children(self) -> list[_Child]:
        return [self._hub, self._portal, *self._beside]

    def run(self) -> int:
        try:
            self._wait_ready()
            if not self._signals:
                _say(f"Ready after {time.monotonic() - self._begun:.1f} s. Ctrl-C stops everything.")
            self._watch()
        finally:
            self._stop()
        _say(f"Stopped. Everything is kept in {self._settings.state_dir}.")
        return 0

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _wait_ready(self) -> None:
        """Return when the portal answers through the proxy, or when told to stop."""
        while not self._signals and not self._answers():
            for child in self._children:
                if child.ended:
                    raise ServerError(child.epitaph())
            if time.monotonic() > self._begun + _READY_SECONDS:
                raise ServerError(
                    f"The portal did not answer at {public_url(self._settings)} within {_READY_SECONDS} s. "
                    f"The last lines of {self._portal.log}:\n{tail(self._portal.log)}"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether the portal answers through the proxy; asked only once the proxy has its route.

        Before that, every question would make the busy hub render an error page.
        """
        token = {"Authorization": f"token {self._credentials.proxy_token}"}
        routes = f"http://127.0.0.1:{self._ports.proxy}/api/routes/services/portal"
        portal = f"{public_url(self._settings)}/services/portal/"
        return _status(routes, token) == 200 and _status(portal, {}) in (200, 302, 303, 307, 401, 403)

    def _watch(self) -> None:
        """Return when told to stop. Without its hub the server ends; the portal is started again."""
        while not self._signals:
            for child in (self._hub, *self._beside):
                if child.ended:
                    raise ServerError(child.epitaph())
            if self._portal.ended:
                self._revive_portal()
            reap_adopted({child.process.pid for child in self._children})
            time.sleep(0.2)

    def _revive_portal(self) -> None:
        lived = time.monotonic() - self._portal.started
        self._early_ends = self._early_ends + 1 if lived < 10 else 1
        if self._early_ends > 3:
            raise ServerError(self._portal.epitaph())
        _say(
            f"The portal ended (exit status {self._portal.process.returncode}) and is started again. "
            f"Why: {self._portal.log}. Submissions without a verdict are judged then."
        )
        end_all(lambda: marked(instance_of(self._settings), "portal"), seconds=10)
        self._portal.start()

    def _stop(self) -> None:
        """SIGTERM to all, which end their children; then whatever is left is killed, and that is verified."""
        _say("Stopping …")
        for child in self._children:
            child.end()
        begun = time.monotonic()
        patience = [(child, _PORTAL_STOP_SECONDS) for child in self._children[1:]]
        patience.append((self._hub, _HUB_STOP_SECONDS))
        while self._signals < 2 and any(
            not child.ended and time.monotonic() < begun + seconds for child, seconds in patience
        ):
            time.sleep(0.05)
        left = end_all(self._left, seconds=10)
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=5)
        if left:
            raise ServerError(
                "These processes could not be ended: "
                + ", ".join(f"{process.pid} ({process.name()})" for process in left)
                + ". End them with `kill -9`, as root if need be."
            )

    def _left(self) -> list[psutil.Process]:
        """What still runs. The dead we have adopted are collected first: a PID namespace ends only without any."""
        reap_adopted({child.process.pid for child in self._children if not child.ended})
        return _ours(self._settings)


def _ours(settings: Settings) -> list[psutil.Process]:
    return [*{*tree(os.getpid(), itself=False), *marked(instance_of(settings))}]


def _sweep(settings: Settings) -> int:
    """End what an earlier run of this state folder left behind. Returns how many processes that were."""
    instance = instance_of(settings)
    found = len(marked(instance))
    left = end_all(lambda: marked(instance), seconds=10)
    if left:
        raise ServerError(
            f"An earlier run left processes that cannot be ended: {', '.join(str(process.pid) for process in left)}. "
            "End them with `kill -9`, as root if need be, and start again."
        )
    # JupyterHub would kill whatever process has this number by now, and the servers of this list have ended.
    (settings.state_dir / "proxy.pid").unlink(missing_ok=True)
    settings.roster_file.unlink(missing_ok=True)
    return found


def _check(settings: Settings) -> Method:
    """What must hold before anything is started. Returns the confinement method."""
    check_login(settings)
    if not PROXY_SCRIPT.is_file():
        raise ServerError(
            f"The proxy is not installed: {PROXY_SCRIPT} is missing. Delete node_modules and run `make up`."
        )
    if fault := port_fault(settings.host, settings.port):
        raise ServerError(
            f"Port {settings.port} of {settings.host} cannot be used: {fault}. "
            f"Choose another port: PORT={settings.port + 1} make up (or set GRADLAB_PORT)."
        )
    try:
        method = detect(settings.sandbox)
    except RuntimeError as error:
        raise ServerError(str(error)) from None
    _check_python(settings, method)
    return method


def _warnings(settings: Settings, method: Method) -> list[str]:
    """What is weaker than bubblewrap, for learners' servers (``method``) and for checks where these differ."""
    found = []
    if method != "bubblewrap":
        found.append(f"learners' code is confined without bubblewrap: {describe(method)}.")
    if settings.confined_checks == "docker":
        return found
    try:
        checks = detect(settings.confined_checks)  # as the judge does: `gradlab.checks` takes a second to load
    except RuntimeError as error:
        raise ServerError(str(error).replace("GRADLAB_SANDBOX", "GRADLAB_CHECK_SANDBOX")) from None
    if checks not in ("bubblewrap", method):
        setting = f"GRADLAB_CHECK_SANDBOX={settings.check_sandbox}"
        found.append(f"checks are confined without bubblewrap ({setting}): {describe(checks)}.")
    return found


def _check_python(settings: Settings, method: Method) -> None:
    """Without mount namespaces a learner's own user id must be able to read this Python and to reach the homes."""
    if method != "plain" or os.getuid() != 0:
        return
    uid = uid_of(settings, 0)
    folder = settings.state_dir.resolve()
    probe = [sys.executable, "-c", "import os, sys; import jupyterhub; os.chdir(sys.argv[1])", str(folder)]
    argv = command(method, Confinement(Limits(), scratch_mb=1, uid=uid), probe)
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(
            "Without bubblewrap, learners' servers run under user ids of their own, and these cannot read "
            f"{sys.executable}, {sys.base_prefix} or {folder}: {done.stderr.strip().splitlines()[-1:]}. "
            "Install bubblewrap (sudo apt install bubblewrap), or put Gradlab and Python where every user may read, "
            "or start it as an ordinary user."
        )


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock; ServerError names the process that has it."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        state_dir.chmod(0o711)  # learners' own user ids pass through to their homes, and list nothing
        lock = (state_dir / "server.lock").open("a+")
    except OSError as error:
        raise ServerError(
            f"The state folder {state_dir} cannot be used: {error.strerror}. "
            "Make it writable, or choose another one with GRADLAB_STATE_DIR."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise ServerError(
                f"A Gradlab server already runs on {state_dir} (process {pid}). Stop it with Ctrl-C in its terminal "
                f"or `kill {pid}`, or start a second one on a folder and port of its own: "
                "GRADLAB_STATE_DIR=other PORT=8001 make up."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _welcome(settings: Settings, credentials: Credentials, protection: str) -> list[str]:
    return [
        "",
        f"  Gradlab         {public_url(settings)}",
        *who(settings, credentials),
        f"  Protection      {protection}",
        f"  Data and logs   {settings.state_dir}",
        *caution(settings),
        "Starting …",
    ]


def _status(url: str, headers: dict[str, str]) -> int:
    """The status a URL answers with, redirects not followed; 0 if nobody answers."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
    try:
        connection.request("GET", address.path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _say(line: str) -> None:
    print(line, flush=True)
