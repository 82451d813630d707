"""The GPU monitor: frames of the sampler, joined with whose processes those are, and what is remembered of them.

It must see every container's processes, so on a hosted server it has a container of its own in the host's PID
namespace (the driver hides processes from everybody else), where ``gradlab.gpu.web`` serves it; in a trial it is a
thread of the portal.

The driver may hang for ever in any call. It is asked in a process of its own (``gradlab.gpu.sampling``), so no answer
here waits for it, and what is answered meanwhile says from when it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gradlab.gpu.account import Account
from gradlab.gpu.activity import Activity
from gradlab.gpu.history import History
from gradlab.gpu.host import Host, hidden_processes
from gradlab.gpu.join import Joined, ServerUse, join
from gradlab.gpu.owners import Owner
from gradlab.gpu.residents import Residents
from gradlab.gpu.view import view_of
from gradlab.roster import Roster

__all__ = ["Frame", "Monitor", "Sampler", "overuse"]

log = logging.getLogger(__name__)

Frame = dict[str, Any]


class Sampler(Protocol):
    """Where frames come from: ``gradlab.gpu.sampling.Sampling``."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def latest(self) -> Frame: ...
    def limit(self, gpu: str, group: Path, size: int | None) -> None: ...


class Monitor:
    """Works from :meth:`start` to :meth:`close`. Every method answers at once, but for :meth:`limit`: within seconds.

    ``sampler`` makes the source of frames, given what is to hear them; ``account`` is the file of GPU-seconds.
    """

    def __init__(
        self,
        sampler: Callable[[Callable[[Frame], None]], Sampler],
        *,
        host: Host | None = None,
        residents: Residents | None = None,
        roster: Callable[[], Roster] = Roster,
        account: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host or Host()
        self._residents = residents or Residents()
        self._roster = roster
        self._clock = clock
        self._activity = Activity()
        self._account = Account(account)
        self._history = History()
        self._lock = threading.Lock()
        self._blind = ""
        self._suspicion = ""
        self._hidden = ""
        self._fault = ""
        self._now: tuple[Frame, Joined, Roster, dict[int, Owner]] | None = None
        self._sampler = sampler(self._hear)

    def start(self) -> None:
        self._blind = self._host.why_blind()
        if self._blind:
            log.warning("%s", self._blind)
        self._sampler.start()

    def close(self) -> None:
        """End, without waiting long for a driver that hangs."""
        self._sampler.close()
        with self._lock:
            self._account.save(self._clock())
            self._residents.close()

    def reading(self) -> Frame:
        """The latest frame (``gradlab.gpu.nvml``), all devices and processes."""
        return self._sampler.latest()

    def view(self) -> dict[str, Any]:
        """GPU by learner, now (``gradlab.gpu.view``)."""
        latest = self._sampler.latest()
        with self._lock:
            frame, joined, roster, _ = self._now or (latest, Joined(), self._roster(), {})
            if not latest["available"] and frame["available"]:  # it has begun to hang since
                frame, joined = latest, join(latest, {}, roster)
            view = view_of(frame, joined, roster, self._account.standing, since=self._since())
            problem = self._problem()
        return view | {"message": view["message"] or problem}

    def history(self, since: float = 0.0) -> dict[str, Any]:
        """The last hour (``gradlab.gpu.history``)."""
        with self._lock:
            return self._history.read(since)

    def usage(self) -> dict[str, Any]:
        """GPU-seconds and peaks (``gradlab.gpu.account``)."""
        with self._lock:
            return self._account.totals()

    def activity(self) -> dict[str, Any]:
        """Which container uses which GPU (``gradlab.gpu.activity``)."""
        with self._lock:
            found = self._activity.report(self._clock())
            problem = self._problem()
        return found | {"ok": False, "message": problem} if problem else found

    def over(self) -> list[dict[str, Any]]:
        """Servers in containers that have more GPU memory than their share, and their processes, the largest first.

        ``pid`` is a process's number in the innermost namespace it is in, the one that its container has.
        """
        with self._lock:
            if self._now is None or self._problem():
                return []
            frame, joined, _, owners = self._now
        servers = [use for use in joined.servers if use.over_share and use.server.container]
        return [overuse(frame, use, owners, self._host.inner_pid) for use in servers]

    def limit(self, container: str, pid: int, gpu: str, size: int | None) -> None:
        """Limit the GPU memory of a container, or lift the limit; LimitRefused says why there is none."""
        self._sampler.limit(gpu, self._host.group(container, pid), size)

    def _hear(self, frame: Frame) -> None:
        """One more frame; called in the sampler's thread."""
        try:
            self._take(frame)
            self._fault = ""
        except Exception as error:  # what was remembered until now would be taken for what is
            if not self._fault:
                log.exception("A sample of the GPUs could not be taken in.")
            self._fault = f"Sampling the GPUs failed: {type(error).__name__}: {error}. The log has more."

    def _take(self, frame: Frame) -> None:
        roster, now = self._roster(), frame["at"]
        owners = self._residents.owners(_pids(frame), roster)
        spent = self._host.processor_seconds()
        joined = join(frame, owners, roster)
        containers = {pid: container for pid, owner in owners.items() if (container := _container(owner))}
        # Memory may be there a moment before its process is listed.
        before, self._suspicion = self._suspicion, hidden_processes(frame)
        with self._lock:
            self._hidden = self._suspicion if before else ""
            self._activity.take(frame, containers, spent, now)
            self._account.take(joined, now, sampled=frame["available"])
            self._history.take(joined, now, sampled=frame["available"])
            self._now = frame, joined, roster, owners

    def _since(self) -> float | None:
        since: float | None = self._activity.report(self._clock())["since"]
        return since

    def _problem(self) -> str:
        """Why nobody knows who uses a GPU, though the driver answers; empty if somebody does."""
        return self._blind or self._hidden or self._fault or self._residents.problem


def overuse(
    frame: Frame, use: ServerUse, owners: dict[int, Owner], inner_pid: Callable[[int], int | None]
) -> dict[str, Any]:
    """One server that is over its share, as :meth:`Monitor.over` tells it."""
    server = use.server
    found: dict[int, int] = {}
    for device in frame["devices"]:
        for process in device["processes"] or ():
            place, owner = (device["uuid"], process["instance"]), owners.get(process["pid"])
            if server.device in place and owner is not None and owner.server == server and process["memory"]:
                found[process["pid"]] = found.get(process["pid"], 0) + process["memory"]
    inside = [{"pid": inner_pid(pid), "memory": memory} for pid, memory in found.items()]
    return {
        "learner": server.learner,
        "server": server.name,
        "container": server.container,
        "device": server.device,
        "share": server.share,
        "memory": sum(found.values()),
        "processes": sorted((one for one in inside if one["pid"]), key=lambda one: -(one["memory"] or 0)),
    }


def _pids(frame: Frame) -> set[int]:
    listed = {process["pid"] for device in frame["devices"] for process in device["processes"] or ()}
    return listed | {int(pid) for device in frame["devices"] for pid in device["busy"]}


def _container(owner: Owner) -> str:
    return owner.server.container if owner.server is not None else owner.container
