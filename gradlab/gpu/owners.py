"""Whose a process is, by what the kernel says of it and the hub's roster of servers: pure functions.

Nothing that the process itself could have written is believed, its environment least of all. What counts:

* Its ``/proc/PID/cgroup``. The file has a line for each hierarchy, ``ID:CONTROLLERS:PATH``; version 2 has one alone,
  whose line begins with ``0::``. Docker and its like put the 64 hexadecimal digits of a container's id into the path:
  ``/docker/ID`` (cgroupfs), ``/system.slice/docker-ID.scope`` (systemd), and so on. Seen from another cgroup namespace
  the path begins with ``/..``. In Docker inside of Docker it has several ids, the outermost first.
* Where a trial's servers are processes without a container: from whom it descends, and its user id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gradlab.roster import Roster, Server

__all__ = ["Identity", "Owner", "container_of", "group_of", "owner_of"]

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Identity:
    """One process, told apart from whoever has had its number before by ``started``, in ticks since the boot.

    ``cgroup`` is the text of its file of that name, ``uid`` its real user id, None if not known. ``ancestors`` are the
    numbers of its parent, the parent's parent and so on.
    """

    pid: int
    started: int
    cgroup: str
    uid: int | None = None
    ancestors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Owner:
    """Whose a process is: a ``learner``'s, with the ``server`` it belongs to; another ``container``'s; the machine's.

    ``container`` is the id of the container, empty for a process in none.
    """

    kind: Literal["learner", "container", "machine"]
    server: Server | None = None
    container: str = ""


def owner_of(identity: Identity, roster: Roster) -> Owner:
    """The owner, as the roster has it now.

    Of the containers that a process is in, one inside the other, the innermost that is a learner's counts.
    """
    server = _in_container(identity, roster) or _in_tree(identity, roster) or _by_user(identity, roster)
    if server is not None:
        return Owner("learner", server, server.container)
    container = container_of(identity.cgroup)
    return Owner("machine") if container is None else Owner("container", None, container)


def _in_container(identity: Identity, roster: Roster) -> Server | None:
    found: list[tuple[int, Server]] = []
    for ids in _containers(identity.cgroup):
        found += [(depth, roster.by_container[one]) for depth, one in enumerate(ids) if one in roster.by_container]
    return max(found, key=lambda one: one[0])[1] if found else None


def _in_tree(identity: Identity, roster: Roster) -> Server | None:
    """The server whose first process this is, or the nearest of its ancestors that is one's."""
    firsts = {server.pid: server for server in roster.servers if server.pid}
    return next((firsts[pid] for pid in (identity.pid, *identity.ancestors) if pid in firsts), None) if firsts else None


def _by_user(identity: Identity, roster: Roster) -> Server | None:
    """The only server with this user id: what it has left behind is nobody's child any more."""
    if not identity.uid:  # root's processes are anybody's
        return None
    found = [server for server in roster.servers if server.uid == identity.uid]
    return found[0] if len(found) == 1 else None


def container_of(text: str) -> str | None:
    """The id of the innermost container; None for a process of the machine itself.

    Where hierarchies differ, as in a container that makes groups of its own, the deepest says it.
    """
    ids = max(_containers(text), key=len, default=[])
    return ids[-1] if ids else None


def group_of(text: str, container: str) -> str | None:
    """The path of the container's own group in version 2, as the reader sees it; None if this is not its process."""
    names = _paths(text).get("", "").split("/")
    bearing = [place for place, name in enumerate(names) if container in name]
    if container_of(text) != container or not bearing:
        return None
    # What a container makes inside its group is bounded by it, so the group is the one that bears its name.
    return "/".join(names[: bearing[-1] + 1])


def _containers(text: str) -> Iterator[list[str]]:
    """By hierarchy, the ids of the containers that the process is in, the outermost first."""
    return (_ID.findall(path) for path in _paths(text).values())


def _paths(text: str) -> dict[str, str]:
    """By controllers, which are none for version 2."""
    rows = [line.split(":", 2) for line in text.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3}
