"""The proxy of a hosted server: its command line, what it says of a certificate, and the real one at work."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gradlab.credentials import VARIABLES
from gradlab.errors import SettingsError
from gradlab.hub.environment import Addresses
from gradlab.hub.proxy import PROXY_SOCKET, arguments
from gradlab.settings import ROOT, Settings
from tests.certificates import certified
from tests.conftest import Require
from tests.monitors import asking
from tests.waiting import until

TOKEN = "ab" * 32
NOBODY = 65534


def settings(**given: Any) -> Settings:
    return Settings(**{"spawner": "docker", "run_dir": "/run/gradlab", "port": 8000} | given)


PLAIN = [
    *("--ip", "0.0.0.0", "--port", "8000"),
    *("--api-socket", "/run/gradlab/proxy.sock"),
    *("--error-target", "http://hub:8081/hub/error"),
    *("--log-level", "info"),
]


# -- the command line ----------------------------------------------------------------------------------------------


def test_its_api_is_a_socket_and_only_people_reach_it_by_a_port() -> None:
    assert arguments(settings()) == PLAIN


@pytest.mark.parametrize(
    ("level", "its"), [("DEBUG", "debug"), ("INFO", "info"), ("WARNING", "warn"), ("ERROR", "error")]
)
def test_its_log_says_as_much_as_the_others(level: str, its: str) -> None:
    assert arguments(settings(log_level=level)) == [*PLAIN[:-1], its]


def test_the_hub_looks_for_its_api_where_it_is(tmp_path: Path) -> None:
    found = arguments(settings(run_dir=tmp_path))
    path = found[found.index("--api-socket") + 1]
    assert path == str(tmp_path / PROXY_SOCKET)
    assert Addresses.of(settings(run_dir=tmp_path)).proxy_api == f"http+unix://{path.replace('/', '%2F')}"


def test_with_host_names_of_their_own_the_host_is_part_of_a_route() -> None:
    own = {"public_address": "https://lab.example.org", "subdomains": True}
    assert arguments(settings(**own)) == [*PLAIN, "--host-routing"]


# -- a certificate -------------------------------------------------------------------------------------------------


def remedy(uid: int) -> str:
    return (
        "For TLS the proxy needs the certificate with its chain in cert.pem and its key in key.pem, both readable by "
        f"its user (uid {uid}). To go without TLS, take cert.pem out of this folder."
    )


def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    tls = ["--ssl-cert", str(tmp_path / "cert.pem"), "--ssl-key", str(tmp_path / "key.pem")]
    assert arguments(settings(tls_dir=tmp_path)) == [*PLAIN, *tls]


@pytest.mark.parametrize("there", [[], ["key.pem"], ["chain.pem"]])
def test_without_a_certificate_it_speaks_plain_http(tmp_path: Path, there: list[str]) -> None:
    for name in there:
        (tmp_path / name).touch()
    assert arguments(settings(tls_dir=tmp_path)) == PLAIN
    assert arguments(settings(tls_dir=tmp_path / "none")) == PLAIN


def test_a_certificate_that_is_a_link_to_nowhere_is_no_plain_http(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").symlink_to("../../archive/cert1.pem")
    with pytest.raises(SettingsError, match=r"cert\.pem cannot be read \(No such file or directory\)"):
        arguments(Settings(tls_dir=tmp_path))


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    with pytest.raises(SettingsError) as caught:
        arguments(settings(tls_dir=tmp_path))
    said = f"{tmp_path / 'key.pem'} cannot be read (No such file or directory). {remedy(os.getuid())}"
    assert str(caught.value) == said


def test_a_folder_in_a_files_place_is_named(tmp_path: Path) -> None:
    """As Docker makes one for a file to mount that is not there."""
    (tmp_path / "cert.pem").mkdir()
    with pytest.raises(SettingsError) as caught:
        arguments(settings(tls_dir=tmp_path))
    said = f"{tmp_path / 'cert.pem'} cannot be read (Is a directory). {remedy(os.getuid())}"
    assert str(caught.value) == said


def test_a_key_of_another_users_is_named_with_the_proxys(require: Require) -> None:
    require("root")
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which root alone may enter
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "cert.pem").touch(0o644)
        (folder / "key.pem").touch(0o600)
        with as_nobody(), pytest.raises(SettingsError) as caught:
            arguments(settings(tls_dir=folder))
        said = f"{folder / 'key.pem'} cannot be read (Permission denied). {remedy(NOBODY)}"
        assert str(caught.value) == said


@contextmanager
def as_nobody() -> Iterator[None]:
    """Inside the block this process is another user's; needs root, which it keeps in reserve."""
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


# -- the real one --------------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """The real proxy, as its container starts it."""

    process: psutil.Process
    port: int
    socket: Path

    def routes(self, token: str | None) -> httpx.Response:
        """What its API answers whoever has this token."""
        with asking(self.socket, headers={} if token is None else {"Authorization": f"token {token}"}) as client:
            return client.get("/api/routes")


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADLAB_")}
    ours = {"SPAWNER": "docker", "RUN_DIR": str(folder), "PROXY_TOKEN": TOKEN, "PORTAL_TOKEN": "cd" * 32} | more
    return kept | {f"GRADLAB_{name}": value for name, value in ours.items()}


@contextmanager
def proxy(folder: Path, **more: str) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    code = "from gradlab.hub.proxy import become_proxy\nfrom gradlab.settings import Settings\n"
    code += "become_proxy(Settings.from_env(env_file=None))"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(folder, PORT=str(port), **more),
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            found = Proxy(psutil.Process(process.pid), port, folder / PROXY_SOCKET)
            until(lambda: process.poll() is not None or _listens(found), 30, what="the proxy's start")
            assert process.poll() is None, (folder / "log").read_text()
            yield found
        finally:
            process.kill()


def _listens(found: Proxy) -> bool:
    try:
        socket.create_connection(("127.0.0.1", found.port)).close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(found.socket))
    except OSError:
        return False
    return True


def test_the_real_one_answers_whoever_has_the_token_at_a_socket_of_the_hubs_user(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / PROXY_SOCKET))  # and is never unlinked
    with proxy(tmp_path) as found:
        assert stat.S_IMODE(found.socket.stat().st_mode) == 0o660
        assert [found.routes(token).status_code for token in (None, "cd" * 32)] == [403, 403]
        answer = found.routes(TOKEN)
        assert (answer.status_code, answer.json()) == (200, {})
        assert httpx.get(f"http://127.0.0.1:{found.port}/api/routes").status_code in (404, 503)
        assert "configurable-http-proxy" in " ".join(found.process.cmdline())
        assert TOKEN not in " ".join(found.process.cmdline())
        assert found.process.environ() == {"PATH": os.environ["PATH"], "CONFIGPROXY_AUTH_TOKEN": TOKEN}
    assert TOKEN not in (tmp_path / "log").read_text()


def test_the_real_one_speaks_tls_with_the_certificate(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    cert, key = certified(["127.0.0.1"], now - timedelta(days=1), now + timedelta(days=1))
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with proxy(tmp_path, TLS_DIR=str(tmp_path)) as found:
        assert httpx.get(f"https://127.0.0.1:{found.port}/", verify=trusting).status_code in (404, 503)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{found.port}/")
        assert found.routes(TOKEN).status_code == 200


def test_as_a_command_it_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    argv = [sys.executable, "-m", "gradlab.cli", "proxy"]

    def said(**more: str) -> tuple[int, str]:
        done = subprocess.run(argv, cwd=ROOT, env=environment(tmp_path, **more), capture_output=True, text=True)
        return done.returncode, done.stderr

    assert said(PROXY_TOKEN="") == (
        2,
        f"{VARIABLES['proxy_token']} is not set. `make secrets` writes it to .env, from where compose has it.\n",
    )
    code, why = said(TLS_DIR=str(tmp_path))
    assert (code, why.startswith(f"{tmp_path / 'key.pem'} cannot be read (")) == (2, True)
    assert "Traceback" not in why
