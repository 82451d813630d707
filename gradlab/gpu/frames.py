"""Frames of machines where nothing can be read; what is in a frame, ``gradlab.gpu.nvml`` says."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["unavailable"]


def unavailable(state: str, message: str, **known: Any) -> dict[str, Any]:
    """A frame without devices: ``state`` is why in a word, ``message`` a sentence with the remedy."""
    return {
        "at": time.time(),
        "took": 0.0,
        "state": state,
        "available": False,
        "message": message,
        "simulated": False,
        "driver_version": None,
        "nvml_version": None,
        "cuda_version": None,
        "devices": [],
    } | known
