"""Names and groups: what a name may be, and how an account elsewhere becomes one."""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["INSTRUCTORS", "LEARNERS", "NAME_RULE", "USERNAME_PATTERN", "fault", "listed", "name_of"]

LEARNERS = "learners"
INSTRUCTORS = "instructors"

# A name is a folder below homes/ and a part of URLs; neither may need escaping.
USERNAME_PATTERN = r"\A[a-z0-9][a-z0-9._-]{0,31}\Z"
NAME_RULE = "1 to 32 letters a-z, digits, dots, dashes or underscores, beginning with a letter or a digit"


def fault(name: str) -> str:
    """What is wrong with a name that somebody chose, in a sentence; empty if nothing is."""
    if re.fullmatch(USERNAME_PATTERN, name):
        return ""
    return f"The name {name[:40]!r} cannot be used. A name is {NAME_RULE}. Choose another one."


def listed(text: str) -> frozenset[str]:
    """The names of a setting, which are separated by commas."""
    return frozenset(name for word in text.split(",") if (name := word.strip().lower()))


def name_of(claim: str, home: str = "") -> str:
    """The name of somebody whom another site calls ``claim``: always the same for the same claim.

    A login stays what it is, and an address becomes ``ada-at-example.org``, or ``ada`` if its domain is ``home``. What
    loses something on the way (an accent, a plus, its end) ends in digits of a digest instead. No two claims become one
    name, and nobody can choose a login that becomes somebody else's: what looks as if it were made here is made anew.
    """
    text = claim.strip().lower()
    if home:
        text = text.removesuffix(f"@{home}")
    name = text.replace("@", "-at-", 1)
    if re.fullmatch(USERNAME_PATTERN, name) and "-at-" not in text and not re.search(r"-[0-9a-f]{16}$", text):
        return name
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:15] or "user"
    return f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
