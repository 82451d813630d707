"""The store: submissions, verdicts, hints and deliveries, on SQLite (WAL) through SQLAlchemy and Alembic."""

from gradlab.store.store import Attempt, Cell, Fault, Learner, Store, Submission

__all__ = ["Attempt", "Cell", "Fault", "Learner", "Store", "Submission"]
