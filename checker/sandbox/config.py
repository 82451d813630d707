"""How learner code is confined in a check. Free of torch, so that the server can hold it without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from checker.sandbox.confinement import Method

__all__ = ["ENVIRONMENT", "SandboxConfig"]

# The variable in which a judge's kernel finds its SandboxConfig, as JSON.
ENVIRONMENT = "GRADLAB_JUDGE_SANDBOX"


@dataclass(frozen=True)
class SandboxConfig:
    """The method and its bounds; sizes in MiB, output in KiB."""

    method: Method = "bubblewrap"
    memory_mb: int = 2048
    processes: int = 64
    scratch_mb: int = 64
    output_kb: int = 256
