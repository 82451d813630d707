"""Docker's API with somebody listening: a Unix socket that passes requests on and keeps what containers are asked for.

On a machine without GPUs a container that asks for one cannot start. So requests for devices are kept here, for tests
to look at, and taken out before Docker sees them; nothing else is changed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Wire", "listening"]

_CHUNK = 1 << 16


class Wire:
    """``created`` holds the bodies of requests for new containers, in order, as they came."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.path = path
        self._upstream = upstream
        self.created: list[dict[str, Any]] = []

    def device_requests(self, user: str) -> list[dict[str, Any]]:
        """What was asked for the server of this learner, the last time."""
        bodies = [body for body in self.created if body["Labels"].get("gradlab.user") == user]
        found: list[dict[str, Any]] = bodies[-1]["HostConfig"].get("DeviceRequests") or []
        return found

    def serve(self, listener: socket.socket) -> None:
        """Until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as docker, contextlib.suppress(OSError):
            docker.connect(self._upstream)
            head, body = _request(client)
            if not head:
                return
            if b"/containers/create" in head.split(b"\r\n", 1)[0]:
                body = self._keep(body)
            docker.sendall(_head(head, len(body)) + body)
            # One request a connection, so that what follows needs no understanding.
            threading.Thread(target=_copy, args=(client, docker), daemon=True).start()
            _copy(docker, client)

    def _keep(self, body: bytes) -> bytes:
        asked = json.loads(body)
        self.created.append(json.loads(body))
        asked["HostConfig"]["DeviceRequests"] = None
        return json.dumps(asked).encode()


@contextlib.contextmanager
def listening(path: Path, upstream: str) -> Iterator[Wire]:
    """A wire at ``path`` to Docker's own socket ``upstream``."""
    wire = Wire(path, upstream)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(64)
        thread = threading.Thread(target=wire.serve, args=(listener,), daemon=True)
        thread.start()
        yield wire
        listener.shutdown(socket.SHUT_RDWR)


def _request(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(_CHUNK)
        if not piece:
            return b"", b""
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += client.recv(_CHUNK)
    return head, body


def _head(head: bytes, length: int) -> bytes:
    """The same head for a body of this length, asking for the connection to be closed after the answer."""
    lines = head.split(b"\r\n")
    had_body = any(line.lower().startswith(b"content-length:") for line in lines)
    kept = [line for line in lines if not line.lower().startswith((b"content-length:", b"connection:"))]
    if had_body:
        kept.append(b"Content-Length: %d" % length)
    return b"\r\n".join([*kept, b"Connection: close", b"", b""])


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
