"""A simulated GPU to practise with in a notebook, on a server that has none."""

from __future__ import annotations

import random
from typing import Any

from labkit import nvsim

__all__ = ["simulate_gpu"]


def simulate_gpu(gpus: int = 2, *, seed: int | None = None) -> None:
    """Let NVML show made-up GPUs in this notebook, if the server has none, and say in one sentence which it is.

    Each call draws new ones; the same ``seed`` draws the same. Where NVML finds a real GPU nothing is changed.
    """
    if (real := _real_gpus()) is not None:
        print(f"This server has a real GPU ({real}): NVML shows that one, and nothing is simulated.")
        return
    nvsim.install(_practice_state(random.Random(seed), gpus))
    what = "a simulated one" if gpus == 1 else f"{gpus} simulated ones"
    print(
        f"This server has no GPU that NVML can see, so NVML now shows {what} in this notebook: "
        "all their numbers are made up, and nothing can run on them."
    )


def _real_gpus() -> str | None:
    """The name of the first real GPU and how many more there are; None without any."""
    import pynvml

    nvsim.uninstall()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        count = pynvml.nvmlDeviceGetCount()
        if count == 0:
            return None
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        return f"which answers {error}"
    finally:
        pynvml.nvmlShutdown()
    return str(name) if count == 1 else f"{name} and {count - 1} more"


def _practice_state(rng: random.Random, gpus: int) -> dict[str, Any]:
    """Twenty readings that differ; the names say wherever they are shown that nothing of it is real."""
    state = nvsim.random_state(rng, gpus=gpus, moments=20)
    for device in state["devices"]:
        device["name"] += " (simulated)"
    return state
