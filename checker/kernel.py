"""The judge's kernel: an ordinary ipykernel that has the judge's modules loaded and a sandbox waiting.

``python -m checker.kernel -f CONNECTION_FILE``. It is trusted: learner code never runs here.
"""

from __future__ import annotations

import json
import os
import threading
import time

from checker.sandbox.config import ENVIRONMENT, SandboxConfig
from checker.sandbox.pool import SandboxPool

__all__ = ["main"]


def main() -> None:
    """Start the sandbox, then import what checks need while it does the same, then serve."""
    _die_with_parent()
    sandboxes = SandboxPool(SandboxConfig(**json.loads(os.environ[ENVIRONMENT])))
    sandboxes.warm()

    import torch
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config import Config

    import checker.spec  # noqa: F401  (imported so that the notebook finds it loaded)

    torch.set_num_threads(1)
    sandboxes.wait_warm()
    # Hidden checks are no history: nobody shall find them in a file.
    silent = Config({"HistoryManager": {"enabled": False}})
    IPKernelApp.launch_instance(config=silent, user_ns={"sandboxes": sandboxes})


def _die_with_parent() -> None:
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
