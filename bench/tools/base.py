"""What every measured tool has in common: it judges one notebook or ten, and its marks are looked at afterwards."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from bench import formats
from bench.formats import Exercise
from bench.measure import Failed, Memory, Sample, run

__all__ = ["MANY", "WRONG", "Command", "Tool"]

MANY = 10
FULL = 4
# The exercise that the wrong notebook gets wrong: the last, so that a tool which stops early has to come so far.
WRONG = "lstm_parameters"


class Tool(ABC):
    """One row of the table. ``checks`` is how many single checks are measured in each round."""

    key: str
    title: str
    definition: str
    checks = 1
    #: Why ten submissions are not measured; empty if they are.
    no_many = ""

    def one(self) -> Sample:
        return self._judge(["right"])[0]

    def many(self) -> Sample:
        return self._judge([f"right-{number}" for number in range(MANY)])[0]

    def memory(self) -> Memory:
        """Of one submission, measured in a run of its own."""
        found = self._judge(["right"], memory=True)[1]
        assert found is not None
        return found

    def wrong(self) -> None:
        """Judge the wrong notebook. Failed if it gets more or fewer marks than its right exercises are worth."""
        self._judge(["wrong"])

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """End what was started."""

    @abstractmethod
    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        """Judge notebooks called ``right``, ``right-0`` … or ``wrong``, and check their marks with :meth:`_expect`."""

    def _expect(self, marks: Mapping[str, float], names: list[str]) -> None:
        """Every right notebook has full marks, a wrong one the marks of three exercises. Failed says what was found."""
        want = {name: FULL - 1.0 if name == "wrong" else float(FULL) for name in names}
        if dict(marks) != want:
            raise Failed(f"{self.title} gave {dict(marks)}, not {want}: its times would be those of a failure.")


class Command(Tool):
    """A tool that is a command line, started anew for each measurement in a fresh folder."""

    def __init__(self, folder: Path, lab: tuple[Exercise, ...], programs: Path) -> None:
        self._folder = folder
        self._lab = lab
        self._used = 0
        folder.mkdir()
        (folder / "home").mkdir()
        # Nothing of the caller's Jupyter, IPython or Python configuration.
        self._env = {"PATH": f"{programs}:{os.defpath}", "HOME": str(folder / "home"), "LANG": "C.UTF-8"}

    def _judge(self, names: list[str], *, memory: bool = False) -> tuple[Sample, Memory | None]:
        self._used += 1
        place = self._folder / f"run-{self._used}"
        self._place(place, names)
        sample, found = run(["sh", "-c", self._line(names)], cwd=place, env=self._env, ok=(0, 1, 123), memory=memory)
        self._expect(self._marks(place, names), names)
        shutil.rmtree(place)
        return sample, found

    @abstractmethod
    def _place(self, place: Path, names: list[str]) -> None:
        """Make ``place`` with the notebooks in it."""

    @abstractmethod
    def _line(self, names: list[str]) -> str:
        """The command, to be run in that place."""

    @abstractmethod
    def _marks(self, place: Path, names: list[str]) -> dict[str, float]:
        """The marks by name, from what the command wrote; a notebook that has none is not there."""

    def _answers(self, name: str) -> dict[str, str]:
        return formats.answers(self._lab, WRONG if name == "wrong" else None)
