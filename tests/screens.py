"""A lab notebook on a screen: a real kernel, with the test as its front end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager

from gradlab.settings import ROOT
from tests.browser.notebooks import lab_notebook
from tests.fake_portal import TOKEN, FakePortal

__all__ = ["RIGHT", "WRONG", "Screen", "kernel", "with_answer"]

RIGHT = "def rank_of(x):\n    return x.dim()"
WRONG = "def rank_of(x):\n    return 6"


def with_answer(answer: str, *more: str) -> dict[str, Any]:
    notebook = lab_notebook(*more)
    notebook["cells"][0]["source"] = answer
    return notebook


class Screen:
    """A front end of one kernel: runs cells, and may answer when the kernel asks it to save."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient, path: Path) -> None:
        self.path = path
        self.connection_file = Path(manager.connection_file)
        self.process = manager.provisioner.pid
        self.saves: Callable[[], dict[str, Any]] | None = None
        self._client = client
        self._subshell = ""

    def run(self, code: str) -> tuple[str, str]:
        """Run a cell: what its outputs show in the end, and its error."""
        number = self._client.execute(code, store_history=True)
        shown: dict[str, str] = {}
        error = ""
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("display_data", "update_display_data"):
                shown[content["transient"]["display_id"]] = content["data"]["text/plain"]
                self._asked_to_save(content["transient"].get("gradlab_save"))
            elif kind == "execute_result":
                shown["result"] = content["data"]["text/plain"]
            elif kind == "error":
                error = "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return "\n".join(shown.values()), error

    def _asked_to_save(self, request: str | None) -> None:
        if request is not None and self.saves is not None:
            where = {"request": request, "path": self.path.name, "root": str(self.path.parent)}
            self._tell({**where, "state": "saving", "reason": ""})
            answer = self.saves()
            if answer:
                self._tell({**where, "reason": "", **answer})

    def _tell(self, data: dict[str, Any]) -> None:
        """As JupyterLab does: over a comm on a subshell, since the kernel is busy with the cell that asked."""
        session = self._client.session
        if not self._subshell:
            self._client.control_channel.send(session.msg("create_subshell_request", {}))
            self._subshell = self._client.get_control_msg(timeout=30)["content"]["subshell_id"]
            self._send("comm_open", {"comm_id": "c1", "target_name": "gradlab.saved", "data": {}})
        self._send("comm_msg", {"comm_id": "c1", "data": data})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        message = self._client.session.msg(kind, content)
        message["header"]["subshell_id"] = self._subshell
        self._client.shell_channel.send(message)


@contextmanager
def kernel(portal: FakePortal, path: Path, **more: str) -> Iterator[Screen]:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder:  # short, as Unix sockets want it
        # No ports: those that are free when they are chosen may be another test's when the kernel binds them.
        manager = KernelManager(
            kernel_name="python3",
            transport="ipc",
            ip=f"{folder}/s",
            connection_file=str(path.parent / "kernel-1f2e.json"),
        )
        with _started(manager, portal, path, more) as screen:
            yield screen


@contextmanager
def _started(manager: KernelManager, portal: FakePortal, path: Path, more: Mapping[str, str]) -> Iterator[Screen]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(path.parent / "ipython"),
        "GRADLAB_PORTAL_URL": portal.url,
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JPY_SESSION_NAME": str(path),
    }
    manager.start_kernel(env=environment | dict(more), cwd=str(path.parent))
    client = manager.client()
    client.start_channels(hb=False)  # its thread would leave an event loop open
    try:
        client.wait_for_ready(timeout=60)
        screen = Screen(manager, client, path)
        screen.run("import labkit as lab, labkit.learner, functools\nreal = labkit.learner.on_screen")
        yield screen
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
