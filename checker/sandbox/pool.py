"""Warm sandboxes: one waits, started, its torch imported, while the judge's kernel waits for a notebook."""

from __future__ import annotations

import contextlib

from checker.sandbox.base import SandboxBroken, SandboxTimeout
from checker.sandbox.config import SandboxConfig
from checker.sandbox.process import ProcessSandbox

__all__ = ["SandboxPool", "SandboxUnavailable"]

_START_SECONDS = 60.0


class SandboxUnavailable(RuntimeError):
    """No sandbox could be started: our fault, never the learner's."""


class SandboxPool:
    """Hands out sandboxes, each once; the first one is started ahead. Not thread-safe."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self._waiting: ProcessSandbox | None = None

    def warm(self) -> None:
        """Start a sandbox and return at once; it imports torch meanwhile. If that fails, :meth:`take` says so."""
        with contextlib.suppress(OSError):
            self._waiting = self._started()

    def wait_warm(self) -> None:
        """Block until the waiting sandbox is ready or given up, so that the first check does not wait for it."""
        sandbox, self._waiting = self._waiting, None
        if sandbox is not None:
            with contextlib.suppress(SandboxUnavailable):
                self._waiting = self._ready(sandbox)

    def take(self) -> ProcessSandbox:
        """A ready sandbox nobody else has or had. SandboxUnavailable if two in a row do not start."""
        failure: Exception | None = None
        for _ in range(2):
            sandbox, self._waiting = self._waiting, None
            try:
                return self._ready(sandbox or self._started())
            except (OSError, SandboxUnavailable) as error:
                failure = error
        raise SandboxUnavailable(f"The sandbox does not start: {failure}")

    def _started(self) -> ProcessSandbox:
        sandbox = ProcessSandbox(self.config)
        sandbox.start()
        return sandbox

    @staticmethod
    def _ready(sandbox: ProcessSandbox) -> ProcessSandbox:
        if sandbox.ready:
            return sandbox
        try:
            sandbox.wait_ready(_START_SECONDS)
        except (SandboxBroken, SandboxTimeout) as error:
            printed = sandbox.take_output().strip()
            sandbox.close()
            raise SandboxUnavailable(f"{type(error).__name__}: {error}. It printed: {printed or 'nothing'}") from error
        return sandbox
