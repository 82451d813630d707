"""Programs of learners in one real sandbox: each test loads its own source."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

import pytest

from checker.draw import Draw
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.sandbox.pool import SandboxPool
from checker.student import ProgramEnded, Student

Load = Callable[..., Student]
HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"


class Programs:
    """One program at a time; the sandbox is replaced where a program took it along."""

    def __init__(self) -> None:
        self._pool = SandboxPool(SandboxConfig(method=detect("auto"), memory_mb=1024))
        self._sandbox = self._pool.take()
        self._open: Student | None = None

    def load(self, source: str, *, seconds: float = 20.0) -> Student:
        """A program of one cell whose fourth line is the first one of ``source``."""
        self.end()
        self._open = Student(self._sandbox, seconds=seconds, seed=7)
        text = HEAD + textwrap.dedent(source).strip("\n")
        self._open._load([{"source": text, "cell": 1, "line": 1}], [], 1)
        return self._open

    def end(self) -> None:
        student, self._open = self._open, None
        ended: ProgramEnded | None = student and student._ended
        if student is not None and ended is None:
            student._end()
        elif ended is not None:
            self._sandbox.close()
            self._sandbox = self._pool.take()

    def close(self) -> None:
        self._sandbox.close()


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    programs = Programs()
    yield programs
    programs.close()


@pytest.fixture
def load(programs: Programs) -> Load:
    return programs.load


@pytest.fixture
def draw() -> Draw:
    return Draw(11)
