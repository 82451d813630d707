"""How often something may be tried: so many times at once, then one every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

__all__ = ["Guesses"]

_MANY = 10_000


class Guesses:
    """A count of tries for each key, which fades with time. A try is taken before it is known to be wrong.

    So a hundred tries that come together count as a hundred, however long it takes to find each of them wrong.
    """

    def __init__(self, at_once: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slack = (at_once - 1) * seconds
        self._seconds = seconds
        self._clock = clock
        self._due: dict[Hashable, float] = {}  # when the tries made so far have faded

    def take(self, key: Hashable) -> float:
        """0 if there may be a try now, which then counts; else for how many seconds there may be none."""
        now = self._clock()
        due = max(self._due.get(key, now), now)
        if due - now > self._slack:
            return due - now - self._slack
        if len(self._due) >= _MANY:
            self._due = {other: when for other, when in self._due.items() if when > now}
        self._due[key] = due + self._seconds
        return 0

    def give_back(self, key: Hashable) -> None:
        """The last try was right: it does not count."""
        if key in self._due:
            self._due[key] -= self._seconds
