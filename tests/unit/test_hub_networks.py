"""Addresses of learners' networks: none is taken twice, and what is said when there are none left.

What else networks do needs Docker: tests/docker/test_networks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import docker
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from gradlab.hub.networks import Networks
from tests.monitors import serving

RANGE = IPv4Network("10.213.0.0/26")  # room for four


def network(name: str, *subnets: str) -> dict[str, Any]:
    return {"Name": name, "IPAM": {"Config": [{"Subnet": subnet} for subnet in subnets] or None}, "Containers": {}}


class Engine:
    """As much of Docker's API as networks ask for; ``networks`` are those there are, by name."""

    def __init__(self, *networks: dict[str, Any]) -> None:
        self.networks = {one["Name"]: one for one in networks}
        self.created: list[dict[str, Any]] = []
        self.services: list[str] = []
        self.broken = False

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1.44/networks")
        def networks() -> list[dict[str, Any]]:
            return list(self.networks.values())

        @app.get("/v1.44/networks/{name}")
        def inspect(name: str) -> Any:
            return self.networks.get(name) or JSONResponse({"message": f"network {name} not found"}, 404)

        @app.post("/v1.44/networks/{name}/connect")
        def connect(name: str, wanted: dict[str, Any]) -> Any:
            if self.broken:
                return JSONResponse({"message": "no room for another interface"}, 500)
            self.networks[name]["Containers"][wanted["Container"]] = {}
            return {}

        @app.post("/v1.44/networks/create")
        def create(wanted: dict[str, Any]) -> dict[str, Any]:
            self.created.append(wanted)
            self.networks[wanted["Name"]] = network(wanted["Name"], wanted["IPAM"]["Config"][0]["Subnet"])
            return {"Id": wanted["Name"]}

        @app.get("/v1.44/containers/json")
        def containers() -> list[dict[str, Any]]:
            return [{"Id": role, "Labels": {"gradlab.role": role}} for role in self.services]

        return app


@pytest.fixture
def client(tmp_path: Path) -> Iterator[docker.APIClient]:
    with closing(docker.APIClient(f"unix://{tmp_path / 'docker.sock'}", version="1.44")) as client:
        yield client


def test_addresses_that_somebody_else_has_are_left_alone(client: docker.APIClient, tmp_path: Path) -> None:
    others = [network("none"), network("six", "fd00::/64"), network("theirs", "10.213.0.20/30", "172.17.0.0/16")]
    engine = Engine(*others)
    with serving(engine.app(), tmp_path / "docker.sock"):
        networks = Networks(client, "class", RANGE)
        assert [networks.take() for _ in range(3)] == [f"class-learner-10.213.0.{last}" for last in (0, 32, 48)]


def test_one_that_somebody_removed_keeps_no_other_from_a_service_that_is_new(
    client: docker.APIClient, tmp_path: Path
) -> None:
    engine = Engine()
    with serving(engine.app(), tmp_path / "docker.sock"):
        networks = Networks(client, "class", RANGE)
        removed, kept = networks.take(), networks.take()
        del engine.networks[removed]
        engine.services = ["hub"]
        networks.connect()
        assert list(engine.networks[kept]["Containers"]) == ["hub"]
        networks.give_back(removed)  # by whose server it had
        assert networks.take() != kept


def test_one_that_could_not_be_finished_is_for_whoever_comes_next(client: docker.APIClient, tmp_path: Path) -> None:
    engine = Engine()
    engine.services, engine.broken = ["hub"], True
    with serving(engine.app(), tmp_path / "docker.sock"):
        networks = Networks(client, "class", RANGE)
        with pytest.raises(docker.errors.APIError, match="no room for another interface"):
            networks.take()
        assert len(engine.created) == 1
        assert networks.take() == engine.created[0]["Name"]
        assert len(engine.created) == 1


def test_when_all_addresses_are_in_use_the_setting_is_named(client: docker.APIClient, tmp_path: Path) -> None:
    with serving(Engine(network("theirs", "10.213.0.0/27")).app(), tmp_path / "docker.sock"):
        networks = Networks(client, "class", RANGE)
        last = [networks.take(), networks.take()]
        with pytest.raises(OSError, match=r"^All addresses") as caught:
            networks.take()
        assert str(caught.value) == (
            "All addresses of GRADLAB_LEARNER_NETWORKS=10.213.0.0/26 are in use (2 networks). Give it a larger range, "
            "such as 10.213.0.0/16, that nothing else on this machine uses."
        )
        networks.give_back(last[1])
        assert networks.take() == last[1]


@pytest.mark.parametrize("internet", [False, True])
def test_a_network_has_no_way_out_unless_it_is_to_have_one(
    client: docker.APIClient, tmp_path: Path, internet: bool
) -> None:
    engine = Engine()
    with serving(engine.app(), tmp_path / "docker.sock"):
        Networks(client, "class", RANGE, internet=internet).take()
    [asked] = engine.created
    assert asked.get("Internal", False) is not internet
    assert asked["Options"] == ({} if internet else {"com.docker.network.bridge.inhibit_ipv4": "true"})
    assert asked["Labels"] == {"gradlab.installation": "class", "gradlab.role": "learner"}
    assert asked["IPAM"]["Config"][0]["Subnet"] == "10.213.0.0/28"
