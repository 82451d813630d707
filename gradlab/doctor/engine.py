"""Docker as learners' containers need it: its version, what it limits, its images, the addresses of its networks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from gradlab.doctor.finding import Finding
from gradlab.gpu_mode import Mode
from gradlab.hub.containers import INSTALLATION, ROLE
from gradlab.settings import Settings

__all__ = ["addresses", "control_groups", "engine", "images", "knows_cdi", "limits", "routes"]

_OLDEST = (20, 10)
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_DOCKERS_OWN = ("docker", "br-", "veth")


def engine(version: dict[str, Any], info: dict[str, Any]) -> Finding:
    """``version`` and ``info`` are what Docker says of itself."""
    name = version["Version"]
    value = f"engine {name}, storage {info['Driver']}"
    release = _release(name)
    if release < _OLDEST:
        return Finding(
            "Docker", "failed", value, "Update Docker to 20.10 or newer; docs/operators.md has its packages."
        )
    if info["Driver"] == "vfs":
        remedy = "Let Docker use overlay2: with vfs every container begins with a whole copy of its image."
        return Finding("Docker", "warning", value, remedy)
    if _leaks_lookups(release):
        value += "; its internal networks pass name lookups on (CVE-2024-29018)"
        remedy = (
            "Update Docker to 23.0.11, 25.0.5, 26 or newer, or see that your distribution has mended it. Until then "
            "what holds lookups back is that learners' containers have a name server that nobody has."
        )
        return Finding("Docker", "warning", value, remedy)
    return Finding("Docker", "ok", value)


def _release(text: str) -> tuple[int, ...]:
    """``20.10.24+dfsg1`` is (20, 10, 24)."""
    match = _RELEASE.match(text)
    return tuple(int(part or 0) for part in match.groups()) if match else (0,)


def _leaks_lookups(release: tuple[int, ...]) -> bool:
    if release[0] == 23:
        return release < (23, 0, 11)
    if release[0] == 25:
        return release < (25, 0, 5)
    return release < (26,)


def control_groups(info: dict[str, Any], gpus: Mode) -> Finding:
    """How containers are bounded, and whether they keep their GPUs."""
    driver, name = info.get("CgroupDriver", ""), "control groups"
    value = f"version {info.get('CgroupVersion', '?')}, driver {driver or '?'}"
    if driver == "systemd" and gpus.kind != "none" and not knows_cdi(info):
        value += "; containers that got a GPU from NVIDIA's hook lose it at `systemctl daemon-reload`"
        remedy = "Turn CDI on: Docker 28.2 or newer, or the feature cdi in /etc/docker/daemon.json (docs/operators.md)."
        return Finding(name, "warning", value, remedy)
    return Finding(name, "ok", value)


def limits(info: dict[str, Any]) -> Finding:
    """Whether the kernel counts what learners' containers are bounded in."""
    needed = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "processor time"}
    missing = [what for key, what in needed.items() if not info.get(key)]
    if missing:
        value = f"this kernel does not limit {', '.join(missing)}, so one learner can take all of it"
        remedy = "Boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1) or cgroup_enable=memory; then reboot."
        return Finding("limits", "failed", value, remedy)
    if not info.get("SwapLimit"):
        value = (
            "memory, processes and processor time; swap is not counted, so containers can use it beyond their memory"
        )
        remedy = "Boot with cgroup v2, or with swapaccount=1; or turn swap off (swapoff -a)."
        return Finding("limits", "warning", value, remedy)
    return Finding("limits", "ok", "memory with swap, processes, processor time")


def knows_cdi(info: dict[str, Any]) -> bool:
    """As gradlab.hub.fleet decides how to ask for a GPU."""
    return bool(info.get("CDISpecDirs"))


def images(client: Any, settings: Settings) -> Finding:
    """The images of the services and of learners' containers."""
    from docker.errors import NotFound

    missing = []
    wanted = sorted({"gradlab-hub", "gradlab-checker", settings.learner_image, settings.check_image})
    for name in wanted:
        try:
            client.inspect_image(name)
        except NotFound:
            missing.append(name)
    if missing:
        remedy = "Run `make images` on the host; one of another name in .env has to be built or pulled by hand."
        return Finding("images", "failed", f"not on this machine: {', '.join(missing)}", remedy)
    return Finding("images", "ok", ", ".join(wanted))


def addresses(networks: Iterable[dict[str, Any]], settings: Settings) -> Finding:
    """The range of learners' networks against Docker's other networks."""
    supernet, ours, others = settings.learner_networks, 0, []
    for network in networks:
        labels = network.get("Labels") or {}
        if labels.get(INSTALLATION) == settings.installation and labels.get(ROLE) == "learner":
            ours += 1
        else:
            others += [f"{network['Name']} ({subnet})" for subnet in _subnets(network) if subnet.overlaps(supernet)]
    room = 1 << max(0, 28 - supernet.prefixlen)
    value = f"{supernet} has room for {room} learners' networks, {ours} are made"
    if others:
        remedy = "Give GRADLAB_LEARNER_NETWORKS in .env a range of its own; those addresses are left out meanwhile."
        return Finding("addresses", "warning", f"{value}; in it lie also {', '.join(others)}", remedy)
    return Finding("addresses", "ok", f"{value}; no other network of Docker lies in it")


def _subnets(network: dict[str, Any]) -> Iterator[IPv4Network]:
    for config in (network.get("IPAM") or {}).get("Config") or ():
        if ":" not in config.get("Subnet", ":"):
            yield IPv4Network(config["Subnet"])


def routes(table: str, settings: Settings) -> Finding:
    """The range of learners' networks against ``/proc/net/route`` of the machine itself."""
    supernet = settings.learner_networks
    taken = [
        f"{network} by {interface}"
        for interface, network in _routes(table)
        if network.prefixlen and network.overlaps(supernet) and not interface.startswith(_DOCKERS_OWN)
    ]
    if taken:
        remedy = "Give GRADLAB_LEARNER_NETWORKS in .env a range that this machine does not use otherwise."
        value = f"GRADLAB_LEARNER_NETWORKS={supernet} overlaps {', '.join(taken)}, which learners' networks would hide"
        return Finding("routes", "failed", value, remedy)
    return Finding("routes", "ok", f"this machine reaches nothing else in {supernet}")


def _routes(table: str) -> Iterator[tuple[str, IPv4Network]]:
    """Interface and destination; the kernel writes addresses as numbers of the machine's byte order."""
    for line in table.splitlines()[1:]:
        interface, destination, *_, mask = line.split()[:8]
        parts = [IPv4Address(int.from_bytes(bytes.fromhex(text), "little")) for text in (destination, mask)]
        yield interface, IPv4Network(f"{parts[0]}/{parts[1]}")
