"""The agent's two byte streams: requests of :mod:`labkit.wire` in, replies out."""

from __future__ import annotations

import os
from io import RawIOBase
from typing import Any

from labkit.wire import PREFIX, WireError, prefix_lengths, unpack

__all__ = ["Frames"]


class Frames:
    """Reads requests from one descriptor and writes replies to another; both become the object's own.

    Unbuffered: what an agent read ahead would be lost to the child that it forks.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self.requests = os.fdopen(requests, "rb", buffering=0)
        self._replies = os.fdopen(replies, "wb", buffering=0)

    def receive(self) -> Any:
        """The next request's value; None at the end of the stream. WireError if it is no frame or cut off."""
        prefix = _read(self.requests, PREFIX.size)
        if not prefix:
            return None
        if len(prefix) == PREFIX.size:
            header, payload = prefix_lengths(prefix)
            body = memoryview(_read(self.requests, header + payload))
            if len(body) == header + payload:
                return unpack(body[:header], body[header:])
        raise WireError("the stream ended in the middle of a frame")

    def send(self, frame: bytes) -> None:
        """Write a packed frame whole."""
        view = memoryview(frame)
        while view:
            view = view[self._replies.write(view) :]


def _read(stream: RawIOBase, size: int) -> bytearray:
    """``size`` bytes, or fewer at the end of the stream."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size and (part := stream.readinto(view[got:])):
        got += part
    view.release()
    del data[got:]
    return data
