"""The pages of a sign-up: the form, one's own password, and approval. They work without JavaScript."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub import orm
from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.login import LoginHandler
from tornado.httputil import url_concat
from tornado.web import HTTPError, authenticated

from gradlab.hub.login.browsers import remember
from gradlab.hub.login.forms import Refused, SignUp
from gradlab.hub.login.names import INSTRUCTORS, NAME_RULE

__all__ = ["ApprovalsHandler", "PasswordHandler", "SignUpHandler", "bring_templates"]

_TEMPLATES = str(Path(__file__).parent / "templates")


def bring_templates(app: Any) -> None:
    """Have the hub look for templates here as well, after those of the configuration and before its own.

    Not by ``template_paths`` of the configuration: whoever sets that for a page of theirs would take these away. It is
    for a login's constructor, since the hub makes its login first and then reads its paths.
    """
    if app is not None:
        last = [_TEMPLATES, str(Path(app.data_files_path) / "templates")]
        app.template_paths = [*(path for path in app.template_paths if path not in last), *last]


class SignUpHandler(LoginHandler):  # type: ignore[misc]
    """JupyterHub's login page, which shows its form again with what was wrong, for another form."""

    async def get(self) -> None:
        """The empty form."""
        if self.current_user:
            self.redirect(self.get_next_url(self.current_user))
        else:
            self.finish(await self._render())

    async def post(self) -> None:
        """Make the account and go on as who it is."""
        typed = {name: self.get_body_argument(name, "", strip=False) for name in ("password", "again", "code")}
        form = SignUp(name=self.get_body_argument("username", ""), **typed)
        groups = await self.authenticator.sign_up(self, form)
        name = self.authenticator.normalize_username(form.name)
        if not groups:
            self.finish(await self.render_template("signup_waits.html", waiting=name))
            return
        user = await self.auth_to_user({"name": name, "groups": groups})
        self.set_login_cookie(user)
        remember(self, name)
        self._jupyterhub_user = user
        self.log.info("Signed up: %s (%s)", name, groups[0])
        self.redirect(self.get_next_url(user))

    def _render(self, login_error: str | None = None, username: str | None = None, **more: Any) -> Any:
        typed = self.get_body_argument("code", "")
        own = self.authenticator
        return self.render_template(
            "signup.html",
            login_error=login_error,
            username=username,
            wrong=getattr(more.pop("exception", None), "field", ""),
            code=typed if own.is_class_code(typed) else "",  # no password is written into a page
            approval=own.approval,
            least=own.minimum_password_length,
            name_rule=NAME_RULE,
            action=url_concat(f"{self.hub.base_url}signup", {"next": self.get_argument("next", "")}),
            sign_in=url_concat(f"{self.hub.base_url}login", {"next": self.get_argument("next", "")}),
            **more,
        )


class PasswordHandler(BaseHandler):  # type: ignore[misc]
    """One's own password."""

    @authenticated
    async def get(self) -> None:
        """The empty form, or after a change that it was made."""
        self.finish(await self._render(changed=bool(self.get_argument("changed", ""))))

    @authenticated
    async def post(self) -> None:
        """Change it, and log this name out everywhere else."""
        user, own = self.current_user, self.authenticator
        old, new, again = (self.get_body_argument(name, "", strip=False) for name in ("old", "password", "again"))
        try:
            own.slow_down(user.name)
            if not await own.matches(own.account(user.name), old):
                raise Refused(403, "The old password is wrong.", "old")
            own.speed_up(user.name)
            own.check_password(new, again, user.name)
        except Refused as refused:
            self.set_status(refused.status_code)
            self.finish(await self._render(error=refused.message, wrong=refused.field))
            return
        hashed = await own.hashed(new)
        account = own.account(user.name)
        account.password = hashed
        self._log_out_elsewhere(user)
        self.db.commit()
        self.set_login_cookie(user)
        self.redirect(url_concat(f"{self.hub.base_url}change-password", {"changed": "1"}), status=303)

    def _render(self, **more: Any) -> Any:
        return self.render_template("password.html", least=self.authenticator.minimum_password_length, **more)

    def _log_out_elsewhere(self, user: Any) -> None:
        """Browsers have the cookie id; what they got from it for the portal has their session's id."""
        user.orm_user.cookie_id = orm.new_token()
        here = self.get_session_cookie()
        for token in list(user.orm_user.api_tokens):
            if token.session_id and token.session_id != here:
                self.db.delete(token)


class ApprovalsHandler(BaseHandler):  # type: ignore[misc]
    """Names that wait, for the group of instructors. It needs no administrator, and gives nobody another right."""

    @authenticated
    async def get(self) -> None:
        """The names, each with two buttons."""
        self._instructors_only()
        self.finish(await self._render())

    @authenticated
    async def post(self) -> None:
        """Approve or refuse one name."""
        self._instructors_only()
        name, decision = self.get_body_argument("name", ""), self.get_body_argument("decision", "")
        if decision not in ("approve", "refuse"):
            raise HTTPError(400, f"The decision {decision[:20]!r} is unknown. It is approve or refuse.")
        if self.authenticator.decide(name, approve=decision == "approve"):
            self.log.info("%s: %s sign-up of %s", self.current_user.name, decision, name)
            done = f"{name} may log in now." if decision == "approve" else f"{name} was refused."
        else:
            done = f"{name} does not wait any more."
        self.finish(await self._render(done))

    def _render(self, done: str = "") -> Any:
        return self.render_template("approvals.html", names=self.authenticator.waiting(), done=done)

    def _instructors_only(self) -> None:
        if INSTRUCTORS not in {group.name for group in self.current_user.groups}:
            raise HTTPError(403, "Only instructors approve sign-ups.")
