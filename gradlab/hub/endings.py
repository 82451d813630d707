"""Why a learner's container ended, in a sentence for the learner, and its last output for the operator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

__all__ = ["Endings", "reason"]

_LARGEST = 1 << 20
_SIGKILL, _SIGTERM = 137, 143


def reason(state: dict[str, Any], memory_mb: int) -> str:
    """``state`` is what Docker says of a container that has ended (``State`` of its inspection)."""
    status = state["ExitCode"]
    if state.get("Error"):
        return f"Docker could not run it: {state['Error']}."
    if state.get("OOMKilled") and status == _SIGKILL:
        return f"It used more than the {memory_mb} MiB of memory it may have, and was ended."
    if status == _SIGKILL:
        return "It was killed from outside: by an administrator, or because the machine ran out of memory."
    if status in (0, _SIGTERM):
        return "It was shut down, from its own menu or by an administrator."
    return f"It ended by itself, with exit status {status}; your instructor finds its last output in the server's logs."


class Endings:
    """The last ending of each server, until that server starts again, and the files with their output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[tuple[str, str], str] = {}

    def of(self, user: str, server: str = "") -> str:
        """Why this server ended, or ``""`` if it runs, was stopped as asked, or never was."""
        return self._last.get((user, server), "")

    def forget(self, user: str, server: str) -> None:
        self._last.pop((user, server), None)

    def remember(self, user: str, server: str, why: str) -> None:
        self._last[user, server] = why

    def write(self, container: str, why: str, output: bytes) -> Path:
        """Append an ending to the log named after the container; at 1 MiB the log becomes NAME.1."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{container}.log"
        if path.exists() and path.stat().st_size > _LARGEST:
            path.replace(path.with_name(f"{path.name}.1"))
        when = time.strftime("%Y-%m-%d %H:%M:%S %z")
        with path.open("ab") as log:
            log.write(f"== {when} {why}\n".encode() + output[-_LARGEST:].rstrip() + b"\n")
        return path
