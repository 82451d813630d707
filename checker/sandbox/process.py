"""The process sandbox: the agent as a confined child process of the judge's kernel."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil

from checker.sandbox.base import CHUNK, Sandbox
from checker.sandbox.config import VARIABLES, SandboxConfig
from checker.sandbox.confinement import Confinement, command, holder
from labkit.forkserver import Forked, fork

__all__ = ["ProcessSandbox"]

_LABKIT = Path(__file__).resolve().parent.parent.parent / "labkit"
_FIRST_UID = 0x4000_0000
_FORK_SECONDS = 10.0
_MOST_SAID = 500
_numbers = itertools.count()

log = logging.getLogger(__name__)


class ProcessSandbox(Sandbox):
    """The agent under bubblewrap, unshare, or limits alone.

    With a nursery the agent is forked from it, torch loaded, and enters the namespaces of a holder; without one, or if
    that fails, it is started as a program of its own. Both are confined by the same :class:`Confinement`.
    """

    def __init__(self, config: SandboxConfig) -> None:
        super().__init__(output_limit=config.output_kb << 10)
        assert config.method != "docker"
        self._config = config
        self._method = config.method
        self._uid = _own_uid()
        self._process: subprocess.Popen[bytes] | None = None
        self._forked: Forked | None = None
        self._pipes: list[int] = []

    def start(self) -> None:
        theirs = self._open_pipes()
        try:
            if not (self._config.nursery and self._fork(theirs)):
                self._launch(theirs)
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def _open_pipes(self) -> list[int]:
        """Ours are kept, non-blocking; the agent's standard input, output and error are returned."""
        stdin, write = os.pipe()
        read, stdout = os.pipe()
        printed, stderr = os.pipe()
        self._pipes = [write, read, printed]
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
        return [stdin, stdout, stderr]

    def _confinement(self) -> Confinement:
        config = self._config
        # labkit where it is outside, so that a forked agent finds its modules where it has them from.
        return Confinement(config.limits, config.scratch_mb, self._uid, read_only=((_LABKIT, _LABKIT),))

    def _launch(self, theirs: list[int]) -> None:
        # -P: nothing is imported from the working directory, which learner code may write to.
        alone = [] if self._method == "plain" else ["--alone"]
        argv = command(self._method, self._confinement(), [sys.executable, "-P", "-m", "labkit.agent", *alone])
        stdin, stdout, stderr = theirs
        self._process = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(), cwd="/", start_new_session=True
        )

    def _fork(self, theirs: list[int]) -> bool:
        """Fork the agent from the nursery into namespaces of its own; False if that cannot be done here."""
        confinement = self._confinement()
        request = {
            "run": "labkit.agent:forked",
            "limits": confinement.limits.bounds(),
            "uid": self._uid if os.getuid() == 0 else None,
            "user": os.getuid() != 0,
            "network": not confinement.network,
            "environment": _environment(),
        }
        descriptors = list(theirs)
        try:
            argv = holder(self._method, confinement)
            request["enter"] = bool(argv)
            if argv:
                descriptors.append(self._hold(argv))
            self._forked = fork(self._config.nursery, request, descriptors, timeout=_FORK_SECONDS)
        except OSError as error:
            log.warning("The sandbox could not be forked (%s); it is started instead, which takes seconds.", error)
            self._end_processes()
            self._process = None
            return False
        finally:
            for descriptor in descriptors[3:]:
                os.close(descriptor)
        return True

    def _hold(self, argv: list[str]) -> int:
        """Start the process that holds the namespaces; a pidfd of one inside them, as soon as they are complete."""
        ours, its = socket.socketpair()
        with ours, its:
            # The kernel adds the sender's process id to what it prints, as seen from out here.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.settimeout(_FORK_SECONDS)
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=its.fileno(),
                stderr=subprocess.PIPE,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
            its.close()
            line, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(struct.calcsize("3i")))
        if not line:
            said = self._process.communicate()[1].decode(errors="replace").strip()
            raise OSError(f"{self._method} made no namespaces: {said[-_MOST_SAID:] or 'it said nothing'}")
        pid, _, _ = struct.unpack("3i", ancillary[0][2])
        return os.pidfd_open(pid)

    def kill(self) -> None:
        strays = self._outside_namespace() if self._method == "plain" else []
        self._end_processes()
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()

    def _end_processes(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # The whole session: with bubblewrap and unshare the first process takes its namespaces along.
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stderr):
                if stream is not None:
                    stream.close()
        # Only while it lives: it is buried by its parent, and its number may be another's then.
        if self._forked is not None and self._forked.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._forked.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._forked.wait(_FORK_SECONDS)
            self._forked.close()

    def _outside_namespace(self) -> list[psutil.Process]:
        """Without a namespace that dies as one: all descendants, and where the uid is ours alone, all that have it."""
        found: list[psutil.Process] = []
        for process in (self._process, self._forked):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process is not None and process.poll() is None:
                    found += psutil.Process(process.pid).children(recursive=True)
        if os.getuid() == 0:
            found += [p for p in psutil.process_iter(["uids"]) if (u := p.info["uids"]) and u.real == self._uid]
        return found

    def close(self) -> None:
        self.kill()
        while self._pipes:
            os.close(self._pipes.pop())

    def _descriptors(self) -> tuple[tuple[int, ...], int]:
        if not self._pipes:
            return (), -1
        return (self._pipes[1], self._pipes[2]), self._pipes[0]

    def _read(self, descriptor: int) -> tuple[bytes, bytes]:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return b"", b""
        if descriptor == self._pipes[2]:
            return b"", data
        if not data:
            raise EOFError
        return data, b""

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._pipes[0], data)
        except BlockingIOError:
            return 0


def _own_uid() -> int:
    """A user id no other sandbox has at the same time, so that neither limits nor signals reach a neighbour."""
    return _FIRST_UID + (os.getpid() % 1_000_000) * 64 + next(_numbers) % 64


def _environment() -> dict[str, str]:
    return VARIABLES | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(_LABKIT.parent)}
