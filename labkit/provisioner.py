"""A kernel provisioner for jupyter_client that forks kernels from a process that has torch loaded.

A kernel spec asks for it (documentation of jupyter_client, "Kernel provisioning")::

    "metadata": {"kernel_provisioner": {"provisioner_name": "gradlab-fork"}}

Whatever starts kernels (JupyterLab, papermill, nbclient) stays as it is. If there is no fork server, or it fails, the
kernel is started by its command line like any other.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner
from traitlets import Float, Unicode, default

from labkit.forkserver import Forked, fork_soon

__all__ = ["SOCKET", "ForkProvisioner"]

log = logging.getLogger(__name__)

SOCKET = "LABKIT_FORK_SERVER"


class ForkProvisioner(LocalProvisioner):  # type: ignore[misc]
    """``server`` is the fork server's socket, by default the one that the environment names; ``run`` what it calls.

    ``patience``: seconds that a fork may take. A fork server that has just been started needs some to load, on a busy
    core many; a cold kernel would have to load the same and be in its way. (If it has ended, that is known at once.)
    """

    server = Unicode().tag(config=True)
    run = Unicode("labkit.kernel:forked").tag(config=True)
    patience = Float(40.0).tag(config=True)

    @default("server")  # type: ignore[untyped-decorator]
    def _named_by_the_environment(self) -> str:
        return os.environ.get(SOCKET, "")

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        cwd = kwargs.get("cwd") or os.getcwd()
        # As for any kernel: by this it finds the server it belongs to.
        environment = kwargs["env"] | {"JPY_PARENT_PID": str(os.getpid())}
        request = {"run": self.run, "argv": cmd, "environment": environment, "cwd": str(Path(cwd).absolute())}
        try:
            self.process = await fork_soon(self.server, request, timeout=self.patience)
        except OSError as error:
            log.info("No kernel could be forked (%s); it is started instead.", error)
            return await super().launch_kernel(cmd, **kwargs)
        # A forked child leads a session of its own, and so a process group: interrupts reach what it started too.
        self.pid = self.pgid = self.process.pid
        self.cwd = cwd
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        # The fork server buries its children at once: the number of one that has ended may be another's by now.
        if not isinstance(self.process, Forked) or self.process.poll() is None:
            await super().send_signal(signum)

    async def cleanup(self, restart: bool = False) -> None:
        if isinstance(self.process, Forked):
            self.process.close()
        await super().cleanup(restart)
