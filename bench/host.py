"""Gradlab's half of a server in a process of its own: accepts notebooks and has them judged, as the portal does.

``python -m bench.host SANDBOX FOLDER``, where FOLDER holds the course. Each line of standard input is a JSON list of
notebooks' paths, which are handed in at the same moment by as many learners; the answer is one JSON line.
"""

from __future__ import annotations

import ctypes
import json
import queue
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.formats import LAB
from checker.engine import Judge
from gradlab.checks import Checks, Event
from gradlab.course import Course
from gradlab.judging import judge_config
from gradlab.settings import Settings
from gradlab.store import Store

__all__ = ["Host", "hosting", "settings_for"]

_PR_SET_CHILD_SUBREAPER = 36
_VERDICT_SECONDS = 120


def settings_for(sandbox: str, folder: Path) -> Settings:
    """Defaults, with this sandbox and the course in ``folder``. ValidationError if there is no such sandbox."""
    return Settings.model_validate(
        {
            "check_sandbox": sandbox,
            "state_dir": folder / "var",
            "labs_dir": folder / "labs",
            "checks_dir": folder / "checks",
        }
    )


class Host:
    """Hands notebooks in and waits for the verdicts."""

    def __init__(self, checks: Checks, store: Store) -> None:
        self._checks = checks
        self._store = store
        self._judged: queue.SimpleQueue[Event] = queue.SimpleQueue()
        checks.subscribe(lambda event: self._judged.put(event) if event.kind == "judged" else None)

    def check(self, notebooks: list[bytes]) -> dict[str, Any]:
        """``wall``: seconds from the first submission to the last verdict; ``verdicts``: each as the store has it."""
        started = time.perf_counter()
        numbers = [self._checks.accept(f"learner-{i}", LAB, notebook) for i, notebook in enumerate(notebooks)]
        for _ in numbers:
            self._judged.get(timeout=_VERDICT_SECONDS)
        wall = time.perf_counter() - started
        return {"wall": wall, "verdicts": [self._verdict(number) for number in numbers]}

    def _verdict(self, number: int) -> Any:
        submission = self._store.submission(number)
        return submission and submission.verdict


@contextmanager
def hosting(settings: Settings) -> Iterator[Host]:
    """What a server has for judging, started and ended."""
    with ExitStack() as stack:
        course = Course.load(settings.labs_dir, settings.checks_dir)
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        store = Store.open(settings.store_url)
        stack.callback(store.close)
        executor = stack.enter_context(ThreadPoolExecutor(settings.check_workers))
        judge = Judge(judge_config(settings))
        stack.callback(judge.close)
        judge.warm()
        checks = Checks(course, store, judge, executor, notebook_bytes=settings.notebook_mb << 20)
        stack.callback(checks.close)
        yield Host(checks, store)


def main() -> None:
    # Whoever outlives its parent stays in this process tree, or its CPU time would be lost.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with hosting(settings_for(sys.argv[1], Path(sys.argv[2]))) as host:
        for line in sys.stdin:
            print(json.dumps(host.check([Path(path).read_bytes() for path in json.loads(line)])), flush=True)


if __name__ == "__main__":
    main()
