"""The process sandbox: the agent as a confined child process of the judge's kernel."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import psutil

from checker.sandbox.base import Sandbox
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import Confinement, Limits, command

__all__ = ["ProcessSandbox"]

_LABKIT = Path(__file__).resolve().parent.parent.parent / "labkit"
_INSIDE = Path("/opt/gradlab/labkit")
_FIRST_UID = 0x4000_0000
_numbers = itertools.count()


class ProcessSandbox(Sandbox):
    """The agent under bubblewrap, unshare, or limits alone."""

    def __init__(self, config: SandboxConfig) -> None:
        super().__init__(output_limit=config.output_kb << 10)
        self._config = config
        self._uid = _own_uid()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._config
        confinement = Confinement(
            limits=Limits(
                memory_mb=config.memory_mb,
                processes=config.processes,
                file_mb=config.scratch_mb,
                open_files=256,
            ),
            scratch_mb=config.scratch_mb,
            uid=self._uid,
            read_only=((_LABKIT, _INSIDE),),
        )
        search = _LABKIT.parent if config.method == "plain" else _INSIDE.parent
        # -P: nothing is imported from the working directory, which learner code may write to.
        argv = [sys.executable, "-P", "-m", "labkit.agent"]
        self._process = subprocess.Popen(
            command(config.method, confinement, argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(search),
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        for descriptor in (self._write_fd(), *self._read_fds()):
            os.set_blocking(descriptor, False)

    def kill(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        strays = self._outside_namespace(process.pid) if self._config.method == "plain" else []
        with contextlib.suppress(ProcessLookupError):
            # The whole session: with bubblewrap and unshare the first process takes its namespace along.
            os.killpg(process.pid, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()
        process.wait()

    def _outside_namespace(self, pid: int) -> list[psutil.Process]:
        """Without a namespace that dies as one: all descendants, and where the uid is ours alone, all that have it."""
        try:
            found = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        if os.getuid() == 0:
            found += [p for p in psutil.process_iter(["uids"]) if (u := p.info["uids"]) and u.real == self._uid]
        return found

    def close(self) -> None:
        self.kill()
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                _pipe(stream).close()

    def _write_fd(self) -> int:
        return _pipe(self._started().stdin).fileno()

    def _read_fds(self) -> tuple[int, int]:
        process = self._started()
        return _pipe(process.stdout).fileno(), _pipe(process.stderr).fileno()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the sandbox was not started")
        return self._process

    def _read(self, descriptor: int, size: int) -> bytes | None:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            return None

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._write_fd(), data)
        except BlockingIOError:
            return 0


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Popen's streams are all pipes here; their type only does not say so."""
    assert stream is not None
    return stream


def _own_uid() -> int:
    """A user id no other sandbox has at the same time, so that neither limits nor signals reach a neighbour."""
    return _FIRST_UID + (os.getpid() % 1_000_000) * 64 + next(_numbers) % 64


def _environment(search: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(search),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": "/tmp",
    }
