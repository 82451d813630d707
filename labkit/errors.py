"""What labkit raises at a learner: one sentence, without a traceback."""

from __future__ import annotations

__all__ = ["CheckInterrupted", "LabError"]


class LabError(Exception):
    """Says what could not be done, and the remedy. IPython shows the sentence alone; scripts can catch the class."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class CheckInterrupted(KeyboardInterrupt):
    """The learner stopped waiting; the check itself goes on. A KeyboardInterrupt, so "run all" stops here too."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]
