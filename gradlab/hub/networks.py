"""Learners' networks: every running server has one to itself, in which it finds the hub, the proxy and the portal.

Containers of one Docker network reach each other, so learners who share one could talk to each other's servers. Here
each network holds one learner's container and the three services; it is internal (no way to the Internet), and the host
has no address in it (``inhibit_ipv4``), so that nothing that listens on the host, no port of another container and no
metadata address of a cloud can be reached through it.

Networks are made ahead, because making one and connecting three containers takes a third of a second, and used again by
whoever comes next: nothing of a learner stays in one. Their addresses come from a range of our own, sixteen each:
Docker's own supply ends after some thirty networks.

Everything here blocks; the hub calls it in threads. What is used by whom is asked from Docker at the start: the hub may
have died in between. A service that was made anew is connected again by :meth:`Networks.connect`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

import docker
from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from gradlab.hub.containers import INSTALLATION, ROLE

__all__ = ["SERVICES", "Networks"]

SERVICES = ("hub", "proxy", "portal")
_PREFIX_LENGTH = 28


class Networks:
    """A supply of networks, ``spare`` of them made ahead."""

    def __init__(
        self,
        client: docker.APIClient,
        installation: str,
        supernet: IPv4Network,
        *,
        internet: bool = False,
        spare: int = 4,
    ) -> None:
        self._client = client
        self._installation = installation
        self._supernet = supernet
        self._internet = internet
        self._spare = spare
        self._lock = threading.Lock()
        self._free: list[str] = []
        self._subnets: dict[str, IPv4Network] = {}

    def recover(self, used: Sequence[str]) -> None:
        """Take over the networks there are; those in ``used`` have a learner's server in them."""
        with self._lock:
            found = self._client.networks(
                filters={"label": [f"{INSTALLATION}={self._installation}", f"{ROLE}=learner"]}
            )
            self._subnets = {one["Name"]: IPv4Network(one["IPAM"]["Config"][0]["Subnet"]) for one in found}
            self._free = sorted(set(self._subnets) - set(used))
            for name in self._subnets:
                self._connect(name)

    def take(self) -> str:
        """The name of a network that nobody else has; made now if none is spare."""
        with self._lock:
            while self._free:
                name = self._free.pop(0)
                if self._exists(name):
                    return name
                self._forget(name)
            return self._create()

    def give_back(self, name: str) -> None:
        """The server in it is gone; its network is for the next one."""
        with self._lock:
            if name in self._subnets and name not in self._free:
                self._free.append(name)

    def refill(self) -> None:
        """Make spare networks, one at a time: a learner who needs one does not wait for all of them."""
        for _ in range(self._spare):
            with self._lock:
                if len(self._free) >= self._spare:
                    return
                self._free.append(self._create())

    def connect(self) -> None:
        """Connect services that were started anew to every network."""
        with self._lock:
            for name in list(self._subnets):
                try:
                    self._connect(name)
                except NotFound:
                    self._forget(name)

    def _exists(self, name: str) -> bool:
        try:
            self._client.inspect_network(name)
        except NotFound:
            return False
        return True

    def _forget(self, name: str) -> None:
        """An administrator has tidied up."""
        del self._subnets[name]
        if name in self._free:
            self._free.remove(name)

    def _create(self) -> str:
        subnet = self._next_subnet()
        name = f"{self._installation}-learner-{subnet.network_address}"
        hosts = subnet.hosts()
        pool = IPAMPool(subnet=str(subnet), gateway=str(next(hosts)))
        self._client.create_network(
            name,
            driver="bridge",
            internal=not self._internet,
            ipam=IPAMConfig(pool_configs=[pool]),
            options={} if self._internet else {"com.docker.network.bridge.inhibit_ipv4": "true"},
            labels={INSTALLATION: self._installation, ROLE: "learner"},
            check_duplicate=True,
        )
        self._subnets[name] = subnet
        try:
            self._connect(name)
        except BaseException:
            self._free.append(name)  # whoever needs one next gets it with all that is there by then
            raise
        return name

    def _next_subnet(self) -> IPv4Network:
        taken = set(self._subnets.values()) | set(self._others())
        for subnet in self._supernet.subnets(new_prefix=_PREFIX_LENGTH):
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
        raise OSError(
            f"All addresses of GRADLAB_LEARNER_NETWORKS={self._supernet} are in use ({len(self._subnets)} networks). "
            "Give it a larger range, such as 10.213.0.0/16, that nothing else on this machine uses."
        )

    def _others(self) -> Iterator[IPv4Network]:
        """The networks that somebody else made here, which ours must not overlap."""
        for network in self._client.networks():
            for config in network["IPAM"]["Config"] or ():
                if ":" not in config.get("Subnet", ":"):
                    yield IPv4Network(config["Subnet"])

    def _connect(self, network: str) -> None:
        present = set(self._client.inspect_network(network)["Containers"] or {})
        for container, role in self._services():
            if container not in present:
                try:
                    self._client.connect_container_to_network(container, network, aliases=[role])
                except NotFound:
                    pass  # it went away meanwhile; its successor is connected when it starts
                except APIError as error:
                    if "already exists" not in str(error):
                        raise

    def _services(self) -> list[tuple[str, str]]:
        """Id and role of the containers that learners may reach."""
        found = self._client.containers(filters={"label": f"{INSTALLATION}={self._installation}"})
        return [(one["Id"], role) for one in found if (role := one["Labels"].get(ROLE)) in SERVICES]
