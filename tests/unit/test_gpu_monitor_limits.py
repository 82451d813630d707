"""Limits of containers' GPU memory: what the driver is told, and what is said where there is no limit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gradlab.gpu.nvml import Nvml
from tests.monitors import ADA, NOBODYS, Machine, monitoring
from tests.nvml import GIB, Card, Library, loaded


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("root")
def test_a_limit_is_set_on_the_containers_own_group_and_lifted_again(tmp_path: Path) -> None:
    with monitoring(tmp_path, Library(Card())) as monitor:
        assert monitor.get("/gpus")["devices"][0]["memory_limits"] == {
            "hard": True,
            "why": "The driver keeps each container to its limit.",
        }
        assert monitor.limit() == {"hard": True, "why": "The driver keeps the container to 4.0 GiB."}
        assert monitor.limit(bytes=None) == {"hard": False, "why": "The limit is lifted."}
        group = str(monitor.machine.cgroups / "system.slice" / f"docker-{ADA}.scope")
        everything = pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX
        assert monitor.library.limits == [
            ("00000000:17:00.0", group, 4 * GIB, 0),
            ("00000000:17:00.0", group, everything, 0),
        ]


@pytest.mark.usefixtures("root")
def test_nobody_elses_group_is_limited(tmp_path: Path) -> None:
    with monitoring(tmp_path, Library(Card())) as monitor:
        for pid in (20, NOBODYS, 4711):
            assert monitor.limit(pid=pid)["why"] == (
                f"The process {pid} is not one of the container aaaaaaaaaaaa in a tree of cgroups v2. "
                "Ask with the State.Pid that Docker tells of the running container."
            )
        monitor.machine.process(10, f"/elsewhere.slice/docker-{ADA}.scope")
        assert monitor.limit()["why"] == (
            f"The cgroup /elsewhere.slice/docker-{ADA}.scope is not below {monitor.machine.cgroups}. It is there on a "
            "machine with cgroup v2, if the container of the GPU monitor has the host's tree mounted at that place."
        )
        why = monitor.limit(gpu="GPU-7", pid=11)["why"]
        assert why == "This machine has no GPU GPU-7. `nvidia-smi -L` lists those it has."
        assert monitor.library.limits == []


@pytest.mark.usefixtures("root")
def test_a_group_is_found_from_another_cgroup_namespace(tmp_path: Path) -> None:
    with monitoring(tmp_path, Library(Card())) as monitor:
        for path in (f"/../docker-{ADA}.scope", f"/../../system.slice/docker-{ADA}.scope"):
            monitor.machine.process(10, path)
            assert monitor.limit()["hard"]
        assert len({group for _, group, _, _ in monitor.library.limits}) == 1
        monitor.machine.process(10, f"/../../../etc/docker-{ADA}.scope")
        assert monitor.limit()["why"].startswith(f"The cgroup /../../../etc/docker-{ADA}.scope is not below ")


@pytest.mark.parametrize(
    "wrong",
    [{"container": "../etc"}, {"container": "A" * 64}, {"pid": 0}, {"bytes": 0}, {"bytes": "all"}, {"gpu": "G" * 97}],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with monitoring(tmp_path, Library(Card())) as monitor:
        wanted = {"container": ADA, "pid": 10, "gpu": "GPU-0", "bytes": 1} | wrong
        assert monitor.client.post("/limits", json=wanted).status_code == 422


@pytest.mark.usefixtures("root")
def test_what_the_driver_says_to_a_limit_is_told(tmp_path: Path) -> None:
    card = Card(fails={"nvmlDeviceSetMemoryLimits_v1": pynvml.NVML_ERROR_NO_PERMISSION})
    with monitoring(tmp_path, Library(card)) as monitor:
        why = monitor.limit()["why"]
    assert why.startswith("The limit could not be set on /")
    assert why.endswith("This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.")


def test_each_thing_that_a_limit_needs_is_named_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {"nvmlDeviceGetMemoryLimits_v1": pynvml.NVML_ERROR_NOT_SUPPORTED}
    machine = Machine(tmp_path)
    with loaded(Library(Card(fails=fails))):
        nvml = Nvml(cgroups=machine.cgroups)

        def why() -> str:
            return str(nvml.frame()["devices"][0]["memory_limits"]["why"])

        monkeypatch.setattr(os, "geteuid", lambda: 990)
        monkeypatch.setattr("gradlab.gpu.nvml.devices._LOOK_UP_SECONDS", 0.0)
        capacity = machine.cgroups / "dmem.capacity"
        assert why() == (
            f"Neither the kernel ({capacity}, Linux 6.14 or newer) nor NVIDIA's driver limits the memory of this GPU "
            "for a cgroup. Update the kernel."
        )
        capacity.write_text("drm/0000:03:00.0/vram0 8514437120\n")
        assert why().startswith("Neither the kernel")
        capacity.write_text("nvidia/0000:17:00.0/vidmem 150323855360\n")
        assert why() == (
            "Memory limits could be set here, but only by root, and the GPU monitor is not. docs/operators.md, “Idle "
            "servers and idle GPUs”, says how it gets that right."
        )
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert nvml.frame()["devices"][0]["memory_limits"]["hard"] is True
        (machine.cgroups / "cgroup.controllers").unlink()
        assert why() == (
            f"Memory limits need cgroup v2, and {machine.cgroups} is no such tree. Start the machine with "
            "systemd.unified_cgroup_hierarchy=1; the GPU monitor needs the host's tree there."
        )
