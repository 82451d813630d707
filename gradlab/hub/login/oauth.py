"""Logins by GitHub, Google or any OpenID Connect provider: oauthenticator's classes, with one rule for who may come in.

oauthenticator lets people in by lists that differ between providers, and makes administrators by group. Here one
decision gives the group, ``learners`` or ``instructors``, and whoever gets none stays out: ``allow_all`` is not needed
even for ``everybody``. It is made anew at every login, so who leaves an organization is out when their login ends.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlsplit

from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.github import GitHubOAuthenticator
from oauthenticator.google import GoogleOAuthenticator
from oauthenticator.oauth2 import OAuthenticator
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError
from traitlets import Unicode

from gradlab.hub.login.bound import account_of, keep_for, known_name, new_name
from gradlab.hub.login.names import INSTRUCTORS, LEARNERS, name_of
from gradlab.settings import allowed

__all__ = ["GitHubLogin", "GoogleLogin", "OIDCLogin"]


class _Login(OAuthenticator):  # type: ignore[misc]
    """What the three have in common; comes before the provider's own class."""

    allow = Unicode(help="GRADLAB_LOGIN_ALLOW.").tag(config=True)
    instructors = Unicode(help="GRADLAB_INSTRUCTORS.").tag(config=True)
    instructor_group = Unicode(help="GRADLAB_INSTRUCTOR_GROUP.").tag(config=True)

    async def authenticate(self, handler: Any, data: Any = None, **more: Any) -> dict[str, Any]:
        """oauthenticator's answer with the name and the group that they have here; HTTP 403 says why there is none."""
        try:
            model: dict[str, Any] = await super().authenticate(handler, data, **more)
        except (HTTPClientError, OSError, json.JSONDecodeError) as error:
            raise HTTPError(
                503, f"{self._there} does not answer as it should ({error}). Try again in a minute."
            ) from error
        state = model["auth_state"]
        info = state[self.user_auth_state_key]
        account = account_of(f"{type(self).__name__} {urlsplit(self.userdata_url).netloc}", self._number(info))
        claim = str(info[self.username_claim])
        known = known_name(handler.db, account)
        group = self._group(known or name_of(claim, self._home), self._memberships(state), self._domain(info))
        if not group:
            raise HTTPError(
                403,
                f"Your account {claim!r} of {self._there} may not log in here. If it should, ask whoever runs this "
                "server to add it to those who may (GRADLAB_LOGIN_ALLOW).",
            )
        name = known or new_name(handler.db, claim, self._home)
        return model | {"name": name, "admin": None, "groups": [group], "user_info": keep_for(account)}

    async def check_allowed(self, username: str, auth_model: Any) -> bool:
        """Decided already: no other list of oauthenticator lets anybody in."""
        return bool(auth_model and auth_model["groups"])

    async def get_user_groups(self, auth_state: Any) -> set[str]:
        """None yet; :meth:`authenticate` gives them."""
        return set()

    def user_info_to_username(self, user_info: dict[str, Any]) -> str:
        """oauthenticator's, with a sentence if there is no such claim."""
        if not user_info.get(self.username_claim):
            raise HTTPError(
                403,
                f"{self._there} does not say your {self.username_claim!r}, from which your name here is made. Ask "
                "whoever runs this server to request it there, or to name another claim.",
            )
        return str(super().user_info_to_username(user_info))

    @property
    def _there(self) -> str:
        return "GitHub"

    @property
    def _home(self) -> str:
        """The domain that is not written out in names: the only one whose addresses come in."""
        domains = self._said("domain")
        alone = len(domains) == len(allowed(self.allow)) == 1 and self.username_claim == "email"
        return domains.pop().lower() if alone else ""

    def _said(self, kind: str) -> set[str]:
        """What GRADLAB_LOGIN_ALLOW says of one kind."""
        names = (name for word, text in allowed(self.allow) if word == kind for name in text.split(","))
        return {name.strip() for name in names}

    def _group(self, name: str, memberships: set[str], domain: str) -> str:
        """The group of somebody, or none."""
        if name in self._names(set(self.instructors.split(","))) or self.instructor_group in memberships - {""}:
            return INSTRUCTORS
        welcome = (
            name in self._names(self._said("users"))
            or (self._said("org") | self._said("group")) & memberships
            or domain in {other.lower() for other in self._said("domain")}
            or ("everybody", "") in allowed(self.allow)
        )
        return LEARNERS if welcome else ""

    def _names(self, written: set[str]) -> set[str]:
        """Operators write people as they are called there, or as the class page has them."""
        there = {name_of(one, self._home) for one in written if one.strip()}
        return there | {one.strip().lower() for one in written if one.strip()}

    def _number(self, info: dict[str, Any]) -> object:
        """The site's own number for the account."""
        return info["id"]

    def _memberships(self, state: dict[str, Any]) -> set[str]:
        return set()

    def _domain(self, info: dict[str, Any]) -> str:
        return ""


class GitHubLogin(_Login, GitHubOAuthenticator):  # type: ignore[misc]
    """GitHub: people and organizations or their teams."""

    async def update_auth_model(self, auth_model: dict[str, Any]) -> dict[str, Any]:
        """With the memberships that matter here, which GitHub is asked one by one."""
        auth_model = await super().update_auth_model(auth_model)
        wanted = (self._said("org") | {self.instructor_group}) - {""}
        found = {team for team in sorted(wanted) if await self._is_member(team, auth_model["auth_state"])}
        auth_model["auth_state"]["memberships"] = sorted(found)
        return auth_model

    async def _is_member(self, team: str, state: dict[str, Any]) -> bool:
        login = state[self.user_auth_state_key]["login"]
        organization, _, group = (quote(part, safe="") for part in team.partition("/"))
        url = f"{self.github_api}/user/memberships/orgs/{organization}"
        if group:
            url = f"{self.github_api}/orgs/{organization}/teams/{group}/memberships/{quote(login, safe='')}"
        token = state["token_response"]
        headers = self.build_userdata_request_headers(token["access_token"], token["token_type"])
        answer = await self.httpfetch(
            url, f"membership of {team}", parse_json=False, raise_error=False, headers=headers
        )
        if answer.code == 200:
            return bool(json.loads(answer.body).get("state") == "active")
        if answer.code in (403, 404):
            self.log.info("GitHub: %s is no member of %s (status %d)", login, team, answer.code)
            return False
        raise HTTPError(503, f"GitHub does not say whether you are in {team} (status {answer.code}). Try again later.")

    def _memberships(self, state: dict[str, Any]) -> set[str]:
        return set(state["memberships"])


class GoogleLogin(_Login, GoogleOAuthenticator):  # type: ignore[misc]
    """Google: people and Workspace domains. Only the claim ``hd`` proves a domain; anybody may have such an address."""

    @property
    def _there(self) -> str:
        return "Google"

    def _number(self, info: dict[str, Any]) -> object:
        if not info.get("verified_email"):
            raise HTTPError(403, f"Google has not verified your address {info['email']!r}. Verify it there first.")
        return info["id"]

    def _domain(self, info: dict[str, Any]) -> str:
        return str(info.get("hd", "")).lower()


class OIDCLogin(_Login, GenericOAuthenticator):  # type: ignore[misc]
    """Any OpenID Connect provider: people, values of the claim ``groups``, domains of verified addresses.

    Its three addresses are settings, not looked up at start: a server that starts while the provider is away works when
    it is back, and no answer of another machine decides where secrets are sent.
    """

    @property
    def _there(self) -> str:
        return str(urlsplit(self.authorize_url).hostname)

    def _number(self, info: dict[str, Any]) -> object:
        if not info.get("sub"):
            raise HTTPError(
                403, f"{self._there} does not say who you are (no claim 'sub'), so it is no OpenID provider."
            )
        if self.username_claim == "email" and info.get("email_verified") is not True:
            raise HTTPError(
                403, f"{self._there} has not verified your address {info['email']!r}. Verify it there first."
            )
        return info["sub"]

    def _memberships(self, state: dict[str, Any]) -> set[str]:
        groups = state[self.user_auth_state_key].get("groups") or []
        return {groups} if isinstance(groups, str) else {str(group) for group in groups}

    def _domain(self, info: dict[str, Any]) -> str:
        address = str(info.get("email", "")) if info.get("email_verified") is True else ""
        return address.rpartition("@")[2].lower()
