"""Learners' home folders, and how labs get into them without ever costing a learner's work.

What happens to a lab's notebook when the learner's server starts:

* never delivered, or deleted by the learner: it is written (the portal's "Open" leads to that name);
* delivered in this version: nothing, whatever the learner did to it;
* a newer version exists and the learner's file is still byte for byte the one delivered: it is replaced;
* a newer version exists and the learner changed the file: the new one is put beside it, ``04_tensors-v2.ipynb``.

Renamed or copied notebooks are the learner's own and are never touched.

A home belongs to its learner, so everything in it may be a trap laid for a server that runs as root: names are resolved
relative to the home's descriptor, links are never followed, files are created exclusively and get their owner through
their descriptor.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gradlab.course import Lab
from gradlab.store.store import Store

__all__ = ["Delivery", "deliver", "open_home"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not hang the hub
_LARGEST_COMPARED = 64 << 20


@dataclass(frozen=True)
class Delivery:
    """What was done: ``written``, ``replaced`` or ``beside``."""

    lab: str
    filename: str
    action: str


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


def deliver(home: int, uid: int, learner: str, labs: Sequence[Lab], store: Store, *, now: float) -> list[Delivery]:
    """Put the labs into the open home as the module says, and record it. Returns what changed."""
    store.see(learner, now=now)
    history = store.deliveries(learner)
    done = []
    for lab in labs:
        delivery = _deliver_lab(home, uid, lab, history.get(lab.slug, []))
        if delivery is not None:
            store.deliver(learner, lab.slug, lab.version, delivery.filename, now=now)
            done.append(delivery)
    return done


def _deliver_lab(home: int, uid: int, lab: Lab, history: list[tuple[str, str]]) -> Delivery | None:
    version, filename = history[-1] if history else (None, lab.filename)
    data = lab.notebook.encode()
    found = _digest(home, filename)
    if found is None:
        return Delivery(lab.slug, _create(home, uid, filename, data), "written")
    if version == lab.version:
        return None
    if found == lab.version:  # it is there and nobody recorded it: the database is younger than the home
        return Delivery(lab.slug, filename, "written")
    if version is not None and found == version:
        _replace(home, uid, filename, data)
        return Delivery(lab.slug, filename, "replaced")
    return Delivery(lab.slug, _create(home, uid, lab.filename, data), "beside")


def _digest(home: int, filename: str) -> str | None:
    """The version (as in Lab.version) of a file, ``""`` for what is no ordinary file, None for nothing at all."""
    try:
        descriptor = os.open(filename, _READ, dir_fd=home)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            return ""
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_COMPARED:
        os.close(descriptor)
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


def _create(home: int, uid: int, filename: str, data: bytes) -> str:
    """Write a new file under the first free name of NAME, NAME-v2, NAME-v3, …; never over anything."""
    draft = _draft(home, uid, data)
    path = PurePosixPath(filename)
    number = 1
    try:
        while True:
            name = filename if number == 1 else f"{path.stem}-v{number}{path.suffix}"
            try:
                os.link(draft, name, src_dir_fd=home, dst_dir_fd=home, follow_symlinks=False)
                return name
            except FileExistsError:
                number += 1
    finally:
        os.unlink(draft, dir_fd=home)


def _replace(home: int, uid: int, filename: str, data: bytes) -> None:
    os.rename(_draft(home, uid, data), filename, src_dir_fd=home, dst_dir_fd=home)


def _draft(home: int, uid: int, data: bytes) -> str:
    """A complete file under a name nobody can foresee: a crash or a full disk leaves no half notebook."""
    name = f".gradlab-{secrets.token_hex(8)}"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=home)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if os.getuid() == 0:
                os.fchown(descriptor, uid, uid)
    except OSError:
        os.unlink(name, dir_fd=home)
        raise
    return name


def _give_all(home: int, uid: int) -> None:
    """Give a home to another uid (a restored backup, a state folder that moved); links are never followed."""
    for _, folders, files, folder in os.fwalk(".", dir_fd=home, follow_symlinks=False):
        os.fchown(folder, uid, uid)
        for name in (*folders, *files):
            os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)
