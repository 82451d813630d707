"""The store: submissions, verdicts, hints, deliveries, notices, GPU usage; SQLAlchemy and Alembic on SQLite (WAL)."""

from gradlab.store.records import Attempt, Cell, Fault, GpuUsage, Learner, Notice, Submission
from gradlab.store.store import Store

__all__ = ["Attempt", "Cell", "Fault", "GpuUsage", "Learner", "Notice", "Store", "Submission"]
