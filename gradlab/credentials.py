"""Passwords and keys of this installation: made once, kept in one file that only its owner can read."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gradlab.errors import SettingsError

__all__ = ["Credentials"]

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

    @classmethod
    def ensure(cls, path: Path) -> Credentials:
        """Read the file, or make it (mode 0600) where there is none. SettingsError says what a broken file lacks."""
        if not path.exists():
            _write_new(path, cls._generate())
        return cls._read(path)

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
        names = {field.name for field in fields(cls)}
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
        json.dump(asdict(credentials), draft, indent=2)
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, path)
