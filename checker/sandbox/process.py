"""The process sandbox: the agent as a confined child process of the judge's kernel."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil

from checker.sandbox.base import CHUNK, Sandbox
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import Confinement, Limits, command, holder
from labkit.forkserver import Forked, fork

__all__ = ["ProcessSandbox"]

_LABKIT = Path(__file__).resolve().parent.parent.parent / "labkit"
_FIRST_UID = 0x4000_0000
_FORK_SECONDS = 10.0
_numbers = itertools.count()


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
        limits = Limits(
            memory_mb=config.memory_mb, processes=config.processes, file_mb=config.scratch_mb, open_files=256
        )
        # Where it is outside, so that a forked agent finds its modules where it has them from.
        return Confinement(limits, config.scratch_mb, self._uid, read_only=((_LABKIT, _LABKIT),))

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
            if argv := holder(self._method, confinement):
                descriptors.append(self._hold(argv))
            self._forked = fork(self._config.nursery, request, descriptors, timeout=_FORK_SECONDS)
        except OSError:
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
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
            its.close()
            line, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(struct.calcsize("3i")))
        if not line:
            raise OSError(f"{argv[0]} made no namespaces")
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
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._forked is not None and self._forked.returncode is None:
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
                if process is not None and process.returncode is None:
                    found += psutil.Process(process.pid).children(recursive=True)
        if os.getuid() == 0:
            found += [p for p in psutil.process_iter(["uids"]) if (u := p.info["uids"]) and u.real == self._uid]
        return found

    def close(self) -> None:
        self.kill()
        while self._pipes:
            os.close(self._pipes.pop())

    def _descriptors(self) -> tuple[tuple[int, ...], int]:
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
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(_LABKIT.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": "/tmp",
    }
