"""Logins without a server: authenticators on a hub's database in memory, and handlers that only have what they ask."""

from __future__ import annotations

import types
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from jupyterhub import orm
from oauthenticator.oauth2 import _serialize_state
from traitlets.config import Config

from gradlab.credentials import Credentials
from gradlab.hub.login import set_login
from gradlab.settings import Settings

__all__ = ["CREDENTIALS", "Handler", "configured", "database", "through"]

CREDENTIALS = Credentials("class-code", "instructors-code", "portal", "proxy", "cookie")


def configured(**settings: Any) -> Config:
    """JupyterHub's configuration with these settings."""
    config = Config()
    set_login(config, Settings(**settings), CREDENTIALS)
    return config


def database() -> Any:
    """The hub's own session factory, in memory."""
    return orm.new_session_factory("sqlite:///:memory:")()


class Handler:
    """A request at the hub."""

    def __init__(self, db: Any, *, sent: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> None:
        self.db = db
        self.app = types.SimpleNamespace(trusted_downstream_ips=["10.0.0.1"])
        self.request = types.SimpleNamespace(headers=headers or {}, protocol="http", host="lab")
        self.hub = types.SimpleNamespace(server=types.SimpleNamespace(base_url="/hub/"), base_url="/hub/")
        self.cookies: dict[str, str] = {}
        self.sent = sent or {}

    def get_argument(self, name: str, default: str = "") -> str:
        return self.sent.get(name, default)

    def get_state_cookie(self) -> str:
        return str(_serialize_state({"code_verifier": "verifier"}))

    def get_secure_cookie(self, name: str, max_age_days: int = 0) -> bytes | None:
        return self.cookies[name].encode() if name in self.cookies else None

    def _set_cookie(self, name: str, value: str, **_: Any) -> None:
        self.cookies[name] = value

    def find_user(self, name: str) -> Any:
        found = orm.User.find(self.db, name)
        return found and types.SimpleNamespace(orm_user=found, groups=found.groups)


def through(authorize_url: str, db: Any) -> Handler:
    """The handler of somebody who comes back from the provider, logged in there."""
    challenge = "iMnq5o6zALKXGivsnlom_0F5_WYda32GHkxlV7mq7hQ"  # of the verifier above
    asked = {"client_id": "gradlab", "redirect_uri": "http://lab/", "state": "s", "code_challenge": challenge}
    back = httpx.get(authorize_url, params=asked).headers["Location"]
    return Handler(db, sent={"code": parse_qs(urlsplit(back).query)["code"][0]})
