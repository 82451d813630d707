"""What the portal asks of JupyterHub: whose token is this, where do people log in, and which token is a login worth.

JupyterHub's own ``HubOAuth`` is bound to Tornado handlers, so this is the same protocol over httpx:
``GET /hub/api/user`` with the visitor's token, and the OAuth authorisation-code flow with PKCE.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx
from fastapi import HTTPException

from gradlab.errors import ServerError

__all__ = ["INSTRUCTORS", "KEEP_SECONDS", "HubClient", "Server", "Visitor"]

INSTRUCTORS = "instructors"  # the Hub group that makes an instructor
KEEP_SECONDS = 5.0
_KEEP_MOST = 4096
_STOP_SECONDS = 20.0  # the Hub waits for ten before it answers that a server is still ending
_TOKEN = re.compile(r"[!-~]{1,255}")  # anything else cannot be a token, nor be put into a header


@dataclass(frozen=True)
class Visitor:
    """The person behind a request."""

    name: str
    role: Literal["learner", "instructor"]

    @property
    def instructor(self) -> bool:
        return self.role == "instructor"


@dataclass(frozen=True)
class Server:
    """A person's server: whether it has a GPU, and whether it is just starting or stopping."""

    gpu: bool
    pending: bool


class HubClient:
    """The Hub as this service sees it. Answers about a token are kept for five seconds, so that a page and the data its
    script reads cost the Hub one request, and a revoked token still ends within seconds."""

    def __init__(
        self,
        *,
        api_url: str,
        api_token: str,
        client_id: str,
        service: str = "portal",
        prefix: str = "/services/portal/",
        base_url: str = "/",
        public_hub: str = "",
        public: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prefix = prefix.rstrip("/") + "/"
        self.hub_prefix = public_hub or base_url.rstrip("/") + "/hub/"
        # The portal's whole address, if it has a host name of its own; the Hub compares it in logins.
        self.public = public
        self._api_url = api_url.rstrip("/")
        self._api_token = api_token
        self._client_id = client_id
        self._service = service
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, dict[str, Any] | None]] = OrderedDict()
        self._http = httpx.AsyncClient(timeout=10.0, trust_env=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> HubClient:
        """From the variables that JupyterHub names for its services; ServerError names a missing one."""
        try:
            return cls(
                api_url=environ["JUPYTERHUB_API_URL"],
                api_token=environ["JUPYTERHUB_API_TOKEN"],
                client_id=environ["JUPYTERHUB_CLIENT_ID"],
                service=environ["JUPYTERHUB_SERVICE_NAME"],
                prefix=environ["JUPYTERHUB_SERVICE_PREFIX"],
                base_url=environ.get("JUPYTERHUB_BASE_URL", "/"),
                public_hub=environ.get("JUPYTERHUB_PUBLIC_HUB_URL", ""),
                public=environ.get("JUPYTERHUB_PUBLIC_URL", ""),
            )
        except KeyError as missing:
            raise ServerError(
                f"{missing.args[0]} is not set: the portal runs as a service of JupyterHub; what starts both sets it. "
                "Start everything with `gradlab up`."
            ) from None

    async def close(self) -> None:
        await self._http.aclose()

    async def identify(self, token: str, session: str = "", *, keep: float = KEEP_SECONDS) -> Visitor:
        """The person this token belongs to. 401 where the Hub does not know it (any more), 403 where it is not meant
        for the portal, 503 where the Hub does not answer.

        ``session`` is the browser's Hub session: it is part of the key of what is kept, so a logout counts at once.
        ``keep`` is how old a good answer may be; a bad one is never older than five seconds.
        """
        model = await self._model(token, session, keep) if _TOKEN.fullmatch(token) else None
        if model is None:
            raise HTTPException(401, "The Hub does not know this login (any more). Log in again.")
        scopes = set(model.get("scopes", ()))
        wanted = f"access:services!service={self._service}"
        if model.get("kind") != "user" or not scopes & {wanted, "access:services"}:
            raise HTTPException(
                403,
                f"The token of {model.get('name')!r} is not meant for this page: it must be a person's and hold the "
                f"scope {wanted}. Log in through the portal, or ask whoever runs this server.",
            )
        role: Literal["learner", "instructor"] = "instructor" if INSTRUCTORS in model.get("groups", ()) else "learner"
        return Visitor(str(model["name"]), role)

    async def holds(self, token: str, scope: str) -> bool:
        """Whether this token, a person's or a service's, has the scope; 503 where the Hub does not answer."""
        model = await self._model(token, "", KEEP_SECONDS) if _TOKEN.fullmatch(token) else None
        return model is not None and scope in model.get("scopes", ())

    def authorize_url(self, state: str, verifier: str) -> str:
        """Where a browser goes to log in; it comes back to ``oauth_callback`` with this state."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "client_id": self._client_id,
            "redirect_uri": self._callback,
            "response_type": "code",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.hub_prefix}api/oauth2/authorize?{urlencode(query)}"

    async def token_for_code(self, code: str, verifier: str) -> str:
        """Trade the code a browser brought back for its token; 400 where the Hub refuses it."""
        reply = await self._send(
            "POST",
            "/oauth2/token",
            data={
                "client_id": self._client_id,
                "client_secret": self._api_token,
                "grant_type": "authorization_code",
                "code": code,
                "code_verifier": verifier,
                "redirect_uri": self._callback,
            },
        )
        if reply.status_code >= 400:
            raise HTTPException(400, "The Hub did not accept this login: it is used up or too old. Log in again.")
        return str(reply.json()["access_token"])

    async def server(self, name: str) -> Server | None:
        """This person's server, or None if there is none."""
        reply = await self._send("GET", f"/users/{quote(name, safe='')}", headers=self._own)
        found = reply.json().get("servers", {}).get("") if reply.status_code == 200 else None
        return found and Server(gpu=bool(found["user_options"].get("gpu")), pending=bool(found["pending"]))

    async def stop_server(self, name: str) -> None:
        """Ask for the end of this person's server; it may take some seconds more."""
        path = f"/users/{quote(name, safe='')}/server"
        await self._send("DELETE", path, headers=self._own, timeout=_STOP_SECONDS)

    def open_url(self, filename: str, lab: str = "", *, gpu: bool = False) -> str:
        """One link that starts the visitor's server if needed and lands in this notebook.

        ``lab`` is what the server is opened for, and ``gpu`` asks for one; a server that runs already stays as it is.
        """
        notebook = f"{self.hub_prefix}user-redirect/lab/tree/{quote(filename)}"
        if not lab:
            return notebook
        options = {"opt-lab": lab} | ({"opt-gpu": "yes"} if gpu else {})
        return f"{self.hub_prefix}spawn?{urlencode(options | {'next': notebook})}"

    @property
    def _own(self) -> dict[str, str]:
        return {"Authorization": f"token {self._api_token}"}

    @property
    def logout_url(self) -> str:
        return f"{self.hub_prefix}logout"

    @property
    def _callback(self) -> str:
        return f"{self.public or self.prefix}oauth_callback"

    async def _model(self, token: str, session: str, keep: float) -> dict[str, Any] | None:
        key = hashlib.sha256(f"{session}\n{token}".encode("utf-8", "replace")).hexdigest()
        now = self._clock()
        found = self._known.get(key)
        if found is not None and now - found[0] < (keep if found[1] else KEEP_SECONDS):
            return found[1]
        reply = await self._send("GET", "/user", headers={"Authorization": f"token {token}"})
        model = reply.json() if reply.status_code == 200 else None
        self._known[key] = (now, model)
        self._known.move_to_end(key)
        while len(self._known) > _KEEP_MOST:
            self._known.popitem(last=False)
        return model

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            reply = await self._http.request(method, self._api_url + path, **options)
        except httpx.HTTPError as error:
            raise _unavailable(type(error).__name__) from error
        if reply.status_code >= 500:
            raise _unavailable(f"it answered {reply.status_code}")
        return reply


def _unavailable(cause: str) -> HTTPException:
    return HTTPException(
        503, f"The Hub, which knows who you are, does not answer ({cause}). Try again in a moment; nothing is lost."
    )
