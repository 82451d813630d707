"""Who may log in: one of seven logins, chosen by ``GRADLAB_LOGIN``, as pure configuration of JupyterHub.

What holds for all of them:

* Nobody is an administrator: ``admin_users`` is empty, and no login returns ``admin``.
* ``allow_all`` is set by the trial's shared passwords alone, which are what is asked there. Every other login names who
  may come in: those who have an account here, or those whom ``GRADLAB_LOGIN_ALLOW`` names.
* Everybody is in one group, ``learners`` or ``instructors``, which JupyterHub gets at every login (``manage_groups``).

This module is imported by what only wants to know, so JupyterHub and the logins are named, not imported.
"""

from __future__ import annotations

import html
from typing import Any

from gradlab.credentials import Credentials
from gradlab.errors import SettingsError
from gradlab.hub.login.names import INSTRUCTORS, LEARNERS, NAME_RULE, USERNAME_PATTERN, listed
from gradlab.settings import PREFIX, Settings, allow_examples

__all__ = ["INSTRUCTORS", "LEARNERS", "NAME_RULE", "USERNAME_PATTERN", "caution", "check", "set_login", "who"]

_OAUTH = {"github": "GitHubLogin", "google": "GoogleLogin", "oidc": "OIDCLogin"}
_CLIENT = ("oauth_client_id", "oauth_client_secret")
_NEEDED = {
    "github": _CLIENT,
    "google": _CLIENT,
    "oidc": (*_CLIENT, "oauth_authorize_url", "oauth_token_url", "oauth_userdata_url"),
    "lti": ("lti_issuer", "lti_authorize_url", "lti_jwks_url", "lti_client_id"),
}


def set_login(c: Any, settings: Settings, credentials: Credentials) -> None:
    """Set everything about logins on JupyterHub's configuration object ``c``."""
    check(settings)
    c.JupyterHub.template_vars = {"gradlab_login": settings.login}
    if settings.login == "passwords":
        _set_passwords(c, settings, credentials)
    elif settings.login in ("signup", "approval"):
        _set_signup(c, settings, credentials)
    elif settings.login == "lti":
        _set_lti(c, settings)
    else:
        _set_oauth(c, settings)
    _set_banner(c, settings)


def check(settings: Settings) -> None:
    """SettingsError says what the chosen login lacks: above all, whom it lets in."""
    login = settings.login
    if login in _OAUTH and not settings.login_allow:
        raise SettingsError(
            f"GRADLAB_LOGIN_ALLOW is empty, so with GRADLAB_LOGIN={login} nobody could log in. Write who may, in the "
            f"environment or in .env: {allow_examples(login)}."
        )
    for name in _NEEDED.get(login, ()):
        if not getattr(settings, name):
            what = str(Settings.model_fields[name].description)
            raise SettingsError(
                f"{PREFIX}{name.upper()} is empty, and GRADLAB_LOGIN={login} needs it. {what} Set it in the "
                'environment or in .env; docs/operators.md, "Who may log in", says where to find it.'
            )


def who(settings: Settings, credentials: Credentials) -> list[str]:
    """What the start says about logging in."""
    if settings.login == "passwords":
        return [
            f"  Learners        any name, password  {credentials.learner_password}",
            f"  Instructors     any name, password  {credentials.instructor_password}",
        ]
    if settings.login in ("signup", "approval"):
        learners = f"class code  {credentials.learner_password}"
        return [
            f"  Learners        sign up, {learners if settings.login == 'signup' else 'then an instructor approves'}",
            f"  Instructors     sign up, instructors' code  {credentials.instructor_password}",
        ]
    return [f"  Logins          by {settings.login} (GRADLAB_LOGIN)"]


def caution(settings: Settings) -> list[str]:
    """What the start says about the worth of the login."""
    if settings.login != "passwords":
        return [""]
    return [
        "",
        "  This is a trial's login: whoever has the learners' password can log in under any learner's name.",
        "",
    ]


def _set_passwords(c: Any, settings: Settings, credentials: Credentials) -> None:
    c.JupyterHub.authenticator_class = "gradlab.hub.login.passwords.ClassroomAuthenticator"
    c.ClassroomAuthenticator.allow_all = True
    c.ClassroomAuthenticator.manage_groups = True
    c.ClassroomAuthenticator.username_pattern = USERNAME_PATTERN
    c.ClassroomAuthenticator.reserved = set(listed(settings.instructors))
    c.ClassroomAuthenticator.password_groups = {
        credentials.learner_password: [LEARNERS],
        credentials.instructor_password: [INSTRUCTORS],
    }
    c.JupyterHub.template_vars["announcement_login"] = (
        f"Choose a name and keep to it: your work is kept under it. A name is {NAME_RULE}."
    )


def _set_banner(c: Any, settings: Settings) -> None:
    """JupyterHub's pages show an announcement as HTML, and the login page's own in place of the general one."""
    if settings.banner:
        banner = html.escape(settings.banner)
        c.JupyterHub.template_vars["announcement"] = banner
        if login := c.JupyterHub.template_vars.get("announcement_login"):
            c.JupyterHub.template_vars["announcement_login"] = f"{banner}<br>{login}"


def _set_signup(c: Any, settings: Settings, credentials: Credentials) -> None:
    c.JupyterHub.authenticator_class = "gradlab.hub.login.signup.SignUpAuthenticator"
    login = c.SignUpAuthenticator
    login.manage_groups = True
    login.any_allow_config = True  # who has an account, and nobody else
    login.username_pattern = USERNAME_PATTERN
    login.minimum_password_length = 10
    login.check_common_password = True
    login.approval = settings.login == "approval"
    login.class_code = credentials.learner_password
    login.instructor_code = credentials.instructor_password
    login.reserved = set(listed(settings.instructors))


def _set_oauth(c: Any, settings: Settings) -> None:
    name = _OAUTH[settings.login]
    c.JupyterHub.authenticator_class = f"gradlab.hub.login.oauth.{name}"
    login = c[name]
    login.manage_groups = True
    login.username_pattern = USERNAME_PATTERN
    login.client_id = settings.oauth_client_id
    login.client_secret = settings.oauth_client_secret
    login.allow = settings.login_allow
    login.instructors = settings.instructors
    login.instructor_group = settings.instructor_group
    if settings.public_address:
        login.oauth_callback_url = settings.public_address.rstrip("/") + "/hub/oauth_callback"
    if settings.login == "oidc":
        login.authorize_url = settings.oauth_authorize_url
        login.token_url = settings.oauth_token_url
        login.userdata_url = settings.oauth_userdata_url
        login.username_claim = settings.oauth_username_claim
        login.scope = ["openid", "profile", "email"]
        login.login_service = "your account"
    if settings.login == "github" and ("org:" in settings.login_allow or settings.instructor_group):
        login.scope = ["read:org"]  # else GitHub tells public memberships only


def _set_lti(c: Any, settings: Settings) -> None:
    c.JupyterHub.authenticator_class = "gradlab.hub.login.lti.LTILogin"
    login = c.LTILogin
    login.manage_groups = True
    login.any_allow_config = True  # whom the platform sends
    login.username_pattern = USERNAME_PATTERN
    login.issuer = settings.lti_issuer
    login.authorize_url = settings.lti_authorize_url
    login.jwks_endpoint = settings.lti_jwks_url
    login.client_id = {word.strip() for word in settings.lti_client_id.split(",") if word.strip()}
    login.instructors = settings.instructors
    login.tool_name = "Gradlab"
    login.tool_description = "Hands-on labs, judged in seconds"
    if settings.public_address.startswith("https:"):
        login.uri_scheme = "https"
    c.LTI13LaunchValidator.time_leeway = 60  # two clocks
