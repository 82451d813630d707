"""What the address that people type changes: host names, cookies and links, with TLS here or at a proxy in front."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from jupyterhub.utils import get_browser_protocol, subdomain_hook_idna
from tornado.httputil import HTTPHeaders
from traitlets.config import Config

from gradlab.credentials import VARIABLES, Credentials
from gradlab.doctor.access import Pem, certificate
from gradlab.errors import SettingsError
from gradlab.hub.config import configure, portal_environment
from gradlab.hub.environment import Addresses
from gradlab.hub.proxy import arguments
from gradlab.hub.routes import LastingProxy
from gradlab.settings import Settings
from tests.certificates import certified
from tests.courses import write_course
from tests.portals import NAVIGATION, PREFIX, Running, running_portal

LAB = "https://lab.example.org"
PORTAL = "https://portal--service.lab.example.org"
HOSTED = {"spawner": "docker", "installation": "gradlab-test"}
OWN = Settings(**HOSTED, public_address=LAB, subdomains=True)
ONE = Settings(**HOSTED, public_address=LAB)


def configured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, "0123456789abcdef" * 4)
    c = Config()
    configure(c, settings)
    return c


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://lab.example.org/", LAB),
        ("https://Lab.Example.org:443", LAB),
        ("https://lab.example.org:8443", "https://lab.example.org:8443"),
        ("http://lab.example.org:80", "http://lab.example.org"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_an_address_is_kept_as_browsers_write_it(written: str, meant: str) -> None:
    assert Settings(public_address=written).public_address == meant


@pytest.mark.parametrize(
    "wrong", ["lab.example.org", "ftp://a.b", "https://", "https://a.b/hub", "https://a.b?c", "https://u@a.b"]
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="it must be the whole address and nothing behind it"):
        Settings.from_env({"GRADLAB_PUBLIC_ADDRESS": wrong}, env_file=None)


def test_a_port_that_is_none_is_refused() -> None:
    for port in ("abc", "70000", "0"):
        with pytest.raises(SettingsError, match="GRADLAB_PUBLIC_ADDRESS="):
            Settings.from_env({"GRADLAB_PUBLIC_ADDRESS": f"https://a.b:{port}"}, env_file=None)


@pytest.mark.parametrize(
    "above", ["", "http://lab.example.org", "https://localhost", "https://192.0.2.7", "https://[::1]"]
)
def test_host_names_lie_below_a_name_with_https(above: str) -> None:
    given = {"GRADLAB_PUBLIC_ADDRESS": above, "GRADLAB_SUBDOMAINS": "true"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(given, env_file=None)
    assert str(caught.value) == (
        "GRADLAB_SUBDOMAINS='true' is not usable: host names lie below GRADLAB_PUBLIC_ADDRESS, so that must be "
        f"https:// and a name such as lab.example.org; it is {above or 'empty'}. "
        "Change it in the environment or in .env."
    )


def test_a_trial_has_one_host_whatever_a_hosted_server_beside_it_has() -> None:
    trial = OWN.model_copy(update={"spawner": "process"})
    assert (OWN.own_hosts, OWN.portal_address) == (True, PORTAL)
    for settings in (trial, ONE):
        assert (settings.own_hosts, settings.portal_address) == (False, "")
    plain = Settings(**HOSTED, public_address="http://lab.example.org")
    assert (ONE.secure, plain.secure, trial.secure) == (True, False, False)


def test_the_portals_host_is_the_one_that_jupyterhub_gives_it_and_nobody_elses() -> None:
    assert urlsplit(OWN.portal_address).hostname == subdomain_hook_idna("portal", "lab.example.org", "service")
    for name in ("portal--service", "Portal--Service", "portal"):
        assert subdomain_hook_idna(name.lower(), "lab.example.org", "user") != urlsplit(PORTAL).hostname


def test_the_hub_knows_hosts_and_lets_no_host_set_anothers_login(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = configured(OWN, monkeypatch)
    assert hub.JupyterHub.subdomain_host == hub.JupyterHub.public_url == LAB
    assert hub.JupyterHub.default_url == f"{PORTAL}/services/portal/"
    assert hub.JupyterHub.cookie_host_prefix_enabled is True
    assert hub.ConfigurableHTTPProxy.extra_routes == {"lab.example.org/services/portal/": "http://portal:8082"}
    assert "--host-routing" in arguments(OWN)
    one = configured(ONE, monkeypatch)
    assert one.JupyterHub.public_url == LAB
    assert one.JupyterHub.default_url == "/services/portal/"
    # On one host such a cookie would go to every learner's server, because it must have the path /.
    assert "cookie_host_prefix_enabled" not in one.JupyterHub
    assert "extra_routes" not in one.ConfigurableHTTPProxy
    assert "--host-routing" not in arguments(ONE)


def test_the_portal_is_told_where_it_and_the_hub_are() -> None:
    credentials = Credentials(*"lipx", cookie_key="c")
    for settings, hub, portal in ((OWN, f"{LAB}/hub/", f"{PORTAL}/services/portal/"), (ONE, "", "")):
        env = portal_environment(settings, credentials, Addresses.of(settings))
        assert (env["JUPYTERHUB_PUBLIC_HUB_URL"], env["JUPYTERHUB_PUBLIC_URL"]) == (hub, portal)


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    public = {"public_hub": f"{LAB}/hub/", "public": f"{PORTAL}{PREFIX}"}
    course = write_course(folder / "course").load()
    with running_portal(folder, course, public=public, spawner="docker", public_address=LAB) as running:
        yield running


def test_a_login_at_a_host_of_its_own_has_cookies_nobody_beside_it_can_set(portal: Running) -> None:
    with portal.browser() as browser:
        portal.hub.logged_in = "noor"
        begun = browser.get("")
        asked = urlsplit(begun.headers["Location"])
        assert f"{asked.scheme}://{asked.netloc}{asked.path}" == f"{LAB}/hub/api/oauth2/authorize"
        assert parse_qs(asked.query)["redirect_uri"] == [f"{PORTAL}{PREFIX}oauth_callback"]
        at_hub = browser.get(f"{portal.hub.url}{asked.path}?{asked.query}")
        callback = urlsplit(at_hub.headers["Location"])
        assert at_hub.headers["Location"].startswith(f"{PORTAL}{PREFIX}oauth_callback?")
        login = begun.headers["Set-Cookie"].partition(";")[0]
        back = browser.get(f"{portal.url}{callback.path}?{callback.query}", headers={"Cookie": login})
        ended, session = back.headers.get_list("Set-Cookie")
        for line in (begun.headers["Set-Cookie"], ended, session):
            assert line.startswith("__Host-gradlab-portal")
            assert {"secure", "httponly", "path=/"} <= {part.strip().lower() for part in line.split(";")}
            assert "domain" not in line.lower()
        assert re.match(r'__Host-gradlab-portal-login-\w+=""; .*Max-Age=0;', ended)
        value = session.partition(";")[0]
        assert "Hello, noor." in browser.get("", headers={"Cookie": value}).text
        # A page on a host beside it can set this one.
        assert browser.get("", headers={"Cookie": value.removeprefix("__Host-")}).status_code == 302


def test_forms_may_end_at_the_hub_and_at_servers(portal: Running) -> None:
    with portal.client("noor") as noor:
        policy = noor.get("").headers["Content-Security-Policy"]
    assert f"form-action 'self' {LAB} https://*.lab.example.org; " in policy


def test_browsers_are_sent_on_from_the_hubs_host_and_programs_are_answered(portal: Running) -> None:
    with portal.browser() as browser, portal.client("noor") as noor:
        at_hub = {"Host": "lab.example.org"}
        moved = browser.get("learners/a%2Fb?lab=tensors&x=%20", headers=at_hub)
        assert (moved.status_code, moved.headers["Location"]) == (
            307,
            f"{PORTAL}{PREFIX}learners/a%2Fb?lab=tensors&x=%20",
        )
        assert "Set-Cookie" not in moved.headers
        assert "Content-Security-Policy" in moved.headers
        assert noor.get("api/me", headers=at_hub).json()["name"] == "noor"
        # Services, health checks and learners' servers come by other names.
        assert noor.get("api/me", headers={"Host": "portal:8082"}).json()["name"] == "noor"


@pytest.mark.parametrize("forwarded", ["https,http", "https, http", "http", ""])
def test_cookies_are_secure_behind_a_proxy_in_front_whatever_it_forwards(tmp_path: Path, forwarded: str) -> None:
    """Ours appends ``http`` to what a proxy in front, which speaks TLS, says of the browser."""
    headers = NAVIGATION | ({"X-Forwarded-Proto": forwarded} if forwarded else {})
    course = write_course(tmp_path / "course").load()
    with (
        running_portal(tmp_path, course, spawner="docker", public_address=LAB) as portal,
        httpx.Client(verify=False) as browser,
    ):
        begun = browser.get(portal.url + PREFIX, headers=headers)
    assert "secure" in begun.headers["Set-Cookie"].lower()
    assert begun.headers["Location"].startswith("/hub/")
    if forwarded.startswith("https"):  # learners' servers know from this alone
        request = SimpleNamespace(headers=HTTPHeaders(headers), protocol="http")
        assert get_browser_protocol(request) == "https"


class Proxy(LastingProxy):
    """One that notes whom it told."""

    def __init__(self, socket: Path) -> None:
        self.told: list[str] = []
        self.broken = False
        named = {"api_url": f"http+unix://{str(socket).replace('/', '%2F')}", "auth_token": "t", "should_start": False}
        super().__init__(**named, app=SimpleNamespace(users={}, _service_map={}, http_server=object()))

    async def check_routes(self, users: Any, services: Any, routes: Any = None) -> None:
        if self.broken:
            raise ConnectionRefusedError
        self.told.append("all")


def test_a_proxy_that_was_started_again_is_told_its_routes(tmp_path: Path) -> None:
    async def scenario() -> None:
        socket = tmp_path / "proxy.sock"
        socket.touch()
        proxy = Proxy(socket)
        await proxy.look()
        assert proxy.told == []
        socket.unlink()
        await proxy.look()
        assert proxy.told == []
        socket.touch()
        proxy.app.http_server = None  # the hub starts as well
        await proxy.look()
        assert proxy.told == []
        proxy.app.http_server = object()
        proxy.broken = True
        await proxy.look()
        assert proxy.told == []
        proxy.broken = False
        for _ in range(2):
            await proxy.look()
        assert proxy.told == ["all"]
        proxy._looking.stop()

    asyncio.run(scenario())


def test_the_doctor_names_an_address_without_https_where_the_proxy_speaks_it() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    made = certified(["lab.example.org"], now, now + timedelta(days=90))
    cert, key = (Pem(name, content, True) for name, content in zip(("cert.pem", "key.pem"), made, strict=True))
    found = certificate(cert, key, None, Settings(**HOSTED, public_address="http://lab.example.org"), now)
    assert (found.status, found.value) == (
        "failed",
        "for lab.example.org until 2027-02-19, but GRADLAB_PUBLIC_ADDRESS=http://lab.example.org",
    )
    assert found.remedy == "Begin it with https: in .env, then: docker compose up -d"
