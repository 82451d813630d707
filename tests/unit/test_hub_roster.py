"""What the hub tells the GPU monitor of servers, GPUs and the line, and when."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from gradlab.hub import fleet as module
from gradlab.hub import spawner as spawner_module
from gradlab.hub.fleet import Fleet
from gradlab.hub.leases import Leases, holder_of
from gradlab.hub.routes import LastingProxy
from gradlab.hub.spawner import LearnerSpawner
from gradlab.hub.telling import Registry
from gradlab.roster import Roster, Server, Waiter, write
from gradlab.settings import Settings
from tests.courses import write_course
from tests.gpus import GIB, gpu
from tests.monitors import serving
from tests.waiting import until

ADA, BEN = Server("ada", container="a" * 64, lab="tensors"), Server("ben", container="b" * 64)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def told(path: Path) -> Roster | None:
    return Roster.parse(path.read_text()) if path.exists() else None


async def tells(path: Path, what: Callable[[Roster], object]) -> Roster:
    """The first roster of which this is true."""
    while (found := told(path)) is None or not what(found):
        await asyncio.sleep(0.01)
    return found


# -- the registry ------------------------------------------------------------------------------------------------------


def test_servers_are_told_when_they_start_and_end(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"

    async def scenario() -> None:
        registry = Registry(path, every=0.01)
        registry.recover([ADA])
        await tells(path, lambda found: found.servers == (ADA,))
        registry.started(BEN)
        await tells(path, lambda found: found.servers == (ADA, BEN))
        registry.ended(ADA.container, "c" * 64)
        await tells(path, lambda found: found.servers == (BEN,))
        again = Server("ben", container="d" * 64)
        registry.started(again)  # the container that he had before went without a word
        await tells(path, lambda found: found.servers == (again,))
        registry.ended(BEN.container)
        registry.started(ADA)
        await tells(path, lambda found: found.servers == (again, ADA))

    run(scenario())


def test_what_an_earlier_hub_wrote_stays_until_the_servers_are_known(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    write(path, Roster((ADA,)))

    async def scenario() -> None:
        registry = Registry(path, every=0.0)
        registry.changed()
        registry.started(BEN)
        await asyncio.sleep(0.05)
        assert told(path) == Roster((ADA,))
        registry.recover([])
        await tells(path, lambda found: found == Roster())

    run(scenario())


def test_a_class_that_starts_at_once_is_written_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def count(path: Path, roster: Roster) -> None:
        written.append(len(roster.servers))

    monkeypatch.setattr("gradlab.hub.telling.write", count)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        registry = Registry(tmp_path / "servers.json", every=0.1)
        registry.recover([])
        began = loop.time()
        for number in range(200):
            registry.started(Server(f"learner-{number}", container=f"{number:064x}"))
            await asyncio.sleep(0.001)
        while written[-1:] != [200]:
            await asyncio.sleep(0.01)
        assert len(written) <= (loop.time() - began) / 0.1 + 2
        before = len(written)
        for _ in range(5):  # nothing is news
            registry.changed()
            await asyncio.sleep(0.11)
        assert len(written) == before

    run(scenario())


def test_while_somebody_waits_estimates_are_told_again(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    left = iter([30.0, 20.0, 10.0])

    def compose(_servers: object) -> Roster:
        return Roster(line=(Waiter("cyd", "", 1.0, 1, next(left)),))

    async def scenario() -> None:
        registry = Registry(path, compose, every=0.0, again=0.02)
        registry.recover([])
        await tells(path, lambda found: found.line[0].estimate == 10.0)
        registry._timer.cancel()  # type: ignore[union-attr]

    run(scenario())


def test_a_full_disk_is_logged_once_and_got_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "run" / "servers.json"  # there is no such folder

    async def scenario() -> None:
        registry = Registry(path, every=0.0, again=0.02)
        registry.recover([ADA])
        for _ in range(5):
            registry.changed()
            await asyncio.sleep(0.03)
        path.parent.mkdir()
        await tells(path, lambda found: found.servers == (ADA,))

    run(scenario())
    assert [record.levelname for record in caplog.records if record.name == "gradlab.hub.telling"] == ["ERROR", "INFO"]
    assert "so the GPU monitor does not know whose processes it sees" in caplog.text


# -- a hosted server ---------------------------------------------------------------------------------------------------


class Docker:
    """The part of Docker's client that a fleet asks about servers."""

    def __init__(self) -> None:
        self.running: list[dict[str, Any]] = []
        self.base_url = "http+docker://localhost"

    def info(self) -> dict[str, Any]:
        return {}

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return [dict(one) for one in self.running]

    def networks(self, **_: Any) -> list[dict[str, Any]]:
        return []

    def start(self, learner: str, container: str, **marks: str) -> None:
        labels = {"gradlab.role": "server", "gradlab.user": learner, "gradlab.server": ""}
        labels |= {f"gradlab.{name}": value for name, value in marks.items()}
        self.running.append(
            {
                "Id": container,
                "Names": [f"/server-{learner}"],
                "Labels": labels,
                "State": "running",
                "Created": 1_700_000_000,
                "NetworkSettings": {"Networks": {}},
            }
        )

    def inspect_container(self, container: str) -> dict[str, Any]:
        found = next(one for one in self.running if one["Id"] == container)
        return {"Name": found["Names"][0], "State": {"Running": True}}

    def logs(self, container: str, **_: Any) -> bytes:
        return b""

    def remove_container(self, container: str, **_: Any) -> None:
        self.running = [one for one in self.running if one["Id"] != container]


class Monitor:
    def __init__(self) -> None:
        self.devices = [gpu("a"), gpu("b")]
        self.answer: dict[str, Any] = {"hard": True, "why": ""}

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/gpus")
        def gpus() -> dict[str, Any]:
            return {"available": True, "state": "ok", "message": "", "devices": self.devices}

        @app.post("/limits")
        def limits(_wanted: dict[str, Any]) -> dict[str, Any]:
            return self.answer

        return app


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    monitor = Monitor()
    with serving(monitor.app(), tmp_path / "gpus.sock"):
        yield monitor


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    client = Docker()
    monkeypatch.setattr(module.docker, "from_env", lambda **_: SimpleNamespace(api=client))
    monkeypatch.setattr(Fleet, "_listen", lambda _self, _loop: None)
    monkeypatch.setattr(module.Networks, "refill", lambda _self: None)
    return client


def hosted(folder: Path, gpus: str) -> Settings:
    return Settings(spawner="docker", installation="test", state_dir=folder / "state", run_dir=folder, gpus=gpus)


class Spawner:
    """The part of a spawner that a fleet needs to leave its container alone."""

    ready = True

    def __init__(self, learner: str) -> None:
        self.key = (learner, "")

    async def poll_and_notify(self) -> None: ...


async def end(fleet: Fleet) -> None:
    tasks = list(fleet._tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_after_a_restart_of_the_hub_the_running_containers_are_told(
    tmp_path: Path, monitor: Monitor, docker: Docker
) -> None:
    settings = hosted(tmp_path, "exclusive")
    write(settings.roster_file, Roster((BEN,)))  # by the last hub; his container has ended since
    docker.start("ada", "a" * 64, gpu="GPU-a/1of1", lab="tensors")
    docker.start("cyd", "c" * 64)
    docker.start("eve", "e" * 64, gpu="GPU-b/1of1")
    docker.running[-1]["State"] = "exited"

    async def scenario() -> None:
        fleet = Fleet(settings)
        for name in ("ada", "cyd"):
            fleet.hold(Spawner(name))
        await fleet.ready()
        found = await tells(settings.roster_file, lambda found: found.servers[0].learner == "ada")
        ada, cyd = found.servers
        assert (ada.key, ada.container, ada.lab) == (("ada", ""), "a" * 64, "tensors")
        assert (ada.device, ada.share, ada.hard) == ("GPU-a", None, False)
        assert ada.since == ada.held_since == 1_700_000_000
        assert (cyd.key, cyd.device, cyd.held_since) == (("cyd", ""), "", None)
        assert (found.mode, found.slots, found.free, found.problem) == ("exclusive", 2, 1, "")
        await end(fleet)

    run(scenario())


def test_a_hosted_servers_start_and_end_are_told(tmp_path: Path, monitor: Monitor, docker: Docker) -> None:
    settings = hosted(tmp_path, "exclusive")
    path = settings.roster_file

    async def scenario() -> None:
        fleet = Fleet(settings)
        await fleet.ready()
        await tells(path, lambda found: found.free == 2)
        await fleet.leases.acquire(holder_of("ada", ""))
        await tells(path, lambda found: found.free == 1 and not found.servers)
        for name, container in (("ada", "a" * 64), ("ben", "b" * 64), ("cyd", "c" * 64)):
            fleet.hold(Spawner(name))
            docker.start(name, container)
            fleet.started((name, ""), "tensors", container)
        found = await tells(path, lambda found: len(found.servers) == 3)
        assert [(one.learner, one.lab, one.device) for one in found.servers] == [
            ("ada", "tensors", "GPU-a"),
            ("ben", "tensors", ""),
            ("cyd", "tensors", ""),
        ]
        await fleet.bury("a" * 64)
        fleet.leases.release("ada/")
        await tells(path, lambda found: [one.learner for one in found.servers] == ["ben", "cyd"] and found.free == 2)
        attributes = {"gradlab.role": "server", "gradlab.user": "ben", "gradlab.server": ""}
        fleet._heard({"Action": "die", "Actor": {"ID": "b" * 64, "Attributes": attributes}})
        await tells(path, lambda found: [one.learner for one in found.servers] == ["cyd"])
        docker.running.clear()  # and one of which nobody has heard
        await fleet.sweep()
        await tells(path, lambda found: found.servers == ())
        await end(fleet)

    run(scenario())


def test_a_server_that_starts_during_a_sweep_stays(tmp_path: Path, monitor: Monitor, docker: Docker) -> None:
    settings = hosted(tmp_path, "none")

    async def scenario() -> None:
        fleet = Fleet(settings)
        await fleet.ready()
        listed, looks = fleet._servers, iter(["for servers that nobody holds", "for those that run"])

        async def listing() -> list[dict[str, Any]]:
            found = await listed()
            if next(looks) == "for those that run":  # after Docker's answer, before the hub has it
                fleet.started(("ada", ""), "", "a" * 64)
            return found

        fleet._servers = listing  # type: ignore[method-assign]
        await fleet.sweep()
        assert fleet.registry.places == {"a" * 64}
        await tells(settings.roster_file, lambda found: [one.learner for one in found.servers] == ["ada"])
        await end(fleet)

    run(scenario())


def test_shares_of_a_gpu_are_told_with_what_enforces_them(tmp_path: Path, monitor: Monitor, docker: Docker) -> None:
    monitor.devices = [gpu("a", hard=True), gpu("b")]

    async def scenario() -> None:
        leases = Leases(hosted(tmp_path, "shared:4"))
        servers = [Server(name, container=name[0] * 64) for name in ("ada", "ben", "cyd")]
        for server in servers:
            await leases.acquire(holder_of(*server.key))
        monitor.answer = {"hard": False, "why": "The container has no group of its own."}
        await leases.limit("cyd/", "c" * 64, 4711)
        found = leases.roster(servers)
        assert [(one.device, one.share, one.hard) for one in found.servers] == [
            ("GPU-a", 35 * GIB, True),
            ("GPU-b", 35 * GIB, False),
            ("GPU-a", 35 * GIB, False),  # the driver could, but it has not
        ]
        assert (found.mode, found.slots, found.free) == ("shared:4", 8, 5)
        leases.release("cyd/")
        monitor.answer = {"hard": True, "why": ""}
        await leases.acquire("cyd/")
        await leases.limit("cyd/", "c" * 64, 4711)
        assert leases.roster(servers).servers[2].hard == (leases.queue.slot_of("cyd/").device == "GPU-a")  # type: ignore[union-attr]

    (tmp_path / "state").mkdir()
    run(scenario())


def test_the_line_is_told_in_its_order(tmp_path: Path, monitor: Monitor, docker: Docker) -> None:
    monitor.devices = [gpu("a")]
    settings = hosted(tmp_path, "exclusive")

    async def scenario() -> None:
        fleet = Fleet(settings)
        await fleet.ready()
        await fleet.leases.acquire("ada/")
        waiting = []
        for name in ("ben", "cyd"):
            waiting.append(asyncio.create_task(fleet.leases.acquire(holder_of(name, "second"))))
            await tells(
                settings.roster_file, lambda found, name=name: found.line[-1:] and found.line[-1].learner == name
            )
        found = await tells(settings.roster_file, lambda found: len(found.line) == 2)
        assert [(one.learner, one.name, one.position, one.estimate) for one in found.line] == [
            ("ben", "second", 1, None),
            ("cyd", "second", 2, None),
        ]
        assert found.free == 0
        fleet.leases.release("ada/")
        await tells(settings.roster_file, lambda found: [one.position for one in found.line] == [1])
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await tells(settings.roster_file, lambda found: not found.line)
        await end(fleet)

    run(scenario())


def test_a_hub_looks_after_what_was_left_before_anybody_asks(tmp_path: Path) -> None:
    begun: list[str] = []

    async def begin() -> None:
        begun.append("once")
        raise ConnectionError("Docker is away")

    async def scenario() -> None:
        app = SimpleNamespace(users={}, _service_map={}, http_server=None)
        address = f"http+unix://{str(tmp_path / 'proxy.sock').replace('/', '%2F')}"
        proxy = LastingProxy(api_url=address, auth_token="t", should_start=False, app=app, begin=begin)
        await proxy.look()
        assert begun == []  # it does not know yet which servers there are, and would remove them all
        app.http_server = object()
        for _ in range(3):
            await proxy.look()
            await asyncio.sleep(0)
        assert begun == ["once"]
        proxy._looking.stop()

    run(scenario())


# -- a trial -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ada(tmp_path: Path) -> LearnerSpawner:
    course = write_course(tmp_path / "course")
    settings = Settings(state_dir=tmp_path / "state", labs_dir=course.labs, checks_dir=course.checks)
    settings.state_dir.mkdir()
    user = SimpleNamespace(name="ada", id=1)
    return LearnerSpawner(settings=settings, user=user, log=logging.getLogger())


def test_a_trials_server_is_told_with_its_first_process(ada: LearnerSpawner, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ada.settings.roster_file
    monkeypatch.setattr(LearnerSpawner, "command_line", lambda _self: ["sleep", "600"])
    monkeypatch.setattr(LearnerSpawner, "get_env", lambda _self: dict(os.environ))
    monkeypatch.setattr(spawner_module, "listening_uid", lambda _port: ada.uid)

    async def scenario() -> None:
        await ada.start()
        found = await tells(path, lambda found: found.servers)
        (server,) = found.servers
        assert (server.key, server.pid, server.container, server.lab) == (("ada", ""), ada.proc.pid, "", "")
        assert server.uid == (ada.uid if os.getuid() == 0 else None)
        assert found.mode == "none"
        ada.proc.kill()
        until(lambda: ada.proc.poll() is not None)
        assert await ada.poll() == -9
        await tells(path, lambda found: found.servers == ())
        ada.proc.stdout.close()

    run(scenario())


def test_a_trials_server_that_fails_to_start_is_not_told_for_long(
    ada: LearnerSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawner_module, "owned_by", lambda _uid: [])

    async def scenario() -> None:
        with subprocess.Popen(["sleep", "600"]) as ada.proc:
            ada.pid = ada.proc.pid
            ada._tell_started()
            await tells(ada.settings.roster_file, lambda found: found.servers)
            await ada.run_post_stop_hook()
            await tells(ada.settings.roster_file, lambda found: found.servers == ())
            ada.proc.kill()

    run(scenario())


def test_who_has_no_user_id_of_their_own_is_told_by_process_alone(
    ada: LearnerSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)

    async def scenario() -> None:
        ada.pid = 4711
        ada._tell_started()
        found = await tells(ada.settings.roster_file, lambda found: found.servers)
        assert (found.servers[0].pid, found.servers[0].uid) == (4711, None)

    run(scenario())
