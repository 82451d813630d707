"""GPUs in MIG mode: what is known of each instance, under a driver of our own and a simulated one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest

from gradlab.gpu.nvml import Nvml, read
from tests.nvml import Card, Library, Runs, loaded
from tests.sampled import HOST, first, runs, sampling
from tests.simulated import GIB, device, driver, instance

DMESG = "Run `nvidia-smi`, and look for lines with NVRM in `dmesg`."


# -- MIG -----------------------------------------------------------------------------------------------------------


def test_instances_have_their_memory_and_processes_and_no_utilisation() -> None:
    small = Card(name="NVIDIA H200 MIG 1g.18gb", used=GIB, total=16 * GIB, runs=[Runs(10), Runs(20)])
    other = Card(name="NVIDIA H200 MIG 1g.18gb", runs=[Runs(20, 2 * GIB)])
    no_rates = {"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED}
    with loaded(Library(Card(instances=[small, None, other], fails=no_rates), Card(instances=[]), Card())):
        divided, empty, whole = read()["devices"]
    assert divided["mig"][0] == {
        "uuid": "MIG-0-0",
        "name": "NVIDIA H200 MIG 1g.18gb",
        "gpu_instance": None,
        "compute_instance": None,
        "memory_used": GIB,
        "memory_total": 16 * GIB,
        "utilisation": None,
        "utilisation_by": None,
        "error": None,
    }
    assert [(one["pid"], one["instance"], one["sm"]) for one in divided["processes"]] == [
        (10, "MIG-0-0", None),
        (20, "MIG-0-0", None),
        (20, "MIG-0-2", None),
    ]
    assert (divided["utilisation"], divided["measured"], divided["busy"]) == (None, False, {})
    assert (empty["mig"], whole["mig"]) == ([], None)
    assert divided["memory_limits"]["why"].startswith("This GPU is in MIG mode, where the hardware bounds the memory")


def test_an_instance_that_is_no_more_hides_no_other_and_new_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(instances=[Card(runs=[Runs(10)]), Card(runs=[Runs(20)])])
    with loaded(Library(card)):
        nvml = Nvml()
        nvml.frame()
        gone = {"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses_v3"}
        fails = dict.fromkeys(gone, pynvml.NVML_ERROR_INVALID_ARGUMENT)
        card.instances = [Card(fails=fails), Card(runs=[Runs(20)]), Card(runs=[Runs(30)])]
        monkeypatch.setattr("gradlab.gpu.nvml.devices._AGAIN_SECONDS", 0.0)
        (before,) = nvml.frame()["devices"]
        (after,) = nvml.frame()["devices"]
        nvml.close()
    assert "answered 'Invalid Argument' (NVML error 2)" in before["mig"][0]["error"]
    assert (before["mig"][1]["error"], [one["pid"] for one in before["processes"]]) == (None, [20])
    assert [one["pid"] for one in after["processes"]] == [20, 30]
    assert [one["uuid"] for one in after["mig"]] == ["MIG-0-0", "MIG-0-1", "MIG-0-2"]


# -- under a simulated driver ----------------------------------------------------------------------------------------


def divided(*instances: Any, **more: Any) -> dict[str, Any]:
    return device(mig_mode=[1, 1], utilisation=None, encoder=None, decoder=None, instances=list(instances)) | more


def test_instances_are_measured_where_the_hardware_can(tmp_path: Path) -> None:
    busy = instance(
        0,
        memory={"total": 16 * GIB, "reserved": 0, "used": 2 * GIB},
        processes=[runs(10), runs(11)],
        gpm={"graphics": 87.6, "sm": 60.0},
    )
    idle = instance(1, processes=[runs(11, 2 * GIB)], gpm={"graphics": 0.0})
    with sampling(tmp_path, divided(busy, None, idle)) as (_, gpus):
        (before,) = gpus.sampling.first(30)["devices"]
        found = gpus.device(lambda found: found["mig"][1]["utilisation"] is not None)
    # It takes two samples.
    assert [(one["utilisation"], one["utilisation_by"]) for one in before["mig"]] == [(None, None)] * 2
    assert found["mig"] == [
        {
            "uuid": "MIG-0",
            "name": "NVIDIA H200 MIG 1g.18gb",
            "gpu_instance": 7,
            "compute_instance": 0,
            "memory_used": 2 * GIB,
            "memory_total": 16 * GIB,
            "utilisation": 88,
            "utilisation_by": "gpm",
            "error": None,
        },
        {
            "uuid": "MIG-1",
            "name": "NVIDIA H200 MIG 1g.18gb",
            "gpu_instance": 8,
            "compute_instance": 0,
            "memory_used": 0,
            "memory_total": 16 * GIB,
            "utilisation": 0,
            "utilisation_by": "gpm",
            "error": None,
        },
    ]
    assert [(one["pid"], one["instance"], one["memory"], one["sm"]) for one in found["processes"]] == [
        (10, "MIG-0", GIB, None),
        (11, "MIG-0", GIB, None),
        (11, "MIG-1", 2 * GIB, None),
    ]
    assert (found["utilisation"], found["measured"], found["busy"], found["problems"]) == (None, False, {}, {})


def test_compute_instances_of_one_gpu_instance_share_its_figure(tmp_path: Path) -> None:
    halves = [instance(n, gpu_instance=7, compute_instance=n, gpm={"graphics": 40.0}) for n in range(2)]
    with sampling(tmp_path, divided(*halves)) as (_, gpus):
        found = gpus.device(lambda found: found["mig"][0]["utilisation"] is not None)
    assert [one["utilisation"] for one in found["mig"]] == [40, 40]


@pytest.mark.parametrize(
    "how", [{}, {"fails": {"nvmlGpmMigSampleGet": "unknown"}}, {"fails": {"nvmlGpmQueryDeviceSupport": "timeout"}}]
)
def test_without_such_counters_nobody_knows_how_busy_an_instance_is(tmp_path: Path, how: dict[str, Any]) -> None:
    gpm = {"graphics": 40.0} if how else None
    with sampling(tmp_path, divided(instance(processes=[runs(10)], gpm=gpm), **how)) as (_, gpus):
        for _ in range(8):
            (one,) = gpus.device(lambda _: True)["mig"]
            assert (one["utilisation"], one["utilisation_by"], one["error"]) == (None, None, None)


def test_instances_that_keep_their_processes_to_themselves_are_asked_about_above(tmp_path: Path) -> None:
    kept = {"nvmlDeviceGetComputeRunningProcesses_v3": "no permission"}
    card = divided(
        instance(0, processes=[runs(10)], fails=kept),
        instance(1, processes=[runs(20)], fails=kept),
        processes=[runs(10, instance=[7, 0]), runs(20, instance=[8, 0])],
    )
    (found,) = first(tmp_path, card)["devices"]
    assert {(one["pid"], one["instance"]) for one in found["processes"]} == {(10, "MIG-0"), (20, "MIG-1")}
    assert found["problems"] == {}


def test_instances_that_are_made_anew_are_found(tmp_path: Path) -> None:
    with sampling(tmp_path, divided(instance(0, processes=[runs(10)]), instance(1))) as (sim, gpus):
        gpus.device(lambda found: len(found["mig"]) == 2)
        large = instance(2, uuid="MIG-large", processes=[runs(30)])
        sim.change(driver(divided(large), **HOST))
        found = gpus.device(lambda found: [one["uuid"] for one in found["mig"]] == ["MIG-large"])
        assert [(one["pid"], one["instance"]) for one in found["processes"]] == [(30, "MIG-large")]
        gpus.device(lambda found: found["problems"] == {})


def test_an_instance_that_fails_hides_no_other(tmp_path: Path) -> None:
    bad = instance(0, processes=[runs(10)], fails={"nvmlDeviceGetMemoryInfo_v2": 999, "nvmlDeviceGetMemoryInfo": 999})
    (found,) = first(tmp_path, divided(bad, instance(1, processes=[runs(20)])))["devices"]
    assert found["mig"][0]["error"] == f"NVIDIA's driver answered 'Unknown Error' (NVML error 999). {DMESG}"
    assert (found["mig"][0]["memory_used"], found["mig"][1]["error"], found["state"]) == (None, None, "ok")
    assert [one["pid"] for one in found["processes"]] == [10, 20]
