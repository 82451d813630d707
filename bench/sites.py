"""Two hosted servers to compare: ours as docker-compose.yml starts it, and JupyterHub with a bare DockerSpawner.

Both are driven as the tests drive a hosted server (``tests/hosted.py``, ``tests/servers.py``).

The bare one is what DockerSpawner's documentation leads to: its defaults, a dummy login, containers that are removed
when they stop, and an image with JupyterLab, jupyterhub-singleuser and torch in it (``bench/stock/Dockerfile``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
import psutil
from docker.errors import ImageNotFound
from docker.models.containers import Container

from bench.environments import BenchError
from gradlab.hub.config import PROXY_SCRIPT, node
from gradlab.hub.environment import Ports
from gradlab.settings import ROOT
from tests.hosted import Hosted, hosted
from tests.servers import Person
from tests.waiting import until

__all__ = ["Site", "bare", "ours"]

STOCK = "gradlab-bench-stock"

_CONFIGURATION = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://{address}:{hub}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy}"
c.ConfigurableHTTPProxy.command = ["{node}", "{script}"]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "docker"
c.DockerSpawner.image = "{image}"
c.DockerSpawner.prefix = "{name}"
c.DockerSpawner.remove = True
c.DockerSpawner.use_internal_ip = True
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers", "access:servers"]}}
]
"""


@dataclass
class Site:
    """A running hub: its learners (who are the same in every round), and what belongs to them."""

    title: str
    hub: psutil.Process
    people: list[Person]
    engine: docker.DockerClient
    prefix: str

    def containers(self) -> list[Container]:
        """Of learners' servers."""
        found = self.engine.containers.list(filters={"name": self.prefix}, ignore_removed=True)
        return [one for one in found if one.name.startswith(self.prefix)]

    def server_cpu(self) -> float:
        """Processor seconds that the ``jupyterhub-singleuser`` processes which run now have used."""
        total = 0.0
        for container in self.containers():
            for process in _processes(container):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "jupyterhub-singleuser" in " ".join(process.cmdline()[:3]):
                        times = process.cpu_times()
                        total += times.user + times.system
        return total


@contextlib.contextmanager
def ours(folder: Path, people: int) -> Iterator[Site]:
    """Ours, from the images as they are."""
    with hosted(folder) as server:
        server.up()
        hub = psutil.Process(server.service("hub").attrs["State"]["Pid"])
        yield Site("Gradlab", hub, _learners(server, people), server.engine, f"{server.name}-server-")


def _learners(server: Hosted, number: int) -> list[Person]:
    return [server.log_in(f"learner-{index}") for index in range(number)]


@contextlib.contextmanager
def bare(folder: Path, people: int) -> Iterator[Site]:
    """JupyterHub with DockerSpawner's defaults, in a process of this machine."""
    name, token, ports = f"gradlab-bench-{uuid.uuid4().hex[:8]}", secrets.token_hex(16), Ports.choose()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(docker.from_env()))
        _build_stock(engine)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "jupyterhub_config.py").write_text(
            _CONFIGURATION.format(
                port=ports.portal,
                hub=ports.hub,
                proxy=ports.proxy,
                address=engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"],
                node=node(),
                script=PROXY_SCRIPT,
                image=STOCK,
                name=name,
                token=token,
            )
        )
        with (folder / "hub.log").open("w") as log:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("jupyterhub")],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{ports.portal}"
            until(lambda: _answers(f"{url}/hub/health", process), seconds=60, what="the bare hub's answer")
            clients = [stack.enter_context(httpx.Client(base_url=url, timeout=60)) for _ in range(people)]
            found = [_learner(client, f"learner-{index}", token) for index, client in enumerate(clients)]
            yield Site("bare DockerSpawner", psutil.Process(process.pid), found, engine, f"{name}-")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
            for container in engine.containers.list(all=True, filters={"name": name}, ignore_removed=True):
                container.remove(force=True, v=True)


def _learner(client: httpx.Client, name: str, token: str) -> Person:
    person = Person(name, client, token)
    answer = person.api("POST", f"/hub/api/users/{name}")
    assert answer.status_code == 201, answer.text
    return person


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise BenchError(f"The bare hub ended with status {process.returncode} while it started.")
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).status_code == 200
    return False


def _build_stock(engine: docker.DockerClient) -> None:
    """From what our lab image was made from."""
    try:
        labels = engine.images.get("gradlab-lab").labels
    except ImageNotFound:
        raise BenchError("The image gradlab-lab is not on this machine. Build it: make images") from None
    chosen = {"BASE_IMAGE": labels.get("gradlab.base"), "TORCH": labels.get("gradlab.torch")}
    arguments = [word for name, value in chosen.items() if value for word in ("--build-arg", f"{name}={value}")]
    argv = ["docker", "build", "--network", "none", "--file", "bench/stock/Dockerfile", "--tag", STOCK, *arguments, "."]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise BenchError(f"The image {STOCK} to compare with could not be built:\n{last}")


def _processes(container: Container) -> list[psutil.Process]:
    container.reload()
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(container.attrs["State"]["Pid"])
        return [first, *first.children(recursive=True)]
    return []
