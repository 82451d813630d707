"""Which learners' servers there are, where each runs and which GPU it holds: what the hub tells the GPU monitor.

The hub knows servers, labs and the line for GPUs, and has Docker; the monitor sees processes. They meet in one file, in
a folder that learners cannot reach. The hub writes it anew at every change, whole and atomically, so whoever reads it
never sees a half; while the hub is down, the last word stays true of containers that run on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Roster", "RosterFile", "Server", "Waiter", "write"]


@dataclass(frozen=True)
class Server:
    """One learner's running server. ``name`` is JupyterHub's name of it, empty for the usual one.

    A hosted server has a ``container`` (64 hexadecimal digits); a trial's has the ``pid`` of its first process and, if
    learners have user ids of their own, the ``uid``. ``device`` is the UUID of the GPU or MIG instance it was given,
    with ``share`` the bytes of its memory that are meant for it where others have a share too; ``hard`` says that the
    driver enforces that. Times are seconds since the epoch.
    """

    learner: str
    name: str = ""
    lab: str = ""
    container: str = ""
    pid: int = 0
    uid: int | None = None
    device: str = ""
    share: int | None = None
    hard: bool = False
    since: float = 0.0
    held_since: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Whose server this is, and its name."""
        return self.learner, self.name


@dataclass(frozen=True)
class Waiter:
    """One who waits for a GPU: ``position`` counts from 1, ``estimate`` is in seconds, None if nobody can say."""

    learner: str
    name: str
    since: float
    position: int
    estimate: float | None = None


@dataclass(frozen=True)
class Roster:
    """All servers, and how GPUs are given out: ``mode`` as the setting has it, ``slots`` in all and ``free`` ones.

    ``problem`` is why none can be given out, if so.
    """

    servers: tuple[Server, ...] = ()
    line: tuple[Waiter, ...] = ()
    mode: str = "none"
    slots: int = 0
    free: int = 0
    problem: str = ""
    by_container: Mapping[str, Server] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {server.container: server for server in self.servers if server.container}
        object.__setattr__(self, "by_container", found)

    @classmethod
    def parse(cls, text: str) -> Roster:
        """Read what :func:`write` wrote; ValueError if it is something else."""
        try:
            data: dict[str, Any] = json.loads(text)
            servers = tuple(Server(**one) for one in data.pop("servers"))
            line = tuple(Waiter(**one) for one in data.pop("line"))
            return cls(servers=servers, line=line, **data)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no roster of servers: {error!r}") from None


def write(path: Path, roster: Roster) -> None:
    """Replace the file; OSError if that cannot be done."""
    data = {name: getattr(roster, name) for name in ("mode", "slots", "free", "problem")}
    data |= {"servers": [asdict(one) for one in roster.servers], "line": [asdict(one) for one in roster.line]}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(data))
    draft.replace(path)


class RosterFile:
    """Call it for the roster as it is now; the file is read again only when it has changed.

    Without a file nobody has a server. One that cannot be read leaves what was known before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._roster = Roster()

    def __call__(self) -> Roster:
        try:
            found = self._path.stat()
            if (stamp := (found.st_mtime_ns, found.st_ino)) != self._seen:
                self._roster, self._seen = Roster.parse(self._path.read_text()), stamp
        except FileNotFoundError:
            self._roster, self._seen = Roster(), None
        except (OSError, ValueError):
            pass
        return self._roster
