"""What the hub knows of all learners' containers; with Docker it is tested in tests/docker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradlab.hub import fleet as module
from gradlab.hub.fleet import Fleet
from gradlab.settings import Settings


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
