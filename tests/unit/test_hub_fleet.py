"""What the hub knows of all learners' containers; with Docker it is tested in tests/docker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import NotFound

from gradlab.hub import fleet as module
from gradlab.hub.fleet import Fleet
from gradlab.settings import Settings
from tests.monitors import ADA, BOB


def test_what_an_earlier_hub_left_is_looked_at_again_where_docker_did_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.docker, "from_env", lambda **_: SimpleNamespace(api=None))
    fleet = Fleet(Settings(state_dir=tmp_path))
    looks = []

    async def look() -> None:
        looks.append(len(looks))
        if len(looks) < 3:
            raise ConnectionError("Docker is away")

    async def starts() -> None:
        for _ in range(2):
            with pytest.raises(ConnectionError, match="Docker is away"):
                await fleet.ready()
        for _ in range(2):
            await fleet.ready()

    monkeypatch.setattr(fleet, "_take_over", look)
    asyncio.run(starts())
    assert looks == [0, 1, 2]


class Containers:
    """What Docker knows of one container, and what was run in it."""

    def __init__(self, **labels: str) -> None:
        self.labels = {f"gradlab.{name}": value for name, value in labels.items()}
        self.runs: list[tuple[str, list[str], str]] = []

    def inspect_container(self, container: str) -> dict[str, Any]:
        if container != ADA:
            raise NotFound("no such container")
        return {"Config": {"Labels": self.labels}}

    def exec_create(self, container: str, command: list[str], *, user: str) -> dict[str, str]:
        self.runs.append((container, command, user))
        return {"Id": "run"}

    def exec_start(self, number: str, *, detach: bool) -> None:
        assert (number, detach) == ("run", True)


@pytest.mark.parametrize(
    ("labels", "touched"),
    [
        ({"role": "server", "installation": "class"}, True),
        ({"role": "hub", "installation": "class"}, False),
        ({"role": "server", "installation": "another"}, False),
        ({}, False),
    ],
)
def test_a_signal_is_sent_in_learners_containers_of_this_server_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    labels: dict[str, str],
    touched: bool,
) -> None:
    client = Containers(**labels)
    monkeypatch.setattr(module.docker, "from_env", lambda **_: SimpleNamespace(api=client))
    fleet = Fleet(Settings(state_dir=tmp_path, installation="class"))
    asyncio.run(fleet.signal(ADA, 40, "TERM"))
    asyncio.run(fleet.signal(BOB, 40, "TERM"))  # it has ended
    assert client.runs == ([(ADA, ["sh", "-c", "kill -TERM 40"], "lab")] if touched else [])
    assert ("is no learner's of this server; nothing is stopped in it." in caplog.text) is not touched
