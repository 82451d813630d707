"""The one object through which the server reads and writes its data.

Every write is committed, and on disk, before the method returns. The time is always a parameter (``now``, seconds since
the epoch), so nothing here reads a clock. Methods are safe to call from several threads and several processes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Engine, Integer, case, delete, exists, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased, sessionmaker

from gradlab.store.database import open_database
from gradlab.store.records import Attempt, Cell, Fault, GpuUsage, Learner, Notice, Submission
from gradlab.store.tables import DeliveryRow, GpuUsageRow, HintRow, LearnerRow, NoticeRow, ResultRow, SubmissionRow

__all__ = ["Store"]


class Store:
    """Open with :meth:`open`, which brings the schema up to date; close with :meth:`close`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session = sessionmaker(engine, expire_on_commit=False)

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect and migrate. StoreError names the database and what to do."""
        return cls(open_database(url))

    def close(self) -> None:
        self._engine.dispose()

    # -- people ----------------------------------------------------------------------------------------------------

    def see(self, learner: str, *, now: float) -> None:
        """Remember that this person was here."""
        with self._session.begin() as session:
            self._see(session, learner, now)

    def learners(self) -> list[Learner]:
        """Everyone the server has seen, by name."""
        with self._session() as session:
            rows = session.scalars(select(LearnerRow).order_by(LearnerRow.name))
            return [Learner.of(row) for row in rows]

    # -- submissions -----------------------------------------------------------------------------------------------

    def accept(
        self, learner: str, lab: str, notebook: bytes, *, only: str | None = None, seed: int, now: float
    ) -> tuple[int, list[int]]:
        """Store a submission; on return it is on disk. Returns its id and the ids of waiting ones it may replace.

        The second part lists this learner's other submissions still in state ``accepted``, oldest first; whether one of
        them is running is known only to whoever runs them.
        """
        with self._session.begin() as session:
            self._see(session, learner, now)
            waiting = list(
                session.scalars(
                    select(SubmissionRow.id)
                    .where(SubmissionRow.learner == learner, SubmissionRow.state == "accepted")
                    .order_by(SubmissionRow.id)
                )
            )
            row = SubmissionRow(
                learner=learner,
                lab=lab,
                only=only,
                notebook=zlib.compress(notebook),
                seed=seed,
                state="accepted",
                tries=0,
                accepted_at=now,
            )
            session.add(row)
            session.flush()
            return row.id, waiting

    def submission(self, submission_id: int) -> Submission | None:
        """One submission whole, or None."""
        with self._session() as session:
            row = session.get(SubmissionRow, submission_id)
            return None if row is None else Submission.of(row)

    def unjudged(self) -> list[tuple[int, str]]:
        """Id and learner of what has no verdict yet, oldest first: what must be judged after a restart."""
        columns = (SubmissionRow.id, SubmissionRow.learner)
        with self._session() as session:
            query = select(*columns).where(SubmissionRow.state == "accepted").order_by(SubmissionRow.id)
            return [(row.id, row.learner) for row in session.execute(query)]

    def count_try(self, submission_id: int) -> int:
        """Record that judging starts, and return the number of starts so far, this one included."""
        with self._session.begin() as session:
            return session.scalars(
                update(SubmissionRow)
                .where(SubmissionRow.id == submission_id)
                .values(tries=SubmissionRow.tries + 1)
                .returning(SubmissionRow.tries)
            ).one()

    def supersede(self, submission_ids: Sequence[int]) -> list[tuple[int, str, str]]:
        """Give up waiting submissions because the same learner sent a newer one. Judged ones are left alone.

        Returns id, learner and lab of those given up.
        """
        with self._session.begin() as session:
            given_up = session.execute(
                update(SubmissionRow)
                .where(SubmissionRow.id.in_(submission_ids), SubmissionRow.state == "accepted")
                .values(state="superseded")
                .returning(SubmissionRow.id, SubmissionRow.learner, SubmissionRow.lab)
            )
            return sorted((row.id, row.learner, row.lab) for row in given_up)

    def record(
        self,
        submission_id: int,
        verdict: Mapping[str, Any],
        *,
        report: str = "",
        causes: Mapping[str, str] | None = None,
        now: float,
    ) -> bool:
        """Store a verdict (``Verdict.to_dict()`` of the judge). False, and nothing written, if it had one already.

        ``causes`` says by exercise why something is our fault; :meth:`faults` alone gives it back.
        """
        with self._session.begin() as session:
            row = session.execute(
                update(SubmissionRow)
                .where(SubmissionRow.id == submission_id, SubmissionRow.state == "accepted")
                .values(
                    state="judged",
                    judged_at=now,
                    verdict=json.dumps(verdict, ensure_ascii=False),
                    report=zlib.compress(report.encode()),
                )
                .returning(SubmissionRow.learner, SubmissionRow.lab)
            ).one_or_none()
            if row is None:
                return False
            for result in verdict["results"]:
                session.add(
                    ResultRow(
                        submission_id=submission_id,
                        exercise=result["exercise"],
                        learner=row.learner,
                        lab=row.lab,
                        outcome=result["outcome"],
                        points=result["points"],
                        max_points=result["max_points"],
                        judged_at=now,
                        cause=_storable((causes or {}).get(result["exercise"])),
                    )
                )
            self._see(session, row.learner, now)
            return True

    def attempts(self, learner: str, lab: str | None = None, *, limit: int = 200) -> list[Attempt]:
        """A learner's submissions, newest first."""
        columns = (
            SubmissionRow.id,
            SubmissionRow.lab,
            SubmissionRow.only,
            SubmissionRow.state,
            SubmissionRow.accepted_at,
            SubmissionRow.judged_at,
            SubmissionRow.verdict,
        )
        query = select(*columns).where(SubmissionRow.learner == learner).order_by(SubmissionRow.id.desc()).limit(limit)
        if lab is not None:
            query = query.where(SubmissionRow.lab == lab)
        with self._session() as session:
            return [Attempt.of(row) for row in session.execute(query)]

    def cells(self, *, learner: str | None = None, lab: str | None = None) -> list[Cell]:
        """Where learners stand, exercise by exercise, sorted: all of them, or one learner's, or one lab's.

        "Not attempted", "skipped" and "our fault" count neither as attempts nor as the last outcome.
        """
        real = ResultRow.outcome.not_in(("not attempted", "skipped", "our fault"))
        keys = (ResultRow.learner, ResultRow.lab, ResultRow.exercise)
        best = select(
            *keys,
            func.max(ResultRow.points).label("points"),
            func.count().label("attempts"),
            func.max(ResultRow.submission_id).label("last"),
            func.sum((ResultRow.outcome == "passed").cast(Integer)).label("passes"),
        ).where(real)
        if learner is not None:
            best = best.where(ResultRow.learner == learner)
        if lab is not None:
            best = best.where(ResultRow.lab == lab)
        grouped = best.group_by(*keys).subquery()
        query = (
            select(grouped, ResultRow.outcome, ResultRow.judged_at)
            .join(
                ResultRow,
                (ResultRow.submission_id == grouped.c.last) & (ResultRow.exercise == grouped.c.exercise),
            )
            .order_by(grouped.c.learner, grouped.c.lab, grouped.c.exercise)
        )
        with self._session() as session:
            return [Cell.of(row) for row in session.execute(query)]

    def faults(self, *, since: float) -> list[Fault]:
        """What has ended by our fault since then and has had no verdict afterwards, newest first."""
        later = aliased(ResultRow)
        answered = exists().where(
            later.learner == ResultRow.learner,
            later.lab == ResultRow.lab,
            later.exercise == ResultRow.exercise,
            later.submission_id > ResultRow.submission_id,
        )
        columns = (
            ResultRow.submission_id,
            ResultRow.learner,
            ResultRow.lab,
            ResultRow.exercise,
            ResultRow.judged_at,
            ResultRow.cause,
        )
        query = (
            select(*columns)
            .where(ResultRow.outcome == "our fault", ResultRow.judged_at >= since, ~answered)
            .order_by(ResultRow.submission_id.desc(), ResultRow.exercise)
        )
        with self._session() as session:
            rows = session.execute(query).all()
        return [Fault.of(list(group)) for _, group in groupby(rows, key=lambda row: row.submission_id)]

    # -- hints -----------------------------------------------------------------------------------------------------

    def open_hint(self, learner: str, lab: str, exercise: str, *, available: int, now: float) -> int:
        """Open the next hint, if there is one more, and return how many are open now."""
        with self._session.begin() as session:
            self._see(session, learner, now)
            row = session.get(HintRow, (learner, lab, exercise))
            if row is None:
                row = HintRow(learner=learner, lab=lab, exercise=exercise, opened=0)
                session.add(row)
            row.opened = min(row.opened + 1, available)
            return row.opened

    def hints(self, learner: str, lab: str) -> dict[str, int]:
        """Opened hints by exercise."""
        with self._session() as session:
            query = select(HintRow).where(HintRow.learner == learner, HintRow.lab == lab)
            return {row.exercise: row.opened for row in session.scalars(query)}

    # -- deliveries ------------------------------------------------------------------------------------------------

    def deliver(self, learner: str, lab: str, version: str, filename: str, *, now: float) -> None:
        """Record that this version of a lab lies in the learner's home under this name."""
        with self._session.begin() as session:
            self._see(session, learner, now)
            session.merge(DeliveryRow(learner=learner, lab=lab, version=version, filename=filename, delivered_at=now))

    def deliveries(self, learner: str) -> dict[str, list[tuple[str, str]]]:
        """Per lab the delivered ``(version, file name)`` pairs, oldest first."""
        with self._session() as session:
            rows = session.scalars(
                select(DeliveryRow).where(DeliveryRow.learner == learner).order_by(DeliveryRow.delivered_at)
            )
            found: dict[str, list[tuple[str, str]]] = {}
            for row in rows:
                found.setdefault(row.lab, []).append((row.version, row.filename))
            return found

    # -- notices ---------------------------------------------------------------------------------------------------

    def notify(self, learner: str, text: str, *, key: str, until: float, now: float) -> None:
        """Tell the learner this until then, in place of what the key told before. What is past its time is removed."""
        told = {"text": text, "at": now, "until": until}
        with self._session.begin() as session:
            session.execute(delete(NoticeRow).where(NoticeRow.learner == learner, NoticeRow.until <= now))
            insert = self._dialect.insert(NoticeRow).values(learner=learner, key=key, **told)
            session.execute(insert.on_conflict_do_update(index_elements=[NoticeRow.learner, NoticeRow.key], set_=told))

    def withdraw(self, learner: str, key: str) -> None:
        """It no longer holds; nothing happens if there is no such notice."""
        with self._session.begin() as session:
            session.execute(delete(NoticeRow).where(NoticeRow.learner == learner, NoticeRow.key == key))

    def notices(self, learner: str, now: float) -> list[Notice]:
        """What the learner is to be told now, oldest first."""
        query = select(NoticeRow).where(NoticeRow.learner == learner, NoticeRow.until > now)
        with self._session() as session:
            return [Notice.of(row) for row in session.scalars(query.order_by(NoticeRow.at, NoticeRow.key))]

    # -- GPU usage -------------------------------------------------------------------------------------------------

    def keep_gpu_usage(self, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what an account of the GPU monitor has counted so far; the same or less again changes nothing.

        A row has "learner", "lab", "day" (YYYY-MM-DD), "held" and "busy" in GPU-seconds, and "peak" in bytes.
        """
        if not rows:
            return
        insert = self._dialect.insert(GpuUsageRow)
        kept = {
            column.key: case((insert.excluded[column.key] > column, insert.excluded[column.key]), else_=column)
            for column in (GpuUsageRow.held, GpuUsageRow.busy, GpuUsageRow.peak)
        }
        keys = [GpuUsageRow.run, GpuUsageRow.learner, GpuUsageRow.lab, GpuUsageRow.day]
        with self._session.begin() as session:
            statement = insert.on_conflict_do_update(index_elements=keys, set_=kept)
            session.execute(statement, [{"run": run, **row} for row in rows])

    def gpu_usage(self, since: str | None = None, learner: str | None = None, *, by_day: bool = True) -> list[GpuUsage]:
        """By learner, lab and day, in this order: from the day ``since`` on, of one learner or of all.

        Not ``by_day`` it is all of these days together, and ``day`` is empty.
        """
        row = GpuUsageRow
        sums = func.sum(row.held), func.sum(row.busy), func.max(row.peak)
        day = row.day if by_day else literal("").label("day")
        groups = (row.learner, row.lab, row.day) if by_day else (row.learner, row.lab)
        query = select(row.learner, row.lab, day, *sums).group_by(*groups)
        if since is not None:
            query = query.where(row.day >= since)
        if learner is not None:
            query = query.where(row.learner == learner)
        with self._session() as session:
            found = session.execute(query.order_by(*groups))
            return [GpuUsage(*one) for one in found]

    @property
    def _dialect(self) -> Any:
        """Where the database's own INSERT is."""
        return sqlite if self._engine.dialect.name == "sqlite" else postgresql

    def _see(self, session: Session, learner: str, now: float) -> None:
        """Insert or touch in one statement: two processes may meet the same new learner at the same moment."""
        insert = self._dialect.insert(LearnerRow).values(name=learner, first_seen=now, last_seen=now)
        session.execute(
            insert.on_conflict_do_update(
                index_elements=[LearnerRow.name],
                set_={"last_seen": now},
                where=LearnerRow.last_seen < now,
            )
        )


def _storable(text: str | None) -> str | None:
    """PostgreSQL takes no text with a zero byte in it, and a cause quotes whatever a program printed."""
    return None if text is None else text.replace("\x00", "\ufffd")
