"""Learners' home folders, where their servers are processes of this machine.

A home belongs to its learner, so everything in it may be a trap laid for a server that runs as root: names are resolved
relative to the home's descriptor, and links are never followed. What lies in it is the business of the learner's own
server (labkit.delivery).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["open_home"]


@contextmanager
def open_home(homes_dir: Path, name: str, uid: int) -> Iterator[int]:
    """The descriptor of a learner's home, made and given to ``uid`` where needed (only root gives files away)."""
    homes_dir.mkdir(parents=True, exist_ok=True)
    homes_dir.chmod(0o711)  # learners pass through to their own, and list nothing
    parent = os.open(homes_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        home = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        os.fchmod(home, 0o700)
        if os.getuid() == 0 and os.fstat(home).st_uid != uid:
            _give_all(home, uid)
        yield home
    finally:
        os.close(home)


def _give_all(home: int, uid: int) -> None:
    """Give a home to another uid (a restored backup, a state folder that moved); links are never followed."""
    for _, folders, files, folder in os.fwalk(".", dir_fd=home, follow_symlinks=False):
        os.fchown(folder, uid, uid)
        for name in (*folders, *files):
            os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)
