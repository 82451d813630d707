"""The judge's kernel: an ordinary ipykernel that has the judge's modules loaded and a sandbox waiting.

Forked from :func:`serve`'s process, or started as ``python -m checker.kernel -f CONNECTION_FILE``. It is trusted:
learner code never runs here.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from checker.sandbox.config import ENVIRONMENT, SandboxConfig
from checker.sandbox.pool import SandboxPool, sandbox_class
from labkit import kernel
from labkit.forkserver import ForkServer

__all__ = ["forked", "main", "serve"]

# While it starts, nobody waits for it; learners' browsers and the checks that run have the cores first.
_PATIENT = 10


def main() -> None:
    """Start the sandbox, then import what checks need while it does the same, then serve."""
    _watch_parent()
    sandboxes = _sandboxes()

    import torch

    import checker.spec  # noqa: F401  (imported so that the notebook finds it loaded)

    torch.set_num_threads(1)
    sandboxes.wait_warm()
    _application(sandboxes).start()


def serve(request: dict[str, Any], _descriptors: list[int]) -> int:
    """Be the fork server of judge kernels, at ``request["path"]``; run in a child of the nursery.

    ``request["sandbox"]`` is their sandboxes' method: what it takes is loaded once, here.
    """
    server = ForkServer(request["path"], forked)

    import checker.spec
    import checker.stream  # noqa: F401

    sandbox_class(request["sandbox"])
    kernel.load()
    server.serve()
    return 0


def forked(request: dict[str, Any], _descriptors: list[int]) -> int:
    """The kernel in a child of :func:`serve`, with its sandbox ready."""
    with _patience():
        kernel.take_over(request)
        sandboxes = _sandboxes()
        app = _application(sandboxes)
        _touch(app)
        sandboxes.wait_warm()
    app.start()
    return 0


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Low priority, for this thread and those that it starts; none of them keeps it."""
    if os.geteuid() != 0:  # others could lower their priority, and never raise it again
        yield
        return
    os.setpriority(os.PRIO_PROCESS, 0, _PATIENT)
    yield
    for thread in os.listdir("/proc/self/task"):  # Linux has a priority for each
        os.setpriority(os.PRIO_PROCESS, int(thread), 0)


def _sandboxes() -> SandboxPool:
    sandboxes = SandboxPool(SandboxConfig(**json.loads(os.environ[ENVIRONMENT])))
    sandboxes.warm()
    return sandboxes


def _application(sandboxes: SandboxPool) -> Any:
    from traitlets.config import Config

    config = Config(
        {
            # Hidden checks are no history: nobody shall find them in a file.
            "HistoryManager": {"enabled": False},
            # A nap after each cell, in which output might arrive that a person waits for.
            "IPythonKernel": {"_execute_sleep": 0.0},
            # Else every cell is compiled once more, to see whether it awaits anything.
            "InteractiveShell": {"autoawait": False},
        }
    )
    app = kernel.application(config=config, outstream_class="checker.stream.Stream", user_ns={"sandboxes": sandboxes})
    _take_plain_python(app.kernel.shell)
    return app


def _take_plain_python(shell: Any) -> None:
    """Checks are Python without magics, and no debugger looks for their files: both take longer than a short check."""
    from IPython.core.compilerop import CachingCompiler
    from IPython.core.inputtransformer2 import TransformerManager

    class Plain(TransformerManager):  # type: ignore[misc]
        def transform_cell(self, cell: str) -> str:
            return cell if cell.endswith("\n") else f"{cell}\n"

    shell.input_transformer_manager = Plain()
    shell.compile = CachingCompiler()


def _touch(app: Any) -> None:
    """Do what every check does, before it is waited for: at the first write each page is copied from the parent's."""
    from checker.compare import Tolerance, difference
    from checker.draw import Draw

    inputs = Draw(0, "touch").tensor(3, 4)
    difference(inputs.softmax(0), inputs.softmax(1), Tolerance(), inputs=(inputs,))
    app.kernel.shell.run_cell("def touched(): 'Nothing.'", store_history=False, silent=True)


def _watch_parent() -> None:
    """End when whoever started us is gone, so that ``kill -9`` leaves no judge behind.

    PR_SET_PDEATHSIG would fire when the *thread* that started us ends, and pool threads do.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    main()
