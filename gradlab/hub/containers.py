"""What Docker is asked for when a learner's server starts: pure functions from settings to options.

Docker's and JupyterHub's defaults are made for people who trust each other; nothing here is left to them. What is asked
for, and why:

* ``auto_remove`` off although ``DockerSpawner.remove`` is on: a container that Docker removes takes its log along, and
  with it the reason it ended. ContainerSpawner reads the log first and then removes.
* ``init``: the server is no init process, and what learners leave behind would fill the process limit as zombies.
* A read-only root with a sized ``/tmp``, no capability, no new privileges, bounds on memory (no swap beside it), on
  processor time, processes and ``/dev/shm``. ``/tmp`` may hold programs: ``torch.compile`` puts its own there.
* One mount, the home, a named volume that belongs to the learner alone.
* A network of its own (see gradlab.hub.networks), and a name server that does not exist: Docker's own would forward
  questions to the Internet by way of the host.
* Labels that say whose server it is. After a restart of the hub they are the truth, not what the hub remembers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from docker.types import LogConfig, Ulimit

from gradlab.settings import Settings

__all__ = [
    "HOME",
    "INSTALLATION",
    "LAB",
    "ROLE",
    "SERVER",
    "TEMPLATES",
    "USER",
    "Grant",
    "create_options",
    "host_options",
    "labels",
    "volumes",
]

# Places in the image.
HOME = "/home/lab"
TEMPLATES = "/opt/lab/labs"

ROLE = "gradlab.role"
INSTALLATION = "gradlab.installation"
USER = "gradlab.user"
SERVER = "gradlab.server"
LAB = "gradlab.lab"

_SCRATCH_MB = 1024
# RFC 5737: an address that is nobody's.
_NO_NAME_SERVER = "192.0.2.1"


@dataclass(frozen=True)
class Grant:
    """What a server gets beside the usual: its GPU as Docker is asked for it, with its variables and labels."""

    device_requests: tuple[dict[str, Any], ...] = ()
    # The NVIDIA runtime gives every device to a container that says nothing.
    environment: dict[str, str] = field(default_factory=lambda: {"NVIDIA_VISIBLE_DEVICES": "void"})
    labels: dict[str, str] = field(default_factory=dict)


def labels(installation: str, user: str, server: str, lab: str, grant: Grant) -> dict[str, str]:
    """Whose container this is; ``server`` is JupyterHub's name of the server, empty for the usual one."""
    return {ROLE: "server", INSTALLATION: installation, USER: user, SERVER: server, LAB: lab} | grant.labels


def volumes(installation: str) -> dict[str, str]:
    """DockerSpawner's ``volumes``: the home, by a name that says whose it is. Docker makes it at the first start."""
    return {f"{installation}-home-{{username}}": HOME}


def create_options(marks: dict[str, str]) -> dict[str, Any]:
    """DockerSpawner's ``extra_create_kwargs``."""
    return {
        "labels": marks,
        "hostname": "lab",
        "user": "lab",
        "working_dir": HOME,
        "healthcheck": {"test": ["NONE"]},
    }


def host_options(settings: Settings, grant: Grant) -> dict[str, Any]:
    """DockerSpawner's ``extra_host_config``."""
    return {
        "auto_remove": False,
        "init": True,
        "read_only": True,
        "tmpfs": {"/tmp": f"size={_SCRATCH_MB}m,mode=1777,nosuid,nodev,exec"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "privileged": False,
        "ipc_mode": "private",
        # Memory and processor time are JupyterHub's own limits, of which it tells the server too (gradlab.hub.hosting).
        "memswap_limit": settings.learner_memory_mb << 20,
        "pids_limit": settings.learner_processes,
        "shm_size": settings.learner_shm_mb << 20,
        "ulimits": [Ulimit(name="core", soft=0, hard=0)],
        # What learner code prints must not fill the host's disk.
        "log_config": LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
        "dns": None if settings.learner_internet else [_NO_NAME_SERVER],
        "device_requests": list(grant.device_requests) or None,
    }
