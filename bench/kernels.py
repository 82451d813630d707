"""How long a fresh kernel takes until torch can be used in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import KernelManager

from bench.measure import Failed
from labkit import serverextension
from labkit.provisioner import SOCKET

__all__ = ["LAB_KERNELS", "jupyter_server", "kernel_ready", "no_kernel"]

# Where the kernel that learners' notebooks run in is described.
LAB_KERNELS = Path(__file__).resolve().parent.parent / "labkit" / "kernels"
_CODE = "import torch; torch.zeros(1)"
_READY_SECONDS = 120


def no_kernel(name: str, folder: Path | None) -> str:
    """Why the kernel spec cannot be used; empty if it can. Without a folder it is looked for where Jupyter looks."""
    try:
        _specs(folder).get_kernel_spec(name)
    except NoSuchKernel:
        return f"there is no kernel spec {name!r} in {folder.name if folder else 'the Jupyter folders'}"
    return ""


@contextmanager
def jupyter_server() -> Iterator[None]:
    """What a learner's Jupyter server has ready before the first kernel: our extension of it is loaded and ended."""
    server = SimpleNamespace(kernel_nursery=None)
    serverextension._load_jupyter_server_extension(server)
    try:
        yield
    finally:
        if server.kernel_nursery is not None:
            server.kernel_nursery.communicate()
            shutil.rmtree(Path(os.environ.pop(SOCKET)).parent, ignore_errors=True)


def kernel_ready(name: str, folder: Path | None = None) -> float:
    """Seconds from the request to start the kernel to its answer to ``import torch; torch.zeros(1)``.

    The code is sent at once: ``wait_for_ready`` of jupyter_client would add 0.2 s of its own to any kernel.
    Failed if the kernel answers with an error.
    """
    manager = KernelManager(kernel_name=name, kernel_spec_manager=_specs(folder))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = time.perf_counter()
    manager.start_kernel(env=os.environ.copy(), **quiet)
    client = manager.client()
    try:
        client.start_channels()
        request = client.execute(_CODE, silent=True)
        while True:
            reply = client.get_shell_msg(timeout=_READY_SECONDS)
            if reply["parent_header"].get("msg_id") == request:
                break
        seconds = time.perf_counter() - started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise Failed(f"The kernel {name} answered {reply['content'].get('evalue', 'an error')!r} to {_CODE!r}.")
    return seconds


def _specs(folder: Path | None) -> KernelSpecManager:
    manager = KernelSpecManager()
    if folder is not None:
        manager.kernel_dirs = [str(folder)]
    return manager
