"""Finding and ending processes, so that nothing of ours outlives us.

Three nets, because each alone has a hole: a process tree misses what was orphaned, the mark in the environment misses
what cleaned its environment, and being the subreaper (orphans become our children) works only while we live.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from gradlab.hub.environment import MARKER, PART

__all__ = [
    "become_subreaper",
    "end_all",
    "listening_uid",
    "living",
    "marked",
    "owned_by",
    "port_fault",
    "reap_adopted",
    "tree",
]

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process instead of init's."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_adopted(own: set[int]) -> None:
    """Collect dead adopted children; ``own`` are the pids whose exit status somebody else waits for."""
    with suppress(ChildProcessError):  # there are no children at all
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (dead := os.waitid(os.P_ALL, 0, look)) is not None and dead.si_pid not in own:
            os.waitpid(dead.si_pid, 0)


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie does not, and neither does a pid that was given to another process."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def port_fault(host: str, port: int) -> str:
    """Why nobody can listen on this address now, and who already does as far as we may know; empty if one can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"{error.strerror}{_holder(port) if error.errno == errno.EADDRINUSE else ''}"
    return ""


def _holder(port: int) -> str:
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return f" (`ss -ltnp 'sport = :{port}'` shows by whom)"


def listening_uid(port: int) -> int | None:
    """The user id of the socket that listens on a port of 127.0.0.1; None while nobody does."""
    address = f"0100007F:{port:04X}"  # the kernel prints it in the machine's byte order, which is little-endian
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == address and fields[3] == "0A":  # TCP_LISTEN
            return int(fields[7])
    return None


def owned_by(uid: int) -> list[psutil.Process]:
    """Live processes of a user id."""
    return living(process for process in psutil.process_iter(["uids"]) if _real_uid(process) == uid)


def _real_uid(process: psutil.Process) -> int | None:
    uids = process.info["uids"]
    return None if uids is None else int(uids.real)


def marked(instance: str, part: str | None = None) -> list[psutil.Process]:
    """Live processes with this instance's mark (and that of one part of it), but not ourselves and our ancestors."""
    marks = [f"{MARKER}={instance}", *([] if part is None else [f"{PART}={part}"])]
    needles = [b"\0" + mark.encode() + b"\0" for mark in marks]
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        with suppress(OSError, psutil.NoSuchProcess):
            environ = b"\0" + (entry / "environ").read_bytes() + b"\0"
            if all(needle in environ for needle in needles):
                found.append(psutil.Process(int(entry.name)))
    return living(found)


def tree(pid: int, *, itself: bool = True) -> list[psutil.Process]:
    """A live process and its live descendants, parents first; empty if there is none."""
    try:
        root = psutil.Process(pid)
        children = root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return living([root, *children] if itself else children)


def end_all(find: Callable[[], list[psutil.Process]], *, seconds: float) -> list[psutil.Process]:
    """SIGKILL what ``find`` returns until it returns nothing; what is left after ``seconds`` is returned."""
    deadline = time.monotonic() + seconds
    while found := find():
        for process in found:
            with suppress(psutil.NoSuchProcess, PermissionError, psutil.AccessDenied):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(found, timeout=0.5)
        if time.monotonic() > deadline:
            return find()
    return []
