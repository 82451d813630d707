"""An exception of learner code as data, in bounds that the judge insists on."""

from __future__ import annotations

import traceback
from typing import Any

from labkit.table import legible

__all__ = ["MAX_BASES", "MAX_MESSAGE", "MAX_NAME", "MAX_TRACEBACK", "describe"]

MAX_TRACEBACK = 4_000
MAX_MESSAGE = 2_000
MAX_NAME = 200
MAX_BASES = 60


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as data: type, its bases' names, message, and the traceback's part in the notebook's cells."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("<cell ")]
    if isinstance(error, SyntaxError) and (error.filename or "").startswith("<cell "):
        where: str | None = f"{(error.filename or '').strip('<>')}, line {error.lineno}"
    else:
        where = f"{frames[-1].filename.strip('<>')}, line {frames[-1].lineno}" if frames else None
    text = "".join(traceback.format_list(frames))[-MAX_TRACEBACK:]
    return {
        "type": legible(type(error).__name__)[:MAX_NAME],
        "bases": [legible(base.__name__)[:MAX_NAME] for base in type(error).__mro__[:MAX_BASES]],
        "message": legible(_safe_str(error))[:MAX_MESSAGE],
        "where": where if where is None else legible(where),
        "traceback": legible(text),
    }


def _safe_str(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # SystemExit too: what tells of an error runs learner code
        return "(the error's own text could not be read)"
