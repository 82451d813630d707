"""Whether a service of a hosted server answers: what Docker's health checks run, inside the service's own container.

    python -m gradlab.hub.health http://127.0.0.1:8081/hub/health
    python -m gradlab.hub.health unix:/run/gradlab/judge.sock /health

The standard library alone, because it is started every few seconds. The exit status is 0 if there is an answer, and not
one that tells of a fault of the service's own.
"""

from __future__ import annotations

import http.client
import socket
import sys
from contextlib import closing
from urllib.parse import urlsplit

__all__ = ["healthy"]

_SECONDS = 3.0


def healthy(address: str, path: str = "") -> bool:
    """Ask ``address``: a URL, or ``unix:`` and a socket's path together with the ``path`` to ask for."""
    return 0 < _status(address, path) < 500


def _status(address: str, path: str) -> int:
    """The answer's status, 0 without an answer."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "localhost", url.port or 80, timeout=_SECONDS)
    with closing(connection):
        try:
            if url.scheme == "unix":
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(_SECONDS)
                connection.sock.connect(url.path)
            connection.request("GET", path or url.path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


if __name__ == "__main__":
    sys.exit(0 if healthy(*sys.argv[1:]) else 1)
