"""Leases of GPUs: what the monitor sees, what containers' labels say, and what is kept over a restart of the hub."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from gradlab.errors import PoolEmpty
from gradlab.hub.leases import Leases, holder_of
from gradlab.settings import Settings
from tests.gpus import GIB, gpu
from tests.monitors import serving


class Monitor:
    """Answers as the GPU monitor does; ``limits`` are the limits it was asked to set."""

    def __init__(self) -> None:
        self.devices: list[dict[str, Any]] = [gpu("a")]
        self.limits: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {"hard": True, "why": ""}
        self.silent = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/gpus")
        def gpus() -> dict[str, Any]:
            state, message = ("ok", "") if self.devices else ("no gpu", "The NVIDIA driver is loaded but shows no GPU.")
            state, message = ("silent", self.silent) if self.silent else (state, message)
            return {"state": state, "available": state == "ok", "message": message, "devices": self.devices}

        @app.post("/limits")
        def limits(wanted: dict[str, Any]) -> dict[str, Any]:
            self.limits.append(wanted)
            return self.answer

        return app


def settings_of(folder: Path, gpus: str) -> Settings:
    return Settings(state_dir=folder, run_dir=folder, gpus=gpus)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    monitor = Monitor()
    with serving(monitor.app(), tmp_path / "gpus.sock"):
        yield monitor


async def in_line(leases: Leases, *holders: str) -> None:
    """Return when these and nobody else wait, in this order."""
    while [one["holder"] for one in leases.queue.snapshot()["line"]] != list(holders):
        await asyncio.sleep(0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_a_gpu_is_leased_by_name_and_given_back(monitor: Monitor, tmp_path: Path) -> None:
    async def scenario() -> None:
        leases = Leases(settings_of(tmp_path, "exclusive"))
        slot = await leases.acquire(holder_of("ada", ""))
        grant = leases.grant("ada/", cdi=False)
        assert slot.id == grant.labels["gradlab.gpu"] == "GPU-a/1of1"
        assert grant.device_requests[0]["DeviceIDs"] == ["GPU-a"]
        assert leases.grant("ben/", cdi=False).environment == {"NVIDIA_VISIBLE_DEVICES": "void"}
        leases.release("ada/")
        assert (await leases.acquire("ben/")).id == "GPU-a/1of1"

    run(scenario())


def test_no_gpu_is_told_apart_from_no_monitor(monitor: Monitor, tmp_path: Path) -> None:
    async def scenario() -> None:
        monitor.devices = []
        with pytest.raises(PoolEmpty, match="shows no GPU"):
            await Leases(settings_of(tmp_path, "exclusive")).acquire("ada/")
        with pytest.raises(PoolEmpty, match="The GPU monitor does not answer, so nobody knows which GPUs there are"):
            await Leases(settings_of(tmp_path / "elsewhere", "exclusive")).acquire("ada/")
        with pytest.raises(PoolEmpty, match="GRADLAB_GPUS"):
            await Leases(settings_of(tmp_path, "none")).acquire("ada/")

    run(scenario())


def test_a_monitor_that_falls_silent_takes_no_gpu_away(monitor: Monitor, tmp_path: Path) -> None:
    async def scenario() -> None:
        leases = Leases(settings_of(tmp_path, "exclusive"))
        await leases.refresh()
        (tmp_path / "gpus.sock").unlink()
        assert (await leases.acquire("ada/")).device == "GPU-a"

    run(scenario())


def test_labels_of_running_containers_are_the_account(monitor: Monitor, tmp_path: Path) -> None:
    def container(user: str, state: str) -> dict[str, Any]:
        marks = {"gradlab.user": user, "gradlab.server": "", "gradlab.gpu": "GPU-a/1of1"}
        return {"Labels": marks, "State": state, "Created": 1_700_000_000}

    async def scenario() -> None:
        leases = Leases(settings_of(tmp_path, "exclusive"))
        leases.restore([container("ada", "running"), container("ben", "exited"), {"Labels": {}, "State": "running"}])
        waiting = asyncio.create_task(leases.acquire("cyd/"))
        assert (await anext(leases.watch("cyd/"))).startswith("1 ahead of you")
        leases.keep_only({"cyd/"})  # ada's server went without a word
        assert (await waiting).device == "GPU-a"

    run(scenario())


def test_a_driver_that_hangs_is_no_news_of_any_gpu(monitor: Monitor, tmp_path: Path) -> None:
    async def scenario() -> None:
        monitor.silent = "The NVIDIA driver does not answer."
        late = Leases(settings_of(tmp_path, "exclusive"))
        with pytest.raises(PoolEmpty, match=r"Its GPU monitor says: The NVIDIA driver does not answer\."):
            await late.acquire("ada/")
        monitor.silent = ""
        leases = Leases(settings_of(tmp_path, "exclusive"))
        await leases.refresh()
        monitor.silent = "The NVIDIA driver does not answer."
        await leases.refresh()
        assert [slot["id"] for slot in leases.queue.snapshot()["slots"]] == ["GPU-a/1of1"]
        assert (await leases.acquire("ada/")).id == "GPU-a/1of1"

    run(scenario())


def test_places_in_line_are_kept_over_a_restart_and_in_order(monitor: Monitor, tmp_path: Path) -> None:
    async def before() -> None:
        leases = Leases(settings_of(tmp_path, "exclusive"))
        await leases.acquire("ada/")
        ben = asyncio.create_task(leases.acquire("ben/"))
        await in_line(leases, "ben/")
        cyd = asyncio.create_task(leases.acquire("cyd/"))
        await in_line(leases, "ben/", "cyd/")
        assert not ben.done()
        assert not cyd.done()
        os._exit(0)  # as kill -9

    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            run(before())
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    async def after() -> None:
        leases = Leases(settings_of(tmp_path, "exclusive"))
        await leases.acquire("ada/")
        leases.release("ben/")  # JupyterHub stops, at its start, what was starting when it ended
        late, cyd, ben = (asyncio.create_task(leases.acquire(name)) for name in ("late/", "cyd/", "ben/"))
        await in_line(leases, "ben/", "cyd/", "late/")
        for task in (late, cyd, ben):
            task.cancel()
        await asyncio.wait((late, cyd, ben))

    run(after())


def test_a_place_that_was_given_up_is_not_kept(monitor: Monitor, tmp_path: Path) -> None:
    async def scenario() -> None:
        leases = Leases(settings_of(tmp_path, "exclusive"))
        await leases.acquire("ada/")
        waiting = asyncio.create_task(leases.acquire("ben/"))
        await in_line(leases, "ben/")
        assert list(json.loads((tmp_path / "gpu-queue.json").read_text())["line"]) == ["ben/"]
        waiting.cancel()
        await asyncio.wait((waiting,))
        leases.release("ben/")
        assert json.loads((tmp_path / "gpu-queue.json").read_text())["line"] == {}

    run(scenario())


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"line": [], "lasted": 3}', '{"line": {"ada/": "soon"}, "lasted": []}']
)
def test_a_damaged_file_costs_places_and_nothing_else(monitor: Monitor, tmp_path: Path, text: str) -> None:
    (tmp_path / "gpu-queue.json").write_text(text)

    async def scenario() -> None:
        assert (await Leases(settings_of(tmp_path, "exclusive")).acquire("ada/")).device == "GPU-a"

    run(scenario())


def test_a_share_is_enforced_where_the_driver_can(monitor: Monitor, tmp_path: Path) -> None:
    async def scenario() -> None:
        monitor.devices = [gpu("a", hard=True)]
        leases = Leases(settings_of(tmp_path, "shared:4"))
        await leases.acquire("ada/")
        assert "PYTORCH_ALLOC_CONF" not in leases.grant("ada/", cdi=False).environment
        assert leases.statement("ada/") == ""
        await leases.limit("ada/", "c" * 64, 4711)
        assert monitor.limits == [{"container": "c" * 64, "pid": 4711, "gpu": "GPU-a", "bytes": 35 * GIB}]
        await leases.limit("nobody/", "c" * 64, 4711)
        assert len(monitor.limits) == 1

    run(scenario())


def test_a_share_that_is_not_enforced_is_said_to_be_so(
    monitor: Monitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        leases = Leases(settings_of(tmp_path, "shared:4"))
        await leases.acquire("ada/")
        assert "the hardware does not enforce it" in leases.statement("ada/")
        assert leases.grant("ada/", cdi=False).environment["PYTORCH_ALLOC_CONF"]
        await leases.limit("ada/", "c" * 64, 4711)
        assert monitor.limits == []
        monitor.devices = [gpu("a", hard=True)]
        monitor.answer = {"hard": False, "why": "The container has no group of its own."}
        await leases.refresh()
        await leases.limit("ada/", "c" * 64, 4711)
        assert "The share of ada/ of GPU memory is not enforced. The container has no group of its own." in caplog.text

    run(scenario())
