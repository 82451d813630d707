"""Warm sandboxes: one waits, started, its torch imported, while the judge's kernel waits for a notebook."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable

from checker.sandbox.base import Sandbox, SandboxBroken, SandboxTimeout
from checker.sandbox.config import ENVIRONMENT, SandboxConfig

__all__ = ["SandboxPool", "SandboxUnavailable", "sandbox_class", "sandboxes"]

_START_SECONDS = 60.0


def sandbox_class(method: str) -> Callable[[SandboxConfig], Sandbox]:
    """What makes a sandbox of this kind, not started. Docker's SDK is loaded only where it is used."""
    if method == "docker":
        from checker.sandbox.docker import DockerSandbox

        return DockerSandbox
    from checker.sandbox.process import ProcessSandbox

    return ProcessSandbox


class SandboxUnavailable(RuntimeError):
    """No sandbox could be started: our fault, never the learner's."""


class SandboxPool:
    """Hands out sandboxes, each once; the first one is started ahead. Not thread-safe."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._waiting: Sandbox | None = None

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

    def take(self) -> Sandbox:
        """A ready sandbox nobody else has or had. SandboxUnavailable if two in a row do not start."""
        failure: Exception | None = None
        for _ in range(2):
            sandbox, self._waiting = self._waiting, None
            try:
                return self._ready(sandbox or self._started())
            except (OSError, SandboxUnavailable) as error:
                failure = error
        raise SandboxUnavailable(f"The sandbox does not start: {failure}")

    def _started(self) -> Sandbox:
        sandbox = sandbox_class(self._config.method)(self._config)
        try:
            sandbox.start()
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    @staticmethod
    def _ready(sandbox: Sandbox) -> Sandbox:
        if sandbox.ready:
            return sandbox
        try:
            sandbox.wait_ready(_START_SECONDS)
        except (SandboxBroken, SandboxTimeout) as error:
            printed = sandbox.take_output().strip()
            sandbox.close()
            raise SandboxUnavailable(f"{type(error).__name__}: {error}. It printed: {printed or 'nothing'}") from error
        return sandbox


@functools.cache
def sandboxes() -> SandboxPool:
    """Those of this judge's kernel, as its environment says; one waits before there is a check."""
    return SandboxPool(SandboxConfig(**json.loads(os.environ[ENVIRONMENT])))
