"""A ``/proc`` on paper, with what Gradlab reads of processes."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["end", "process"]


def process(
    proc: Path,
    pid: int | str,
    cgroup: str = "0::/\n",
    *,
    parent: int = 1,
    started: int = 100,
    uid: int = 1000,
    name: str = "python3",
    state: str = "S",
) -> None:
    """One process, as the kernel (6.1) shows it; ``started`` is in ticks since the boot."""
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = f"{pid} {pid} 0 -1 4194560 394 0 0 0 12 4 0 0 20 0 9 0 {started} 2555904 394 18446744073709551615"
    (folder / "stat").write_text(f"{pid} ({name}) {state} {parent} {numbers} 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0\n")
    (folder / "status").write_text(
        f"Name:\t{name}\nUmask:\t0022\nState:\t{state}\nPid:\t{pid}\nPPid:\t{parent}\n"
        f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t{pid}\t{pid}\nThreads:\t9\n"
    )
    (folder / "cgroup").write_text(cgroup)


def end(proc: Path, pid: int) -> None:
    shutil.rmtree(proc / str(pid))
