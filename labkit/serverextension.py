"""What a learner's server does when it starts, as a Jupyter server extension.

It starts the process from which this server's kernels are forked, which loads torch while the learner's browser still
opens JupyterLab; :class:`labkit.provisioner.ForkProvisioner` finds its socket in the environment. It ends with the
server, whatever ends that: its standard input is a pipe held open here.

And it puts the labs into the home, before anybody can open one, and tells the portal which name each has there.

And it lets JupyterLab ask for what the learner is to be told; see :mod:`labkit.notices`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.delivery import Delivery, deliver
from labkit.errors import LabError
from labkit.forkserver import fork, listen
from labkit.provisioner import SOCKET

__all__: list[str] = []

_LOAD_SECONDS = 120


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    _stop_when_told(server)
    _start_nursery(server)
    _deliver_labs(server, os.environ)
    _offer_notices(server, os.environ)


def _stop_when_told(server: Any) -> None:
    """Let SIGTERM stop the server between two steps of its event loop.

    jupyter_server's own handler writes to the log, at whatever moment the signal comes. While the log is being written,
    that fails (RuntimeError: reentrant call), and the server runs on as if nobody had said a word.
    """
    server.io_loop.asyncio_loop.add_signal_handler(signal.SIGTERM, server._signal_stop, signal.SIGTERM, None)


def _deliver_labs(server: Any, environ: Mapping[str, str]) -> None:
    """A lab that cannot be delivered must not keep a learner out of the server that could mend it."""
    templates, history = environ.get("GRADLAB_TEMPLATES"), environ.get("GRADLAB_DELIVERED")
    if not templates or not history:
        return
    try:
        done = deliver(Path(templates), Path(server.root_dir), json.loads(history))
    except (OSError, ValueError, LookupError) as error:
        server.log.error("The labs were not put into %s: %s", server.root_dir, error)
        return
    for one in done:
        server.log.info("Lab %s: %s %s", one.lab, one.action, one.filename)
    if done:
        threading.Thread(target=_report, args=(server, done), name="deliveries", daemon=True).start()


def _report(server: Any, done: Sequence[Delivery]) -> None:
    from labkit.client import Portal  # http.client takes a while to load

    try:
        Portal.from_environment().delivered(
            [{"lab": one.lab, "version": one.version, "filename": one.filename} for one in done]
        )
    except LabError as error:
        server.log.warning("The portal does not know of the labs delivered: %s", error)


def _offer_notices(server: Any, environ: Mapping[str, str]) -> None:
    portal, token = environ.get("GRADLAB_PORTAL_URL"), environ.get("JUPYTERHUB_API_TOKEN")
    if portal and token:
        from labkit.notices import add_notices  # needs a Jupyter server's modules, which one has loaded

        add_notices(server, portal, token)


def _start_nursery(server: Any) -> None:
    with contextlib.suppress(OSError):  # without it kernels are started one by one, as anywhere
        # A short path, for those of sockets have 107 characters at most; a new one: one that was left has no listener.
        folder = tempfile.mkdtemp(prefix="kernels-", dir=os.environ.get("JUPYTER_RUNTIME_DIR"))
        path = f"{folder}/fork"
        with listen(path) as listener:
            argv = [sys.executable, "-P", "-m", "labkit.nursery", str(listener.fileno()), "labkit.kernel:load"]
            server.kernel_nursery = subprocess.Popen(
                argv, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], start_new_session=True
            )
        os.environ[SOCKET] = path
        threading.Thread(target=_prepare_completions, args=(path,), name="completions", daemon=True).start()


def _prepare_completions(path: str) -> None:
    with contextlib.suppress(OSError):  # then the first completion takes longer
        fork(path, {"run": "labkit.kernel:complete_once"}, timeout=_LOAD_SECONDS).wait()
