"""Learners' networks on a real engine: one each, with the services in it, and nothing else to reach."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network

import docker
import pytest
from docker.models.containers import Container

from gradlab.hub.networks import Networks
from tests.conftest import Require

pytestmark = pytest.mark.xdist_group("networks")

NAME = f"gradlab-test-{uuid.uuid4().hex[:8]}"
RANGE = IPv4Network(f"10.{214 + uuid.uuid4().int % 30}.{uuid.uuid4().int % 256}.0/24")


@pytest.fixture(scope="module", autouse=True)
def clean(engine: docker.DockerClient, require: Require) -> Iterator[None]:
    require("docker")
    yield
    label = {"label": f"gradlab.installation={NAME}"}
    for container in engine.containers.list(all=True, filters=label):
        container.remove(force=True)
    for network in engine.networks.list(filters=label):
        network.remove()


def service(engine: docker.DockerClient, role: str) -> Container:
    labels = {"gradlab.installation": NAME, "gradlab.role": role}
    return engine.containers.run("gradlab-lab", ["sleep", "600"], labels=labels, network_mode="bridge", detach=True)


def inside(engine: docker.DockerClient, network: str, code: str) -> str:
    """What Python prints in a container of this network."""
    output: bytes = engine.containers.run("gradlab-lab", ["python", "-c", code], network=network, remove=True)
    return output.decode().strip()


@pytest.fixture(scope="module")
def hub(engine: docker.DockerClient, clean: None) -> Container:
    return service(engine, "hub")


@pytest.fixture
def networks(engine: docker.DockerClient, hub: Container) -> Networks:
    found = Networks(engine.api, NAME, RANGE, spare=2)
    found.recover([])
    return found


def attached(engine: docker.DockerClient, network: str) -> set[str]:
    return set(engine.networks.get(network, scope="local").attrs["Containers"])


def test_a_network_has_the_services_in_it_and_no_way_out(
    engine: docker.DockerClient, networks: Networks, hub: Container
) -> None:
    name = networks.take()
    found = engine.networks.get(name).attrs
    assert found["Internal"]
    assert IPv4Network(found["IPAM"]["Config"][0]["Subnet"]).subnet_of(RANGE)
    assert set(found["Containers"]) == {hub.id}
    assert inside(engine, name, "import socket; print(socket.gethostbyname('hub'))").startswith("10.")
    gateway = found["IPAM"]["Config"][0]["Gateway"]
    code = "import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(({!r}, {})))"
    for place in ((gateway, 22), ("169.254.169.254", 80), ("1.1.1.1", 53)):
        assert inside(engine, name, code.format(*place)) != "0", place
    networks.give_back(name)


def test_two_never_have_the_same_and_what_came_back_is_used_again(networks: Networks) -> None:
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: networks.take(), range(4)))
    assert len(set(taken)) == 4
    networks.give_back(taken[0])
    networks.give_back(taken[0])  # twice makes it no two
    assert networks.take() == taken[0]
    assert networks.take() not in taken
    for name in taken:
        networks.give_back(name)


def test_what_an_earlier_hub_left_is_taken_over(engine: docker.DockerClient, networks: Networks) -> None:
    used, free = networks.take(), networks.take()
    networks.give_back(free)
    later = Networks(engine.api, NAME, RANGE, spare=2)
    later.recover([used])
    everything = {network.name for network in engine.networks.list(filters={"label": f"gradlab.installation={NAME}"})}
    taken = {later.take() for _ in range(len(everything) - 1)}
    assert taken == everything - {used}


def test_a_service_that_was_made_anew_is_connected_again(engine: docker.DockerClient, networks: Networks) -> None:
    name = networks.take()
    portal = service(engine, "portal")
    assert portal.id not in attached(engine, name)
    networks.connect()
    assert portal.id in attached(engine, name)
    networks.connect()  # and again, as after every start of a service
    networks.give_back(name)


def test_one_that_somebody_removed_is_not_handed_out(engine: docker.DockerClient, networks: Networks) -> None:
    name = networks.take()
    networks.give_back(name)
    network = engine.networks.get(name)
    for container in network.attrs["Containers"]:
        network.disconnect(container)
    network.remove()
    assert engine.networks.list(names=[networks.take()])


def test_spare_ones_are_made_ahead(engine: docker.DockerClient, hub: Container) -> None:
    made = Networks(engine.api, NAME, RANGE, spare=1)
    made.recover([network.name for network in engine.networks.list(filters={"label": f"gradlab.installation={NAME}"})])
    made.refill()
    before = len(engine.networks.list(filters={"label": f"gradlab.installation={NAME}"}))
    made.take()
    assert len(engine.networks.list(filters={"label": f"gradlab.installation={NAME}"})) == before


def test_addresses_that_are_used_up_are_named_with_the_setting(engine: docker.DockerClient, hub: Container) -> None:
    tiny = Networks(engine.api, NAME, IPv4Network(f"{RANGE.network_address}/28"))
    for network in engine.networks.list(filters={"label": f"gradlab.installation={NAME}"}):
        network.reload()
        assert IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"]).subnet_of(RANGE)  # the one there is is taken
    with pytest.raises(OSError, match=r"GRADLAB_LEARNER_NETWORKS=.*/28 are in use .*Give it a larger range"):
        tiny.take()
