"""GPU-seconds held and busy, and peak memory, for each learner, lab and day (UTC).

* *Held* counts every second in which a server has a GPU or a share of one: a GPU it was given, as the hub says, or
  one that its processes are on. Two GPUs for a second are two GPU-seconds.
* *Busy* is the integral of the utilisation of its processes: a process that keeps a GPU at 50 % for ten seconds was
  busy for five GPU-seconds. What the hardware does not report is not counted.

Time in which nothing was sampled is no idleness: of such a gap only what the hub had given away counts, as held. The
account is kept in a file and goes on with it after a restart, so its totals only grow; a file that was lost begins a
new ``run``, and whoever adds up runs counts nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gradlab.gpu.join import Joined, ServerUse

__all__ = ["GAP_SECONDS", "Account", "Standing"]

log = logging.getLogger(__name__)

# Samples further apart than this have a gap between them.
GAP_SECONDS = 5.0
# A compositor or a display keeps a GPU at a percent or so.
_BUSY_ABOVE = 1
_SAVE_SECONDS = 5.0
# What is older has long been carried into the store.
_KEPT_DAYS = 3

Row = tuple[str, str, str]  # learner, lab, day


@dataclass
class Standing:
    """One server since it has been known: when it used a GPU last, and the most memory that it had."""

    known_at: float
    busy_at: float | None = None
    peak: int = 0
    memory: int | None = 0


@dataclass
class _Totals:
    held: float = 0.0
    busy: float = 0.0
    peak: int = 0


class Account:
    """Feed it with :meth:`take`. Not for several threads at once. Without a ``file`` it ends with the process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._run = secrets.token_hex(8)
        self._totals: dict[Row, _Totals] = {}
        self._standings: dict[tuple[str, str], Standing] = {}
        self._at: float | None = None
        self._saved_at = 0.0
        self._unwritable = False
        if file is not None:
            self._load(file)

    def take(self, joined: Joined, now: float, *, sampled: bool) -> None:
        """What was seen at ``now`` (seconds since the epoch); not ``sampled`` where the driver said nothing."""
        before = self._at
        self._at = now
        self._note(joined, now, sampled)
        if before is not None and now > before:
            whole = sampled and now - before <= GAP_SECONDS
            for use in joined.servers:
                self._count(use, before, now, whole)
        if now - self._saved_at >= _SAVE_SECONDS or now < self._saved_at:
            self.save(now)

    def standing(self, key: tuple[str, str]) -> Standing | None:
        """Of a server by learner and name; None of one that neither holds a GPU nor is on one."""
        return self._standings.get(key)

    def totals(self) -> dict[str, Any]:
        """Run and rows, as plain data; a row's numbers never go down."""
        rows = [
            {"learner": learner, "lab": lab, "day": day, "held": found.held, "busy": found.busy, "peak": found.peak}
            for (learner, lab, day), found in sorted(self._totals.items())
        ]
        return {"run": self._run, "rows": rows}

    def save(self, now: float) -> None:
        """Write the file. A disk that is full is said once, and costs nothing but what a restart would forget."""
        self._saved_at = now
        self._forget(now)
        if self._file is None:
            return
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps({"at": self._at, **self.totals()}))
            draft.replace(self._file)
            self._unwritable = False
        except OSError as error:
            if not self._unwritable:
                log.warning("The account of GPU use cannot be kept in %s: %s. Make room there.", self._file, error)
            self._unwritable = True
            with contextlib.suppress(OSError):
                draft.unlink()

    def _load(self, file: Path) -> None:
        try:
            data = json.loads(file.read_text())
            rows = {
                (str(one["learner"]), str(one["lab"]), str(one["day"])): _Totals(
                    float(one["held"]), float(one["busy"]), int(one["peak"])
                )
                for one in data["rows"]
            }
            at = None if data["at"] is None else float(data["at"])
            self._run, self._totals, self._at = str(data["run"]), rows, at
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("The account of GPU use in %s cannot be read (%s); a new one begins.", file, error)

    def _note(self, joined: Joined, now: float, sampled: bool) -> None:
        """When each server used a GPU last, and its peak."""
        present = {use.server.key for use in joined.servers}
        for key in [key for key in self._standings if sampled and key not in present]:
            del self._standings[key]
        for use in joined.servers:
            found = self._standings.setdefault(use.server.key, Standing(now))
            if not sampled:
                continue
            busy = any((part.utilisation or 0) > _BUSY_ABOVE for part in use.parts)
            # Taking memory or giving it back is use, even between two kernels that are too short to be sampled.
            if busy or use.memory != found.memory:
                found.busy_at = now
            found.memory = use.memory
            found.peak = max(found.peak, use.memory or 0)

    def _count(self, use: ServerUse, start: float, end: float, whole: bool) -> None:
        server = use.server
        on = len({part.device for part in use.parts}) if whole else 0
        given = 1 if server.device else 0
        began = max(start, server.held_since or start) if not whole else start
        busy = sum(part.utilisation or 0 for part in use.parts) / 100 if whole else 0.0
        for day, seconds in _days(min(began, end), end):
            found = self._totals.setdefault((server.learner, server.lab, day), _Totals())
            found.held += seconds * max(on, given)
            found.busy += seconds * busy
            found.peak = max(found.peak, use.memory or 0 if whole else 0)

    def _forget(self, now: float) -> None:
        oldest = _day(now - _KEPT_DAYS * 86400)
        for row in [row for row in self._totals if row[2] < oldest]:
            del self._totals[row]


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _days(start: float, end: float) -> Iterator[tuple[str, float]]:
    """The days between two moments, each with its seconds."""
    while start < end:
        midnight = datetime.fromtimestamp(start, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        until = min(end, (midnight + timedelta(days=1)).timestamp())
        yield midnight.date().isoformat(), until - start
        start = until
