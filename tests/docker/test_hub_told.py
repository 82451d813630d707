"""What the hub tells of servers is what Docker says: by labels of containers that run, and by its word of their end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from gradlab.hub.fleet import Fleet
from gradlab.hub.gpus import LABEL
from gradlab.roster import Roster, RosterFile
from gradlab.settings import Settings

pytestmark = pytest.mark.xdist_group("networks")

NAME = f"gradlab-test-{uuid.uuid4().hex[:8]}"


class Spawner:
    """As a fleet knows one that has a container."""

    ready = True

    def __init__(self, learner: str) -> None:
        self.key = (learner, "")
        self.polled = asyncio.Event()

    async def poll_and_notify(self) -> None:
        self.polled.set()


def serve(engine: docker.DockerClient, learner: str, **marks: str) -> Container:
    labels = {"gradlab.role": "server", "gradlab.installation": NAME, "gradlab.user": learner, "gradlab.server": ""}
    return engine.containers.run(
        "gradlab-lab", ["sleep", "600"], labels=labels | marks, network_mode="none", init=True, detach=True
    )


@pytest.fixture
def settings(tmp_path: Path, engine: docker.DockerClient) -> Iterator[Settings]:
    yield Settings(spawner="docker", installation=NAME, state_dir=tmp_path, run_dir=tmp_path, gpus="shared:2")
    label = {"label": f"gradlab.installation={NAME}"}
    for container in engine.containers.list(all=True, filters=label):
        container.remove(force=True)
    for network in engine.networks.list(filters=label):
        network.remove()


def test_a_restarted_hub_tells_of_the_servers_that_run_and_at_once_of_their_end(
    settings: Settings, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradlab.hub.networks.Networks.refill", lambda _self: None)
    ada = serve(engine, "ada", **{LABEL: "GPU-a/1of2", "gradlab.lab": "tensors"})
    gone = serve(engine, "gone")
    gone.kill()
    gone.wait()
    read = RosterFile(settings.roster_file)

    async def tells(what: Callable[[Roster], bool]) -> Roster:
        while not what(roster := read()):
            await asyncio.sleep(0.02)
        return roster

    async def scenario() -> None:
        fleet = Fleet(settings)
        spawner = Spawner("ada")
        fleet.hold(spawner)
        await fleet.ready()
        (server,) = (await tells(lambda roster: bool(roster.servers))).servers
        assert (server.learner, server.lab, server.container) == ("ada", "tensors", ada.id)
        assert (server.device, server.hard) == ("GPU-a", False)
        assert server.held_since == server.since > 0
        ben = serve(engine, "ben")
        fleet.hold(Spawner("ben"))
        fleet.started(("ben", ""), "", str(ben.id))
        await tells(lambda roster: [one.learner for one in roster.servers] == ["ada", "ben"])
        await asyncio.to_thread(ada.kill)
        await spawner.polled.wait()
        await tells(lambda roster: [one.learner for one in roster.servers] == ["ben"])
        await asyncio.to_thread(ben.remove, force=True)
        await fleet.sweep()
        await tells(lambda roster: not roster.servers)
        for task in list(fleet._tasks):
            task.cancel()
        await asyncio.gather(*fleet._tasks, return_exceptions=True)
        fleet.client.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
