"""The tables. Alembic's migrations are the truth on disk; a test compares them with these classes.

Times are seconds since the epoch (UTC) as floats: the clock is the server's, never the learner's.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "DeliveryRow", "GpuUsageRow", "HintRow", "LearnerRow", "NoticeRow", "ResultRow", "SubmissionRow"]


class Base(DeclarativeBase):
    pass


class LearnerRow(Base):
    """Anyone who logged in or was given a home; ``last_seen`` moves with every page, check and server start."""

    __tablename__ = "learner"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    first_seen: Mapped[float]
    last_seen: Mapped[float]


class SubmissionRow(Base):
    """One notebook handed to the judge; ``state`` is accepted, judged or superseded, ``seed`` drawn on acceptance."""

    __tablename__ = "submission"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    learner: Mapped[str] = mapped_column(ForeignKey("learner.name"))
    lab: Mapped[str] = mapped_column(String(64))
    only: Mapped[str | None] = mapped_column(String(128))
    notebook: Mapped[bytes] = mapped_column(LargeBinary)
    seed: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    tries: Mapped[int]
    accepted_at: Mapped[float]
    judged_at: Mapped[float | None]
    verdict: Mapped[str | None] = mapped_column(Text)
    report: Mapped[bytes | None] = mapped_column(LargeBinary)

    __table_args__ = (
        Index("ix_submission_state", "state"),
        Index("ix_submission_learner_lab", "learner", "lab"),
    )


class ResultRow(Base):
    """One exercise of one verdict, beside the JSON, so that tables of many learners need no parsing.

    ``cause`` is why it ended by our fault. It may quote hidden checks, so no learner reads it: no verdict has it.
    """

    __tablename__ = "result"

    submission_id: Mapped[int] = mapped_column(ForeignKey("submission.id"), primary_key=True)
    exercise: Mapped[str] = mapped_column(String(128), primary_key=True)
    learner: Mapped[str] = mapped_column(String(255))
    lab: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(32))
    points: Mapped[int]
    max_points: Mapped[int]
    judged_at: Mapped[float]
    cause: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_result_learner_lab", "learner", "lab", "exercise"),
        Index("ix_result_outcome", "outcome", "judged_at"),
    )


class HintRow(Base):
    """How many hints of an exercise a learner has opened."""

    __tablename__ = "hint"

    learner: Mapped[str] = mapped_column(ForeignKey("learner.name"), primary_key=True)
    lab: Mapped[str] = mapped_column(String(64), primary_key=True)
    exercise: Mapped[str] = mapped_column(String(128), primary_key=True)
    opened: Mapped[int]


class DeliveryRow(Base):
    """A lab's notebook put into a learner's home: which version, under which file name."""

    __tablename__ = "delivery"

    learner: Mapped[str] = mapped_column(ForeignKey("learner.name"), primary_key=True)
    lab: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(16), primary_key=True)
    filename: Mapped[str] = mapped_column(String(255))
    delivered_at: Mapped[float]


class NoticeRow(Base):
    """Something to tell a learner until it no longer holds; ``key`` names what it is about, one notice each.

    Nobody need have seen the learner before: a notice is no sign of life.
    """

    __tablename__ = "notice"

    learner: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    at: Mapped[float]
    until: Mapped[float]


class GpuUsageRow(Base):
    """GPU-seconds held and busy, and the most bytes held at once, of one learner in one lab on one day (UTC).

    ``run`` is the account of the GPU monitor that they are from: its numbers only grow, those of several add up.
    """

    __tablename__ = "gpu_usage"

    run: Mapped[str] = mapped_column(String(32), primary_key=True)
    learner: Mapped[str] = mapped_column(String(255), primary_key=True)
    lab: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    held: Mapped[float]
    busy: Mapped[float]
    peak: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_gpu_usage_day", "day", "learner"),)
