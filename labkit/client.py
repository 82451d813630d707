"""The portal, as a learner's kernel sees it: a few requests over HTTP with the standard library.

A portal that restarts is waited for: accepted submissions are kept, so asking again loses nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from labkit.errors import LabError

if TYPE_CHECKING:
    import http.client

__all__ = ["Portal"]

# The proxy answers these while the portal behind it is down.
_RESTARTING = (502, 503, 504)
_LOGIN_REMEDY = "Restart your server (File → Hub Control Panel → Stop My Server), then open the lab again."


class Portal:
    """One portal and the token this server was given for it.

    ``patience`` is how long an unreachable portal is asked again, in seconds; ``tell`` gets a sentence meanwhile.
    """

    def __init__(
        self, url: str, token: str, *, patience: float = 60.0, tell: Callable[[str], None] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._patience = patience
        self._tell = tell

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        patience: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ) -> Portal:
        """The portal of the server this kernel runs in; LabError if it runs somewhere else."""
        environ = os.environ if environ is None else environ
        missing = [name for name in ("GRADLAB_PORTAL_URL", "JUPYTERHUB_API_TOKEN") if not environ.get(name)]
        if missing:
            raise LabError(
                f"Checks and hints need a lab server, and this kernel does not run in one: {missing[0]} is not set. "
                "Open the lab from the portal's list of labs."
            )
        return cls(environ["GRADLAB_PORTAL_URL"], environ["JUPYTERHUB_API_TOKEN"], patience=patience, tell=tell)

    def submit(self, lab: str, notebook: bytes, only: str | None) -> int:
        """Hand in a notebook; returns the submission's id. From here on the portal keeps it."""
        query = f"?only={quote(only, safe='')}" if only is not None else ""
        answer = self._request("POST", f"/api/labs/{quote(lab, safe='')}/checks{query}", notebook)
        return int(answer["id"])

    def submission(self, number: int, wait: int) -> dict[str, Any]:
        """A submission's state, at once when it is judged, else after ``wait`` seconds."""
        return self._request("GET", f"/api/submissions/{number}?wait={wait}", timeout=wait + 15.0)

    def next_hint(self, lab: str, exercise: str) -> dict[str, Any]:
        """Open the next hint of an exercise."""
        path = f"/api/labs/{quote(lab, safe='')}/exercises/{quote(exercise, safe='')}/hints"
        return self._request("POST", path, b"{}")

    def delivered(self, deliveries: Sequence[Mapping[str, str]]) -> None:
        """Tell which labs now lie in the home: ``lab``, ``version`` and ``filename`` of each."""
        self._request("POST", "/api/deliveries", json.dumps(list(deliveries)).encode())

    def gpu(self) -> dict[str, Any]:
        """What is known of this learner's GPUs and their use now."""
        return self._request("GET", "/api/gpu/mine", timeout=1.0)

    def _request(self, method: str, path: str, body: bytes | None = None, timeout: float = 15.0) -> dict[str, Any]:
        deadline = time.monotonic() + self._patience
        pause = 0.25
        while True:
            try:
                status, data = self._once(method, path, body, timeout)
                trouble = f"it answered {status}" if status in _RESTARTING else ""
            except OSError as error:
                trouble = error.strerror or str(error) or type(error).__name__
            if not trouble:
                return _content(status, data, self.url)
            if time.monotonic() + pause > deadline:
                raise LabError(
                    f"The portal at {self.url} has not answered for {self._patience:.0f} s ({trouble}). "
                    "Your notebook is kept, and so is every check it had accepted. Run this cell again in a minute; "
                    "if it stays so, tell your instructor."
                )
            if self._tell is not None:
                self._tell("The portal does not answer, it may be restarting. Trying again …")
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _once(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
        from http.client import HTTPException

        connection = self._connect(timeout)
        headers = {"Authorization": f"token {self._token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, urlsplit(self.url).path + path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        except HTTPException as error:  # half an answer: the portal died while it wrote
            raise ConnectionError(f"its answer broke off: {type(error).__name__}") from error
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.netloc, timeout=timeout)


def _content(status: int, data: bytes, url: str) -> dict[str, Any]:
    """The answer's JSON object; LabError says the portal's own sentence where it refused."""
    if status == 204:  # it has nothing to say
        return {}
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if 200 <= status < 300 and isinstance(content, dict):
        return content
    detail = content.get("detail") if isinstance(content, dict) else None
    if isinstance(detail, str) and detail:
        raise LabError(detail)
    if status in (401, 403) or 300 <= status < 400:
        raise LabError(f"The portal did not accept this server's login (HTTP {status}). {_LOGIN_REMEDY}")
    raise LabError(
        f"The portal at {url} answered {status} with something that is not its own. Run this cell again; "
        "if it stays so, tell your instructor."
    )
