"""How a server gives out its GPUs, as the setting GRADLAB_GPUS says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Mode", "parse_mode"]

_MOST_SHARES = 32
_SHARED = re.compile(r"shared:([0-9]{1,4})")


@dataclass(frozen=True)
class Mode:
    """How GPUs are given out; ``shares`` is how many learners one GPU serves."""

    kind: Literal["none", "exclusive", "shared", "mig"]
    shares: int = 1

    def __str__(self) -> str:
        return f"shared:{self.shares}" if self.kind == "shared" else self.kind


def parse_mode(text: str) -> Mode:
    """The mode that a setting's text means; the ValueError says what is allowed."""
    word = text.strip().lower()
    if word == "none":
        return Mode("none")
    if word == "exclusive":
        return Mode("exclusive")
    if word == "mig":
        return Mode("mig")
    if (match := _SHARED.fullmatch(word)) and 2 <= int(match[1]) <= _MOST_SHARES:
        return Mode("shared", int(match[1]))
    raise ValueError(
        "it must be none, exclusive (a GPU for each learner), "
        f"shared:N (N learners on each GPU, from 2 to {_MOST_SHARES}) or mig (a MIG instance for each learner)"
    )
