"""Logins from a learning platform (LTI 1.3): ltiauthenticator's, with groups from the course's roles.

Whoever launches this server from a course is a learner, or an instructor if the course's role says so. The name is made
at the first launch, from the address or whatever ``username_key`` names, and stays with the account (``sub``).

What else is different here, so that it works in today's browsers and on a busy hub:

* The two cookies of a launch are sent along when the platform's page posts back, which needs ``SameSite=None``; no
  other cookie of the hub gets that.
* The platform's keys are fetched in a thread. It may take its time, and the hub answers the others meanwhile.
* A platform that sends no ``client_id`` with a launch, which is optional, gets the one that is configured.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ltiauthenticator.lti13.auth import LTI13Authenticator
from ltiauthenticator.lti13.error import InvalidAudienceError, ValidationError
from ltiauthenticator.lti13.handlers import LTI13CallbackHandler, LTI13LoginInitHandler
from tornado.web import HTTPError
from traitlets import Unicode

from gradlab.hub.login.bound import account_of, keep_for, known_name, new_name
from gradlab.hub.login.names import INSTRUCTORS, LEARNERS, listed, name_of

__all__ = ["LTILogin", "teaches"]

_ROLES = "https://purl.imsglobal.org/spec/lti/claim/roles"
_MEMBERSHIP = "http://purl.imsglobal.org/vocab/lis/v2/membership"


def teaches(roles: object) -> bool:
    """Whether the course's roles are an instructor's: ``#Instructor`` or one of its sub-roles, such as an assistant's.

    Roles in the institution or the system do not count: who teaches elsewhere does not teach this course.
    """
    sub_roles = (f"{_MEMBERSHIP}/Instructor#", f"{_MEMBERSHIP}#Instructor#")
    return isinstance(roles, list) and any(
        role == f"{_MEMBERSHIP}#Instructor" or str(role).startswith(sub_roles) for role in roles
    )


class _Launch(LTI13LoginInitHandler):  # type: ignore[misc]
    """The first step: the platform says who asks, and is asked to prove it."""

    def authorize_redirect(self, redirect_uri: str, login_hint: str, nonce: str, client_id: str, **more: Any) -> None:
        client_id = client_id or sorted(self.authenticator.client_id)[0]
        super().authorize_redirect(redirect_uri, login_hint, nonce, client_id, **more)

    def _set_oauth_cookie(self, key: str, value: str) -> None:
        crossing = self.authenticator.get_uri_scheme(self.request) == "https"
        cookie = {"samesite": "None", "secure": True} if crossing else {}
        self._set_cookie(key, value, encrypted=True, httponly=True, expires_days=1, **cookie)


class _Proof(LTI13CallbackHandler):  # type: ignore[misc]
    """The second step: the platform's signed word."""

    async def post(self) -> None:
        try:
            claims = await asyncio.to_thread(self.decode_and_validate_launch_request)
        except InvalidAudienceError as error:
            raise HTTPError(401, f"This launch is for another tool: {error}.") from error
        except ValidationError as error:
            raise HTTPError(
                400, f"This launch cannot be trusted: {error}. Open the course and launch again."
            ) from error
        user = await self.login_user(claims)
        if user is None:
            raise HTTPError(403, "This launch names nobody who may log in here.")
        await self.redirect_to_next_url(user)


class LTILogin(LTI13Authenticator):  # type: ignore[misc]
    """LTI 1.3 with groups, and names that stay with their accounts."""

    instructors = Unicode(help="GRADLAB_INSTRUCTORS.").tag(config=True)

    login_handler = _Launch
    callback_handler = _Proof
    custom_html = (
        '<div class="service-login"><h1>Sign in</h1><p>Open this server from your course in the learning platform. '
        "It says who you are; there is no password here.</p></div>"
    )

    async def authenticate(self, handler: Any, data: Any = None) -> dict[str, Any]:
        """The group and the name of the account that was launched."""
        if not data.get("sub"):
            raise HTTPError(
                403,
                "The learning platform does not say who you are (no claim 'sub'). Whoever set up the link to this "
                "server turns on there that it sends users' identities.",
            )
        account = account_of(f"lti {data['iss']}", data["sub"])
        known = known_name(handler.db, account)
        name = known or new_name(handler.db, str(self.get_username(data)))
        written = listed(self.instructors)  # as people are called there, or as the class page has them
        listed_here = name in written | {name_of(one) for one in written}
        group = INSTRUCTORS if teaches(data.get(_ROLES)) or listed_here else LEARNERS
        return {"name": name, "groups": [group], "user_info": keep_for(account)}

    def check_allowed(self, username: str, authentication: Any = None) -> bool:
        """Whom the platform sends may come in."""
        return bool(authentication and authentication["groups"])
