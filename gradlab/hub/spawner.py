"""The trial's spawner: every learner's JupyterLab is a confined process of this machine.

It sees the system, this Python, ``labkit`` and the learner's own home, nothing else of the server: what the method
("bubblewrap", "unshare", "plain") really keeps apart is said by ``checker.sandbox.confinement.describe``.

Where we are root each learner has a user id of their own: process limits count per user and never bind root, and files
stay apart even where the mount namespace does not.

``LocalProcessSpawner`` wants a system account per learner; what it does with it is overridden here. It also trusts a
stored process id after a restart of the hub, which by then may be anybody's: our servers never outlive the hub
(``--pdeathsig``, ``--die-with-parent``), so a spawner that did not start a process has none.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from jupyterhub.spawner import LocalProcessSpawner
from jupyterhub.utils import random_port
from tornado.web import HTTPError
from traitlets import Any as AnyTrait

from checker.sandbox.confinement import Confinement, Limits, Method, command, detect
from gradlab.course import Course, write_templates
from gradlab.hub.config import public_url
from gradlab.hub.delivery import history
from gradlab.hub.environment import MARKER, instance_of, uid_of
from gradlab.hub.homes import open_home
from gradlab.hub.output import OutputLog, tail
from gradlab.hub.processes import end_all, listening_uid, living, owned_by, tree
from gradlab.hub.telling import Registry
from gradlab.roster import Server
from gradlab.settings import ROOT, Settings

__all__ = ["LearnerSpawner"]

LABKIT = Path("/opt/gradlab")
TEMPLATES = Path("/opt/gradlab-labs")
_SCRATCH_MB = 1024
_SHM_MB = 1024
_OPEN_FILES = 4096


class LearnerSpawner(LocalProcessSpawner):  # type: ignore[misc]
    """Starts ``jupyterhub-singleuser`` in the learner's home, confined."""

    settings = AnyTrait(help="gradlab.settings.Settings, set by gradlab.hub.config.").tag(config=True)

    # Where kernels' sockets lie: a short path, for their names may have 107 characters at most.
    _runtime_dir = "/tmp/jupyter"
    _delivered = ""

    @property
    def method(self) -> Method:
        return detect(self.settings.sandbox)

    @property
    def uid(self) -> int:
        return uid_of(self.settings, self.user.id)

    @property
    def home(self) -> Path:
        """The home as the hub sees it."""
        path: Path = self.settings.homes_dir.resolve() / self.user.name
        return path

    @property
    def home_inside(self) -> Path:
        """The home as the learner sees it."""
        return self.home if self.method == "plain" else Path("/home") / self.user.name

    @property
    def labkit_inside(self) -> Path:
        """The folder that holds ``labkit`` and nothing else, for PYTHONPATH."""
        return self.settings.state_dir.resolve() / "python" if self.method == "plain" else LABKIT

    @property
    def templates(self) -> Path:
        """The folder of the labs as the hub sees it."""
        path: Path = self.settings.state_dir.resolve() / "labs"
        return path

    @property
    def templates_inside(self) -> Path:
        """The folder of the labs as the learner sees it."""
        return self.templates if self.method == "plain" else TEMPLATES

    def get_env(self) -> dict[str, str]:
        """What JupyterHub tells a server, and a clean rest: nothing is taken over from the hub's own environment."""
        self.env_keep: list[str] = []
        self.notebook_dir = str(self.home_inside)
        env: dict[str, str] = super().get_env()
        return env

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        labkit = self.labkit_inside / "labkit"
        env |= {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/bash",
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            "HOME": str(self.home_inside),
            "PYTHONPATH": str(self.labkit_inside),
            "PYTHONDONTWRITEBYTECODE": "1",
            "JUPYTER_PATH": str(labkit),
            "JUPYTER_CONFIG_PATH": str(labkit / "config"),
            "GRADLAB_PORTAL_URL": f"{public_url(self.settings)}/services/portal",
            "GRADLAB_TEMPLATES": str(self.templates_inside),
            "GRADLAB_DELIVERED": self._delivered,
            MARKER: instance_of(self.settings),
        }
        env["JUPYTER_RUNTIME_DIR"] = self._runtime_dir
        return env

    def confinement(self) -> Confinement:
        """What the learner's server sees and may use."""
        return Confinement(
            limits=Limits(
                memory_mb=self.settings.learner_memory_mb,
                processes=self.settings.learner_processes,
                open_files=_OPEN_FILES,
            ),
            scratch_mb=_SCRATCH_MB,
            shm_mb=_SHM_MB,
            uid=self.uid,
            network=True,
            read_only=((ROOT / "labkit", LABKIT / "labkit"), (self.templates, TEMPLATES), *self._accounts()),
            writable=((self.home, self.home_inside),),
            chdir=self.home_inside,
        )

    def _accounts(self) -> tuple[tuple[Path, Path], ...]:
        """The learner's own name for their user id, instead of "I have no name!" at every prompt.

        Only bubblewrap mounts a file over one that is there already.
        """
        if self.method != "bubblewrap":
            return ()
        file = self.settings.state_dir.resolve() / "accounts" / self.user.name
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            f"root:x:0:0::/:/bin/sh\n{self.user.name}:x:{self.uid}:{self.uid}::{self.home_inside}:/bin/bash\n"
        )
        file.chmod(0o644)
        return ((file, Path("/etc/passwd")),)

    def command_line(self) -> list[str]:
        server = [sys.executable, "-m", "jupyterhub.singleuser", *self.get_args()]
        return ["setpriv", "--pdeathsig", "KILL", *command(self.method, self.confinement(), server)]

    async def start(self) -> tuple[str, int]:
        port = random_port()
        self.port = port
        await asyncio.get_running_loop().run_in_executor(None, self._prepare)
        argv = self.command_line()
        self.log.info("Starting the server of %s (%s, uid %s)", self.user.name, self.method, self.uid)
        # In this thread, not in the executor's: PDEATHSIG fires when the *thread* that started a process ends.
        self.proc = subprocess.Popen(
            argv,
            env=self.get_env(),
            cwd=self.home if self.method == "plain" else "/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
        )
        self.pid = self.proc.pid
        self._tell_started()
        assert self.proc.stdout is not None
        log = self.settings.state_dir / "logs" / "servers" / f"{self.user.name}.log"
        OutputLog.follow(self.proc.stdout, log)
        await self._wait_listening(port, log)
        return ("127.0.0.1", port)

    def _tell_started(self) -> None:
        # A user id that all learners have tells nobody apart.
        uid = self.uid if os.getuid() == 0 else None
        server = Server(self.user.name, self.name, pid=self.pid, uid=uid, since=time.time())
        Registry.of_trial(self.settings).started(server)

    def _tell_ended(self) -> None:
        if self.proc is not None:
            Registry.of_trial(self.settings).ended(self.proc.pid)

    def _make_runtime_dir(self) -> None:
        """A folder of the learner's own below /tmp, which is shared where there are no mount namespaces."""
        self._runtime_dir = tempfile.mkdtemp(prefix="gradlab-")
        if os.getuid() == 0:
            os.chown(self._runtime_dir, self.uid, self.uid)

    async def _wait_listening(self, port: int, log: Path) -> None:
        """Return when the server listens; HTTPError with its last words if it ends instead.

        Every learner can listen on this machine's ports, and between choosing a port and listening on it seconds pass:
        where learners have user ids of their own, the one who listens must have this learner's.
        """
        while (listener := listening_uid(port)) is None:
            if self.proc is None or self.proc.poll() is not None:
                words = tail(log)
                self.log.error("The server of %s ended while it started:\n%s", self.user.name, words)
                raise HTTPError(500, f"Your server ended while it started. Its last words: {words}")
            await asyncio.sleep(0.05)
        if listener != self.uid:
            raise HTTPError(
                500, f"Port {port} of your server was taken by somebody else's process. Start your server again."
            )

    async def poll(self) -> int | None:
        if self.proc is None:
            self.clear_state()
            return 0
        status: int | None = self.proc.poll()
        if status is not None:
            self._tell_ended()
            self.clear_state()
        return status

    async def stop(self, now: bool = False) -> None:
        """SIGTERM to the server itself, so that it ends kernels and saves its state; then the whole tree is killed."""
        if self.proc is None:
            return
        family = tree(self.proc.pid)
        server = next((process for process in family if _is_server(process)), None)
        if server is not None and not now:
            with suppress(psutil.NoSuchProcess):
                server.send_signal(signal.SIGTERM)
            await self.wait_for_death(timeout=5)
        find = functools.partial(_left, self.proc.pid, family, self.uid)
        await asyncio.get_running_loop().run_in_executor(None, functools.partial(end_all, find, seconds=5))
        await self.poll()

    async def run_post_stop_hook(self) -> None:
        """JupyterHub calls this however a server ended; one that ended by itself may have left processes."""
        self._tell_ended()
        find = functools.partial(owned_by, self.uid) if os.getuid() == 0 else list
        await asyncio.get_running_loop().run_in_executor(None, functools.partial(end_all, find, seconds=5))
        if self.method == "plain":
            shutil.rmtree(self._runtime_dir, ignore_errors=True)

    def _prepare(self) -> None:
        """Make the home, and have the labs ready. What is wrong with them must not keep a learner out."""
        with open_home(self.settings.homes_dir, self.user.name, self.uid):
            pass
        if self.method == "plain":
            _link_labkit(self.settings)
            self._make_runtime_dir()
        self.templates.mkdir(exist_ok=True)
        try:
            _write_labs(self.settings, self.templates)
            self._delivered = json.dumps(history(self.settings, self.user.name))
        except Exception as error:
            self.log.exception("Labs cannot be delivered to %s: %s", self.user.name, error)


@functools.cache
def _write_labs(settings: Settings, folder: Path) -> None:
    """Once a hub, when the first server starts: the hub itself starts faster without."""
    write_templates(Course.load(settings.labs_dir, settings.checks_dir).labs, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path is folder else 0o644)


def _link_labkit(settings: Settings) -> None:
    """A folder for PYTHONPATH that holds labkit alone; without mount namespaces a link has to do."""
    folder = settings.state_dir / "python"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    link, target = folder / "labkit", ROOT / "labkit"
    if link.is_symlink() and link.readlink() != target:
        link.unlink()  # Gradlab's own folder has moved
    with suppress(FileExistsError):
        link.symlink_to(target)


def _is_server(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        arguments = process.cmdline()
        return arguments[:1] == [sys.executable] and "jupyterhub.singleuser" in arguments
    return False


def _left(pid: int, seen: list[psutil.Process], uid: int) -> list[psutil.Process]:
    """What lives of a learner's server: its tree, what was seen in it before and, as root, all of their uid."""
    found = {*tree(pid), *living(seen)}
    return [*found, *(process for process in owned_by(uid) if process not in found)] if os.getuid() == 0 else [*found]
