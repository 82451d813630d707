"""What a lab notebook uses, preloaded there as ``lab``: ``lab.check("name")``, ``lab.hint("name")``, ``lab.gpu()``.

Importing this package loads nothing else: every learner's kernel and every sandbox does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from labkit.devices import Devices
    from labkit.learner import Checked, Hint

__all__ = ["check", "gpu", "hint", "simulate_gpu"]


def check(
    exercise: str | Callable[..., Any] | None = None, *, notebook: str | os.PathLike[str] | None = None
) -> Checked:
    """Save this notebook, send it to the judge, and show the verdict.

    Name one exercise, or none for the whole lab. ``notebook`` names a file to check instead of this notebook; it is
    sent as it lies on disk.
    """
    from labkit.learner import check

    return check(exercise, notebook=notebook)


def hint(exercise: str | Callable[..., Any] | None = None) -> Hint:
    """Show the next hint of an exercise."""
    from labkit.learner import hint

    return hint(exercise)


def gpu(*, watch: float | None = None) -> Devices:
    """Show your GPUs: what they are, how busy they are, and whose the memory in use is: yours, others', free.

    ``watch`` keeps the card live for so many seconds (3600 at most): it is read again every second while other cells
    run. The next ``lab.gpu()``, ``lab.gpu(watch=0)`` or the end of the kernel ends that. ``%gpu`` prints a line a GPU.
    """
    from labkit.devices import show

    return show(watch)


def load_ipython_extension(shell: Any) -> None:
    """What a learner's kernel has from the start: ``lab`` and ``%gpu``. Elsewhere: ``%load_ext labkit``."""
    import sys

    shell.user_ns["lab"] = sys.modules[__name__]
    shell.register_magic_function(_gpu_lines, "line", "gpu")


def _gpu_lines(line: str) -> None:
    """Your GPUs, one line each: how busy, memory in use, yours and others', temperature, power."""
    from labkit.devices import print_lines

    print_lines(line)


def simulate_gpu(gpus: int = 2, *, seed: int | None = None) -> None:
    """On a server without a GPU, let NVML show made-up ones in this notebook, to practise with."""
    from labkit.practice import simulate_gpu

    simulate_gpu(gpus, seed=seed)
