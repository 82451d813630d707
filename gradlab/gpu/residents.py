"""Whose the processes on a GPU are, second after second: ``/proc``, read once for each process.

A process keeps its container and its ancestors for as long as it lives, so nothing is read twice; but its number is
given to another one after its end. A descriptor of the process itself (``pidfd_open``) tells of that end: one call asks
about all of them at once, however many threads they have. Where there are none, or too many processes for them, the
time at which a process was started is read again each time.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from gradlab.gpu.owners import Identity, Owner, owner_of
from gradlab.roster import Roster

__all__ = ["Residents"]

# Of the thousand that a process may usually have open.
_DESCRIPTORS = 256
# Linux: PID_MAX_LIMIT. Nothing beyond it is the number of a process, whatever the driver says.
_LARGEST_PID = 1 << 22
# Of ancestors. Nobody nests shells that deep.
_DEEPEST = 256


@dataclass(frozen=True)
class _Stat:
    """What of ``/proc/PID/stat`` matters here; ``started`` is in ticks since the boot."""

    alive: bool
    parent: int
    started: int

    @classmethod
    def parse(cls, text: bytes) -> _Stat:
        # The name stands before, in parentheses, and may have spaces and parentheses in it.
        fields = text[text.rindex(b")") + 2 :].split(None, 20)
        return cls(fields[0] not in (b"Z", b"X", b"x"), int(fields[1]), int(fields[19]))


@dataclass
class _Resident:
    """A known process. ``descriptor`` is -1 where there is none; ``traced`` says that its ancestors have been read."""

    identity: Identity
    parent: int
    descriptor: int
    traced: bool = False
    owner: Owner | None = None


class Residents:
    """Not for several threads at once. ``proc`` is the machine's, ``descriptors`` is how many are kept open at most.

    ``problem`` says why nobody knows whose processes there are, if every one of them is kept from us; else it is empty.
    """

    def __init__(self, proc: Path = Path("/proc"), *, descriptors: int = _DESCRIPTORS) -> None:
        self.problem = ""
        self._proc = str(proc)
        # In another folder the numbers mean other processes: those of another PID namespace, or a test's.
        self._spare = descriptors if self._proc == "/proc" and hasattr(os, "pidfd_open") else 0
        self._residents: dict[int, _Resident] = {}
        self._of_descriptor: dict[int, int] = {}
        self._ends = select.poll()
        self._roster: Roster | None = None
        # By the number of a server's first process, when that was started; 0 for one that is gone.
        self._firsts: dict[int, int] = {}

    def owners(self, pids: Iterable[int], roster: Roster) -> dict[int, Owner]:
        """By number, who owns these processes; without those that have ended, or may not be looked at."""
        wanted = {pid for pid in pids if 0 < pid <= _LARGEST_PID}
        for pid in self._residents.keys() - wanted:
            self._forget(pid)
        self._forget_ended()
        refused = [pid for pid in wanted - self._residents.keys() if self._meet(pid)]
        self._forget_told()  # those that have ended while they were looked at
        self._use(roster)
        met: dict[int, _Stat | None] = {}
        found = {pid: one.owner or self._decide(one, roster, met) for pid, one in self._residents.items()}
        self.problem = _refusal(self._proc) if refused and not found else ""
        return found

    def close(self) -> None:
        """Forget everybody, and give all descriptors back."""
        for pid in list(self._residents):
            self._forget(pid)

    def __del__(self) -> None:
        self.close()

    # -- who there is ------------------------------------------------------------------------------------------------

    def _meet(self, pid: int) -> bool:
        """Get to know a process; True if that is refused. One that has ended stays unknown."""
        descriptor = self._descriptor(pid)
        try:
            identity, stat = _read(f"{self._proc}/{pid}", pid)
        except (OSError, ValueError) as error:
            if descriptor < 0:
                return isinstance(error, PermissionError)
            # Where /proc is mounted with hidepid=2, it looks as if the processes of others were not there.
            refused = isinstance(error, PermissionError) or not _ended(descriptor)
            self._give_back(descriptor)
            return refused
        if not stat.alive:
            self._give_back(descriptor)
            return False
        self._residents[pid] = _Resident(identity, stat.parent, descriptor)
        if descriptor >= 0:
            self._of_descriptor[descriptor] = pid
            self._ends.register(descriptor, select.POLLIN)
        return False

    def _forget_told(self) -> None:
        """Forget those whose descriptors tell of their end."""
        for descriptor, _ in self._ends.poll(0) if self._of_descriptor else ():
            self._forget(self._of_descriptor[descriptor])

    def _forget_ended(self) -> None:
        self._forget_told()
        if len(self._of_descriptor) == len(self._residents):
            return
        for pid in [pid for pid, resident in self._residents.items() if resident.descriptor < 0]:
            stat = self._stat(pid)
            if stat is None or not stat.alive or stat.started != self._residents[pid].identity.started:
                self._forget(pid)

    def _forget(self, pid: int) -> None:
        descriptor = self._residents.pop(pid).descriptor
        if descriptor >= 0:
            self._ends.unregister(descriptor)
            del self._of_descriptor[descriptor]
        self._give_back(descriptor)

    def _descriptor(self, pid: int) -> int:
        if self._spare:
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                self._spare -= 1
                return descriptor
        return -1

    def _give_back(self, descriptor: int) -> None:
        if descriptor >= 0:
            os.close(descriptor)
            self._spare += 1

    # -- whose they are ----------------------------------------------------------------------------------------------

    def _use(self, roster: Roster) -> None:
        """Whatever was decided by another roster is to be decided anew."""
        if roster is self._roster:
            return
        self._roster = roster
        firsts = {server.pid: self._stat(server.pid) for server in roster.servers if server.pid}
        self._firsts = {pid: stat.started if stat else 0 for pid, stat in firsts.items()}
        for resident in self._residents.values():
            resident.owner = None

    def _decide(self, resident: _Resident, roster: Roster, met: dict[int, _Stat | None]) -> Owner:
        """``met`` are the ancestors that have been read in this round."""
        identity = resident.identity
        if self._firsts and not resident.traced:
            identity = replace(identity, ancestors=self._ancestors(resident, met))
            # Once and for all: when its parent ends, it becomes somebody else's child.
            resident.identity, resident.traced = identity, True
        # A server may have got the number of an ancestor that has ended. Nobody is older than an ancestor.
        real = tuple(pid for pid in identity.ancestors if self._firsts.get(pid, 0) <= identity.started)
        resident.owner = owner_of(replace(identity, ancestors=real), roster)
        return resident.owner

    def _ancestors(self, resident: _Resident, met: dict[int, _Stat | None]) -> tuple[int, ...]:
        found: list[int] = []
        pid, born = resident.parent, resident.identity.started
        while pid > 0 and len(found) < _DEEPEST:
            if pid not in met:
                met[pid] = self._stat(pid)
            stat = met[pid]
            if stat is not None and stat.started > born:  # the parent has ended, and the number is another one's
                break
            found.append(pid)
            if stat is None:
                break
            pid, born = stat.parent, stat.started
        return tuple(found)

    def _stat(self, pid: int) -> _Stat | None:
        """None for one that has ended, or is kept from us."""
        try:
            return _Stat.parse(_content(f"{self._proc}/{pid}/stat"))
        except (OSError, ValueError, IndexError):
            return None


def _read(folder: str, pid: int) -> tuple[Identity, _Stat]:
    """All that is to be known of one process; OSError if it has ended or may not be looked at.

    By way of one descriptor of its folder, or the files could be those of two processes, one after the other.
    """
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            cgroup = _content("cgroup", place).decode(errors="replace")
        except FileNotFoundError:  # a kernel without cgroups; one that has ended has no files below either
            cgroup = ""
        uid = _real_uid(_content("status", place))
        stat = _Stat.parse(_content("stat", place))
    except IndexError:
        raise ValueError(f"{folder}/stat is shorter than the kernel writes it") from None
    finally:
        os.close(place)
    return Identity(pid, stat.started, cgroup, uid), stat


def _real_uid(status: bytes) -> int | None:
    line = next((line for line in status.splitlines() if line.startswith(b"Uid:")), None)
    return None if line is None else int(line.split()[1])


def _content(path: str, folder: int | None = None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
    try:
        pieces = []
        while piece := os.read(descriptor, 1 << 14):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _ended(descriptor: int) -> bool:
    """Of a process, by its descriptor."""
    ends = select.poll()
    ends.register(descriptor, select.POLLIN)
    return bool(ends.poll(0))


def _refusal(proc: str) -> str:
    return (
        f"The processes on GPUs may not be looked at in {proc}, so nobody knows whose they are. Mount it without "
        "hidepid, or put the GPU monitor into the group that the mount's option gid names."
    )
