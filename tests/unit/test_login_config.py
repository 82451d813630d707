"""What each login sets on JupyterHub's configuration, and what is refused before anything starts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from jupyterhub.auth import Authenticator
from traitlets.config import Config
from traitlets.utils.importstring import import_item

from gradlab.errors import SettingsError
from gradlab.hub.login import caution, check, set_login, who
from gradlab.settings import Settings, allowed
from tests.logins import CREDENTIALS, configured, database

CLIENT: dict[str, Any] = {"oauth_client_id": "lab", "oauth_client_secret": "s3cret"}
THERE = "https://login.example.org"
OIDC = CLIENT | {f"oauth_{name}_url": f"{THERE}/{name}" for name in ("authorize", "token", "userdata")}
LTI = {"lti_issuer": THERE, "lti_authorize_url": f"{THERE}/a", "lti_jwks_url": f"{THERE}/k", "lti_client_id": "1, 2"}
LOGINS: dict[str, dict[str, Any]] = {
    "passwords": {},
    "signup": {},
    "approval": {},
    "github": CLIENT | {"login_allow": "org:course"},
    "google": CLIENT | {"login_allow": "domain:example.org"},
    "oidc": OIDC | {"login_allow": "everybody"},
    "lti": LTI,
}


@pytest.mark.parametrize("login", LOGINS)
def test_nobody_is_an_administrator_and_only_the_trial_lets_in_whoever_comes(login: str) -> None:
    config = configured(login=login, instructors="grace", **LOGINS[login])
    name = config.JupyterHub.authenticator_class.rpartition(".")[2]
    assert "admin" not in str(config[name])
    assert config[name].manage_groups is True
    assert [section for section in config if "allow_all" in config[section]] == (
        ["ClassroomAuthenticator"] if login == "passwords" else []
    )


@pytest.mark.parametrize("login", LOGINS)
def test_the_configuration_is_one_that_the_class_knows(login: str) -> None:
    config = configured(login=login, instructors="grace", **LOGINS[login])
    cls = import_item(config.JupyterHub.authenticator_class)
    assert issubclass(cls, Authenticator)
    section = config[cls.__name__]
    assert set(section) <= set(cls.class_traits(config=True))
    made = cls(config=config, _deprecated_db_session=database())
    assert {name: getattr(made, name) for name in section} == dict(section)
    assert made.admin_users == set()
    assert made.any_allow_config or login in ("passwords",)


@pytest.mark.parametrize("login", LOGINS)
def test_a_banner_is_on_every_page_as_text_and_keeps_no_word_from_the_login_page(login: str) -> None:
    shown = configured(login=login, banner="A <trial>.", **LOGINS[login]).JupyterHub.template_vars
    usual = configured(login=login, **LOGINS[login]).JupyterHub.template_vars
    assert "announcement" not in usual
    assert shown["announcement"] == "A &lt;trial&gt;."
    if words := usual.get("announcement_login"):
        assert shown["announcement_login"] == f"A &lt;trial&gt;.<br>{words}"


@pytest.mark.parametrize("login", LOGINS)
def test_it_only_sets_so_twice_is_once(login: str) -> None:
    config = configured(login=login, **LOGINS[login])
    before = copy.deepcopy(config)
    set_login(config, Settings(login=login, **LOGINS[login]), CREDENTIALS)
    assert config == before


def test_hosting_has_no_shared_passwords_unless_they_are_asked_for() -> None:
    assert (Settings().login, Settings(spawner="docker").login) == ("passwords", "signup")
    assert Settings(spawner="docker", login="passwords").login == "passwords"


def test_callbacks_are_registered_where_people_come_from() -> None:
    config = configured(login="github", public_address="https://lab.example.org/", **LOGINS["github"])
    assert config.GitHubLogin.oauth_callback_url == "https://lab.example.org/hub/oauth_callback"
    assert "oauth_callback_url" not in configured(login="github", **LOGINS["github"]).GitHubLogin
    assert configured(login="lti", public_address="https://lab.example.org", **LTI).LTILogin.uri_scheme == "https"
    assert configured(login="lti", **LTI).LTILogin.client_id == {"1", "2"}


def test_github_is_asked_for_memberships_only_where_they_matter() -> None:
    assert configured(login="github", **LOGINS["github"]).GitHubLogin.scope == ["read:org"]
    people = CLIENT | {"login_allow": "users:ada"}
    assert "scope" not in configured(login="github", **people).GitHubLogin
    assert configured(login="github", instructor_group="c/staff", **people).GitHubLogin.scope == ["read:org"]


@pytest.mark.parametrize(
    ("login", "lacks", "says"),
    [
        (
            "github",
            "login_allow",
            "GRADLAB_LOGIN_ALLOW is empty, so with GRADLAB_LOGIN=github nobody could log in. Write who may, in the "
            "environment or in .env: users:ada,grace, org:NAME or org:NAME/TEAM, several with ; between them, or "
            "everybody (all who have an account).",
        ),
        ("google", "login_allow", "users:ada@example.org, domain:example.org, several with ;"),
        ("oidc", "login_allow", "users:ada,grace, domain:example.org, group:NAME, several with ;"),
        (
            "google",
            "oauth_client_secret",
            "GRADLAB_OAUTH_CLIENT_SECRET is empty, and GRADLAB_LOGIN=google needs it. The secret that the provider "
            'gave this server. Set it in the environment or in .env; docs/operators.md, "Who may log in", says where '
            "to find it.",
        ),
        ("oidc", "oauth_token_url", "GRADLAB_OAUTH_TOKEN_URL is empty, and GRADLAB_LOGIN=oidc needs it."),
        (
            "lti",
            "lti_issuer",
            "GRADLAB_LTI_ISSUER is empty, and GRADLAB_LOGIN=lti needs it. LTI: the platform's issuer.",
        ),
    ],
)
def test_a_login_that_lacks_something_is_refused_before_the_start(login: str, lacks: str, says: str) -> None:
    settings = Settings(login=login, **(LOGINS[login] | {lacks: ""}))
    for refused in (lambda: check(settings), lambda: set_login(Config(), settings, CREDENTIALS)):
        with pytest.raises(SettingsError) as caught:
            refused()
        assert says in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        (
            {"LOGIN": "github", "LOGIN_ALLOW": "users:ada; group:course"},
            "'group:course' does not say who may log in; write users:ada,grace, org:NAME or org:NAME/TEAM, several",
        ),
        (
            {"LOGIN": "google", "LOGIN_ALLOW": "example.org"},
            "'example.org' does not say who may log in; write users:ada@",
        ),
        ({"LOGIN": "oidc", "LOGIN_ALLOW": "group:"}, "'group' does not say who may log in; write"),
        (
            {"LOGIN": "signup", "LOGIN_ALLOW": "users:ada"},
            "GRADLAB_LOGIN_ALLOW='users:ada' is not usable: GRADLAB_LOGIN=signup does not look at it, only github, "
            "google and oidc do; leave it empty.",
        ),
        (
            {"LOGIN": "google", "INSTRUCTOR_GROUP": "staff"},
            "GRADLAB_LOGIN=google does not look at it, only github and oidc do; leave it empty.",
        ),
        (
            {"LOGIN": "oidc", "OAUTH_TOKEN_URL": "http://login.example.org/token"},
            "GRADLAB_OAUTH_TOKEN_URL='http://login.example.org/token' is not usable: it must be an address that "
            "begins with https://.",
        ),
        ({"LOGIN": "password"}, "GRADLAB_LOGIN='password' is not usable: Input should be 'passwords', 'signup'"),
    ],
)
def test_a_wrong_setting_of_a_login_says_what_to_write(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({f"GRADLAB_{name}": value for name, value in environ.items()}, env_file=None)
    assert says in str(caught.value)


def test_who_may_log_in_has_several_parts() -> None:
    assert allowed(" users: ada,grace ;org:course; ") == [("users", "ada,grace"), ("org", "course")]
    assert allowed("everybody") == [("everybody", "")]


def test_no_secret_is_shown() -> None:
    assert "s3cret" not in repr(Settings(login="github", **LOGINS["github"]))
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"GRADLAB_OAUTH_CLIENT_SECRETS": "s3cret"}, env_file=None)
    assert str(caught.value) == (
        "There is no setting GRADLAB_OAUTH_CLIENT_SECRETS. Did you mean GRADLAB_OAUTH_CLIENT_SECRET?"
    )


def test_the_start_says_how_to_log_in_and_what_that_is_worth() -> None:
    said = {login: "\n".join([*who(found, CREDENTIALS), *caution(found)]) for login, found in settings().items()}
    assert "any name, password  class-code" in said["passwords"]
    assert "can log in under any learner's name" in said["passwords"]
    assert "sign up, class code  class-code" in said["signup"]
    assert "then an instructor approves" in said["approval"]
    assert "class-code" not in said["approval"]
    assert "instructors' code  instructors-code" in said["signup"]
    assert "instructors' code  instructors-code" in said["approval"]
    assert "by github (GRADLAB_LOGIN)" in said["github"]
    assert not any("-code" in said[login] or "s3cret" in said[login] for login in ("github", "google", "oidc", "lti"))
    assert [login for login in said if "trial" in said[login]] == ["passwords"]


def settings() -> dict[str, Settings]:
    return {login: Settings(login=login, **more) for login, more in LOGINS.items()}
