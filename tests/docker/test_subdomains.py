"""A hosted server that speaks TLS, with a host name for the portal and for each learner's server, and then without."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket
from playwright.sync_api import Browser, Error, Page, expect

from tests.browser.conftest import chromium
from tests.browser.notebooks import kernel_ready, run, type_into
from tests.certificates import certified
from tests.conftest import Require
from tests.docker.test_hosting import CHECK, SOLVE
from tests.hosted import Hosted, hosted
from tests.servers import Person, fill_in
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("networks")

HUB, PORTAL, ADA, MALLORY = (f"{name}lab.localhost" for name in ("", "portal--service.", "ada.", "mallory."))
PORTAL_PATH = "/services/portal/"
JOURNEY_MS = 40_000
PASSWORD = "a password of mine"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[Hosted]:
    require("images")
    with pytest.MonkeyPatch.context() as patch, hosted(tmp_path_factory.mktemp("subdomains")) as server:
        _trust(patch, _certificate(server.folder / "tls"))
        server.set(public_address=f"https://{HUB}:{server.port}", subdomains="true", gpus="exclusive")
        server.up()
        yield server


def _certificate(folder: Path) -> Path:
    """What docs/operators.md has people put into the folder."""
    folder.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    pair = certified([HUB, f"*.{HUB}"], now - timedelta(hours=1), now + timedelta(days=30))
    for name, content in zip(("cert.pem", "key.pem"), pair, strict=True):
        (folder / name).write_bytes(content)
    return folder / "cert.pem"


def _trust(patch: pytest.MonkeyPatch, certificate: Path) -> None:
    """As on a learner's machine: the certificate is good, and the names lead here."""
    for name in ("SSL_CERT_FILE", "WEBSOCKET_CLIENT_CA_BUNDLE"):
        patch.setenv(name, str(certificate))
    look_up = socket.getaddrinfo

    def found(host: Any, *arguments: Any, **named: Any) -> Any:
        return look_up("127.0.0.1" if str(host).endswith(".localhost") else host, *arguments, **named)

    patch.setattr(socket, "getaddrinfo", found)


@pytest.fixture(scope="module")
def ada(server: Hosted) -> Person:
    return server.log_in("ada", PASSWORD)


@pytest.fixture(scope="module")
def ada_there(server: Hosted, ada: Person) -> Iterator[Person]:
    """The same, at the host name of their server, which runs."""
    with httpx.Client(base_url=at(server, ADA), timeout=60) as client:
        person = Person("ada", client, ada.token)
        person.start_server()
        yield person


@pytest.fixture
def browser(require: Require) -> Iterator[Browser]:
    require("chromium")
    with chromium(JOURNEY_MS) as browser:
        yield browser


def at(server: Hosted, host: str, path: str = "") -> str:
    """An address on one of the host names."""
    return f"https://{host}:{server.port}{path}"


def cookies_set(answer: httpx.Response) -> dict[str, set[str]]:
    """The cookies that were set on the way to this answer, with their attributes."""
    found = {}
    for step in (*answer.history, answer):
        for line in step.headers.get_list("Set-Cookie"):
            name, *attributes = (part.strip() for part in line.split(";"))
            found[name.split("=")[0]] = {attribute.lower() for attribute in attributes}
    return found


def test_http_is_not_spoken_and_the_proxy_is_healthy(server: Hosted) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{HUB}:{server.port}/hub/health")
    proxy = server.service("proxy")
    check = proxy.attrs["Config"]["Healthcheck"]["Test"][1:]
    assert proxy.exec_run(check).exit_code == 0


def test_the_portal_opens_at_its_own_host_after_the_login(server: Hosted, ada: Person) -> None:
    page = ada.client.get("/")
    assert str(page.url) == at(server, PORTAL, PORTAL_PATH)
    assert "Hello, ada." in page.text
    (session,) = [attributes for name, attributes in cookies_set(page).items() if name == "__Host-gradlab-portal"]
    assert {"secure", "httponly", "path=/", "samesite=lax"} < session
    # Where it is without host names of its own, and where links of the hub lead.
    moved = ada.client.get(f"{PORTAL_PATH}attempts?lab=tensors")
    assert [str(step.url) for step in moved.history] == [at(server, HUB, f"{PORTAL_PATH}attempts?lab=tensors")]
    assert str(moved.url) == at(server, PORTAL, f"{PORTAL_PATH}attempts?lab=tensors")
    # A program may ask at either.
    for host in (HUB, PORTAL):
        token = {"Authorization": f"token {ada.token}"}
        assert httpx.get(at(server, host, f"{PORTAL_PATH}api/me"), headers=token).json()["name"] == "ada"


def test_cookies_of_a_login_are_for_the_host_that_set_them(server: Hosted, ada: Person) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        answer = fill_in(client, "/hub/login", username="ada", password=PASSWORD)
    found = cookies_set(answer)
    assert {"secure", "httponly", "path=/"} < found["__Host-jupyterhub-hub-login"]
    assert not any(attribute.startswith("domain") for attribute in found["__Host-jupyterhub-hub-login"])
    # JupyterHub's mark of a browser, by which a logout ends everything, is for all hosts. It opens nothing.
    assert {"secure", "httponly", "path=/", f"domain={HUB}"} <= found["jupyterhub-session-id"]
    with httpx.Client(base_url=server.url, cookies={"jupyterhub-session-id": "known"}) as client:
        assert client.get("/hub/home").status_code == 302


def test_links_in_pages_lead_to_the_right_hosts(server: Hosted, ada: Person) -> None:
    page = ada.client.get(at(server, PORTAL, PORTAL_PATH)).text
    links = {link.partition("?")[0] for link in re.findall(r'href="([^"]+)"', page)}
    there = {link for link in links if "://" in link}
    assert there == {at(server, HUB, f"/hub/{page}") for page in ("spawn", "change-password", "logout")}
    assert all(link.startswith((PORTAL_PATH, "#")) for link in links - there)
    home = ada.client.get("/hub/home").text
    assert f'href="{PORTAL_PATH}"' in home
    assert 'href="/hub/change-password"' in home


def test_a_learner_works_at_a_host_name_of_their_own(server: Hosted, ada_there: Person) -> None:
    with closing(ada_there.kernel()) as kernel:
        kernel.run(SOLVE)
        assert kernel.json(CHECK)["rank_of"] == "passed"
    elsewhere = httpx.get(
        at(server, HUB, "/user/ada/api/status"), headers={"Authorization": f"token {ada_there.token}"}
    )
    assert elsewhere.status_code != 200


def test_another_learners_page_gets_nothing_of_a_server(server: Hosted, ada: Person, ada_there: Person) -> None:
    """With ada's cookies, which a browser would add: the hosts belong to one site."""
    lab = ada.client.get(at(server, ADA, "/user/ada/lab"))
    assert lab.status_code == 200
    assert {"secure", "httponly", "path=/"} < cookies_set(lab)["__Host-jupyterhub-user-ada"]
    assert re.search(r"frame-ancestors '(none|self)'", lab.headers["Content-Security-Policy"])
    mine = at(server, ADA, "/user/ada/api/contents"), at(server, PORTAL, f"{PORTAL_PATH}api/me")
    hers = {"Origin": at(server, MALLORY), "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
    for address in mine:
        answer = ada.client.get(address, headers=hers)
        assert answer.status_code in (403, 404), answer.url  # a server owns up to nothing
        assert "Access-Control-Allow-Origin" not in answer.headers
    kernel = ada_there.api("POST", "/user/ada/api/kernels", json={"name": "python3"}).json()["id"]
    address = at(server, ADA, f"/user/ada/api/kernels/{kernel}/channels").replace("https", "wss")
    cookie = "; ".join(f"{one.name}={one.value}" for one in ada.client.cookies.jar if one.domain in (ADA, f".{HUB}"))
    with closing(websocket.create_connection(address, cookie=cookie, origin=at(server, ADA))):
        pass  # her own page may
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(address, cookie=cookie, origin=at(server, MALLORY))


def test_a_person_comes_by_every_way_in_a_browser(server: Hosted, ada_there: Person, browser: Browser) -> None:
    """Chromium gives up whatever it loads when networks of its machine come or go, as they do with each container: then
    the journey begins anew. Learners' browsers are on other machines."""
    for _ in range(4):
        failures: list[str | None] = []
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, ignore_https_errors=True)
        context.set_default_timeout(JOURNEY_MS)
        page = context.new_page()
        page.on("requestfailed", lambda request, seen=failures: seen.append(request.failure))
        try:
            journey(server, page)
            return
        except (AssertionError, Error):
            if "net::ERR_NETWORK_CHANGED" not in failures:
                raise
        finally:
            context.close()
    raise AssertionError("This machine's networks never stood still.")


def journey(server: Hosted, page: Page) -> None:
    log_in(server, page)
    page.get_by_role("link", name="Open Tensors", exact=True).click()
    kernel_ready(page)
    assert page.url == at(server, ADA, "/user/ada/lab/tree/04_tensors.ipynb")
    type_into(page, "def rank_of", "def rank_of(x):\n    return x.ndim")
    expect(run(page, 'lab.check("rank_of")')).to_contain_text("passed · rank_of")
    attacked_from(server, page)
    page.goto(at(server, PORTAL, f"{PORTAL_PATH}gpu/tensors"))
    page.get_by_role("button", name="Restart with a GPU").click()
    # The hub's answer: by a form, and from host to host. This machine has none.
    expect(page.get_by_text("This server has no GPU.")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(at(server, ADA, "/user/ada/lab/tree/04_tensors.ipynb**"), timeout=30_000)
    page.goto(at(server, HUB, "/hub/home"))
    page.get_by_role("link", name="Password").click()
    page.goto(at(server, PORTAL, PORTAL_PATH))
    page.get_by_role("link", name="Log out").click()
    page.wait_for_url(at(server, HUB, "/hub/login**"))
    page.goto(at(server, PORTAL, PORTAL_PATH))
    page.wait_for_url(at(server, HUB, "/hub/login**"))


def log_in(server: Hosted, page: Page) -> None:
    page.goto(server.url)
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(at(server, PORTAL, PORTAL_PATH))
    expect(page.get_by_role("heading", name="Hello, ada.")).to_be_visible()


def attacked_from(server: Hosted, page: Page) -> None:
    """What a script on a learner's page can try on the portal, in the browser of somebody who is logged in there."""
    portal = at(server, PORTAL, PORTAL_PATH)
    read = "address => fetch(address, {credentials: 'include'}).then(answer => answer.text(), error => error.name)"
    assert page.evaluate(read, portal) == "TypeError"
    toss = """domain => {
      for (const name of ['gradlab-portal', '__Host-gradlab-portal', '__Host-jupyterhub-hub-login'])
        document.cookie = `${name}=hers; Domain=${domain}; Path=/; Secure`;
    }"""
    page.evaluate(toss, HUB)
    tossed = {one["name"] for one in page.context.cookies(portal) if one["value"] == "hers"}
    assert tossed == {"gradlab-portal"}
    with page.context.expect_page() as opened:
        page.evaluate("address => { window.theirs = window.open(address) }", portal)
    window = opened.value
    expect(window.get_by_role("heading", name="Hello, ada.")).to_be_visible()
    look = "() => { try { return String(theirs.document.title) } catch (error) { return error.name } }"
    assert page.evaluate(look) in ("SecurityError", "")
    window.close()
    sent = {one["name"] for one in page.context.cookies(at(server, MALLORY, "/user/mallory/"))}
    assert sent == {"jupyterhub-session-id", "gradlab-portal"}


def test_a_renewed_certificate_is_shown_after_a_restart_and_everybody_is_found_at_once(server: Hosted) -> None:
    before = ssl.get_server_certificate((HUB, server.port))
    _certificate(server.folder / "tls")
    server.compose("restart", "--timeout", "5", "proxy")
    began = time.monotonic()
    server.wait_ready()
    assert time.monotonic() - began < 15, "JupyterHub's own look, once a minute"
    assert ssl.get_server_certificate((HUB, server.port)) != before


def test_one_setting_takes_the_host_names_away_again(server: Hosted, ada: Person) -> None:
    """And whoever works goes on: a server that was started before is found where it is now."""
    server.set(subdomains="false")
    server.up()
    person = server.log_in("ada", PASSWORD)
    page = person.client.get("/")
    assert str(page.url) == at(server, HUB, PORTAL_PATH)
    assert {"secure", "httponly", f"path={PORTAL_PATH}"} < cookies_set(page)["gradlab-portal"]
    until(lambda: person.client.get("/user/ada/lab").status_code == 200, what="the server that was started before")
    person.stop_server()
    person.start_server()
    with closing(person.kernel()) as kernel:
        assert kernel.run("print(6 * 7)") == "42\n"
    lab = person.client.get("/user/ada/lab")
    assert str(lab.url) == at(server, HUB, "/user/ada/lab")
    assert {"secure", "httponly", "path=/user/ada/"} < cookies_set(lab)["jupyterhub-user-ada"]
