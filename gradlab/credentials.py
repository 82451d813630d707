"""Passwords and keys of this installation, made once.

A trial keeps them in one file that only its owner can read. The services of a hosted server get them as variables, each
those it needs (`make secrets` writes them to ``.env``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gradlab.errors import SettingsError

__all__ = ["VARIABLES", "Credentials"]

# The variables of a hosted server's services.
VARIABLES = {
    "learner_password": "GRADLAB_CLASS_CODE",
    "instructor_password": "GRADLAB_INSTRUCTOR_CODE",
    "portal_token": "GRADLAB_PORTAL_TOKEN",
    "proxy_token": "GRADLAB_PROXY_TOKEN",
    "cookie_key": "GRADLAB_COOKIE_KEY",
    "hub_cookie_key": "GRADLAB_HUB_COOKIE_KEY",
    "metrics_token": "GRADLAB_METRICS_TOKEN",
}
_CODES = ("learner_password", "instructor_password")

# No vowels, no look-alikes: read aloud in a classroom, typed from a wall screen, and never a word.
_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"


@dataclass(frozen=True)
class Credentials:
    """Everything secret. Tokens are 64 hexadecimal characters: JupyterHub 6.1 refuses longer ones."""

    learner_password: str
    instructor_password: str
    portal_token: str
    proxy_token: str
    cookie_key: str
    # The key of the hub's own cookies; a trial's hub keeps it in a file of its own.
    hub_cookie_key: str = ""
    # What Prometheus asks the hub with; a trial has none.
    metrics_token: str = ""

    @classmethod
    def ensure(cls, path: Path) -> Credentials:
        """Read the file, or make it (mode 0600) where there is none. SettingsError says what a broken file lacks."""
        if not path.exists():
            _write_new(path, cls._generate())
        return cls._read(path)

    @classmethod
    def from_env(cls, *needed: str, environ: Mapping[str, str] = os.environ) -> Credentials:
        """Those ``needed``, from their variables; the others are empty. SettingsError names what is missing."""
        values = dict.fromkeys(VARIABLES, "")
        for name in needed:
            variable = VARIABLES[name]
            value = values[name] = environ.get(variable, "")
            if not value:
                raise SettingsError(
                    f"{variable} is not set. `make secrets` writes it to .env, from where compose has it."
                )
            if name not in _CODES and not re.fullmatch(r"[0-9a-f]{64}", value):
                raise SettingsError(
                    f"{variable} is {len(value)} characters long; it must be 64 hexadecimal digits, as `openssl rand "
                    "-hex 32` prints them (JupyterHub refuses longer tokens). Delete its line in .env and run `make "
                    "secrets`."
                )
        return cls(**values)

    @property
    def installation(self) -> str:
        """A name for this installation, which is no secret: the same after every start, and no other one's."""
        return hashlib.sha256(f"installation {self.cookie_key}".encode()).hexdigest()[:16]

    @classmethod
    def _generate(cls) -> Credentials:
        return cls(
            learner_password=_password(3),
            instructor_password=_password(5),
            portal_token=secrets.token_hex(32),
            proxy_token=secrets.token_hex(32),
            cookie_key=secrets.token_hex(32),
        )

    @classmethod
    def _read(cls, path: Path) -> Credentials:
        remedy = f"Restore it from a backup, or delete {path} to get new passwords and keys (data is kept)."
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"The credentials file {path} is half-written or damaged: {error}. {remedy}") from error
        names = {field.name for field in fields(cls)} - {"hub_cookie_key", "metrics_token"}
        if not isinstance(data, dict) or set(data) != names or not all(isinstance(v, str) and v for v in data.values()):
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise SettingsError(f"The credentials file {path} holds {found}, not {sorted(names)}. {remedy}")
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"The credentials file {path} can be read by others. Run: chmod 600 {path}")
        return cls(**data)


def _password(groups: int) -> str:
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(groups))


def _write_new(path: Path, credentials: Credentials) -> None:
    """Write whole or not at all: a crash half-way leaves no half file, a second starter finds the first one's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8") as draft:
        json.dump({name: value for name, value in asdict(credentials).items() if value}, draft, indent=2)
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, path)
