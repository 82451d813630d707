"""Which processes are a learner's own: those of the server that this kernel belongs to.

A container of its own has no others. Where several servers share a machine, they may even share a user, so there the
server's descendants are meant; and outside of any server all of this user's processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["own_processes"]

# The inode of the machine's own PID namespace: the kernel has it as a constant (PROC_PID_INIT_INO).
_MACHINES_NAMESPACE = "pid:[4026531836]"
_DEEPEST = 100


def own_processes(
    pids: Iterable[int],
    *,
    proc: Path = Path("/proc"),
    environ: Mapping[str, str] | None = None,
    me: int | None = None,
) -> set[int] | None:
    """Those of ``pids`` that are ours; None where that cannot be told, as on a system without /proc.

    One that has ended, or lives in another PID namespace, is not ours.
    """
    environ = os.environ if environ is None else environ
    me = os.getpid() if me is None else me
    if not (proc / str(me)).exists():
        return None
    there = {pid for pid in pids if (proc / str(pid)).exists()}
    # What starts a kernel tells it so.
    told = environ.get("JPY_PARENT_PID", "")
    server = int(told) if re.fullmatch("[1-9][0-9]{0,9}", told) and (proc / told).exists() else None
    if server is None:
        return {pid for pid in there if _user(proc, pid) == _user(proc, me) is not None}
    if _alone(proc, server):
        return there
    return {pid for pid in there if {server, me} & set(_lineage(proc, pid))}


def _alone(proc: Path, server: int) -> bool:
    """Whether the server is what this PID namespace was made for: its first process, or started by that."""
    try:
        apart = os.readlink(proc / "self" / "ns" / "pid") != _MACHINES_NAMESPACE
    except OSError:
        return False
    return apart and 1 in (server, _parent(proc, server))


def _lineage(proc: Path, pid: int) -> list[int]:
    """The process, its parent, and so on."""
    found: list[int] = []
    while pid > 0 and pid not in found and len(found) < _DEEPEST:
        found.append(pid)
        pid = _parent(proc, pid)
    return found


def _parent(proc: Path, pid: int) -> int:
    """0 if there is none, or it is gone."""
    try:
        # The name, in parentheses, may have anything in it, also parentheses.
        return int((proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _user(proc: Path, pid: int) -> int | None:
    try:
        return (proc / str(pid)).stat().st_uid
    except OSError:
        return None
