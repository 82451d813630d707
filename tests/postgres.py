"""A PostgreSQL server of the tests' own: a folder, a Unix socket in it, and as many databases as tests ask for; and the
image of the one in a container."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

from tests.waiting import until

__all__ = ["Postgres", "lacks_postgres", "postgres_image", "running_postgres"]

# Nobody needs these databases after a power cut.
_OPTIONS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50")


@dataclass(frozen=True)
class Postgres:
    """A running server; its socket lies in ``folder``."""

    folder: Path
    numbers: Iterator[int]

    def create(self) -> str:
        """The URL of a new, empty database, as docker-compose.yml's server has them."""
        name = f"test{next(self.numbers)}"
        with psycopg.connect(host=str(self.folder), user="gradlab", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
        return f"postgresql+psycopg://gradlab@/{name}?host={self.folder}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server; it is ended, and all that it stored removed, afterwards."""
    # Not below pytest's folder: a socket's path has 107 characters at most, and the server's user has to get there.
    folder = Path(tempfile.mkdtemp(prefix="gradlab-postgres-", dir="/tmp"))
    data = folder / "data"
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        subprocess.run(
            _command("initdb", "--pgdata", data, "--username", "gradlab", "--auth", "trust", "--no-sync"),
            cwd="/",
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                _command("postgres", "-D", data, "-k", folder, *_OPTIONS),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(lambda: _answers(folder, server), what="PostgreSQL's start")
            yield Postgres(folder, count(1))
        finally:
            server.send_signal(signal.SIGQUIT)  # at once
            server.wait(timeout=60)
    finally:
        shutil.rmtree(folder)


def lacks_postgres() -> str:
    """Why there cannot be a server here; empty if there can."""
    return "" if _programs() else "initdb and postgres are neither on PATH nor in /usr/lib/postgresql"


@functools.cache
def postgres_image() -> str:
    """The image for docker-compose.yml's service: what users have, or Debian's (docker/postgres); empty without one."""
    for image in (os.environ.get("POSTGRES_IMAGE", ""), "postgres:17-bookworm", "gradlab-test-postgres"):
        if image and subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0:
            return image
    return ""


def _answers(folder: Path, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, (folder / "log").read_text()
    with suppress(psycopg.OperationalError):
        psycopg.connect(host=str(folder), user="gradlab", dbname="postgres").close()
        return True
    return False


def _command(program: str, *arguments: str | Path) -> list[str | Path]:
    """PostgreSQL refuses to run as root; Debian's package makes a user for it. It ends with the tests, even killed."""
    found = _programs()
    assert found is not None
    user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *user, "--pdeathsig", "QUIT", found / program, *arguments]


def _programs() -> Path | None:
    """Where initdb and postgres are: Debian has them in a folder for each version."""
    candidates = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    candidates += [Path(place).parent] if (place := shutil.which("initdb")) else []
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)
