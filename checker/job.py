"""One submission on its way from the engine to the judge's kernel, and its results on their way back.

Free of torch: the server need not load it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Job", "JobTask", "read_results"]


@dataclass(frozen=True)
class JobTask:
    """One exercise to judge: its program, or the state that says why there is none."""

    name: str
    seconds: float
    needs: tuple[str, ...]
    gpu: bool
    state: str
    message: str
    segments: list[dict[str, Any]]
    future: list[str]


@dataclass(frozen=True)
class Job:
    """One submission as the judge's kernel gets it: a JSON file that only the judge's user can read."""

    seed: int
    gpu: bool
    results: str
    tasks: tuple[JobTask, ...]

    @classmethod
    def read(cls, path: Path) -> Job:
        data = json.loads(path.read_text(encoding="utf-8"))
        tasks = tuple(JobTask(**task | {"needs": tuple(task["needs"])}) for task in data.pop("tasks"))
        return cls(tasks=tasks, **data)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def add_results(self, rows: list[dict[str, Any]]) -> None:
        """Put down all results so far, after the earlier ones: replacing a file can take as long as a short check."""
        with open(self.results, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(rows)}\n")


def read_results(path: Path) -> list[dict[str, Any]]:
    """What was last put down whole; nothing if nothing was. A kernel may have been killed in the middle of a line."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    found: list[dict[str, Any]] = json.loads(lines[-1]) if lines else []
    return found
