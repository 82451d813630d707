"""One judge under attack for each kind of sandbox and test process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from tests.attacks.campaign import Campaign
from tests.attacks.lab import RIGHT, attacked_lab, attacks_notebook
from tests.conftest import Require

__all__ = ["RIGHT", "attacked_lab", "attacks_notebook"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The attacks of a theme share one run of the judge: all on one judge go to one process, the two judges to two."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and (sandbox := callspec.params.get("sandbox")):
            item.add_marker(pytest.mark.xdist_group(f"attacks-{sandbox}"))


@pytest.fixture(params=("process", "docker"), scope="session")
def sandbox(request: pytest.FixtureRequest, require: Require) -> str:
    """The kinds of sandbox that keep learner code apart; without namespaces only limits are promised."""
    name: str = request.param
    if name == "docker":
        require("docker")
    elif detect() == "plain":
        require("bubblewrap")
    return name


@pytest.fixture(scope="session")
def campaign(sandbox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    method = "docker" if sandbox == "docker" else detect()
    config = SandboxConfig(
        method=method, memory_mb=1024, processes=24, scratch_mb=8, output_kb=64, installation=f"attacks-{uuid.uuid4()}"
    )
    campaign = Campaign(config, tmp_path_factory.mktemp("attacks"))
    yield campaign
    campaign.close()
