"""The doctor's findings on the GPUs of a hosted server: readings by the monitor's own code, Docker's words on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest

from gradlab.doctor import gpus
from gradlab.doctor.finding import Finding
from gradlab.gpu.nvml import Nvml
from gradlab.gpu_mode import parse_mode
from tests.nvml import Card, Library, loaded

NONE, EXCLUSIVE, SHARED, MIG = map(parse_mode, ("none", "exclusive", "shared:4", "mig"))
WELL = {"ok": True, "message": ""}
RUNC: dict[str, Any] = {"Runtimes": {"runc": {}}, "DefaultRuntime": "runc"}
NVIDIA: dict[str, Any] = {"Runtimes": {"runc": {}, "nvidia": {}}, "DefaultRuntime": "runc"}
CDI = NVIDIA | {"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}


def read(library: Library | None, tmp_path: Path) -> dict[str, Any]:
    """What the monitor would answer on such a machine."""
    with loaded(library):
        nvml = Nvml(cgroups=tmp_path)
        try:
            return nvml.frame()
        finally:
            nvml.close()


def test_a_machine_without_a_gpu_is_well_unless_gpus_are_given_out(tmp_path: Path) -> None:
    reading = read(None, tmp_path)
    assert gpus.monitor(reading, WELL, NONE, "runc", RUNC) == Finding(
        "GPU monitor", "ok", "answers; this machine has no GPU that it could see"
    )
    assert gpus.gpu_mode(NONE, reading) == Finding("GPU mode", "ok", "GRADLAB_GPUS=none; everything runs on the CPU")
    found = gpus.monitor(reading, WELL, EXCLUSIVE, "nvidia", NVIDIA)
    assert (found.status, found.value) == (
        "failed",
        "No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found.",
    )
    assert "install NVIDIA's driver" in found.remedy
    found = gpus.gpu_mode(EXCLUSIVE, reading)
    assert (found.status, found.value) == ("failed", "GRADLAB_GPUS=exclusive, and no learner can get a GPU")
    assert found.remedy.startswith("This server has no GPU. Its GPU monitor says: No NVIDIA driver is installed here")


def test_a_monitor_without_nvidias_runtime_is_told_what_to_write(tmp_path: Path) -> None:
    found = gpus.monitor(read(None, tmp_path), WELL, NONE, "runc", NVIDIA)
    assert (found.status, found.value) == (
        "failed",
        "Docker has NVIDIA's runtime, but the container of the GPU monitor runs with runc",
    )
    assert found.remedy == "Write GPU_RUNTIME=nvidia to .env and run: docker compose up -d"


@pytest.mark.parametrize(
    ("library", "value", "remedy"),
    [
        (
            Library(fails={"nvmlInitWithFlags": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}),
            "The NVIDIA driver was updated while the old one is still loaded, so no GPU can be read.",
            "Restart the machine.",
        ),
        (
            Library(fails={"nvmlInitWithFlags": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}),
            "The NVIDIA driver is installed but not loaded, so no GPU can be read.",
            "Run `modprobe nvidia` as root",
        ),
        (Library(), "The NVIDIA driver is loaded but shows no GPU.", "Check `nvidia-smi -L`"),
    ],
)
def test_a_driver_that_is_ill_speaks_for_itself(library: Library, value: str, remedy: str, tmp_path: Path) -> None:
    found = gpus.monitor(read(library, tmp_path), WELL, NONE, "nvidia", NVIDIA)
    assert (found.status, found.value) == ("failed", value)
    assert found.remedy.startswith(remedy)


def test_a_monitor_that_does_not_answer_is_told_by_its_own_sentence(tmp_path: Path) -> None:
    silent = {
        "available": False,
        "message": "The GPU monitor does not answer at /x (gone). See: compose.",
        "devices": [],
    }
    found = gpus.monitor(silent, WELL, NONE, "runc", RUNC)
    assert (found.status, found.value) == ("failed", "The GPU monitor does not answer at /x (gone).")
    assert found.remedy == "See: compose."
    found = gpus.monitor(silent | {"message": "Nothing"}, WELL, NONE, "runc", RUNC)
    assert (found.value, found.remedy) == ("Nothing.", "See: docker compose logs gpu-monitor")


def test_a_lost_gpu_is_a_failure_and_the_others_are_named(tmp_path: Path) -> None:
    lost = Card(fails={"nvmlDeviceGetName": pynvml.NVML_ERROR_GPU_IS_LOST})
    found = gpus.monitor(read(Library(Card(), lost), tmp_path), WELL, EXCLUSIVE, "nvidia", NVIDIA)
    assert (found.status, found.value) == ("failed", "driver 610.43: NVIDIA H200, GPU 1")
    assert found.remedy.startswith("GPU 1: This GPU has fallen off the bus.")


def test_a_monitor_that_sees_gpus_and_no_processes_says_so(tmp_path: Path) -> None:
    reading = read(Library(Card()), tmp_path)
    assert gpus.monitor(reading, WELL, EXCLUSIVE, "nvidia", NVIDIA) == Finding(
        "GPU monitor", "ok", "driver 610.43: NVIDIA H200"
    )
    blind = {"ok": False, "message": "The GPU monitor does not see the machine's processes. Use pid: host."}
    found = gpus.monitor(reading, blind, EXCLUSIVE, "nvidia", NVIDIA)
    assert (found.status, found.value, found.remedy) == (
        "warning",
        "driver 610.43: NVIDIA H200; who uses them is not known",
        blind["message"],
    )
    stale = reading | {"message": "The NVIDIA driver does not answer; these figures are from 10:00:00."}
    found = gpus.monitor(stale, WELL, EXCLUSIVE, "nvidia", NVIDIA)
    assert (found.status, found.remedy) == ("warning", stale["message"])


def test_the_mode_is_compared_with_the_devices(tmp_path: Path) -> None:
    two = read(Library(Card(), Card()), tmp_path)
    assert gpus.gpu_mode(EXCLUSIVE, two) == Finding(
        "GPU mode", "ok", "GRADLAB_GPUS=exclusive: 2 learners at a time, on 2 GPUs"
    )
    one = read(Library(Card()), tmp_path)
    found = gpus.gpu_mode(NONE, one)
    assert (found.status, found.value) == ("warning", "GRADLAB_GPUS=none, so nobody gets this machine's 1 GPU")
    assert found.remedy.startswith("Set GRADLAB_GPUS in .env")
    found = gpus.gpu_mode(SHARED, one)
    assert (found.status, found.value) == ("warning", "GRADLAB_GPUS=shared:4: 4 learners at a time, on 1 GPU")
    assert found.remedy.startswith("Up to 4 learners share this GPU.")
    assert "the hardware does not enforce it" in found.remedy
    assert found.remedy.endswith("For hard limits set GRADLAB_GPUS=exclusive or mig.")
    found = gpus.gpu_mode(MIG, one)
    assert (found.status, found.value) == ("failed", "GRADLAB_GPUS=mig, and no learner can get a GPU")
    assert "It is not in MIG mode." in found.remedy


def test_how_containers_get_gpus(tmp_path: Path) -> None:
    reading = read(Library(Card()), tmp_path)
    uuid = reading["devices"][0]["uuid"]
    name = "GPUs in containers"
    assert gpus.injection(NONE, reading, RUNC, set()) == Finding(name, "ok", "none are given out (GRADLAB_GPUS=none)")
    found = gpus.injection(EXCLUSIVE, reading, RUNC, set())
    assert (found.status, found.value) == ("failed", "Docker has neither CDI nor the runtime nvidia")
    assert found.remedy.startswith("Install the NVIDIA container toolkit")
    found = gpus.injection(EXCLUSIVE, reading, NVIDIA, set())
    assert (found.status, found.value) == ("warning", "by the runtime nvidia; CDI is off")
    assert found.remedy.startswith("Turn CDI on")
    found = gpus.injection(EXCLUSIVE, reading, CDI, None)
    assert (found.status, found.value) == ("unseen", "Docker has CDI; the devices it knows are not visible from here")
    assert found.remedy == "Run on the host: nvidia-ctk cdi list"
    found = gpus.injection(EXCLUSIVE, read(None, tmp_path), CDI, set())
    assert (found.status, found.value) == (
        "unseen",
        "by CDI; without a GPU to give out, whether it knows that GPU is not visible from here",
    )
    found = gpus.injection(EXCLUSIVE, reading, CDI, {"nvidia.com/gpu=0", "nvidia.com/gpu=all"})
    assert (found.status, found.value) == ("failed", f"CDI does not know {uuid}: containers with these do not start")
    assert found.remedy.endswith("sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml")
    found = gpus.injection(EXCLUSIVE, reading, CDI, {f"nvidia.com/gpu={uuid}"})
    assert found == Finding(name, "ok", "by CDI, which knows 1 of 1 that are given out")


def test_the_devices_of_cdi_come_from_docker_or_from_its_files(tmp_path: Path) -> None:
    info = {"CDISpecDirs": [str(tmp_path), str(tmp_path / "nowhere")]}
    told = info | {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=GPU-1a"}]}
    assert gpus.cdi_devices(told, "1.50", False) == {"nvidia.com/gpu=GPU-1a"}
    assert gpus.cdi_devices(info, "1.51", False) == set()
    assert gpus.cdi_devices(info, "1.49", False) is None
    (tmp_path / "nvidia.yaml").write_text('devices:\n- name: "0"\n- name: GPU-1a2b-3c\n- name: MIG-9f\n')
    assert gpus.cdi_devices(info, "1.41", True) == {"GPU-1a2b-3c", "MIG-9f"}


def test_a_default_runtime_that_gives_gpus_to_everybody_is_named() -> None:
    assert gpus.default_runtime(RUNC) == Finding("default runtime", "ok", "runc")
    found = gpus.default_runtime(RUNC | {"DefaultRuntime": "nvidia"})
    assert found.status == "warning"
    assert found.value.startswith("nvidia: whatever is started from an image that asks for GPUs gets all of them")
    assert found.remedy.startswith('Take "default-runtime" out of /etc/docker/daemon.json')


def test_the_container_toolkit_has_a_version_or_cannot_be_seen() -> None:
    found = gpus.toolkit(lambda: None)
    assert (found.status, found.value) == (
        "unseen",
        "the version of NVIDIA's container toolkit is not visible from here",
    )
    assert found.remedy == "Run on the host: nvidia-ctk --version   (1.19 or newer)"
    found = gpus.toolkit(lambda: "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: 12\n")
    assert (found.status, found.value) == ("failed", "version 1.17.8")
    assert found.remedy.startswith("Update nvidia-container-toolkit to 1.19 or newer")
    found = gpus.toolkit(lambda: "NVIDIA Container Toolkit CLI version 1.20.0\n")
    assert found == Finding("container toolkit", "ok", "version 1.20.0")
    found = gpus.toolkit(lambda: "boom\n")
    assert (found.status, found.value) == ("warning", "nvidia-ctk says 'boom'")
    assert found.remedy == "Install NVIDIA's container toolkit anew."
