"""Logins by other sites without a server: who may come in, by a real provider's answers, and a launch's small print."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.web import HTTPError

from gradlab.hub.login.lti import LTILogin, _Launch, teaches
from gradlab.hub.login.oauth import GitHubLogin, GoogleLogin, OIDCLogin
from tests.logins import configured, database, through
from tests.providers import ROLE, Provider, at_an_address

CLIENT: dict[str, Any] = {"oauth_client_id": "gradlab", "oauth_client_secret": "a secret of the provider"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with at_an_address(Provider()) as site:
        yield site


def log_in(login: Any, provider: Provider, db: Any, /, **person: Any) -> tuple[str, list[str]] | str:
    """Name and groups of this person, or why they may not log in."""
    provider.person = person
    handler = through(f"{provider.url}/authorize", db)

    async def attempt() -> Any:
        return await login.get_authenticated_user(handler, None)

    try:
        model = asyncio.run(attempt())
    except HTTPError as refused:
        return str(refused.log_message)
    assert model["admin"] is None
    return model["name"], model["groups"]


def google(provider: Provider, allow: str, instructors: str = "") -> Any:
    config = configured(login="google", login_allow=allow, instructors=instructors, **CLIENT)
    config.GoogleLogin.google_api_url = provider.url
    return GoogleLogin(config=config)


def oidc(provider: Provider, allow: str, **more: Any) -> Any:
    urls = {f"oauth_{name}_url": f"{provider.url}/{name}" for name in ("authorize", "token", "userdata")}
    return OIDCLogin(config=configured(login="oidc", login_allow=allow, **CLIENT, **urls, **more))


def test_google_lets_in_a_domain_by_its_claim_and_not_by_the_address(provider: Provider) -> None:
    login, db = google(provider, "domain:Example.org", "grace@example.org"), database()
    verified: dict[str, Any] = {"verified_email": True, "hd": "example.org"}
    assert log_in(login, provider, db, id="1", email="Ada@example.org", **verified) == ("ada", ["learners"])
    assert log_in(login, provider, db, id="2", email="grace@example.org", **verified) == ("grace", ["instructors"])
    says = "Your account 'eve@example.org' of Google may not log in here. If it should, ask whoever runs this server to"
    assert str(log_in(login, provider, db, id="3", email="eve@example.org", verified_email=True)).startswith(says)
    assert log_in(login, provider, db, id="4", email="x@example.org", verified_email=False, hd="example.org") == (
        "Google has not verified your address 'x@example.org'. Verify it there first."
    )


def test_google_lets_in_people_by_their_address(provider: Provider) -> None:
    login, db = google(provider, "users:ada@gmail.com; domain:example.org"), database()
    assert log_in(login, provider, db, id="1", email="ada@gmail.com", verified_email=True) == (
        "ada-at-gmail.com",
        ["learners"],
    )
    assert "may not log in here" in log_in(login, provider, db, id="2", email="eve@gmail.com", verified_email=True)


def test_everybody_is_everybody_with_an_account_there(provider: Provider) -> None:
    login, db = google(provider, "everybody"), database()
    assert log_in(login, provider, db, id="1", email="eve@gmail.com", verified_email=True)[1] == ["learners"]
    assert login.allow_all is False


def test_openid_needs_a_subject_and_the_claim_that_names_are_made_from(provider: Provider) -> None:
    login, db = oidc(provider, "everybody"), database()
    there = "127.0.0.1"
    assert log_in(login, provider, db, preferred_username="ada") == (
        f"{there} does not say who you are (no claim 'sub'), so it is no OpenID provider."
    )
    assert log_in(login, provider, db, sub="1") == (
        f"{there} does not say your 'preferred_username', from which your name here is made. Ask whoever runs this "
        "server to request it there, or to name another claim."
    )
    by_mail = oidc(provider, "domain:example.org", oauth_username_claim="email")
    assert log_in(by_mail, provider, db, sub="1", email="ada@example.org", email_verified="false") == (
        f"{there} has not verified your address 'ada@example.org'. Verify it there first."
    )
    assert log_in(by_mail, provider, db, sub="1", email="ada@example.org", email_verified=True) == ("ada", ["learners"])


def test_a_provider_that_is_away_is_a_sentence(provider: Provider) -> None:
    login = oidc(provider, "everybody")
    login.token_url = "http://127.0.0.1:9/token"
    assert "127.0.0.1 does not answer as it should (" in log_in(login, provider, database(), sub="1")


def test_no_list_of_oauthenticators_lets_anybody_in(provider: Provider) -> None:
    config = configured(login="github", login_allow="users:ada", **CLIENT)
    config.GitHubLogin.github_url = provider.url
    config.GitHubLogin.allow_all = True
    config.GitHubLogin.allowed_users = {"eve"}
    config.GitHubLogin.allowed_organizations = {"course"}
    said = log_in(GitHubLogin(config=config), provider, database(), id=1, login="eve", email="")
    assert "Your account 'eve' of GitHub may not log in here." in said


@pytest.mark.parametrize(
    ("role", "does"),
    [
        (f"{ROLE}#Instructor", True),
        (f"{ROLE}/Instructor#TeachingAssistant", True),
        (f"{ROLE}#Instructor#TeachingAssistant", True),  # as some platforms write it
        (f"{ROLE}#Learner", False),
        (f"{ROLE}/Learner#Instructor", False),
        (f"{ROLE}#InstructorX", False),
        ("http://purl.imsglobal.org/vocab/lis/v2/institution/person#Instructor", False),
        (f"{ROLE}#Administrator", False),
    ],
)
def test_only_a_role_in_the_course_teaches(role: str, does: bool) -> None:
    assert teaches([f"{ROLE}#Learner", role]) is does


@pytest.mark.parametrize("roles", [None, f"{ROLE}#Instructor", {}, [None, 3]])
def test_roles_that_are_no_list_of_words_teach_nothing(roles: object) -> None:
    assert teaches(roles) is False


def launched(scheme: str, client_id: str) -> tuple[str, dict[str, Any]]:
    """Where a launch sends the browser, and how the cookie is set that it takes along."""
    sent: list[str] = []
    cookies: list[dict[str, Any]] = []

    class Launch(_Launch):
        authenticator = LTILogin(client_id={"b", "a"}, uri_scheme=scheme, authorize_url="https://platform.example.org")
        request = types.SimpleNamespace(headers={})

        def __init__(self) -> None:
            pass

        def redirect(self, url: str) -> None:
            sent.append(url)

        def _set_cookie(self, *_: Any, **options: Any) -> None:
            cookies.append(options)

    launch = Launch()
    launch.set_state_cookie("state")
    launch.authorize_redirect(client_id=client_id, redirect_uri="r", login_hint="l", nonce="n", state="s")
    return sent[0], cookies[0]


def test_a_launch_works_across_sites_and_without_a_client_id() -> None:
    url, cookie = launched("https", "")
    assert "client_id=a" in url
    assert (cookie["samesite"], cookie["secure"]) == ("None", True)
    url, cookie = launched("http", "b")
    assert "client_id=b" in url
    assert "samesite" not in cookie
