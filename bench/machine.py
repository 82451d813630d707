"""What the numbers of a page hold for: the machine, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.report import Machine

__all__ = ["this_machine"]


def this_machine(versions: Mapping[str, str], command: str) -> Machine:
    """This one, today; ``command`` is what measured."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_gib=psutil.virtual_memory().total / (1 << 30),
        versions={"Python": platform.python_version(), **versions},
        command=command,
    )


def _processor() -> str:
    """The model's name, which only the kernel knows; the architecture where it does not say."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    return found[1] if found else platform.machine()
