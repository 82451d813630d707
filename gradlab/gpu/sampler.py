"""The process that asks the NVIDIA driver, and hangs alone when the driver does.

``python -P -m gradlab.gpu.sampler [CGROUPS]`` answers requests, a line of JSON each, until its input ends:

    {"do": "frame"}                                                     → {"frame": a frame (gradlab.gpu.nvml)}
    {"do": "limit", "gpu": uuid, "group": path, "bytes": number | null} → {"refused": "" | sentence}

``gradlab.gpu.sampling`` starts it, and kills it when it is silent for too long. It imports as little as it can, because
it is started anew after every failure of the driver. CGROUPS is the tree of cgroups, for limits.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from gradlab.errors import LimitRefused
from gradlab.gpu.frames import unavailable
from gradlab.gpu.nvml import Nvml

__all__ = ["main", "serve"]

# Linux: prctl(PR_SET_PDEATHSIG, ...)
_ON_PARENTS_DEATH = 1


def serve(nvml: Nvml, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    for line in requests:
        answers.write(json.dumps(_answer(nvml, json.loads(line)), separators=(",", ":")).encode() + b"\n")
        answers.flush()


def _answer(nvml: Nvml, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "limit":
        return {"refused": _limit(nvml, request)}
    try:
        return {"frame": nvml.frame()}
    except Exception as error:  # an end would be taken for the driver's fault
        traceback.print_exc()
        return {"frame": unavailable("failed", f"Reading the GPUs failed: {_said(error)} The log has more.")}


def _limit(nvml: Nvml, request: dict[str, Any]) -> str:
    try:
        nvml.limit(request["gpu"], Path(request["group"]), request["bytes"])
    except LimitRefused as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"The limit could not be set: {_said(error)} The log has more."
    return ""


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}."


def _die_with_parent() -> None:
    """A driver call that hangs does not see the end of the input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_ON_PARENTS_DEATH, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is not an answer
        nvml = Nvml(cgroups=Path(sys.argv[1])) if len(sys.argv) > 1 else Nvml()
        serve(nvml, sys.stdin.buffer, answers)
        nvml.close()


if __name__ == "__main__":
    main()
