"""A Jupyter server extension that starts the process from which this server's kernels are forked.

It loads torch while the learner's browser still opens JupyterLab; :class:`labkit.provisioner.ForkProvisioner` finds its
socket in the environment. It ends with the server, whatever ends that: its standard input is a pipe held open here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import Any

from labkit.provisioner import SOCKET

__all__: list[str] = []


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    with contextlib.suppress(OSError):  # without it kernels are started one by one, as anywhere
        # A short path, for those of sockets have 107 characters at most; a new one: one that was left has no listener.
        folder = tempfile.mkdtemp(prefix="kernels-", dir=os.environ.get("JUPYTER_RUNTIME_DIR"))
        path = f"{folder}/fork"
        argv = [sys.executable, "-P", "-m", "labkit.nursery", path, "labkit.kernel:load"]
        server.kernel_nursery = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[SOCKET] = path
