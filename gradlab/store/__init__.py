"""The store: submissions, verdicts, hints and deliveries, on SQLite (WAL) through SQLAlchemy and Alembic."""

from gradlab.store.records import Attempt, Cell, Fault, Learner, Submission
from gradlab.store.store import Store

__all__ = ["Attempt", "Cell", "Fault", "Learner", "Store", "Submission"]
