"""Which container a process is in, by the text of its ``/proc/PID/cgroup``: pure functions.

The file has a line for each hierarchy, ``ID:CONTROLLERS:PATH``; version 2 has one hierarchy, whose line begins with
``0::``. Docker and its like put the 64 hexadecimal digits of a container's id into the path: ``/docker/ID`` (cgroupfs),
``/system.slice/docker-ID.scope`` (systemd), and so on. Seen from another cgroup namespace the path begins with ``/..``.
"""

from __future__ import annotations

import re

__all__ = ["container_of", "group_of"]

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def container_of(text: str) -> str | None:
    """The id of the innermost container; None for a process of the machine itself.

    Where hierarchies differ, as in a container that makes groups of its own, the deepest says it.
    """
    ids = max((_ID.findall(path) for path in _paths(text).values()), key=len, default=[])
    return ids[-1] if ids else None


def group_of(text: str, container: str) -> str | None:
    """The path of the container's own group in version 2, as the reader sees it; None if this is not its process."""
    names = _paths(text).get("", "").split("/")
    bearing = [place for place, name in enumerate(names) if container in name]
    if container_of(text) != container or not bearing:
        return None
    # What a container makes inside its group is bounded by it, so the group is the one that bears its name.
    return "/".join(names[: bearing[-1] + 1])


def _paths(text: str) -> dict[str, str]:
    """By controllers, which are none for version 2."""
    rows = [line.split(":", 2) for line in text.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3}
