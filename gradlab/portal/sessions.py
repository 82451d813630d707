"""The secrets a browser keeps for the portal, all sealed with the installation's cookie key.

The session cookie holds the visitor's Hub token, the login cookie what a running login needs to finish. Both are
encrypted and carry their age; neither is ever stored on the server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from cryptography.fernet import Fernet, InvalidToken

__all__ = ["LOGIN_SECONDS", "SESSION_SECONDS", "PendingLogin", "Sessions"]

SESSION_SECONDS = 12 * 3600  # a long class day; after it, one redirect through the Hub renews the session
LOGIN_SECONDS = 600


@dataclass(frozen=True)
class PendingLogin:
    """A login on its way: the OAuth state, the PKCE verifier, and the page to open afterwards."""

    state: str
    verifier: str
    target: str


class Sessions:
    """Seals and opens the portal's cookies, and derives the XSRF token of a session."""

    def __init__(self, cookie_key: str, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions = Fernet(base64.urlsafe_b64encode(_derive(cookie_key, "session cookie")))
        self._logins = Fernet(base64.urlsafe_b64encode(_derive(cookie_key, "login cookie")))
        self._xsrf_key = _derive(cookie_key, "xsrf token")

    def seal(self, token: str) -> str:
        """The session cookie's value for a Hub token."""
        return self._sessions.encrypt_at_time(token.encode(), int(self._clock())).decode()

    def open(self, cookie: str) -> str | None:
        """The Hub token in a session cookie; None if the cookie is forged, damaged or too old."""
        opened = self._decrypt(self._sessions, cookie, SESSION_SECONDS)
        return None if opened is None else opened.decode()

    def seal_login(self, login: PendingLogin) -> str:
        return self._logins.encrypt_at_time(json.dumps(asdict(login)).encode(), int(self._clock())).decode()

    def open_login(self, cookie: str) -> PendingLogin | None:
        """The login a cookie belongs to; None if the cookie is forged, damaged or older than ten minutes."""
        opened = self._decrypt(self._logins, cookie, LOGIN_SECONDS)
        return None if opened is None else PendingLogin(**json.loads(opened))

    def xsrf(self, token: str) -> str:
        """What the pages of this session send back to prove that a request is theirs."""
        return hmac.new(self._xsrf_key, token.encode(), hashlib.sha256).hexdigest()

    def xsrf_matches(self, token: str, given: str) -> bool:
        return hmac.compare_digest(self.xsrf(token).encode(), given.encode("utf-8", "replace"))

    def _decrypt(self, fernet: Fernet, cookie: str, seconds: int) -> bytes | None:
        try:
            return fernet.decrypt_at_time(cookie.encode("utf-8", "replace"), seconds, int(self._clock()))
        except InvalidToken:
            return None


def _derive(cookie_key: str, purpose: str) -> bytes:
    """One key for each purpose, so that a value sealed for one is worthless for another."""
    return hmac.new(cookie_key.encode(), f"gradlab portal: {purpose}".encode(), hashlib.sha256).digest()
