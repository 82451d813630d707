"""Logins by other sites, on a real server: who gets in, as whom, in which group, and what the others are told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gradlab.hub.login.accounts import release
from gradlab.hub.login.names import name_of
from tests.providers import ROLE, Platform, Provider, at_an_address
from tests.servers import Person, RunningServer, browser, serving, who

# All of them in one process (--dist loadgroup), or each would start servers of its own.
pytestmark = [pytest.mark.hub, pytest.mark.xdist_group("logins elsewhere")]


def refusal(answer: httpx.Response) -> str:
    """What the hub's error page says."""
    found = re.search(r'<div class="error">.*?<p>(.*?)</p>', answer.text, re.DOTALL)
    return " ".join(found[1].split()) if found else answer.text


# -- OAuth -------------------------------------------------------------------------------------------------------------


def walk(server: RunningServer, start_page: str = "/hub/oauth_login") -> tuple[httpx.Client, httpx.Response]:
    """Log in as whoever is logged in at the provider, redirects followed as a browser does."""
    client = browser(server)
    answer = client.get(start_page)
    assert answer.status_code == 302
    back = httpx.get(answer.headers["Location"])
    assert back.status_code == 302, back.text
    return client, client.get(back.headers["Location"])


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with at_an_address(Provider()) as site:
        yield site


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[RunningServer]:
    yield from serving(
        tmp_path_factory.mktemp("github"),
        f"c.GitHubOAuthenticator.github_url = {provider.url!r}",
        login="github",
        login_allow="users:Bob; org:course",
        instructors="grace",
        instructor_group="course/staff",
        oauth_client_id=provider.client_id,
        oauth_client_secret=provider.client_secret,
    )


def test_github_organizations_and_teams_make_learners_and_instructors(
    github: RunningServer, provider: Provider
) -> None:
    people = [("Ada", 1, "course"), ("Bob", 2, ""), ("Grace", 3, ""), ("alan", 4, "course/staff"), ("eve", 5, "")]
    found = {}
    for login, number, team in people:
        provider.person = {"login": login, "id": number, "email": None}
        provider.teams = {
            "course": {"user/memberships/orgs/course": "active"},
            "course/staff": {f"orgs/course/teams/staff/memberships/{login}": "active"},
            "": {"user/memberships/orgs/course": "pending"} if login == "eve" else {},
        }[team]
        client, answer = walk(github)
        found[login] = refusal(answer) if answer.status_code == 403 else who(client, login.lower())["groups"]
    assert found.pop("eve").startswith("Your account &#39;eve&#39; of GitHub may not log in here. If it should, ask")
    assert found == {"Ada": ["learners"], "Bob": ["learners"], "Grace": ["instructors"], "alan": ["instructors"]}


def test_a_name_stays_with_its_account_until_an_operator_releases_it(github: RunningServer, provider: Provider) -> None:
    provider.teams = {"user/memberships/orgs/course": "active"}
    provider.person = {"login": "mary", "id": 10, "email": None}
    assert walk(github)[1].status_code == 302
    provider.person = {"login": "mary-now-married", "id": 10, "email": None}
    assert who(walk(github)[0], "mary")["name"] == "mary"
    provider.person = {"login": "Mary", "id": 11, "email": None}  # somebody else took the old login
    answer = walk(github)[1]
    assert answer.status_code == 403
    assert refusal(answer).startswith("The name &#39;mary&#39; belongs to another account here.")
    assert "`gradlab release mary`" in refusal(answer)
    release(github.settings, "mary")
    assert who(walk(github)[0], "mary")["groups"] == ["learners"]
    provider.person = {"login": "mary-now-married", "id": 10, "email": None}
    assert who(walk(github)[0], "mary-now-married")["name"] == "mary-now-married"


def test_a_provider_that_does_not_answer_lets_nobody_in_and_says_so(github: RunningServer, provider: Provider) -> None:
    provider.person, provider.broken = {"login": "ada", "id": 1, "email": None}, 502
    answer = walk(github)[1]
    provider.broken = 0
    assert answer.status_code == 503
    assert refusal(answer) == "GitHub does not say whether you are in course (status 502). Try again later."
    provider.client_secret, right = "changed there", provider.client_secret
    answer = walk(github)[1]
    provider.client_secret = right
    assert answer.status_code == 503
    assert refusal(answer).startswith("GitHub does not answer as it should (HTTP 401: Unauthorized)")


def test_no_secret_of_the_provider_is_in_a_log(github: RunningServer, provider: Provider) -> None:
    logs = "".join(path.read_text() for path in (github.state_dir / "logs").glob("*.log"))
    assert "GET /hub/oauth_callback" in logs
    assert provider.client_secret not in logs + github.said()


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[RunningServer]:
    yield from serving(
        tmp_path_factory.mktemp("oidc"),
        login="oidc",
        login_allow="group:ML Course; domain:example.org",
        instructor_group="staff",
        oauth_client_id=provider.client_id,
        oauth_client_secret=provider.client_secret,
        oauth_authorize_url=f"{provider.url}/authorize",
        oauth_token_url=f"{provider.url}/token",
        oauth_userdata_url=f"{provider.url}/userinfo",
    )


def test_openid_groups_and_verified_domains_let_people_in(oidc: RunningServer, provider: Provider) -> None:
    people: dict[str, dict[str, Any]] = {
        "ada": {"groups": ["ML Course"]},
        "bob@example.org": {"email": "bob@example.org", "email_verified": True},
        "eve": {"email": "eve@example.org", "email_verified": False},
        "zoë": {"groups": "staff"},
        "a/b": {"groups": ["ML Course"]},
    }
    found = {}
    for number, (name, more) in enumerate(people.items()):
        provider.person = {"sub": f"subject-{number}", "preferred_username": name, **more}
        client, answer = walk(oidc)
        refused = answer.status_code == 403
        found[name] = refusal(answer) if refused else sorted(group_and_name(client))
    assert found.pop("eve").startswith("Your account &#39;eve&#39; of 127.0.0.1 may not log in here.")
    assert "which cannot be a name here: it has a slash" in found.pop("a/b")
    assert found.pop("zoë") == ["instructors", name_of("zoë")]
    assert found == {"ada": ["ada", "learners"], "bob@example.org": ["bob-at-example.org", "learners"]}


def group_and_name(client: httpx.Client) -> list[str]:
    """As the hub's page and API have it, without knowing the name."""
    client.follow_redirects = True
    found = re.search(r'user: "([^"]+)"', client.get("/hub/home").text)
    assert found is not None
    return [found[1], *who(client, found[1])["groups"]]


def test_a_home_belongs_to_whoever_has_an_address_for_a_name(oidc: RunningServer, provider: Provider) -> None:
    """A name that was made from an address is a folder and a part of URLs like any other."""
    provider.person = {"sub": "home", "preferred_username": "carol+x@example.org", "groups": ["ML Course"]}
    client = walk(oidc)[0]
    name = next(word for word in group_and_name(client) if word != "learners")
    assert re.fullmatch(r"carol-x-at-exa[a-z.]*-[0-9a-f]{16}|carol-x-example-[0-9a-f]{16}", name)
    person = Person(name, client)
    person.start_server()
    assert (oidc.state_dir / "homes" / name).is_dir()
    person.stop_server()


# -- LTI ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with at_an_address(Platform()) as site:
        yield site


@pytest.fixture(scope="module")
def lti(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Iterator[RunningServer]:
    yield from serving(
        tmp_path_factory.mktemp("lti"),
        "c.LTILogin.blocked_users = {'blocked-at-example.org'}",
        login="lti",
        instructors="head-at-example.org",
        lti_issuer=platform.url,
        lti_authorize_url=f"{platform.url}/authorize",
        lti_jwks_url=f"{platform.url}/jwks",
        lti_client_id=platform.client_id,
    )


def launch(server: RunningServer, platform: Platform, **sent: str) -> tuple[httpx.Client, httpx.Response]:
    """Click the link in the course, and let the platform's form post itself."""
    client = browser(server)
    values = {"iss": platform.url, "login_hint": "1", "target_link_uri": server.url}
    answer = client.post("/hub/lti13/oauth_login", data=values)
    assert answer.status_code == 302, answer.text
    page = httpx.get(answer.headers["Location"]).text
    fields = dict(re.findall(r'<input name="(\w+)" value="([^"]*)">', page))
    target = re.search(r'action="([^"]+)"', page)
    assert target is not None
    return client, client.post(target[1], data=fields | sent)


def test_the_role_in_the_course_makes_instructors(lti: RunningServer, platform: Platform) -> None:
    roles = {
        "ada": [f"{ROLE}#Learner"],
        "grace": [f"{ROLE}#Instructor"],
        "assists": [f"{ROLE}/Instructor#TeachingAssistant"],
        "elsewhere": ["http://purl.imsglobal.org/vocab/lis/v2/institution/person#Instructor", f"{ROLE}#Learner"],
        "head": [],
    }
    found = {}
    for number, (name, claimed) in enumerate(roles.items()):
        key = "https://purl.imsglobal.org/spec/lti/claim/roles"
        platform.person = {"sub": str(number), "email": f"{name}@example.org", key: claimed}
        client, answer = launch(lti, platform)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/"), answer.text
        model = who(client, f"{name}-at-example.org")
        assert model["admin"] is False
        found[name] = model["groups"]
    assert found == {
        "ada": ["learners"],
        "grace": ["instructors"],
        "assists": ["instructors"],
        "elsewhere": ["learners"],
        "head": ["instructors"],
    }


def test_a_name_from_a_launch_stays_when_the_address_changes(lti: RunningServer, platform: Platform) -> None:
    platform.person = {"sub": "77", "email": "before@example.org"}
    assert launch(lti, platform)[1].status_code == 302
    platform.person = {"sub": "77", "email": "after@example.org"}
    assert who(launch(lti, platform)[0], "before-at-example.org")["name"] == "before-at-example.org"
    platform.person = {"sub": "78", "email": "before@example.org"}
    assert "belongs to another account here" in refusal(launch(lti, platform)[1])


def test_a_launch_that_proves_nothing_is_refused(lti: RunningServer, platform: Platform) -> None:
    platform.person = {"sub": "1", "email": "eve@example.org"}
    other = rsa.generate_private_key(65537, 2048)
    cases = {
        platform.signed("n", key=other): (400, "This launch cannot be trusted: Signature verification failed"),
        platform.signed("n", aud="another-tool"): (401, "This launch is for another tool"),
        platform.signed("n", iss="https://evil.example.org"): (400, "This launch cannot be trusted: Invalid issuer"),
        platform.signed("n", exp=1): (400, "This launch cannot be trusted: Signature has expired"),
        platform.signed("another nonce"): (400, "OAuth nonce mismatch"),
    }
    for token, (status, says) in cases.items():
        answer = launch(lti, platform, id_token=token)[1]
        assert (answer.status_code, says in refusal(answer)) == (status, True), refusal(answer)
    assert "OAuth state mismatch" in refusal(launch(lti, platform, state="forged")[1])
    platform.person = {"sub": "6", "email": "blocked@example.org"}
    assert refusal(launch(lti, platform)[1]) == "This launch names nobody who may log in here."
    platform.person = {"email": "eve@example.org"}
    assert "does not say who you are (no claim &#39;sub&#39;)" in refusal(launch(lti, platform)[1])


def test_without_a_launch_the_login_page_says_where_to_begin(lti: RunningServer) -> None:
    page = browser(lti).get("/hub/login").text
    assert "Open this server from your course in the learning platform." in page
    assert 'type="password"' not in page
