"""What every sandbox is: a confined agent at the other end of three byte streams, used once, killed whole.

A subclass only moves bytes. Frames, deadlines and what an end means are here, so that all sandboxes behave the same.
"""

from __future__ import annotations

import selectors
import time
from abc import ABC, abstractmethod
from typing import Any

from labkit.wire import PREFIX, WireError, pack, prefix_lengths, unpack

__all__ = ["OutputFlood", "Sandbox", "SandboxBroken", "SandboxGarbled", "SandboxTimeout"]

_CHUNK = 1 << 16


class SandboxBroken(Exception):
    """The agent's streams ended or carry nonsense; the sandbox is dead."""


class SandboxGarbled(SandboxBroken):
    """What came is no frame: somebody else wrote where the agent answers."""


class SandboxTimeout(Exception):
    """No answer in time; the sandbox has been killed."""


class OutputFlood(Exception):
    """Learner code printed more than the limit; the sandbox has been killed."""


class Sandbox(ABC):
    """One confined agent. Not thread-safe: one program, one caller."""

    def __init__(self, *, output_limit: int) -> None:
        self._output_limit = output_limit
        self._output = bytearray()
        self._inbox = bytearray()
        self.ready = False

    # -- what a subclass provides ----------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Start the agent without waiting for it. OSError if that is impossible."""

    @abstractmethod
    def kill(self) -> None:
        """End everything in the sandbox, however it resists. May be called twice."""

    @abstractmethod
    def close(self) -> None:
        """Kill, and give every descriptor back."""

    @abstractmethod
    def _write_fd(self) -> int: ...

    @abstractmethod
    def _read_fds(self) -> tuple[int, int]:
        """Descriptors of the agent's replies and of what learner code prints, both non-blocking."""

    @abstractmethod
    def _read(self, descriptor: int, size: int) -> bytes | None:
        """Up to ``size`` bytes, ``b""`` at the end of the stream, None if there are none now."""

    @abstractmethod
    def _write(self, data: memoryview) -> int:
        """Write some of ``data`` and return how much; 0 if none now. BrokenPipeError if nobody reads."""

    # -- frames ----------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float) -> None:
        """Block until the agent says that torch is loaded. SandboxBroken or SandboxTimeout if it never does."""
        greeting = self.receive(time.monotonic() + timeout)
        if not isinstance(greeting, dict) or "ready" not in greeting:
            raise SandboxBroken(f"the agent's first word was {greeting!r}")
        self.ready = True

    def send(self, message: dict[str, Any], deadline: float) -> None:
        """Write one frame; ``deadline`` is on ``time.monotonic``'s clock."""
        left = memoryview(pack(message))
        while left:
            left = left[self._pump(deadline, writing=left) :]

    def receive(self, deadline: float) -> Any:
        """The next frame's value."""
        try:
            header, payload = prefix_lengths(self._take(PREFIX.size, deadline))
            body = self._take(header + payload, deadline)
            return unpack(body[:header], body[header:])
        except WireError as error:
            self.kill()
            raise SandboxGarbled(f"the agent sent no valid frame: {error}") from None

    def take_output(self) -> str:
        """What learner code printed since the last call, as text (undecodable bytes replaced)."""
        _, printed = self._read_fds()
        while data := self._read(printed, _CHUNK):
            self._add_output(data)
        text = self._output.decode(errors="replace")
        self._output.clear()
        return text

    def _take(self, size: int, deadline: float) -> bytes:
        while len(self._inbox) < size:
            self._pump(deadline)
        data = bytes(self._inbox[:size])
        del self._inbox[:size]
        return data

    def _pump(self, deadline: float, writing: memoryview | None = None) -> int:
        """Move bytes in whatever direction they go, at least once; returns how many of ``writing`` went out."""
        replies, printed = self._read_fds()
        with selectors.DefaultSelector() as selector:
            selector.register(replies, selectors.EVENT_READ)
            selector.register(printed, selectors.EVENT_READ)
            if writing is not None:
                selector.register(self._write_fd(), selectors.EVENT_WRITE)
            ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            self.kill()
            raise SandboxTimeout
        written = 0
        for key, _ in ready:
            if key.fd == printed:
                self._add_output(self._read(printed, _CHUNK) or b"")
            elif key.fd == replies:
                data = self._read(replies, _CHUNK)
                if data == b"":
                    self.kill()
                    raise SandboxBroken("the agent has ended")
                self._inbox += data or b""
            elif writing is not None:
                try:
                    written = self._write(writing)
                except BrokenPipeError:
                    self.kill()
                    raise SandboxBroken("the agent has ended") from None
        return written

    def _add_output(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > self._output_limit:
            del self._output[self._output_limit :]
            self.kill()
            raise OutputFlood
