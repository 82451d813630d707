"""The judge's kernel: it has the judge's modules loaded, and a sandbox waiting.

Forked from :func:`serve`'s process, or started as ``python -m checker.kernel -f CONNECTION_FILE``. It is trusted:
learner code never runs here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker.sandbox.pool import sandbox_class, sandboxes
from labkit.forkserver import ForkServer
from labkit.kernel import take_over
from labkit.rehearsal import load_what_it_loads

if TYPE_CHECKING:  # a cold start has its sandbox on the way before it loads what a kernel takes
    from checker.interpreter import Application

__all__ = ["forked", "main", "serve"]

# While it starts, nobody waits for it; learners' browsers and the checks that run have the cores first.
_PATIENT = 10
_CAP_SYS_NICE = 23  # capabilities(7)


def main() -> None:
    """Start the sandbox, then import what checks need while it does the same, then serve."""
    _watch_parent()
    sandboxes().warm()

    import torch

    import checker.spec  # noqa: F401  (imported so that the notebook finds it loaded)

    torch.set_num_threads(1)
    application = _application()
    sandboxes().wait_warm()
    application.start()


def serve(request: dict[str, Any], descriptors: list[int]) -> int:
    """Be the fork server of judge kernels; run in a child of the nursery, with a listening socket as its descriptor.

    ``request["sandbox"]`` is their sandboxes' method: what it takes is loaded once, here.
    """
    server = ForkServer(descriptors[0], forked)

    import checker.interpreter
    import checker.spec  # noqa: F401

    sandbox_class(request["sandbox"])
    load_what_it_loads(_rehearse)
    server.serve()
    return 0


def forked(request: dict[str, Any], _descriptors: list[int]) -> int:
    """The kernel in a child of :func:`serve`, with its sandbox ready."""
    with _patience():
        take_over(request)
        sandboxes().warm()
        application = _application()
        _touch(application)
        sandboxes().wait_warm()
    application.start()
    return 0


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Low priority, for this thread and those that it starts; none of them keeps it."""
    if not _may_raise_priority():  # it would be lowered for good
        yield
        return
    os.setpriority(os.PRIO_PROCESS, 0, _PATIENT)
    yield
    for thread in os.listdir("/proc/self/task"):  # Linux has a priority for each
        os.setpriority(os.PRIO_PROCESS, int(thread), 0)


def _may_raise_priority() -> bool:
    """Whether this process has CAP_SYS_NICE, which root has unless it was taken from it, as in a container."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_NICE & 1)


def _application() -> Application:
    """The kernel for ``sys.argv``, all but serving: that is its ``start()``."""
    from checker.interpreter import Application

    application = Application(sys.argv[sys.argv.index("-f") + 1])
    application.initialize()
    return application


def _rehearse() -> None:
    """Start a kernel in a folder of its own and run a cell in it, as far as that goes without a client."""
    from jupyter_client.connect import write_connection_file

    with tempfile.TemporaryDirectory(prefix="gradlab-rehearsal-") as folder:
        write_connection_file(f"{folder}/connection.json", transport="ipc", ip=f"{folder}/socket")
        sys.argv[1:] = ["-f", f"{folder}/connection.json"]
        _touch(_application())


def _touch(application: Application) -> None:
    """Do what every check does, before it is waited for: at the first write each page is copied from the parent's."""
    from checker.compare import Tolerance, difference
    from checker.draw import Draw

    inputs = Draw(0, "touch").tensor(3, 4)
    difference(inputs.softmax(0), inputs.softmax(1), Tolerance(), inputs=(inputs,))
    application.kernel.run("def touched(): 'Nothing.'")


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
