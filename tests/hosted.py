"""Hosted servers for tests: docker-compose.yml brought up under a name of its own, and all of it removed afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import docker
import httpx
from docker.models.containers import Container

from gradlab.hub.environment import Ports
from gradlab.settings import ROOT
from tests.servers import Person, fill_in, login_error
from tests.waiting import until

__all__ = ["Hosted", "docker_socket", "hosted"]

_COMPOSE = shutil.which("docker-compose") or "docker-compose"


@dataclass
class Hosted:
    """A hosted server; ``folder`` is its project folder, with ``.env`` in it."""

    name: str
    folder: Path
    port: int
    engine: docker.DockerClient
    env: dict[str, str]
    people: list[Person] = field(default_factory=list)
    overrides: list[Path] = field(default_factory=list)
    _signed_up: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.env.get("GRADLAB_PUBLIC_ADDRESS") or f"http://127.0.0.1:{self.port}"

    def set(self, **settings: str) -> None:
        """Write these settings (``gpus="exclusive"``) into ``.env``, for the next ``up``."""
        self.env |= {f"GRADLAB_{key.upper()}": value for key, value in settings.items()}
        (self.folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in self.env.items()))

    def compose(self, *arguments: str) -> str:
        """Run docker-compose on this server; its output, which is part of the failure if it fails."""
        files = [ROOT / "docker-compose.yml", *self.overrides]
        argv = [_COMPOSE, *(word for file in files for word in ("--file", str(file)))]
        argv += ["--project-directory", str(self.folder), "--env-file", str(self.folder / ".env"), *arguments]
        done = subprocess.run(
            argv, cwd=self.folder, env=_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def up(self) -> None:
        """Start everything, and wait until portal and hub answer through the proxy."""
        self.compose("up", "--detach", "--no-build")
        self.wait_ready()

    def wait_ready(self) -> None:
        try:
            until(self._answers, seconds=120, what="the portal's answer through the proxy")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            portal, hub = (httpx.get(self.url + path, timeout=5) for path in ("/services/portal/", "/hub/health"))
            # Where the proxy has no route to the portal yet, the hub answers in its place, and redirects below itself.
            leads = urlsplit(portal.headers.get("Location", "")).path
            return portal.is_redirect and leads != "/hub/services/portal/" and hub.status_code == 200
        return False

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "80")

    def service(self, name: str) -> Container:
        """The container of a service, such as ``hub``."""
        (found,) = self.containers(name)
        return found

    def server(self, learner: str) -> Container:
        """The container of a learner's server."""
        (found,) = [one for one in self.containers("server") if one.labels["gradlab.user"] == learner]
        return found

    def containers(self, role: str) -> list[Container]:
        labels = [f"gradlab.installation={self.name}", f"gradlab.role={role}"]
        found: list[Container] = self.engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        return found

    def log_in(self, name: str, password: str = "a password of mine", *, instructor: bool = False) -> Person:
        """Log in; whoever has not been here signs up first, with the class code or the instructors'."""
        client = httpx.Client(base_url=self.url, timeout=60)
        if name in self._signed_up:
            answer = fill_in(client, "/hub/login", username=name, password=password)
        else:
            self._signed_up.add(name)
            code = self.env["GRADLAB_INSTRUCTOR_CODE" if instructor else "GRADLAB_CLASS_CODE"]
            answer = fill_in(client, "/hub/signup", username=name, password=password, again=password, code=code)
        assert answer.status_code == 302, login_error(answer)
        client.follow_redirects = True
        client.get("/hub/home")
        person = Person(name, client)
        self.people.append(person)
        return person

    def destroy(self) -> None:
        for person in self.people:
            person.client.close()
        with contextlib.suppress(AssertionError):
            self.compose("down", "--volumes", "--timeout", "2")
        label = {"label": f"gradlab.installation={self.name}"}
        for container in self.engine.containers.list(all=True, filters=label, ignore_removed=True):
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        for network in self.engine.networks.list(filters=label):
            network.remove()
        for volume in self.engine.volumes.list(filters={"name": f"{self.name}-"}):
            volume.remove(force=True)


@contextlib.contextmanager
def hosted(folder: Path, **settings: str) -> Iterator[Hosted]:
    """A hosted server that is up, with these settings (``gpus="exclusive"``) in its ``.env``."""
    name = f"gradlab-test-{uuid.uuid4().hex[:8]}"
    port = Ports.choose().hub
    (folder / "config.d").mkdir(parents=True)
    (folder / "config.d" / "quick.py").write_text("c.SignUpAuthenticator.rounds = 4\n")  # of a password's hash
    env = _secrets(folder) | {"COMPOSE_PROJECT_NAME": name, "GRADLAB_PORT": str(port)}
    # Small: several of these run on two cores at a time.
    env |= {"GRADLAB_CHECK_POOL": "1", "GRADLAB_LEARNER_NETWORKS": _subnet()}
    with contextlib.closing(docker.from_env()) as engine:
        server = Hosted(name, folder, port, engine, env)
        server.set(**settings)
        try:
            yield server
        finally:
            server.destroy()


def docker_socket() -> str:
    """Where Docker listens."""
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


def _secrets(folder: Path) -> dict[str, str]:
    """What `make secrets` writes."""
    for name in ("scripts", ".env.example"):
        target = folder / name
        if (ROOT / name).is_dir():
            target.mkdir()
            shutil.copy(ROOT / name / "secrets", target / "secrets")
        else:
            shutil.copy(ROOT / name, target)
    subprocess.run([folder / "scripts" / "secrets"], check=True, stdout=subprocess.DEVNULL)
    lines = [line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if "=" in line]
    return {key: value for key, value in lines if value and not key.startswith("#")}


def _subnet() -> str:
    """A range of its own for each: networks of two servers must not overlap."""
    return f"10.{200 + uuid.uuid4().int % 13}.{uuid.uuid4().int % 256}.0/24"


def _environment() -> dict[str, str]:
    """Ours without settings, which would win over those of ``.env``."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("GRADLAB_", "COMPOSE_"))}
