"""What every sandbox is: a confined agent at the other end of three byte streams, used once, killed whole.

A subclass only moves bytes. Frames, deadlines and what an end means are here, so that all sandboxes behave the same.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from abc import ABC, abstractmethod
from typing import Any

from labkit.wire import MAX_HEADER, MAX_PAYLOAD, PREFIX, WireError, pack, prefix_lengths, unpack

__all__ = ["CHUNK", "OutputFlood", "Sandbox", "SandboxBroken", "SandboxGarbled", "SandboxTimeout"]

# What a subclass reads at most at one time.
CHUNK = 1 << 16
_MAX_INBOX = PREFIX.size + MAX_HEADER + MAX_PAYLOAD


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
        self.sound = True  # until it has been killed for what came from it

    # -- what a subclass provides ----------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Start the agent without waiting for it. OSError if that is impossible."""

    @abstractmethod
    def kill(self) -> None:
        """End everything in the sandbox, however it resists. May be called twice."""

    @abstractmethod
    def close(self) -> None:
        """Kill, and give every descriptor back. Nobody waits for what the machine still has to clear away."""

    @abstractmethod
    def _descriptors(self) -> tuple[tuple[int, ...], int]:
        """Where the agent is heard, and where it is written to; all non-blocking, and one may be both."""

    @abstractmethod
    def _read(self, descriptor: int) -> tuple[bytes, bytes]:
        """What has come there, of the agent's replies and of what learner code printed; nothing if nothing has.

        EOFError when no more replies will come.
        """

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
        with contextlib.suppress(BrokenPipeError):  # what came before is read first, then it is said
            left = left[self._write(left) :]
        while left:
            left = left[self._pump(deadline, writing=left) :]

    def receive(self, deadline: float) -> Any:
        """The next frame's value."""
        try:
            header, payload = prefix_lengths(self._take(PREFIX.size, deadline))
            body = self._take(header + payload, deadline)
            return unpack(body[:header], body[header:])
        except WireError as error:
            self._give_up()
            raise SandboxGarbled(f"the agent sent no valid frame: {error}") from None

    def take_output(self) -> str:
        """What learner code printed since the last call, as text (undecodable bytes replaced), and of a flood as much
        as is allowed. That may have come only now: then the sandbox is ``sound`` no more.
        """
        for descriptor in self._descriptors()[0]:
            with contextlib.suppress(EOFError, OutputFlood, SandboxBroken):
                while self._collect(descriptor):
                    pass
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
        readable, writable = self._descriptors()
        events = dict.fromkeys(readable, selectors.EVENT_READ)
        if writing is not None:
            events[writable] = events.get(writable, 0) | selectors.EVENT_WRITE
        with selectors.PollSelector() as selector:  # epoll would cost a system call for each stream
            for descriptor, mask in events.items():
                selector.register(descriptor, mask)
            # Asked before the streams are: an answer that drips would otherwise never be late.
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
        if not ready:
            self._give_up()
            raise SandboxTimeout
        written = 0
        try:
            for key, mask in ready:
                if mask & selectors.EVENT_READ:
                    self._collect(key.fd)
                if mask & selectors.EVENT_WRITE and writing is not None:
                    written = self._write(writing)
        except (EOFError, BrokenPipeError):
            self._give_up()
            raise SandboxBroken("the agent has ended") from None
        return written

    def _collect(self, descriptor: int) -> bool:
        """Take in what has come there; False if nothing has. Neither inbox nor output grows past its bound."""
        replies, printed = self._read(descriptor)
        self._inbox += replies
        self._output += printed
        if len(self._inbox) > _MAX_INBOX:
            self._inbox.clear()
            self._give_up()
            raise SandboxGarbled("the agent answers more than it was asked")
        if len(self._output) > self._output_limit:
            del self._output[self._output_limit :]
            self._give_up()
            raise OutputFlood
        return bool(replies or printed)

    def _give_up(self) -> None:
        self.sound = False
        self.kill()
