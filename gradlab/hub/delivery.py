"""What the store knows of the labs delivered to a learner: their server needs it to leave the learner's work alone."""

from __future__ import annotations

import functools
import time

from gradlab.settings import Settings
from gradlab.store.store import Store

__all__ = ["history", "store_of"]


def history(settings: Settings, learner: str) -> dict[str, tuple[str, str]]:
    """By lab the version delivered last and the file name it has; the learner is remembered as seen now."""
    store = store_of(settings)
    store.see(learner, now=time.time())
    return {lab: deliveries[-1] for lab, deliveries in store.deliveries(learner).items()}


def store_of(settings: Settings) -> Store:
    """The hub's store, opened when it is first needed: the hub itself starts faster without."""
    return _store(settings.store_url)


@functools.cache
def _store(url: str) -> Store:
    return Store.open(url)
