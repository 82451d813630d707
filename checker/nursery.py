"""The processes that judges are forked from, seen from the server: started with it, ended with it.

One (:mod:`labkit.nursery`) has torch loaded and nothing of the judge, for sandboxes. The other is its child, has the
judge's modules as well, and forks the kernels: what both have loaded is in memory once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from checker.workplace import Workplace
from labkit.forkserver import Forked, fork, listen

__all__ = ["Nursery"]

log = logging.getLogger(__name__)

_LOAD_SECONDS = 120
# One that ends again and again must not keep a core busy with starting it.
_MOST_STARTS, _WITHIN_SECONDS = 3, 600


class Nursery:
    """Both fork servers, for judges whose sandboxes are of this ``method``; thread-safe.

    If they cannot be had, judges start cold: slower, and with the same verdicts.
    """

    def __init__(self, workplace: Workplace, method: str) -> None:
        self._workplace = workplace
        self._method = method
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._judges: Forked | None = None
        self._starts: deque[float] = deque(maxlen=_MOST_STARTS)
        self._closed = False

    @property
    def sandboxes(self) -> str:
        """The socket to fork sandboxes from; empty if there is none."""
        return str(self._folder / "sandboxes") if self._judges is not None and self._folder else ""

    @property
    def judges(self) -> str:
        """The socket to fork judge kernels from; empty if there is none."""
        return str(self._folder / "judges") if self._judges is not None and self._folder else ""

    def ensure(self) -> None:
        """Start both unless they run; blocks until torch is loaded. A failure or an end is logged."""
        with self._lock:
            running = self._judges is not None and self._judges.poll() is None
            if self._closed or running:
                return
            if self._judges is not None:
                log.warning("What judges are forked from has ended (status %s).", self._judges.returncode)
            self._end()
            if len(self._starts) == _MOST_STARTS and time.monotonic() - self._starts[0] < _WITHIN_SECONDS:
                return
            self._starts.append(time.monotonic())
            try:
                self._start()
            except OSError as error:
                if not self._closed:
                    log.warning(
                        "Nothing can be forked (%s), so every check starts cold and takes seconds longer.", error
                    )
                self._end()

    def close(self) -> None:
        """End both, and with them all they forked. ``ensure`` starts nothing any more."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # also what :meth:`ensure` may be waiting for, under the lock
        with self._lock:
            self._end()

    def _start(self) -> None:
        # Unix sockets in a private folder: learner code can neither see nor reach them.
        self._folder = self._workplace.folder("nursery-")
        with listen(str(self._folder / "sandboxes")) as listener:
            argv = [sys.executable, "-P", "-m", "labkit.nursery", str(listener.fileno())]
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        with listen(str(self._folder / "judges")) as listener:
            request = {"run": "checker.kernel:serve", "sandbox": self._method}
            self._judges = fork(str(self._folder / "sandboxes"), request, [listener.fileno()], timeout=_LOAD_SECONDS)

    def _end(self) -> None:
        if self._judges is not None:
            self._judges.close()
            self._judges = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _environment() -> dict[str, str]:
    """Everything learner code could read of it in its own memory: no token, no name of the server's."""
    # The names with an underscore are the server's marks, by which it finds what it has to end.
    names = ("PATH", "LANG", "_GRADLAB_INSTANCE", "_GRADLAB_PART")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {
        "HOME": "/tmp",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
