"""One folder for all that a judge puts on disk while it works: sockets, jobs, reports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["Workplace", "is_alive"]

_PREFIX = "gradlab-judge-"
# The path of a Unix socket has 107 characters at most, and those below a workplace need some for themselves.
_LONGEST = 50


class Workplace:
    """A private folder, removed by :meth:`close`; what judges that were killed left behind is removed when it is made.

    A lock tells the living from the dead: the kernel lets go of it whatever ends the process.
    """

    def __init__(self) -> None:
        _sweep(_parent())
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_parent()))
        self._lock = os.open(self.path / "lock.new", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(self.path / "lock.new", self.path / "lock")  # who finds the lock finds it held

    @property
    def name(self) -> str:
        """What no other judge on this machine is called."""
        return self.path.name

    def folder(self, prefix: str) -> Path:
        """A new folder in it; its path is short enough for a Unix socket."""
        return Path(tempfile.mkdtemp(prefix=prefix, dir=self.path))

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _parent() -> Path:
    """The folder for temporary files, or, where its path is too long for sockets, the system's."""
    found = tempfile.gettempdir()
    return Path(found if len(found) <= _LONGEST else "/tmp")


def is_alive(name: str) -> bool:
    """Whether the judge whose workplace has this name still runs on this machine."""
    try:
        lock = os.open(_parent() / name / "lock", os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _sweep(parent: Path) -> None:
    """Remove the workplaces of this user's processes that are no more."""
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # just being removed by somebody else
            # One without a lock is just being made.
            if path.stat().st_uid == os.geteuid() and (path / "lock").is_file() and not is_alive(path.name):
                shutil.rmtree(path, ignore_errors=True)
