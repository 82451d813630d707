"""The store: submissions, verdicts, hints and deliveries, on SQLite (WAL) through SQLAlchemy and Alembic."""

from gradlab.store.store import Attempt, Cell, Learner, Store, Submission

__all__ = ["Attempt", "Cell", "Learner", "Store", "Submission"]
