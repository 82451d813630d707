"""What keeps a hosted server from working: ``docker compose exec hub gradlab doctor``, or on the machine itself.

From the hub's container Docker, the services' sockets and the volumes can be seen, the machine's own files cannot; from
the machine it is the other way round. What cannot be seen is said so, with the command that tells.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from dotenv import dotenv_values

from gradlab.doctor import access, engine, gpus, services, space
from gradlab.doctor.databases import database, hub_migrations
from gradlab.doctor.finding import Finding, careful, unseen
from gradlab.doctor.judging import ask_judge
from gradlab.gpu.remote import RemoteMonitor
from gradlab.gpu_mode import parse_mode
from gradlab.hub.containers import INSTALLATION, ROLE
from gradlab.settings import ROOT, Settings

__all__ = ["Place", "examine"]

_REMEDY = "Run `gradlab doctor` again; if it stays so, report this line."
_FROM_HUB = "docker compose exec hub gradlab doctor"
# `docker system df` measures every volume.
_DOCKER_SECONDS = 120
_MONITOR_SECONDS = 5.0
_UNKNOWN = {"available": False, "message": "", "driver_version": None, "devices": []}


@dataclass(frozen=True)
class Place:
    """Where the doctor runs: in the hub's container, or on the machine, in the project's folder ``root``."""

    inside: bool
    root: Path
    environ: Mapping[str, str]

    @classmethod
    def here(cls, settings: Settings) -> Place:
        """Only services have the folder of sockets."""
        inside = settings.run_dir.is_dir()
        written = {} if inside else {key: value or "" for key, value in dotenv_values(ROOT / ".env").items()}
        return cls(inside, ROOT, written | dict(os.environ))

    def completed(self, settings: Settings) -> Settings:
        """With what docker-compose.yml would add, which on the machine itself nobody did."""
        name = self.environ.get("COMPOSE_PROJECT_NAME") or "gradlab"
        return settings.model_copy(
            update={
                "installation": settings.installation or name,
                "profiles": settings.profiles or self.environ.get("COMPOSE_PROFILES", ""),
            }
        )


def examine(settings: Settings, place: Place) -> Iterator[Finding]:
    """All findings, one after another; the last is a real check."""
    settings = place.completed(settings)
    yield Finding("settings", "ok", f"{len(Settings.model_fields)} read, of the installation {settings.installation}")
    yield _careful("login", lambda: access.login(settings))
    yield _careful("secrets", lambda: access.secrets(place.environ))
    yield _careful(".env", lambda: access.env_file(place.root / ".env", place.inside))
    docker = _Docker.connect(settings)
    if isinstance(docker, Finding):
        yield docker
    else:
        with closing(docker):
            yield from _docker_findings(docker, settings, place)
    yield from _data_findings(settings, place)
    yield _careful("a real check", lambda: _real_check(settings, place))


def _careful(name: str, look: Callable[[], Finding]) -> Finding:
    return careful(name, look, _REMEDY)


class _Docker:
    """What Docker says, asked once."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self.client = client
        self.version: dict[str, Any] = client.version()
        self.info: dict[str, Any] = client.info()
        self.networks: list[dict[str, Any]] = client.networks()
        label = f"{INSTALLATION}={settings.installation}"
        self.containers: list[dict[str, Any]] = client.containers(all=True, filters={"label": label})

    @classmethod
    def connect(cls, settings: Settings) -> _Docker | Finding:
        from docker import from_env
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        where = os.environ.get("DOCKER_HOST") or "/var/run/docker.sock"
        try:
            return cls(from_env(timeout=_DOCKER_SECONDS).api, settings)
        except (DockerException, RequestException) as error:
            remedy = (
                "Start Docker (sudo systemctl start docker). If it runs, whoever asks may not: DOCKER_GID in .env has "
                "to be the group of its socket; delete that line, then: make secrets && docker compose up -d"
            )
            return Finding("Docker", "failed", f"does not answer at {where}: {error}", remedy)

    def close(self) -> None:
        self.client.close()

    @cached_property
    def df(self) -> dict[str, Any]:
        """Docker's account of its disk, which takes a while."""
        found: dict[str, Any] = self.client.df()
        return found

    def container(self, role: str) -> dict[str, Any] | None:
        """The inspection of a service's container."""
        from docker.errors import NotFound

        for one in self.containers:
            if one["Labels"].get(ROLE) == role:
                with suppress(NotFound):  # it went away meanwhile
                    found: dict[str, Any] = self.client.inspect_container(one["Id"])
                    return found
        return None

    def words(self, container: dict[str, Any] | None) -> str:
        return services.last_words(self.client.logs(container["Id"], tail=5)) if container else ""

    def image(self, name: str) -> str:
        """The id of an image, or ``""``."""
        from docker.errors import NotFound

        try:
            return str(self.client.inspect_image(name)["Id"]) if name else ""
        except NotFound:
            return ""


def _docker_findings(docker: _Docker, settings: Settings, place: Place) -> Iterator[Finding]:
    mode = parse_mode(settings.gpus)
    yield _careful("Docker", lambda: engine.engine(docker.version, docker.info))
    yield _careful("control groups", lambda: engine.control_groups(docker.info, mode))
    yield _careful("limits", lambda: engine.limits(docker.info))
    yield _careful("images", lambda: engine.images(docker.client, settings))
    yield _careful("addresses", lambda: engine.addresses(docker.networks, settings))
    yield _careful("routes", lambda: _routes(settings, place))
    found = {role: docker.container(role) for role in services.expected(settings)}
    for role, image in services.expected(settings).items():
        yield _careful(role, lambda role=role, image=image: _service(docker, role, found[role], image))  # type: ignore[misc]
    yield _careful("TLS", lambda: _tls(docker, found["proxy"], settings, place))
    yield from _gpu_findings(docker, found["gpu-monitor"], settings, place)
    image = settings.learner_image
    yield _careful("learners' servers", lambda: services.servers(docker.containers, docker.image(image)))
    yield _careful("leftovers", lambda: _leftovers(docker, found["hub"], settings))
    yield _careful("disk", lambda: _disk(docker, settings, place))
    yield _careful("Docker's disk", lambda: space.usage(docker.df))
    yield _careful("homes", lambda: space.homes(docker.df, settings.installation))


def _routes(settings: Settings, place: Place) -> Finding:
    if place.inside:
        command = (
            f"ip route show to match {settings.learner_networks}   (nothing but default and Docker's br-… is right)"
        )
        return unseen("routes", f"what else this machine reaches in {settings.learner_networks} is", command)
    return engine.routes(Path("/proc/net/route").read_text(), settings)


def _service(docker: _Docker, role: str, container: dict[str, Any] | None, image: str) -> Finding:
    return services.service(role, container, lambda: docker.words(container), docker.image(image))


def _leftovers(docker: _Docker, hub: dict[str, Any] | None, settings: Settings) -> Finding:
    runs = hub is not None and bool(hub["State"]["Running"])
    return services.leftovers(docker.containers, docker.networks, settings, runs)


def _tls(docker: _Docker, proxy: dict[str, Any] | None, settings: Settings, place: Place) -> Finding:
    if proxy is None:
        return unseen(
            "TLS", "without the proxy's container its certificate is", "docker compose up -d, then doctor again"
        )
    cert = access.fetch_pem(docker.client, proxy["Id"], "cert.pem")
    if cert is None:
        bound = (proxy["HostConfig"].get("PortBindings") or {}).get("8000/tcp") or [{}]
        return access.plain_http(settings, bound[0].get("HostIp", ""))
    key = access.fetch_pem(docker.client, proxy["Id"], "key.pem")
    served = access.served_certificate("proxy", 8000) if place.inside else None
    return access.certificate(cert, key, served, settings, datetime.now(UTC))


def _gpu_findings(
    docker: _Docker, monitor: dict[str, Any] | None, settings: Settings, place: Place
) -> Iterator[Finding]:
    mode, info = parse_mode(settings.gpus), docker.info
    if not place.inside:
        yield unseen("GPU monitor", "what it answers is", _FROM_HUB)
        reading: dict[str, Any] | None = None
    else:
        reading, activity = _readings(settings)
        runtime = str(monitor["HostConfig"].get("Runtime", "")) if monitor else ""
        yield _careful("GPU monitor", lambda: gpus.monitor(reading or _UNKNOWN, activity, mode, runtime, info))
        yield _careful("GPU mode", lambda: gpus.gpu_mode(mode, reading or _UNKNOWN))
    known = gpus.cdi_devices(info, docker.version["ApiVersion"], not place.inside)
    yield _careful("GPUs in containers", lambda: gpus.injection(mode, reading or _UNKNOWN, info, known))
    yield _careful("default runtime", lambda: gpus.default_runtime(info))
    if mode.kind != "none" or "nvidia" in info.get("Runtimes", {}):
        yield _careful("container toolkit", lambda: gpus.toolkit(_toolkit_version))


def _readings(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the monitor says of devices, and of who uses them."""
    with closing(RemoteMonitor(settings.gpu_socket)) as remote:
        reading = remote.reading()
    try:
        transport = httpx.HTTPTransport(uds=str(settings.gpu_socket))
        with httpx.Client(transport=transport, timeout=_MONITOR_SECONDS) as client:
            return reading, client.get("http://gpus/activity").raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return reading, {"ok": False, "message": f"The GPU monitor does not tell who uses GPUs ({error})."}


def _toolkit_version() -> str | None:
    if shutil.which("nvidia-ctk") is None:
        return None
    return subprocess.run(["nvidia-ctk", "--version"], capture_output=True, text=True, timeout=10).stdout


def _disk(docker: _Docker, settings: Settings, place: Place) -> Finding:
    """The volume with our state lies where Docker's other volumes are."""
    folder = settings.state_dir if place.inside else Path(docker.info["DockerRootDir"])
    try:
        return space.disk(folder)
    except OSError:
        return unseen("disk", f"how much is free at {folder} is", f"df -h {folder}")


def _data_findings(settings: Settings, place: Place) -> Iterator[Finding]:
    if not place.inside:
        yield unseen("database", "the databases, in a volume, are", _FROM_HUB)
        return
    yield _careful("database", lambda: database("database", settings.store_url, "portal"))
    yield _careful(
        "hub's database", lambda: database("hub's database", settings.hub_store_url, "hub", hub_migrations())
    )


def _real_check(settings: Settings, place: Place) -> Finding:
    if not place.inside:
        return unseen("a real check", "the judge's socket, in a volume, is", _FROM_HUB)
    return ask_judge(settings)
