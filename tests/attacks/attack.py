"""What an attack of the corpus is: a learner's answer that is up to something, and what must come of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LEAK", "TRIED", "Attack", "digits", "pattern"]

# What an attack prints for each thing it should not have got, and when it has tried everything.
LEAK = "LEAK"
TRIED = "tried"


@dataclass(frozen=True)
class Attack:
    """One way to gain a point, to read a test or to hurt somebody.

    ``rows`` are the lines of the table in docs/security.md that it is about, ``does`` says in a sentence how.
    ``source`` defines ``energy``, which should return the sum of the squares of its argument (``kind`` "layer": a
    class, an affine map). Only what ``energy`` depends on is run; names that begin with ``my_`` are this attack's
    alone. ``ends`` are the outcomes it may have, apart by ``|``; one that may pass does its mischief and answers
    rightly all the same. ``says`` is a part of the message. An attack that is not ``cut_short`` comes to its end and
    prints TRIED there.
    """

    name: str
    rows: tuple[int, ...]
    does: str
    source: str
    ends: str = "failed"
    says: str = ""
    cut_short: bool = False
    seconds: float = 30
    kind: str = "energy"

    def program(self, facts: Mapping[str, str]) -> str:
        """The source, with ``@NAME@`` replaced by what ``facts`` has under that name."""
        text = textwrap.dedent(self.source)
        for name, value in facts.items():
            text = text.replace(f"@{name}@", value)
        return text


def digits(number: int) -> bytes:
    """The number as CPython keeps it in memory: 30 bits in every 32."""
    words = [number >> shift & (1 << 30) - 1 for shift in range(0, number.bit_length(), 30)]
    return b"".join(word.to_bytes(4, "little") for word in words)


def pattern(text: bytes) -> str:
    """A regular expression for these bytes that does not contain them: whoever searches with it finds no own copy."""
    return "".join(f"[{chr(byte)}]" if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in text)
