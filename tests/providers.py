"""Other sites that say who somebody is, as real HTTP servers: an OAuth provider and a learning platform."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = ["ROLE", "Platform", "Provider", "at_an_address"]

CLAIM = "https://purl.imsglobal.org/spec/lti/claim/"
ROLE = "http://purl.imsglobal.org/vocab/lis/v2/membership"


@dataclass
class _Site:
    url: str = ""

    def answer(self, method: str, path: str, query: dict[str, str], token: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or HTML, and headers."""
        raise NotImplementedError


@dataclass
class Provider(_Site):
    """GitHub, Google or OpenID Connect, by the paths it is asked for. ``person`` is who is logged in there."""

    client_id: str = "gradlab"
    client_secret: str = "a secret of the provider"
    person: dict[str, Any] = field(default_factory=dict)
    teams: dict[str, str] = field(default_factory=dict)  # path of a membership: its state
    broken: int = 0  # the status of all memberships
    _codes: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)
    _tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, method: str, path: str, query: dict[str, str], token: str) -> tuple[int, Any, dict[str, str]]:
        if path.endswith("/authorize"):
            return self._authorize(query)
        if path.endswith(("/access_token", "/token")):
            return self._exchange(query)
        person = self._tokens.get(token)
        if person is None:
            return 401, {"message": "Bad credentials"}, {}
        if "/memberships/" in path:
            state = self.teams.get(path.partition("/api/v3/")[2])
            return (self.broken or (200 if state else 404)), {"state": state}, {}
        return 200, person, {}

    def _authorize(self, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        if query["client_id"] != self.client_id:
            return 400, {"error": "unknown client"}, {}
        code = secrets.token_hex(8)
        self._codes[code] = (dict(self.person), query["code_challenge"])
        back = f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
        return 302, "", {"Location": back}

    def _exchange(self, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        person, challenge = self._codes.pop(query["code"])
        verifier = hashlib.sha256(query["code_verifier"].encode()).digest()
        proven = base64.urlsafe_b64encode(verifier).decode().rstrip("=") == challenge
        if (query["client_id"], query["client_secret"]) != (self.client_id, self.client_secret) or not proven:
            return 401, {"error": "invalid_client"}, {}
        token = secrets.token_hex(8)
        self._tokens[token] = person
        return 200, {"access_token": token, "token_type": "bearer", "scope": query.get("scope", "")}, {}


@dataclass
class Platform(_Site):
    """A learning platform (LTI 1.3): ``person`` has launched a link of a course."""

    client_id: str = "tool-1"
    person: dict[str, Any] = field(default_factory=dict)
    _key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def answer(self, method: str, path: str, query: dict[str, str], token: str) -> tuple[int, Any, dict[str, str]]:
        if path == "/jwks":
            key = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
            return 200, {"keys": [key | {"kid": "1", "use": "sig", "alg": "RS256"}]}, {}
        fields = {"state": query["state"], "id_token": self.signed(query["nonce"])}
        inputs = "".join(f'<input name="{name}" value="{html.escape(value)}">' for name, value in fields.items())
        return 200, f'<form method="post" action="{query["redirect_uri"]}">{inputs}</form>', {}

    def signed(self, nonce: str, *, key: rsa.RSAPrivateKey | None = None, **changes: Any) -> str:
        """The platform's word for who ``person`` is."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": self.client_id,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            f"{CLAIM}version": "1.3.0",
            f"{CLAIM}message_type": "LtiResourceLinkRequest",
            f"{CLAIM}deployment_id": "1",
            f"{CLAIM}target_link_uri": "https://lab.example.org",
            f"{CLAIM}resource_link": {"id": "5"},
            f"{CLAIM}roles": [f"{ROLE}#Learner"],
        }
        return jwt.encode(claims | self.person | changes, key or self._key, algorithm="RS256", headers={"kid": "1"})


@contextmanager
def at_an_address(site: Any) -> Iterator[Any]:
    """The site at an address of its own, in threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: str = "") -> None:
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(body or address.query).items()}
            token = self.headers.get("Authorization", "").partition(" ")[2]
            status, content, headers = site.answer(self.command, address.path, query, token)
            is_page = isinstance(content, str)
            data = (content if is_page else json.dumps(content)).encode()
            self.send_response(status)
            headers = {"Content-Type": "text/html" if is_page else "application/json"} | headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
