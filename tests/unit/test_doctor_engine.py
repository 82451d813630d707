"""The doctor's findings on Docker itself, its disk and its containers, from what Docker's API answers."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from gradlab.doctor import engine, services, space
from gradlab.doctor.finding import Finding
from gradlab.gpu_mode import parse_mode
from gradlab.settings import Settings

INFO = {
    "Driver": "overlay2",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SwapLimit": True,
}
SETTINGS = Settings(spawner="docker", installation="gradlab", learner_networks=IPv4Network("10.213.0.0/24"))
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
br-5\t0000D50A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0
"""


def network(name: str, subnet: str, **labels: str) -> dict[str, Any]:
    marks = {f"gradlab.{key}": value for key, value in labels.items()}
    return {"Name": name, "Labels": marks, "IPAM": {"Config": [{"Subnet": subnet}]}}


def container(name: str, state: str, role: str, image: str = "sha256:new") -> dict[str, Any]:
    return {"Names": [f"/{name}"], "State": state, "ImageID": image, "Labels": {"gradlab.role": role}}


def inspected(**state: Any) -> dict[str, Any]:
    whole = {"Running": True, "Restarting": False, "ExitCode": 0, "Error": "", "Health": {"Status": "healthy"}} | state
    return {"State": whole, "RestartCount": 0, "Image": "sha256:new"}


def asked(role: str, found: dict[str, Any] | None, words: str = "") -> Finding:
    return services.service(role, found, lambda: words, "sha256:new")


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("19.03.15", "failed"),
        ("20.10.24+dfsg1", "warning"),
        ("23.0.10", "warning"),
        ("23.0.11", "ok"),
        ("24.0.9", "warning"),
        ("25.0.4", "warning"),
        ("25.0.5", "ok"),
        ("26.0.0-rc3", "ok"),
        ("29.1.0", "ok"),
    ],
)
def test_versions_of_docker_that_are_too_old_or_pass_lookups_on(version: str, status: str) -> None:
    found = engine.engine({"Version": version}, INFO)
    assert found.status == status
    assert found.value.startswith(f"engine {version}, storage overlay2")
    if status == "failed":
        assert found.remedy.startswith("Update Docker to 20.10 or newer")
    if status == "warning":
        assert found.value.endswith("; its internal networks pass name lookups on (CVE-2024-29018)")
        assert found.remedy.startswith("Update Docker to 23.0.11, 25.0.5, 26 or newer")


def test_a_storage_that_copies_every_image_is_named() -> None:
    found = engine.engine({"Version": "29.1.0"}, INFO | {"Driver": "vfs"})
    assert (found.status, found.value) == ("warning", "engine 29.1.0, storage vfs")
    assert found.remedy.startswith("Let Docker use overlay2")


def test_gpus_that_are_lost_at_a_daemon_reload_are_foretold() -> None:
    exclusive, none = parse_mode("exclusive"), parse_mode("none")
    found = engine.control_groups(INFO, exclusive)
    assert (found.status, found.value) == (
        "warning",
        "version 2, driver systemd; containers that got a GPU from NVIDIA's hook lose it at `systemctl daemon-reload`",
    )
    assert found.remedy.startswith("Turn CDI on: Docker 28.2 or newer")
    plain = Finding("control groups", "ok", "version 2, driver systemd")
    assert engine.control_groups(INFO, none) == plain
    assert engine.control_groups(INFO | {"CDISpecDirs": ["/etc/cdi"]}, exclusive) == plain
    assert engine.control_groups(INFO | {"CgroupDriver": "cgroupfs"}, exclusive).status == "ok"


def test_limits_that_the_kernel_does_not_keep_are_named() -> None:
    assert engine.limits(INFO) == Finding("limits", "ok", "memory with swap, processes, processor time")
    found = engine.limits(INFO | {"MemoryLimit": False, "PidsLimit": False})
    assert (found.status, found.value) == (
        "failed",
        "this kernel does not limit memory, processes, so one learner can take all of it",
    )
    assert found.remedy.startswith("Boot with cgroup v2")
    found = engine.limits(INFO | {"SwapLimit": False})
    assert found.status == "warning"
    assert found.value.endswith("swap is not counted, so containers can use it beyond their memory")
    assert "swapaccount=1" in found.remedy


def test_the_range_of_learners_networks_is_compared_with_dockers_networks() -> None:
    ours = network("gradlab-learner-10.213.0.0", "10.213.0.0/28", installation="gradlab", role="learner")
    found = engine.addresses([ours, network("front", "172.18.0.0/16"), network("six", "fd00::/64")], SETTINGS)
    assert found == Finding(
        "addresses",
        "ok",
        "10.213.0.0/24 has room for 16 learners' networks, 1 are made; no other network of Docker lies in it",
    )
    found = engine.addresses([ours, network("web", "10.213.0.128/25"), {"Name": "host", "IPAM": None}], SETTINGS)
    assert found.status == "warning"
    assert found.value.endswith("; in it lie also web (10.213.0.128/25)")
    assert found.remedy.startswith("Give GRADLAB_LEARNER_NETWORKS in .env a range of its own")


def test_the_range_is_compared_with_the_machines_routes() -> None:
    assert engine.routes(ROUTES, SETTINGS) == Finding(
        "routes", "ok", "this machine reaches nothing else in 10.213.0.0/24"
    )
    vpn = "tun0\t0000D50A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    found = engine.routes(ROUTES + vpn, SETTINGS)
    assert found.status == "failed"
    assert found.value == (
        "GRADLAB_LEARNER_NETWORKS=10.213.0.0/24 overlaps 10.213.0.0/16 by tun0, which learners' networks would hide"
    )
    assert found.remedy.endswith("that this machine does not use otherwise.")


def test_services_that_run_are_told_by_health_image_and_restarts() -> None:
    assert asked("hub", inspected()) == Finding("hub", "ok", "runs and is healthy")
    assert asked("hub", inspected(Health=None)) == Finding("hub", "ok", "runs")
    found = asked("hub", inspected(Health={"Status": "starting"}))
    assert (found.status, found.value) == ("warning", "was started a moment ago")
    assert found.remedy == "Run `gradlab doctor` again in a minute."
    found = asked("hub", inspected(Health={"Status": "unhealthy", "FailingStreak": 7}))
    assert (found.status, found.value) == ("failed", "runs, and has not answered the last 7 times it was asked")
    assert found.remedy == "See: docker compose logs hub; then: docker compose restart hub"
    found = asked("hub", inspected() | {"Image": "sha256:old"})
    assert (found.status, found.value) == ("warning", "runs, from an older image than the one that is here now")
    assert found.remedy == "Take over the new one: docker compose up -d"
    found = asked("hub", inspected() | {"RestartCount": 3})
    assert (found.status, found.value) == ("warning", "runs, but ended 3 times by itself and was started again")
    assert found.remedy == "See: docker compose logs hub"


def test_services_that_do_not_run_are_told_with_the_reason() -> None:
    assert asked("hub", None) == Finding("hub", "failed", "is not there", "Start it: docker compose up -d")
    taken = "driver failed programming external connectivity: Bind for 127.0.0.1:8000 failed: port is already allocated"
    found = asked("proxy", inspected(Running=False, ExitCode=128, Error=taken))
    assert (found.status, found.value) == ("failed", f"could not be started: {taken}")
    assert found.remedy.startswith("End the program that has the port, or write another GRADLAB_PORT to .env")
    found = asked("gpu-monitor", inspected(Running=False, ExitCode=127, Error="unknown runtime nvidia"))
    assert (found.value, found.remedy) == (
        "could not be started: unknown runtime nvidia",
        "Mend that, then: docker compose up -d",
    )
    found = asked("portal", inspected(Running=False, ExitCode=137, OOMKilled=True))
    assert found.value == "was ended because the machine had no memory left for it"
    assert found.remedy.startswith("Lower the limits of learners")
    dead = inspected(Running=True, Restarting=True, ExitCode=1) | {"RestartCount": 12}
    found = asked("hub", dead, "GRADLAB_PROXY_TOKEN is 12 characters long")
    assert found.value == (
        "ended again and again (12 times) with exit status 1; its last words: GRADLAB_PROXY_TOKEN is 12 characters long"
    )
    assert found.remedy == "See: docker compose logs hub; then: docker compose up -d"
    assert asked("hub", inspected(Running=False, ExitCode=1)).value == "ended with exit status 1"


def test_the_last_words_are_one_line() -> None:
    assert services.last_words(b"first\nlast \n\n") == "last"
    assert services.last_words(b"") == ""
    assert len(services.last_words(b"x" * 5000)) == 200


def test_services_of_profiles_are_expected_where_they_are_on() -> None:
    usual = ["proxy", "hub", "portal", "checker", "gpu-monitor"]
    assert list(services.expected(SETTINGS)) == usual
    both = SETTINGS.model_copy(update={"profiles": "postgres,metrics"})
    assert list(services.expected(both)) == [*usual, "postgres", "prometheus"]


def test_learners_servers_of_an_older_image_are_counted() -> None:
    running = [container("a", "running", "server"), container("b", "running", "server", "sha256:old")]
    hub = container("hub", "running", "hub")
    assert services.servers([*running, hub], "sha256:new").value == (
        "2 run, 1 of them from an older image until they are started anew"
    )
    assert services.servers([running[0]], "sha256:new") == Finding("learners' servers", "ok", "1 runs")
    assert services.servers([hub], "sha256:new").value == "none runs"


def test_what_nobody_needs_is_named() -> None:
    mine = network("gradlab-learner-10.213.0.0", "10.213.0.0/28", installation="gradlab", role="learner")
    stray = network("gradlab-learner-10.9.0.0", "10.9.0.0/28", installation="gradlab", role="learner")
    others = network("other-learner-10.9.0.0", "10.9.0.0/28", installation="other", role="learner")
    running = [container("ada", "running", "server"), container("check", "running", "check")]
    assert services.leftovers(running, [mine, others], SETTINGS, True) == Finding("leftovers", "ok", "none")
    dead = [container(f"dead{number}", "exited", "server") for number in range(4)]
    found = services.leftovers([*running, *dead], [mine, stray], SETTINGS, False)
    assert found.status == "warning"
    assert found.value == (
        "4 containers that have ended (dead0, dead1, dead2, …); 1 networks out of GRADLAB_LEARNER_NETWORKS "
        "(gradlab-learner-10.9.0.0); 1 learners' servers without a hub (ada)"
    )
    assert found.remedy.startswith("The hub removes ended containers within five minutes.")
    assert "`make down`" in found.remedy


def test_a_disk_that_is_nearly_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((1 << 30, "failed"), (10 << 30, "warning"), (100 << 30, "ok")):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, usage=usage: usage)
        found = space.disk(tmp_path)
        assert found.status == status
        assert found.value == f"{free >> 30:.1f} GiB free where Docker keeps volumes and images"
        assert bool(found.remedy) == (status != "ok")
        assert not found.remedy or "`docker system df` says what fills it" in found.remedy


def test_dockers_disk_and_homes_are_added_up() -> None:
    gib = 1 << 30
    df = {
        "LayersSize": 14 * gib,
        "Containers": [{"SizeRw": gib}, {}],
        "Volumes": [
            {"Name": "gradlab-home-ada", "UsageData": {"Size": 3 * gib}},
            {"Name": "gradlab-home-bob", "UsageData": {"Size": gib}},
            {"Name": "gradlab-home-carol", "UsageData": {"Size": -1}},
            {"Name": "gradlab_state", "UsageData": None},
        ],
        "BuildCache": [{"Size": 2 * gib, "InUse": False}, {"Size": gib, "InUse": True}],
    }
    assert space.usage(df) == Finding(
        "Docker's disk", "ok", "images 14.0 GiB, volumes 4.0 GiB, containers 1.0 GiB, caches of builds 2.0 GiB"
    )
    assert space.homes(df, "gradlab") == Finding(
        "homes", "ok", "3 with 4.0 GiB in all; the largest: ada 3.0 GiB, bob 1.0 GiB, carol 0.0 GiB"
    )
    assert space.homes(df, "other") == Finding("homes", "ok", "none yet")
