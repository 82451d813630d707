"""How learner code is confined in a check. Free of torch, so that the server can hold it without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from checker.sandbox.confinement import Limits, Method

__all__ = ["ENVIRONMENT", "VARIABLES", "SandboxConfig"]

# The variable in which a judge's kernel finds its SandboxConfig, as JSON.
ENVIRONMENT = "GRADLAB_JUDGE_SANDBOX"


# What the agent has in its environment in every sandbox; each adds where Python and labkit are.
VARIABLES = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp",
}
_OPEN_FILES = 256


@dataclass(frozen=True)
class SandboxConfig:
    """The method and its bounds; sizes in MiB, output in KiB.

    ``nursery`` is the socket of a :mod:`labkit.nursery` to fork from; empty: every sandbox loads torch by itself.
    ``gpus`` are the UUIDs of the devices that learner code may use.

    For Docker: ``image`` is what containers are made of; ``cpus`` is how many cores one may use; ``installation`` (the
    same after every start of the server) and ``holder`` (the judge kernel) are written on each container, so that
    :func:`checker.sandbox.docker.sweep` finds whose it is.
    """

    method: Method | Literal["docker"] = "bubblewrap"
    memory_mb: int = 2048
    processes: int = 64
    scratch_mb: int = 64
    output_kb: int = 256
    nursery: str = ""
    gpus: tuple[str, ...] = ()
    image: str = "gradlab-lab"
    cpus: float = 1.0
    installation: str = ""
    holder: str = ""

    def __post_init__(self) -> None:
        # Where this comes from JSON, it is a list.
        object.__setattr__(self, "gpus", tuple(self.gpus))

    @property
    def limits(self) -> Limits:
        """What bounds each process of the agent and its programs."""
        return Limits(
            memory_mb=self.memory_mb, processes=self.processes, file_mb=self.scratch_mb, open_files=_OPEN_FILES
        )
