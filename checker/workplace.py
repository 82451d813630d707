"""One folder for all that a judge puts on disk while it works: sockets, jobs, reports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["Workplace"]

_PREFIX = "gradlab-judge-"


class Workplace:
    """A private folder, removed by :meth:`close`; what judges that were killed left behind is removed when it is made.

    A lock tells the living from the dead: the kernel lets go of it whatever ends the process.
    """

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def folder(self, prefix: str) -> Path:
        """A new folder in it; its path is short enough for a Unix socket."""
        return Path(tempfile.mkdtemp(prefix=prefix, dir=self.path))

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _sweep(parent: Path) -> None:
    """Remove the workplaces of processes that are no more."""
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or just being made or removed
            lock = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
