"""Who gets into a hosted server, and what keeps others out: secrets, logins, the certificate."""

from __future__ import annotations

import io
import ssl
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gradlab.credentials import Credentials
from gradlab.doctor.finding import Finding, unseen
from gradlab.errors import SettingsError
from gradlab.hub.hosting import SECRETS
from gradlab.settings import Settings

__all__ = ["Pem", "certificate", "env_file", "fetch_pem", "login", "plain_http", "secrets", "served_certificate"]

_TLS = "/etc/gradlab/tls"
_UID = 990
_SHORTEST_CODE = 10
_SOON = timedelta(days=14)
_ANEW = "Delete its line in .env, then: make secrets && docker compose up -d"


def secrets(environ: Mapping[str, str]) -> Finding:
    """What `make secrets` made: there, of the right form, and no code like the other."""
    try:
        found = Credentials.from_env(*SECRETS, environ=environ)
    except SettingsError as error:
        what, _, remedy = str(error).partition(". ")
        return Finding("secrets", "failed", f"{what}.", remedy or _ANEW)
    if found.learner_password == found.instructor_password:
        value = "GRADLAB_CLASS_CODE and GRADLAB_INSTRUCTOR_CODE are the same: every learner could become an instructor"
        return Finding("secrets", "failed", value, _ANEW)
    for variable, code in (
        ("GRADLAB_CLASS_CODE", found.learner_password),
        ("GRADLAB_INSTRUCTOR_CODE", found.instructor_password),
    ):
        if len(code) < _SHORTEST_CODE:
            return Finding("secrets", "warning", f"{variable} has {len(code)} characters and can be guessed", _ANEW)
    return Finding("secrets", "ok", f"{len(SECRETS)} there, of the right length")


def env_file(path: Path, inside: bool) -> Finding:
    """``.env`` holds all secrets."""
    if inside:
        return unseen(".env", "who may read it is", "ls -l .env   (-rw------- is right; chmod 600 .env makes it so)")
    if not path.exists():
        return Finding(".env", "failed", f"{path} is not there", "Run: make secrets")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding(".env", "failed", f"others may read it (mode {mode:o})", f"Run: chmod 600 {path}")
    return Finding(".env", "ok", "readable by its owner alone")


def login(settings: Settings) -> Finding:
    """That the login has what it needs is part of the settings; here is what it is worth."""
    if settings.login == "passwords":
        value = "passwords: whoever knows the shared one logs in under any learner's name"
        return Finding("login", "warning", value, "Leave GRADLAB_LOGIN empty (signup), or choose another login.")
    if settings.login == "lti" and not settings.public_address.startswith("https:"):
        value = (
            "lti, and GRADLAB_PUBLIC_ADDRESS is no address with https: browsers send a launch's cookies nowhere else"
        )
        return Finding("login", "warning", value, "Set GRADLAB_PUBLIC_ADDRESS to the address that the platform has.")
    allowed = f", for {settings.login_allow}" if settings.login_allow else ""
    return Finding("login", "ok", settings.login + allowed)


@dataclass(frozen=True)
class Pem:
    """A file of the folder tls, as the proxy's container has it."""

    name: str
    content: bytes
    readable: bool


def fetch_pem(client: Any, container: str, name: str) -> Pem | None:
    """A file of the proxy's container, None if it is not there."""
    from docker.errors import NotFound

    try:
        stream, _ = client.get_archive(container, f"{_TLS}/{name}")
    except NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        member = archive.getmembers()[0]
        file = archive.extractfile(member)
        content = file.read() if file is not None else b""
    readable = bool(member.mode & 0o004) or (member.uid == _UID and bool(member.mode & 0o400))
    return Pem(name, content, readable or (member.gid == _UID and bool(member.mode & 0o040)))


def served_certificate(host: str, port: int) -> bytes | None:
    """What the proxy shows a browser, None if it speaks no TLS."""
    try:
        return ssl.get_server_certificate((host, port), timeout=3.0).encode()
    except OSError:
        return None


def plain_http(settings: Settings, published: str) -> Finding:
    """Without a certificate; ``published`` is the address at which Docker listens for the proxy."""
    name, value = "TLS", f"no certificate in tls/; the proxy speaks plain http at {published or 'every address'}"
    if settings.public_address.startswith("https:"):
        remedy = (
            f"Put one there (tls/README.md), or see that a proxy of yours speaks TLS for {settings.public_address}."
        )
        return Finding(name, "warning", value, remedy)
    if published in ("127.0.0.1", "::1"):
        return Finding(name, "ok", f"{value}, for this machine alone")
    remedy = "Put a certificate into tls/ (tls/README.md): passwords and work cross the network readable by others."
    return Finding(name, "warning", value, remedy)


def certificate(cert: Pem, key: Pem | None, served: bytes | None, settings: Settings, now: datetime) -> Finding:
    """The certificate that the proxy has; ``served`` is the one it shows, None where that cannot be asked."""
    name, put = "TLS", "Put the right pair into tls/ (tls/README.md), then: docker compose restart proxy"
    if key is None:
        return Finding(name, "failed", "tls/cert.pem is there, tls/key.pem is not", put)
    for file in (cert, key):
        if not file.readable:
            remedy = f"Run: sudo chown {_UID} tls/*.pem && docker compose restart proxy"
            return Finding(name, "failed", f"tls/{file.name} cannot be read by the proxy (uid {_UID})", remedy)
    try:
        found = x509.load_pem_x509_certificate(cert.content)
        private: Any = load_pem_private_key(key.content, password=None)
    except (ValueError, TypeError) as error:
        return Finding(name, "failed", f"tls/cert.pem and tls/key.pem are no pair in PEM: {error}", put)
    if _public(found.public_key()) != _public(private.public_key()):
        return Finding(name, "failed", "tls/key.pem is not the key of tls/cert.pem", put)
    return _worth(found, cert.content, served, settings, now)


def _worth(found: x509.Certificate, content: bytes, served: bytes | None, settings: Settings, now: datetime) -> Finding:
    until = found.not_valid_after_utc
    names = _names(found)
    value = f"for {', '.join(names) or 'no name'} until {until:%Y-%m-%d}"
    if until < now:
        return Finding(
            "TLS", "failed", f"{value}: expired", "Put a new one into tls/, then: docker compose restart proxy"
        )
    wrong = [host for host in _hosts(settings) if not any(_covers(name, host) for name in names)]
    if wrong:
        remedy = "Get one for these names, or set GRADLAB_PUBLIC_ADDRESS to one that it has."
        return Finding("TLS", "failed", f"{value}, not for {', '.join(wrong)}", remedy)
    if settings.public_address.startswith("http:"):
        remedy = "Begin it with https: in .env, then: docker compose up -d"
        return Finding("TLS", "failed", f"{value}, but GRADLAB_PUBLIC_ADDRESS={settings.public_address}", remedy)
    if served is not None and x509.load_pem_x509_certificate(served) != x509.load_pem_x509_certificate(content):
        remedy = "Take over the new one: docker compose restart proxy"
        return Finding("TLS", "warning", f"{value}; the proxy still shows the one before", remedy)
    if until - now < _SOON:
        remedy = "Get a new one soon, put it into tls/, then: docker compose restart proxy"
        return Finding("TLS", "warning", f"{value}, {(until - now).days} days from now", remedy)
    if not settings.public_address:
        remedy = "Set GRADLAB_PUBLIC_ADDRESS in .env to the address that people type, such as https://lab.example.org."
        return Finding("TLS", "warning", f"{value}; whether that is this server's name is not known", remedy)
    return Finding("TLS", "ok", value)


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _names(found: x509.Certificate) -> list[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _hosts(settings: Settings) -> list[str]:
    """What browsers will ask for."""
    host = urlsplit(settings.public_address).hostname
    if not host:
        return []
    return [host, f"anybody.{host}"] if settings.subdomains else [host]


def _covers(name: str, host: str) -> bool:
    """``*.example.org`` stands for one label."""
    if name.startswith("*."):
        return host.partition(".")[2].lower() == name[2:].lower()
    return name.lower() == host.lower()
