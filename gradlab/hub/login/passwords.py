"""The trial's login: two shared passwords, one for learners and one for instructors.

Whoever has the learners' password can log in under any learner's name; that is what a shared password means. What it
must not mean is that a password changes who somebody *is*, so a name keeps the group it first logged in with:

* The learners' password with an instructor's name is refused. JupyterHub would otherwise move that name to the group
  ``learners`` (``manage_groups`` replaces the groups at every login) and open the instructor's home.
* The instructors' password with a learner's name is refused as well. The learner may still be logged in somewhere, and
  groups belong to the name and not to the session: their browser would be an instructor's from then on.
"""

from __future__ import annotations

from typing import Any

from jupyterhub.auth import Authenticator
from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from tornado.web import HTTPError
from traitlets import Set

from gradlab.hub.login.names import INSTRUCTORS, LEARNERS, fault
from gradlab.hub.login.pages import bring_templates

__all__ = ["ClassroomAuthenticator"]


class ClassroomAuthenticator(SharedPasswordAuthenticator):  # type: ignore[misc]
    """SharedPasswordAuthenticator whose passwords never change the group of a name, with messages that say why."""

    reserved = Set(help="Names that need the instructors' password from the first login on.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        bring_templates(self.parent)

    def check_allow_config(self) -> None:
        """Skip the parent's "nobody will be able to login": it does not know of ``password_groups``."""
        Authenticator.check_allow_config(self)

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """The parent's answer; a malformed name and one of the other group are HTTP 403 with the reason."""
        data = {"username": data.get("username", ""), "password": data.get("password", "")}
        if not data["password"].isascii():  # compare_digest raises on such text; no password of ours is like that
            return None
        found: dict[str, Any] | None = await super().authenticate(handler, data)
        if found is None:
            return None
        name, group = found["name"], found["groups"][0]
        if wrong := fault(name):
            raise HTTPError(403, wrong)
        has = self._groups_of(handler, name) | ({INSTRUCTORS} if name in self.reserved else set())
        _refuse_other_group(name, group, has)
        return found

    def _groups_of(self, handler: Any, name: str) -> set[str]:
        user = handler.find_user(name)
        return set() if user is None else {group.name for group in user.groups}


def _refuse_other_group(name: str, group: str, has: set[str]) -> None:
    if group == LEARNERS and INSTRUCTORS in has:
        raise HTTPError(
            403,
            f"The name {name!r} belongs to an instructor and needs the instructors' password. "
            "Learners: choose another name.",
        )
    if group == INSTRUCTORS and LEARNERS in has:
        raise HTTPError(
            403,
            f"The name {name!r} belongs to a learner, and a learner's name never becomes an instructor's. "
            f"Log in under a name of your own, for example {name[:24] + '-teaches'!r}.",
        )
