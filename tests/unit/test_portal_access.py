"""Nobody reaches what is not theirs, on any route of the portal, with a token or in a browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException

from checker.results import CheckLine, Outcome, Result
from gradlab.errors import ServerError
from gradlab.portal.headers import HEADERS
from gradlab.portal.hubauth import HubClient
from gradlab.portal.sessions import LOGIN_SECONDS, SESSION_SECONDS, PendingLogin, Sessions
from tests.courses import write_course
from tests.portals import NAVIGATION, PREFIX, HubStandIn, Running, running_portal, verdict
from tests.waiting import until

# Who may use each route. A route that is missing here fails `test_every_route_has_an_audience`.
ANYONE, VISITORS, INSTRUCTORS = "anyone", "visitors", "instructors"
PAGES = {
    "": VISITORS,
    "attempts": VISITORS,
    "class": INSTRUCTORS,
    "learners/{name:path}": INSTRUCTORS,
    "gpu/{slug}": VISITORS,
    "gpus": INSTRUCTORS,
}
FORMS = {("POST", "gpu/{slug}"): VISITORS}
API = {
    ("GET", "api/me"): VISITORS,
    ("GET", "api/labs"): VISITORS,
    ("GET", "api/notices"): VISITORS,
    ("POST", "api/deliveries"): VISITORS,
    ("POST", "api/labs/{slug}/checks"): VISITORS,
    ("GET", "api/labs/{slug}/exercises/{name}/hints"): VISITORS,
    ("POST", "api/labs/{slug}/exercises/{name}/hints"): VISITORS,
    ("GET", "api/submissions/{number}"): VISITORS,
    ("GET", "api/class"): INSTRUCTORS,
    ("GET", "api/faults"): INSTRUCTORS,
    ("GET", "api/learners/{name:path}/attempts"): INSTRUCTORS,
    ("GET", "api/gpu"): INSTRUCTORS,
    ("GET", "api/gpu/view"): INSTRUCTORS,
    ("GET", "api/gpu/history"): INSTRUCTORS,
    ("GET", "api/gpu/usage"): INSTRUCTORS,
    ("GET", "api/gpu/mine"): VISITORS,
    ("GET", "metrics"): INSTRUCTORS,
    ("GET", "events"): INSTRUCTORS,
    ("GET", "events/gpu"): INSTRUCTORS,
}
OPEN = {("GET", "oauth_callback"), ("GET", "api/openapi.json"), ("GET", "static")}
ROUTES = {("GET", path): audience for path, audience in PAGES.items()} | FORMS | API
REACHED = (200, 202, 204, 303)

SECRET = "only mira and her instructor may read this"
SCRIPT = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load(), gpus="exclusive") as running:
        number, _ = running.store.accept("mira", "tensors", running.notebook(), seed=1, now=1000.0)
        result = Result("rank_of", Outcome.FAILED, 0, 2, SECRET, (CheckLine("t", Outcome.FAILED, SECRET),), SECRET)
        running.store.record(number, verdict("tensors", result), now=1001.0)
        running.store.open_hint("mira", "tensors", "rank_of", available=2, now=1002.0)
        running.store.notify("mira", SECRET, key="secret", until=1e10, now=1003.0)
        yield running


@pytest.fixture(autouse=True)
def servers(request: pytest.FixtureRequest) -> None:
    """Everybody has a server without a GPU, so that there is something to restart."""
    if "portal" in request.fixturenames:
        for name in ("mira", "noor", "grace"):
            request.getfixturevalue("portal").hub.start_server(name)


def paths(portal: Running) -> list[tuple[str, str, str]]:
    """Method, filled path and audience of every route that is not open to anyone; all filled in with mira's things."""
    number = portal.store.attempts("mira")[0].id
    filled = []
    for (method, path), audience in ROUTES.items():
        name = "rank_of" if "exercises" in path else "mira"
        path = path.replace("{name:path}", name).replace("{name}", name)
        filled.append((method, path.replace("{slug}", "tensors").replace("{number}", str(number)), audience))
    return filled


def refuses_strangers(method: str, path: str) -> bool:
    """Pages send them to log in instead."""
    return method == "POST" or path.startswith(("api/", "events", "metrics"))


def send(client: httpx.Client, portal: Running, method: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and text; of a stream that was opened, only its first line."""
    body: dict[str, Any] = {}
    if path.endswith("/checks"):
        body["content"] = portal.notebook()
    elif path.endswith("/deliveries"):
        body["json"] = [{"lab": "tensors", "version": "0" * 12, "filename": "04_tensors.ipynb"}]
    elif method == "POST" and path.startswith("gpu/"):
        body["data"] = {"xsrf": headers.get("X-XSRF-Token", "")}
    with client.stream(method, path, headers=headers, **body) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code, next(answer.iter_lines())
        return answer.status_code, answer.read().decode()


def test_every_route_has_an_audience(portal: Running) -> None:
    found = set()
    for route in portal.app.routes:
        methods = getattr(route, "methods", None) or {"GET"}
        found |= {(method, route.path.removeprefix(PREFIX)) for method in methods - {"HEAD"}}
    assert found == set(ROUTES) | OPEN


def test_anonymous_visitors_are_sent_to_log_in_on_pages_and_get_401_on_the_api(portal: Running) -> None:
    with portal.client() as nobody:
        for method, path, _ in paths(portal):
            status, text = send(nobody, portal, method, path)
            if refuses_strangers(method, path):
                assert (status, "Log in at the portal" in text) == (401, True), path
            else:
                assert (status, text) == (302, ""), path


@pytest.mark.parametrize(
    ("credential", "status", "on_pages", "says"),
    [
        ("of nobody", 401, 302, "The Hub does not know this login (any more). Log in again."),
        (
            "of a service",
            403,
            403,
            "The token of 'portal' is not meant for this page: it must be a person's and hold the scope "
            "access:services!service=portal. Log in through the portal, or ask whoever runs this server.",
        ),
        ("without the scope", 403, 403, "The token of 'noor' is not meant for this page: it must be a person's"),
        ("malformed", 401, 401, "The Authorization header must read `token …`, with a token of the Hub."),
    ],
)
def test_a_token_that_is_not_for_the_portal_opens_nothing(
    portal: Running, credential: str, status: int, on_pages: int, says: str
) -> None:
    header = {
        "of nobody": "token 00000000",
        "of a service": "token " + portal.hub.token("portal", kind="service"),
        "without the scope": "token " + portal.hub.token("noor", scopes=("access:servers!server=noor/",)),
        "malformed": "Basic bm9vcjp4",
    }[credential]
    with portal.client() as client:
        for method, path, _ in paths(portal):
            found, text = send(client, portal, method, path, Authorization=header)
            assert SECRET not in text, path
            assert found == (status if refuses_strangers(method, path) else on_pages), path
            if path.startswith(("api/", "events", "metrics")):
                assert json.loads(text)["detail"].startswith(says), path


@pytest.mark.parametrize("way", ["token", "browser"])
def test_a_learner_reaches_no_instructor_route_and_nothing_of_another_learner(portal: Running, way: str) -> None:
    with portal.client("noor") if way == "token" else portal.browser("noor") as client:
        xsrf = "" if way == "token" else xsrf_of(client)
        for method, path, audience in paths(portal):
            status, text = send(client, portal, method, path, **{"X-XSRF-Token": xsrf})
            assert SECRET not in text, path
            if audience == INSTRUCTORS:
                assert (status, "for instructors" in text) == (403, True), path
            elif "submissions" in path:
                assert (status, "You have no submission" in text) == (404, True), path
            else:
                assert status in REACHED, path
    hints = portal.store.hints("mira", "tensors")
    assert hints == {"rank_of": 1}


def test_a_learner_s_own_page_under_learners_is_refused_like_any_other(portal: Running) -> None:
    with portal.client("noor") as noor:
        own, other, nobody = (noor.get(f"learners/{name}") for name in ("noor", "mira", "nobody-at-all"))
    assert {own.status_code, other.status_code, nobody.status_code} == {403}


@pytest.mark.parametrize("way", ["token", "browser"])
def test_an_instructor_reaches_every_route(portal: Running, way: str) -> None:
    with portal.client("grace") if way == "token" else portal.browser("grace") as client:
        xsrf = "" if way == "token" else xsrf_of(client)
        for method, path, _ in paths(portal):
            status, text = send(client, portal, method, path, **{"X-XSRF-Token": xsrf})
            assert status in REACHED, (path, text)
        assert SECRET in client.get("learners/mira").text


def test_a_script_on_the_same_origin_gets_nothing_with_the_visitor_s_cookie(portal: Running) -> None:
    with portal.browser("grace") as grace:
        for method, path, _ in paths(portal):
            status, text = send(grace, portal, method, path, **SCRIPT)
            assert status == 403, path
            assert SECRET not in text, path


def test_a_frame_gets_no_page(portal: Running) -> None:
    with portal.browser("grace") as grace:
        framed = grace.get("class", headers={"Sec-Fetch-Dest": "iframe"})
    assert framed.status_code == 403
    assert "not in a frame" in framed.text
    assert framed.headers["X-Frame-Options"] == "DENY"


def test_changes_with_a_cookie_need_the_xsrf_token_of_that_session(portal: Running) -> None:
    path = "api/labs/tensors/exercises/double/hints"
    with portal.browser("noor") as noor, portal.browser("mira") as mira:
        before = portal.store.hints("noor", "tensors")
        for xsrf in ("", "0" * 64, xsrf_of(mira), "ä"):
            for headers in (SCRIPT, NAVIGATION, {}):
                given = {"X-XSRF-Token": xsrf.encode()} if xsrf else {}
                refused = noor.post(path, headers=headers | given)
                assert refused.status_code == 403
                assert "X-XSRF-Token" in refused.json()["detail"]
        assert portal.store.hints("noor", "tensors") == before
        assert noor.post(path, params={"xsrf": xsrf_of(noor)}, headers=SCRIPT).status_code == 403
        assert noor.post(path, headers=SCRIPT | {"X-XSRF-Token": xsrf_of(noor)}).status_code == 200


def test_the_event_stream_takes_the_xsrf_token_from_the_query(portal: Running) -> None:
    with portal.browser("grace") as grace:
        status, _ = send(grace, portal, "GET", f"events?xsrf={xsrf_of(grace)}", **SCRIPT)
        assert status == 200
        status, _ = send(grace, portal, "GET", "events?xsrf=0", **SCRIPT)
        assert status == 403


def test_login_returns_to_the_page_that_was_wanted(portal: Running) -> None:
    with portal.browser() as browser:
        page = portal.login(browser, "noor", "attempts?lab=tensors")
        assert page.status_code == 200
        assert str(page.url).endswith("/services/portal/attempts?lab=tensors")
        assert "Logged in as noor" in page.text


def test_the_session_cookie_is_sealed_bounded_and_out_of_reach_of_scripts(portal: Running) -> None:
    with portal.browser() as browser:
        portal.hub.logged_in = "noor"
        begun = browser.get("")
        at_hub = browser.get(portal.hub.url + begun.headers["Location"])
        back = browser.get(portal.url + at_hub.headers["Location"], headers={"X-Forwarded-Proto": "https,http"})
    cookie = next(c for c in back.headers.get_list("Set-Cookie") if c.startswith("gradlab-portal="))
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", f"path={PREFIX}", f"max-age={SESSION_SECONDS}", "secure"} <= attributes
    assert not any(token in cookie for token in portal.hub.tokens)
    assert "secure" not in begun.headers["Set-Cookie"].lower()


def test_a_login_begun_in_another_browser_is_refused(portal: Running) -> None:
    with portal.browser() as attacker, portal.browser() as victim:
        portal.hub.logged_in = "noor"
        at_hub = attacker.get(portal.hub.url + attacker.get("").headers["Location"])
        victim.get("")
        refused = victim.get(portal.url + at_hub.headers["Location"])
    assert refused.status_code == 400
    assert "begun in another browser" in refused.text
    assert "gradlab-portal" not in {cookie.name for cookie in victim.cookies.jar}


def test_a_code_works_once(portal: Running) -> None:
    with portal.browser() as browser:
        portal.hub.logged_in = "noor"
        at_hub = browser.get(portal.hub.url + browser.get("").headers["Location"])
        cookies = httpx.Cookies(browser.cookies)
        first = browser.get(portal.url + at_hub.headers["Location"])
        browser.cookies = cookies
        second = browser.get(portal.url + at_hub.headers["Location"])
    assert (first.status_code, second.status_code) == (302, 400)
    assert "did not accept this login" in second.text


def test_two_tabs_can_log_in_at_once_and_forgotten_logins_are_cleared_away(portal: Running) -> None:
    with portal.browser() as browser:
        portal.hub.logged_in = "noor"
        first = browser.get("attempts")
        for _ in range(7):
            browser.get("")
        assert len(browser.cookies) <= 6
        browser.cookies.clear()
        first = browser.get("attempts")
        browser.get("")
        at_hub = browser.get(portal.hub.url + first.headers["Location"])
        back = browser.get(portal.url + at_hub.headers["Location"])
    assert back.headers["Location"] == f"{PREFIX}attempts"


def test_what_the_hub_says_instead_of_a_code_is_shown_as_text(portal: Running) -> None:
    with portal.browser() as browser:
        page = browser.get("oauth_callback?error=access_denied&error_description=<b>no</b>")
    assert page.status_code == 403
    assert "The Hub refused the login: &lt;b&gt;no&lt;/b&gt;" in page.text


def test_a_revoked_token_leads_to_the_login_on_pages_and_to_401_on_the_api(portal: Running) -> None:
    with portal.browser("noor") as noor:
        xsrf = xsrf_of(noor)
        assert noor.get("api/me", headers=SCRIPT | {"X-XSRF-Token": xsrf}).status_code == 200
        portal.hub.tokens.clear()
        noor.cookies.set("jupyterhub-session-id", "ended")  # as a logout at the Hub does; else it takes five seconds
        page = noor.get("attempts")
        assert page.status_code == 302
        assert page.headers["Location"].startswith("/hub/api/oauth2/authorize?client_id=service-portal&")
        assert noor.get("api/me", headers=SCRIPT | {"X-XSRF-Token": xsrf}).status_code == 401


def test_forged_and_foreign_cookies_lead_to_the_login(portal: Running) -> None:
    foreign = Sessions("another key", clock=portal.clock).seal(portal.hub.token("grace"))
    with portal.browser() as browser:
        for value in ("x", foreign, portal.hub.token("grace")):
            browser.cookies.set("gradlab-portal", value, path=PREFIX)
            assert browser.get("").status_code == 302


def test_a_hub_that_does_not_answer_is_a_503_that_says_so(portal: Running) -> None:
    with portal.client("noor") as noor:
        portal.hub.answers_500 = True
        try:
            api, page = noor.get("api/me"), noor.get("")
        finally:
            portal.hub.answers_500 = False
        assert (api.status_code, page.status_code) == (503, 503)
        assert "The Hub, which knows who you are, does not answer (it answered 500)" in api.json()["detail"]
        assert "Back in a moment" in page.text
        assert noor.get("api/me").status_code == 200


def test_every_answer_carries_the_security_headers(portal: Running) -> None:
    with portal.browser("grace") as grace:
        answers = [grace.get(path) for path in ("", "class", "nowhere", "api/me", "api/nowhere", "api/openapi.json")]
        style = re.search(r'href="([^"]+portal\.css\?v=[^"]+)"', answers[0].text)
        assert style is not None
        answers.append(grace.get(portal.url + style[1]))
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS, answer.url
    assert {answer.headers["Cache-Control"] for answer in answers[:-1]} == {"no-store"}
    assert answers[-1].headers["Cache-Control"] == "public, max-age=31536000, immutable"
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_an_error_of_ours_is_hardened_too_and_says_nothing_of_the_inside(tmp_path: Path) -> None:
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as portal:
        portal.store.cells = None  # type: ignore[assignment,method-assign]
        with portal.client("noor") as noor:
            answer = noor.get("api/labs")
        with portal.client("noor") as noor:  # uvicorn closes a connection on which the app failed
            page = noor.get("")
    assert answer.status_code == page.status_code == 500
    assert answer.json()["detail"].startswith("This is our fault, not yours")
    assert "NoneType" not in answer.text + page.text
    for name, value in HEADERS.items():
        assert answer.headers[name] == page.headers[name] == value


def test_sessions_end_after_their_time() -> None:
    now = [1_000_000.0]
    sessions = Sessions("key", clock=lambda: now[0])
    session = sessions.seal("secret")
    login = PendingLogin("s", "v", "/services/portal/")
    pending = sessions.seal_login(login)
    assert (sessions.open(session), sessions.open_login(pending)) == ("secret", login)
    assert sessions.open(pending) is None
    assert sessions.open_login(session) is None
    now[0] += LOGIN_SECONDS + 1
    assert (sessions.open(session), sessions.open_login(pending)) == ("secret", None)
    now[0] += SESSION_SECONDS
    assert sessions.open(session) is None


def test_what_the_hub_said_is_kept_for_five_seconds_for_each_hub_session() -> None:
    hub = HubStandIn()
    now = [0.0]

    async def scenario() -> None:
        client = HubClient(
            api_url=f"{hub.url}/hub/api", api_token="portal-secret", client_id="service-portal", clock=lambda: now[0]
        )
        token = hub.token("grace")
        assert (await client.identify(token, "s1")).role == "instructor"
        await client.identify(token, "s1")
        assert hub.user_requests == 1
        await client.identify(token, "s2")
        assert hub.user_requests == 2
        hub.tokens[token]["groups"] = []
        now[0] = 5.1
        assert (await client.identify(token, "s1")).role == "learner"
        del hub.tokens[token]
        now[0] = 10.2
        with pytest.raises(HTTPException, match="does not know this login") as refused:
            await client.identify(token, "s1")
        assert refused.value.status_code == 401
        for nonsense in ("", "a b", "ü", "x" * 256):
            with pytest.raises(HTTPException, match="does not know this login"):
                await client.identify(nonsense)
        await client.close()

    try:
        asyncio.run(scenario())
    finally:
        hub.close()


def test_a_missing_variable_of_the_hub_is_named() -> None:
    with pytest.raises(ServerError, match="JUPYTERHUB_API_TOKEN is not set: the portal runs as a service"):
        HubClient.from_env({"JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api"})


def xsrf_of(browser: httpx.Client) -> str:
    """The XSRF token in the page this browser gets."""
    found = until(lambda: re.search(r'data-xsrf="([0-9a-f]{64})"', browser.get("").text))
    return str(found[1])
