"""Checks: from an accepted notebook to a stored verdict, whatever crashes in between.

The submissions table is the truth: what is ``accepted`` there has no verdict yet, and ``resume`` runs it again after a
crash. In memory is only who runs and who waits. A learner has at most one check running and one waiting; a newer
notebook takes the waiting one's place in the line. Learners are served first come, first served.

The judge blocks, so the executor is a pool of threads. To judge on other machines, hand over a judge that does so.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Literal

from checker.engine import NotebookError, read_notebook
from checker.results import Outcome, Result, Verdict
from gradlab.course import Course, Lab
from gradlab.errors import CourseError, SubmissionRefused
from gradlab.judging import Judging, assignment
from gradlab.store import Store, Submission

__all__ = ["Checks", "Event", "verdict_of_our_fault"]

log = logging.getLogger(__name__)

# How often a check is started again after a fault of ours, and how often in all, over crashes of the whole server: a
# submission that kills the server must not do so at every start.
TRIES = 3
STARTS = 10

# Of a cause, as much as the instructor's page shows; the log has it whole.
_CAUSE_LENGTH = 1000

OUR_FAULT = (
    "This is our fault, not yours: {reason} Nothing was scored; your instructor sees it. "
    "Your notebook is kept: run the check again later."
)


@dataclass(frozen=True)
class Event:
    """Something happened to a submission."""

    kind: Literal["accepted", "judged", "superseded"]
    submission: int
    learner: str
    lab: str


@dataclass(frozen=True)
class _Ending:
    """How a check ended: what the learner reads, and by exercise what only the instructor does."""

    verdict: Verdict
    causes: Mapping[str, str]


@dataclass
class _Line:
    """One learner's place: ``running`` is with the executor, ``waiting`` follows it."""

    running: int
    waiting: int | None = None


class Checks:
    """Accepts notebooks, has them judged, stores verdicts and tells listeners. Safe to call from several threads."""

    def __init__(
        self,
        course: Course,
        store: Store,
        judge: Judging,
        executor: Executor,
        *,
        notebook_bytes: int,
        clock: Callable[[], float] = time.time,
        retry_seconds: float = 0.5,
    ) -> None:
        self._course = course
        self._store = store
        self._judge = judge
        self._executor = executor
        self._notebook_bytes = notebook_bytes
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._lines: dict[str, _Line] = {}
        self._judging: set[int] = set()
        self._listeners: list[Callable[[Event], None]] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()

    # -- coming in -------------------------------------------------------------------------------------------------

    def accept(self, learner: str, lab: str, notebook: bytes, *, only: str | None = None) -> int:
        """Store a notebook durably, have it judged, and return its id. SubmissionRefused says why it cannot be."""
        self._refuse(lab, notebook, only)
        seed = secrets.randbits(31)
        submission, earlier = self._store.accept(learner, lab, notebook, only=only, seed=seed, now=self._clock())
        self._tell(Event("accepted", submission, learner, lab))
        self._line_up(submission, learner, earlier)
        return submission

    def resume(self) -> int:
        """Judge what was accepted before a crash or stop; returns how many submissions that is."""
        pending = self._store.unjudged()
        for submission, learner in pending:
            self._line_up(submission, learner)
        return len(pending)

    def _refuse(self, lab: str, notebook: bytes, only: str | None) -> None:
        if self._closing.is_set():
            raise SubmissionRefused("The server is stopping. Run the check again in a minute.", status=503)
        try:
            found = self._course.lab(lab)
            if only is not None:
                found.exercise(only)
        except CourseError as error:
            raise SubmissionRefused(str(error), status=404) from None
        if len(notebook) > self._notebook_bytes:
            raise SubmissionRefused(
                f"The notebook is {len(notebook) / (1 << 20):.1f} MiB; this server takes at most "
                f"{self._notebook_bytes / (1 << 20):.1f} MiB. Clear its outputs (Edit, Clear Outputs of All Cells), "
                "save it and check again.",
                status=413,
            )
        try:
            read_notebook(notebook, assignment(found))
        except NotebookError as error:
            raise SubmissionRefused(str(error), status=400) from None

    def _line_up(self, submission: int, learner: str, earlier: Sequence[int] = ()) -> None:
        """Run the submission, or let it wait in place of an older one, however the calls of several threads interleave.

        ``earlier`` are this learner's submissions without a verdict; those that nobody runs any more are given up too.
        """
        with self._changed:
            line = self._lines.get(learner)
            if line is not None and submission in (line.running, line.waiting):
                return
            given_up = []
            if line is None:
                line = self._lines[learner] = _Line(running=submission)
                self._start(learner, submission)
            elif submission < max(line.running, line.waiting or 0):
                given_up.append(submission)
            else:
                given_up += [] if line.waiting is None else [line.waiting]
                line.waiting = submission
            given_up += [number for number in earlier if number not in (line.running, line.waiting, *given_up)]
        if given_up:
            self._give_up(given_up)

    def _give_up(self, numbers: Sequence[int]) -> None:
        for number, learner, lab in self._store.supersede(numbers):
            self._tell(Event("superseded", number, learner, lab))

    def _start(self, learner: str, submission: int) -> None:
        if not self._closing.is_set():
            self._executor.submit(self._turn, learner, submission)

    # -- judging, in the executor's threads ------------------------------------------------------------------------

    def _turn(self, learner: str, number: int) -> None:
        with self._changed:
            if self._closing.is_set():
                return
            self._judging.add(number)
        try:
            self._judge_and_store(number)
        except Exception:
            # The database failed. The submission is still `accepted` there: the next start judges it.
            log.exception("Submission %d of %s could not be judged; the next start tries again.", number, learner)
        finally:
            self._next(learner, number)

    def _next(self, learner: str, number: int) -> None:
        with self._changed:
            self._judging.discard(number)
            line = self._lines[learner]
            if line.waiting is None:
                del self._lines[learner]
            else:
                line.running, line.waiting = line.waiting, None
                self._start(learner, line.running)
            self._changed.notify_all()

    def _judge_and_store(self, number: int) -> None:
        submission = self._store.submission(number)
        if submission is None or submission.state != "accepted":
            return
        ending = self._ending(submission)
        if ending is None:
            return
        verdict = ending.verdict
        now = self._clock()
        self._store.record(number, verdict.to_dict(), report=verdict.report, causes=ending.causes, now=now)
        self._tell(Event("judged", number, submission.learner, submission.lab))

    def _ending(self, submission: Submission) -> _Ending | None:
        """The judge's verdict, or one of our fault after the last try; None if the server stops meanwhile."""
        lab = None
        try:
            lab = self._course.lab(submission.lab)
            if submission.only is not None:
                lab.exercise(submission.only)
            return self._tries(submission, lab)
        except CourseError as error:
            verdict = verdict_of_our_fault(submission, None, f"The course has changed. {error}")
            return _told_apart(verdict, f"the course has changed. {error}")
        except NotebookError as error:  # it was readable when it was accepted
            verdict = verdict_of_our_fault(submission, lab, f"The lab has changed since. {error}")
            return _told_apart(verdict, f"the lab has changed since. {error}")

    def _tries(self, submission: Submission, lab: Lab) -> _Ending | None:
        verdict = verdict_of_our_fault(submission, lab, f"The judge began {STARTS} times and came to no verdict.")
        for attempt in range(1, TRIES + 1):
            if self._store.count_try(submission.id) > STARTS:
                break
            verdict = self._try(submission, lab)
            if not verdict.our_fault:
                return _Ending(verdict, {})
            if self._closing.is_set():
                return None
            if attempt < TRIES:
                self._closing.wait(self._retry_seconds)
        return _told_apart(verdict, "the judge failed on your notebook several times.")

    def _try(self, submission: Submission, lab: Lab) -> Verdict:
        try:
            verdict = self._judge.check(
                assignment(lab), submission.notebook, only=submission.only, seed=submission.seed
            )
        except NotebookError:
            raise
        except Exception as error:
            log.exception("The judge failed on submission %d (lab %s).", submission.id, lab.slug)
            return verdict_of_our_fault(submission, lab, f"The judge failed: {type(error).__name__}: {error}")
        if verdict.our_fault:
            messages = "; ".join(r.message for r in verdict.results if r.outcome is Outcome.OUR_FAULT)
            log.error("The judge blames itself for submission %d (lab %s): %s", submission.id, lab.slug, messages)
        return verdict

    # -- telling ---------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` on every event, from whatever thread; returns what unsubscribes it."""
        with self._changed:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def close(self, seconds: float = 5.0) -> None:
        """Start nothing more and give running checks a few seconds; what is left is judged at the next start."""
        self._closing.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._judging, seconds)

    def _tell(self, event: Event) -> None:
        with self._changed:
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                log.exception("A listener failed on %s.", event)


def verdict_of_our_fault(submission: Submission, lab: Lab | None, cause: str) -> Verdict:
    """Every exercise asked for is ``our fault``, which is no attempt. ``lab`` is None if it is gone."""
    if lab is None:
        wanted = [(submission.only or submission.lab, 0)]
    else:
        wanted = [(ex.name, ex.points) for ex in lab.exercises if submission.only in (None, ex.name)]
    results = tuple(Result(name, Outcome.OUR_FAULT, 0, points, cause) for name, points in wanted)
    return Verdict(lab=submission.lab, results=results, seed=submission.seed, seconds=0.0)


def _told_apart(verdict: Verdict, reason: str) -> _Ending:
    """The judge's own words about its fault may quote hidden checks: instructors get them, the learner ``reason``."""
    message = OUR_FAULT.format(reason=reason)
    causes = {result.exercise: _cause(result) for result in verdict.results if result.outcome is Outcome.OUR_FAULT}
    results = tuple(
        replace(result, message=message, checks=(), output="") if result.exercise in causes else result
        for result in verdict.results
    )
    return _Ending(replace(verdict, results=results), causes)


def _cause(result: Result) -> str:
    """What the judge said of its fault, as text that every database takes: neither half a character nor NUL."""
    said = result.message.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd").strip()
    return said if len(said) <= _CAUSE_LENGTH else f"{said[:_CAUSE_LENGTH]} …"
