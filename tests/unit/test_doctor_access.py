"""The doctor's findings on secrets, logins, certificates and databases, each made for real."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import docker
import pytest
from sqlalchemy import create_engine, text

from gradlab.doctor import access
from gradlab.doctor.access import Pem
from gradlab.doctor.databases import database, hub_migrations
from gradlab.doctor.finding import Finding
from gradlab.settings import Settings
from gradlab.store.database import open_database
from tests.certificates import certified
from tests.handlers import JsonHandler, serving

NOW = datetime(2026, 11, 21, tzinfo=UTC)
AT_HOME = Settings(spawner="docker")
PUBLIC = Settings(spawner="docker", public_address="https://lab.example.org")
ANEW = "Delete its line in .env, then: make secrets && docker compose up -d"


def environ(**changed: str) -> dict[str, str]:
    names = ("PORTAL_TOKEN", "PROXY_TOKEN", "COOKIE_KEY", "HUB_COOKIE_KEY", "METRICS_TOKEN")
    found = {f"GRADLAB_{name}": "ab" * 32 for name in names}
    return found | {"GRADLAB_CLASS_CODE": "bcdf-ghjk-mnpq", "GRADLAB_INSTRUCTOR_CODE": "rstv-wxz2-3456"} | changed


def pair(names: Sequence[str] = ("lab.example.org",), days: int = 90) -> tuple[Pem, Pem]:
    """A certificate of its own making, and its key."""
    end = NOW + timedelta(days=days, hours=1)
    certificate, private = certified(names, NOW - timedelta(days=365), end)
    return Pem("cert.pem", certificate, True), Pem("key.pem", private, True)


def looked_at(cert: Pem, key: Pem | None, settings: Settings = PUBLIC, served: bytes | None = None) -> Finding:
    return access.certificate(cert, key, served, settings, NOW)


def test_secrets_are_complete_long_enough_and_different() -> None:
    assert access.secrets(environ()) == Finding("secrets", "ok", "7 there, of the right length")
    found = access.secrets(environ(GRADLAB_PROXY_TOKEN=""))
    assert (found.status, found.value) == ("failed", "GRADLAB_PROXY_TOKEN is not set.")
    assert found.remedy.startswith("`make secrets` writes it to .env")
    found = access.secrets(environ(GRADLAB_PORTAL_TOKEN="ab" * 64))
    assert found.status == "failed"
    assert found.value.startswith("GRADLAB_PORTAL_TOKEN is 128 characters long; it must be 64 hexadecimal digits")
    assert found.remedy == "Delete its line in .env and run `make secrets`."
    found = access.secrets(environ(GRADLAB_INSTRUCTOR_CODE="bcdf-ghjk-mnpq"))
    assert found == Finding(
        "secrets",
        "failed",
        "GRADLAB_CLASS_CODE and GRADLAB_INSTRUCTOR_CODE are the same: every learner could become an instructor",
        ANEW,
    )
    found = access.secrets(environ(GRADLAB_CLASS_CODE="1234"))
    assert found == Finding("secrets", "warning", "GRADLAB_CLASS_CODE has 4 characters and can be guessed", ANEW)


def test_the_file_of_secrets_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    found = access.env_file(path, inside=True)
    assert (found.status, found.value) == ("unseen", "who may read it is not visible from here")
    assert found.remedy.startswith("Run on the host: ls -l .env")
    found = access.env_file(path, inside=False)
    assert (found.status, found.value, found.remedy) == ("failed", f"{path} is not there", "Run: make secrets")
    path.touch(mode=0o600)
    assert access.env_file(path, inside=False) == Finding(".env", "ok", "readable by its owner alone")
    path.chmod(0o640)
    found = access.env_file(path, inside=False)
    assert (found.status, found.value) == ("failed", "others may read it (mode 640)")
    assert found.remedy == f"Run: chmod 600 {path}"


def test_logins_that_are_worth_little_are_named() -> None:
    assert access.login(AT_HOME) == Finding("login", "ok", "signup")
    github = Settings(
        spawner="docker",
        login="github",
        login_allow="org:course",
        oauth_client_id="a",
        oauth_client_secret="b",
    )
    assert access.login(github) == Finding("login", "ok", "github, for org:course")
    found = access.login(Settings(spawner="docker", login="passwords"))
    assert found.status == "warning"
    assert found.value == "passwords: whoever knows the shared one logs in under any learner's name"
    assert found.remedy.startswith("Leave GRADLAB_LOGIN empty (signup)")
    found = access.login(Settings(spawner="docker", login="lti"))
    assert found.status == "warning"
    assert "GRADLAB_PUBLIC_ADDRESS is no address with https" in found.value
    assert found.remedy == "Set GRADLAB_PUBLIC_ADDRESS to the address that the platform has."


def test_without_a_certificate_it_depends_on_who_can_reach_the_port() -> None:
    found = access.plain_http(AT_HOME, "127.0.0.1")
    assert found == Finding(
        "TLS", "ok", "no certificate in tls/; the proxy speaks plain http at 127.0.0.1, for this machine alone"
    )
    found = access.plain_http(AT_HOME, "0.0.0.0")
    assert (found.status, found.value) == (
        "warning",
        "no certificate in tls/; the proxy speaks plain http at 0.0.0.0",
    )
    assert found.remedy.endswith("passwords and work cross the network readable by others.")
    assert access.plain_http(AT_HOME, "").value.endswith("at every address")
    found = access.plain_http(PUBLIC, "127.0.0.1")
    assert found.status == "warning"
    assert found.remedy.endswith("see that a proxy of yours speaks TLS for https://lab.example.org.")


def test_a_certificate_that_is_right() -> None:
    assert looked_at(*pair()) == Finding("TLS", "ok", "for lab.example.org until 2027-02-19")
    cert, key = pair(["lab.example.org", "*.lab.example.org", "192.0.2.7"])
    both = PUBLIC.model_copy(update={"subdomains": True})
    found = looked_at(cert, key, both, served=cert.content)
    assert found == Finding("TLS", "ok", "for lab.example.org, *.lab.example.org, 192.0.2.7 until 2027-02-19")


def test_a_certificate_that_is_wrong() -> None:
    put = "Put the right pair into tls/ (tls/README.md), then: docker compose restart proxy"
    cert, key = pair()
    assert looked_at(cert, None) == Finding("TLS", "failed", "tls/cert.pem is there, tls/key.pem is not", put)
    found = looked_at(cert, replace(key, readable=False))
    assert (found.status, found.value) == ("failed", "tls/key.pem cannot be read by the proxy (uid 990)")
    assert found.remedy == "Run: sudo chown 990 tls/*.pem && docker compose restart proxy"
    assert looked_at(cert, pair()[1]) == Finding("TLS", "failed", "tls/key.pem is not the key of tls/cert.pem", put)
    found = looked_at(replace(cert, content=b"nothing"), key)
    assert (found.status, found.remedy) == ("failed", put)
    assert found.value.startswith("tls/cert.pem and tls/key.pem are no pair in PEM: ")


def test_a_certificate_that_is_too_old_or_anothers() -> None:
    found = looked_at(*pair(days=-2))
    assert (found.status, found.value) == ("failed", "for lab.example.org until 2026-11-19: expired")
    assert found.remedy == "Put a new one into tls/, then: docker compose restart proxy"
    found = looked_at(*pair(days=5))
    assert (found.status, found.value) == ("warning", "for lab.example.org until 2026-11-26, 5 days from now")
    assert found.remedy.startswith("Get a new one soon")
    found = looked_at(*pair(["www.example.org"]))
    assert (found.status, found.value) == ("failed", "for www.example.org until 2027-02-19, not for lab.example.org")
    assert found.remedy.startswith("Get one for these names, or set GRADLAB_PUBLIC_ADDRESS")
    assert looked_at(*pair([])).value == "for no name until 2027-02-19, not for lab.example.org"
    found = looked_at(*pair(), PUBLIC.model_copy(update={"subdomains": True}))
    assert found.value.endswith("not for anybody.lab.example.org")
    found = looked_at(*pair(), AT_HOME)
    assert (found.status, found.value) == (
        "warning",
        "for lab.example.org until 2027-02-19; whether that is this server's name is not known",
    )
    assert found.remedy.startswith("Set GRADLAB_PUBLIC_ADDRESS in .env")


def test_a_certificate_that_the_proxy_has_not_taken_over() -> None:
    cert, key = pair()
    found = looked_at(cert, key, served=pair()[0].content)
    assert (found.status, found.value) == (
        "warning",
        "for lab.example.org until 2027-02-19; the proxy still shows the one before",
    )
    assert found.remedy == "Take over the new one: docker compose restart proxy"


class Archive(JsonHandler):
    """Docker with one container, whose folder tls has three files."""

    modes: ClassVar = {"cert.pem": (0, 0o644), "key.pem": (990, 0o400), "other.pem": (0, 0o600)}

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self.answer(200, {"Version": "29.1.0", "ApiVersion": "1.44"})
            return
        name = self.path.rpartition("%2F")[2]
        if name not in self.modes:
            self.answer(404, {"message": "Could not find the file"})
            return
        stored = io.BytesIO()
        with tarfile.open(fileobj=stored, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.uid, member.mode = self.modes[name]
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
        self.send_response(200)
        self.send_header("X-Docker-Container-Path-Stat", "e30=")
        self.send_header("Content-Length", str(len(stored.getvalue())))
        self.end_headers()
        self.wfile.write(stored.getvalue())


def test_files_of_the_proxys_container_are_read_with_who_may_read_them() -> None:
    with serving(Archive) as port:
        client: Any = docker.APIClient(f"tcp://127.0.0.1:{port}", version="auto")
        try:
            assert access.fetch_pem(client, "proxy", "cert.pem") == Pem("cert.pem", b"cert.pem", True)
            assert access.fetch_pem(client, "proxy", "key.pem") == Pem("key.pem", b"key.pem", True)
            assert access.fetch_pem(client, "proxy", "other.pem") == Pem("other.pem", b"other.pem", False)
            assert access.fetch_pem(client, "proxy", "none.pem") is None
        finally:
            client.close()
        assert access.served_certificate("127.0.0.1", port) is None


def test_a_database_is_reached_and_of_the_right_version(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gradlab.sqlite'}"
    found = database("database", url, "portal")
    assert (found.status, found.value) == ("failed", f"{url} is not there")
    assert found.remedy == "The portal makes it at its first start; see: docker compose logs portal"
    assert not (tmp_path / "gradlab.sqlite").exists()
    open_database(url).dispose()
    found = database("database", url, "portal")
    assert found.status == "ok"
    assert found.value.startswith(f"{url}, at version ")


@pytest.mark.parametrize(
    ("version", "value", "remedy"),
    [
        (
            "abcdef",
            "was made by a newer version of this software (version abcdef)",
            "Run that version, or restore a backup",
        ),
        ("0001", "is at version 0001, this code wants 0004", "The portal migrates it when it starts"),
    ],
)
def test_a_database_of_another_version_is_named(version: str, value: str, remedy: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gradlab.sqlite'}"
    made = open_database(url)
    with made.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    made.dispose()
    found = database("database", url, "portal")
    assert (found.status, found.value) == ("failed", f"{url} {value}")
    assert found.remedy.startswith(remedy)


def test_a_database_that_is_none_and_one_that_does_not_answer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jupyterhub.sqlite'}"
    made = create_engine(url)
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER)"))
    made.dispose()
    found = database("hub's database", url, "hub", hub_migrations())
    assert found.status == "failed"
    assert found.value.startswith(f"{url} is at version none, this code wants ")
    assert found.remedy == "The hub migrates it when it starts: docker compose restart hub"
    away = "postgresql+psycopg://gradlab:secret@127.0.0.1:1/gradlab"
    found = database("database", away, "portal")
    assert found.status == "failed"
    assert found.value.startswith(
        "The database 'postgresql+psycopg://gradlab:***@127.0.0.1:1/gradlab' cannot be opened: "
    )
    assert "secret" not in found.value
    assert found.remedy.startswith("See whether its server runs and lets us in")
