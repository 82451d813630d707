"""The agent's two byte streams: requests of :mod:`labkit.wire` in, replies out."""

from __future__ import annotations

import os
from typing import IO, Any

from labkit.wire import PREFIX, prefix_lengths, unpack

__all__ = ["Frames"]


class Frames:
    """Reads requests from one descriptor and writes replies to another; both become the object's own.

    Unbuffered: what an agent read ahead would be lost to the child that it forks.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = os.fdopen(requests, "rb", buffering=0)
        self._replies = os.fdopen(replies, "wb", buffering=0)

    def receive(self) -> Any:
        """The next request's value; None at the end of the stream. WireError if it is no frame."""
        prefix = _read(self._requests, PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        header, payload = prefix_lengths(prefix)
        return unpack(_read(self._requests, header), _read(self._requests, payload))

    def send(self, frame: bytes) -> None:
        """Write a packed frame whole."""
        view = memoryview(frame)
        while view:
            view = view[self._replies.write(view) :]


def _read(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
