"""Turning data into pages: the template environment, its filters, and the links to our own static files.

Everything a learner's code could have had a hand in (messages, output, names) reaches a page as text: templates are
autoescaped, and ``prose`` escapes before it marks anything up.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

__all__ = ["OUTCOMES", "STATIC_DIR", "Renderer", "ago", "amount", "prose"]

_HERE = Path(__file__).parent
STATIC_DIR = _HERE / "static"

# How each outcome is shown: its icon and tone (`_parts.html`, `portal.css`), and its words.
OUTCOMES = {
    "passed": ("check", "pass", "Passed"),
    "failed": ("cross", "fail", "Failed"),
    "not attempted": ("ring", "none", "Not attempted"),
    "skipped": ("skip", "none", "Skipped"),
    "error in your code": ("bang", "fail", "Error in your code"),
    "timed out": ("clock", "warn", "Timed out"),
    "out of memory": ("chip", "warn", "Out of memory"),
    "killed": ("stop", "warn", "Killed"),
    "our fault": ("wrench", "ours", "Our fault, not yours"),
}
_UNKNOWN = ("ring", "none")
_CODE = re.compile(r"`([^`\n]+)`")


class Renderer:
    """Renders templates for one portal; ``common`` is in every template."""

    def __init__(self, **common: Any) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            prose=prose, ago=ago, iso=iso, clock=clock, amount=amount, segment=segment, short=short, rest=rest
        )
        self._environment.globals.update(common, outcome=outcome)

    def page(self, name: str, **values: Any) -> str:
        return self._environment.get_template(name).render(**values)


def static_links(prefix: str) -> dict[str, str]:
    """File name → address with the content's digest, so that browsers may keep each version for good."""
    return {
        path.name: f"{prefix}static/{path.name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        for path in sorted(STATIC_DIR.iterdir())
        if path.is_file()
    }


def outcome(name: str) -> tuple[str, str, str]:
    """Icon, tone and words of an outcome; one we do not know is shown by its own name."""
    return OUTCOMES.get(name, (*_UNKNOWN, name.capitalize()))


def prose(text: str) -> Markup:
    """Plain text as HTML: escaped first, then `` `code` `` set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def ago(then: float | None, now: float) -> str:
    """How long ago, in the coarsest unit that says enough; the browser keeps it up to date."""
    if then is None:
        return "never"
    seconds = max(0.0, now - then)
    if seconds < 45:
        return "just now"
    for unit, size, most in (("min", 60, 60), ("h", 3600, 24), ("day", 86400, 14), ("week", 604800, None)):
        count = max(1, round(seconds / size))
        if most is None or count < most:
            plural = "s" if unit in ("day", "week") and count > 1 else ""
            return f"{count} {unit}{plural} ago"
    raise AssertionError("the last unit has no end")


def iso(then: float) -> str:
    return datetime.fromtimestamp(then, UTC).isoformat(timespec="seconds")


def clock(then: float) -> str:
    """A time for people where there is no script to show it in their own time zone."""
    return datetime.fromtimestamp(then, UTC).strftime("%d %b %Y, %H:%M UTC")


def amount(count: float | None, unit: str = "") -> str:
    """A number as people write it, or a dash where there is none."""
    return "—" if count is None else f"{count:,.0f}{unit}"


def short(title: str) -> str:
    """The part of a title before its colon, for headings and table columns."""
    return title.partition(":")[0]


def rest(title: str) -> str:
    """What follows the colon, with a capital; empty where there is none."""
    after = title.partition(":")[2].strip()
    return after[:1].upper() + after[1:]


def segment(name: str) -> str:
    """A name as one part of an address."""
    return quote(name, safe="")
