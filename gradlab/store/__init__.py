"""The store: submissions, verdicts, hints, deliveries and notices, on SQLite (WAL) through SQLAlchemy and Alembic."""

from gradlab.store.records import Attempt, Cell, Fault, Learner, Notice, Submission
from gradlab.store.store import Store

__all__ = ["Attempt", "Cell", "Fault", "Learner", "Notice", "Store", "Submission"]
