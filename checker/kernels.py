"""Warm judge kernels: started ahead, each used for one check, refilled in the background."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.channels import ZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager
from nbclient.exceptions import DeadKernelError
from traitlets import Type, Unicode

from checker.nursery import Nursery
from checker.sandbox.config import ENVIRONMENT, SandboxConfig
from checker.workplace import Workplace, is_alive

__all__ = ["KernelPool", "KernelUnavailable"]

log = logging.getLogger(__name__)

_START_SECONDS = 120
_COLD_AT_ONCE = 2
_FORK_SECONDS = 10.0  # of a fork server that has loaded everything: longer, and it hangs
_LOOK_SECONDS = 0.5  # how often it is looked whether a kernel that says nothing still lives


class KernelUnavailable(RuntimeError):
    """A judge kernel could not be started: our fault."""


class _JudgeSpecs(KernelSpecManager):  # type: ignore[misc]
    """The one kernel the judge uses, so that nothing of the machine's or a user's Jupyter folders is looked up.

    ``server`` is the socket of the fork server it comes from; empty: it is started cold.
    """

    server = Unicode()

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        # -P: nothing is imported from the working directory.
        argv = [sys.executable, "-P", "-m", "checker.kernel", "-f", "{connection_file}"]
        how = {"server": self.server, "run": "checker.kernel:forked", "patience": _FORK_SECONDS}
        metadata = {"kernel_provisioner": {"provisioner_name": "gradlab-fork", "config": how}} if self.server else {}
        return KernelSpec(argv=argv, display_name="Gradlab judge", language="python", metadata=metadata)


class _Channel(ZMQSocketChannel):  # type: ignore[misc]
    """Notices that the kernel has died, which nbclient cannot while it waits in a blocking socket."""

    ended: Callable[[], bool] = staticmethod(lambda: False)

    def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message; Empty after ``timeout`` seconds, DeadKernelError once nobody is left to send one."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.msg_ready():
            ended, left = self.ended(), deadline - time.monotonic()
            if not self.socket.poll(int(1000 * max(0.0, min(left, _LOOK_SECONDS)))):
                if left <= 0:
                    raise queue.Empty
                if ended:
                    raise DeadKernelError("the judge's kernel died")
        message: dict[str, Any] = super().get_msg(0)
        return message


class _Client(BlockingKernelClient):  # type: ignore[misc]
    """Connects while its kernel waits in the pool, to the two channels on which a notebook is run."""

    shell_channel_class = Type(_Channel)
    iopub_channel_class = Type(_Channel)
    connected = False

    def start_channels(self, **_channels: bool) -> None:
        if not self.connected:
            super().start_channels(stdin=False, hb=False, control=False)
            process = self.parent.provisioner.process
            self.shell_channel.ended = self.iopub_channel.ended = lambda: process.poll() is not None

    def wait_for_ready(self, timeout: float | None = None) -> None:
        """As jupyter_client does it, without its 0.2 s of listening for more: the answers to one request are enough.

        TimeoutError after ``timeout`` seconds.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.connected:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not answer within {timeout:g} s")
            request = self.kernel_info()
            reply = _answer(self.shell_channel, request, "kernel_info_reply", seconds=1.0)
            # What was published before the subscription had arrived is lost: then ask again.
            if reply is not None and _answer(self.iopub_channel, request, "status", seconds=0.1) is not None:
                self._handle_kernel_info_reply(reply)
                self.connected = True


def _answer(channel: _Channel, request: str, kind: str, *, seconds: float) -> dict[str, Any] | None:
    """The next message of this kind about this request; None if there is none in time."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(queue.Empty):
        while True:
            message = channel.get_msg(max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") == request and message["msg_type"] == kind:
                return message
    return None


class _Kernel(KernelManager):  # type: ignore[misc]
    """A kernel and its one client, which papermill gets too."""

    ended = False
    _connection: _Client | None = None

    def client(self, **_kwargs: Any) -> _Client:
        if self._connection is None:
            self._connection = super().client()
        return self._connection

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.stop_channels()


class KernelPool:
    """Up to ``size`` kernels wait; :meth:`take` never waits for a refill longer than a start takes. Thread-safe."""

    def __init__(self, config: SandboxConfig, size: int, workplace: Workplace) -> None:
        self._config = config
        self._size = size
        self._workplace = workplace
        self._ready: queue.SimpleQueue[_Kernel] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started: set[_Kernel] = set()
        self._coming = 0
        self._closed = False
        self._swept = False
        self._nursery = Nursery(workplace, config.method)
        # One a core: more would only take turns. The same threads for good: jupyter_client leaves an event loop behind
        # in every one that starts a kernel.
        self._refills = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="judge-refill")
        # Each of them loads torch, at the priority of the checks that run.
        self._cold = threading.Semaphore(_COLD_AT_ONCE)

    def warm(self) -> None:
        """Start what is missing, in the background and as many at a time as there are cores."""
        with self._lock:
            if not self._swept and not self._closed:
                self._swept = True
                self._refills.submit(self._sweep, lambda holder: not is_alive(holder.partition("/")[0]))
            missing = self._size - self._ready.qsize() - self._coming
            if self._closed or missing <= 0:
                return
            self._coming += missing
            for _ in range(missing):
                self._refills.submit(self._refill)

    def take(self) -> _Kernel:
        """A kernel nobody used, warm if one waits, else started now. KernelUnavailable if that fails twice."""
        while (kernel := self._next_ready()) is not None:
            if kernel.is_alive():
                return kernel
            self.discard(kernel)
        try:
            return self._start()
        except Exception:
            return self._start()

    def _next_ready(self) -> _Kernel | None:
        """A waiting kernel, or the next on its way, which comes sooner than one begun now; None if none is."""
        while True:
            with self._lock:
                coming = self._coming
            try:
                return self._ready.get(timeout=0.1) if coming else self._ready.get_nowait()
            except queue.Empty:
                if not coming:
                    return None

    def retire(self, kernel: _Kernel) -> None:
        """End a kernel that did its check, and start another; the caller waits for neither."""
        _kill(kernel)
        with self._lock:
            closed = self._closed
            if not closed:
                self._refills.submit(self.discard, kernel)
        if closed:
            self.discard(kernel)
        self.warm()

    def discard(self, kernel: _Kernel) -> None:
        """End a kernel and its sandbox; nothing of it is of use any more."""
        with self._lock:
            self._started.discard(kernel)
            if kernel.ended:
                return
            kernel.ended = True
        try:
            _kill(kernel)
            kernel.disconnect()
            kernel.shutdown_kernel(now=True)
        finally:
            shutil.rmtree(Path(kernel.connection_file).parent, ignore_errors=True)
            self._sweep(lambda holder: holder == self._holder(kernel))

    def close(self) -> None:
        """End every kernel, waiting or in use."""
        with self._lock:
            self._closed = True
            started = list(self._started)
        for kernel in started:
            with contextlib.suppress(Exception):
                self.discard(kernel)
        self._nursery.close()
        self._refills.shutdown(wait=True)

    def _sweep(self, unwanted: Callable[[str], bool]) -> None:
        """Remove the containers that killed kernels could not remove themselves, whatever runs in them."""
        if self._config.method == "docker":
            from checker.sandbox import docker

            try:
                docker.sweep(self._config.installation, unwanted)
            except OSError as error:
                log.warning("Containers of earlier checks could not be looked for: %s", error)

    def _refill(self) -> None:
        self._nursery.ensure()
        kernel = None
        # take() starts one itself and reports what is wrong; a refill that fails only costs time.
        turn = contextlib.nullcontext() if self._nursery.judges else self._cold
        with contextlib.suppress(Exception), turn:
            kernel = None if self._closed else self._start()
        with self._lock:
            closed = self._closed
            if kernel is not None and not closed:
                # Before it stops counting as coming: whoever waits must see one or the other.
                self._ready.put(kernel)
            self._coming -= 1
        if kernel is not None and closed:
            self.discard(kernel)

    def _holder(self, kernel: _Kernel) -> str:
        """What is written on the kernel's container: the judge's name and the kernel's."""
        return f"{self._workplace.name}/{Path(kernel.connection_file).parent.name}"

    def _start(self) -> _Kernel:
        # Unix sockets in a private folder: no port that learner code on this machine could even connect to.
        folder = str(self._workplace.folder("kernel-"))
        kernel = _Kernel(
            kernel_name="judge",
            client_factory=_Client,
            kernel_spec_manager=_JudgeSpecs(server=self._nursery.judges),
            transport="ipc",
            ip=f"{folder}/socket",
            connection_file=f"{folder}/connection.json",
        )
        try:
            config = replace(self._config, nursery=self._nursery.sandboxes, holder=self._holder(kernel))
            kernel.start_kernel(env=_environment(config), cwd="/")
            with self._lock:
                self._started.add(kernel)
            client = kernel.client()
            client.start_channels()
            client.wait_for_ready(timeout=_START_SECONDS)
        except Exception as error:
            with contextlib.suppress(Exception):
                self.discard(kernel)
            raise KernelUnavailable(f"The judge's kernel does not start: {error}") from error
        return kernel


def _kill(kernel: _Kernel) -> None:
    """The kernel leads a process group; its sandbox, a session of its own, dies with its parent."""
    process = getattr(kernel.provisioner, "process", None)
    # Only while it lives: a forked one is buried by its parent, and its number may be another's then.
    if process is not None and process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _environment(config: SandboxConfig) -> dict[str, str]:
    """What the kernel needs and no more: none of the server's tokens."""
    # The names with an underscore are the server's marks, by which it finds what it has to end.
    names = ["PATH", "LANG", "HOME", "TMPDIR", "_GRADLAB_INSTANCE", "_GRADLAB_PART"]
    if config.method == "docker":
        names += ["DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"]
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {ENVIRONMENT: json.dumps(asdict(config))}
