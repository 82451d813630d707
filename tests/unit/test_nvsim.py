"""The simulated NVIDIA driver: the real ``pynvml`` above it, with its traps, sees what a driver would show."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

import labkit
from labkit import nvsim
from tests.nvml import Card, Library, loaded

MIB = 1 << 20


def card(**fields: Any) -> dict[str, Any]:
    """One GPU with the memory of a real L40S under two processes."""
    memory = {"total": 46068 * MIB, "reserved": 609 * MIB, "used": 1235 * MIB}
    usual = {"name": "NVIDIA L40S", "uuid": "GPU-1", "pci_bus_id": "00000000:1F:00.0", "memory": memory}
    return usual | {"utilisation": {"gpu": 9, "memory": 2}, "processes": []} | fields


def driver(*devices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"driver_version": "615.71.09", "cuda_version": 13040, "devices": list(devices)} | fields


@pytest.fixture(autouse=True)
def _real_driver_afterwards() -> Iterator[None]:
    before = pynvml.nvmlLib
    yield
    nvsim.uninstall()
    assert pynvml.nvmlLib is before


def first(state: dict[str, Any]) -> Any:
    """Install, start, and give the handle of the first GPU."""
    nvsim.install(state)
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def test_importing_it_does_not_import_the_binding() -> None:
    code = "import sys, labkit, labkit.nvsim, labkit.practice; print('pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_driver_says_its_versions_and_counts_its_gpus() -> None:
    nvsim.install(driver(card(), card(uuid="GPU-2"), nvml_version="13.615.71.09"))
    pynvml.nvmlInit()
    assert pynvml.nvmlSystemGetDriverVersion() == "615.71.09"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.615.71.09"
    assert pynvml.nvmlSystemGetCudaDriverVersion() == pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13040
    assert pynvml.nvmlDeviceGetCount() == 2


def test_nothing_answers_before_init_and_after_the_last_shutdown() -> None:
    nvsim.install(driver(card()))
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    assert pynvml.nvmlDeviceGetCount() == 1
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_a_gpu_is_found_by_index_uuid_and_bus() -> None:
    nvsim.install(driver(card(), card(uuid="GPU-2", pci_bus_id="00000000:83:00.0", name="NVIDIA H200")))
    pynvml.nvmlInit()
    by_index = pynvml.nvmlDeviceGetHandleByIndex(1)
    by_uuid = pynvml.nvmlDeviceGetHandleByUUID("GPU-2")
    by_bus = pynvml.nvmlDeviceGetHandleByPciBusId("00000000:83:00.0")
    for handle in (by_index, by_uuid, by_bus):
        assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA H200"
        assert (pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetIndex(handle)) == ("GPU-2", 1)
    pci = pynvml.nvmlDeviceGetPciInfo(by_index)
    assert (pci.busId, pci.bus, pci.domain) == ("00000000:83:00.0", 0x83, 0)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByIndex(2)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-3")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(None)


def test_used_memory_has_the_reserved_part_in_it_only_in_the_first_version() -> None:
    handle = first(driver(card()))
    one, two = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    assert (one.total, one.used) == (46068 * MIB, (1235 + 609) * MIB)
    assert (two.total, two.used, two.reserved) == (46068 * MIB, 1235 * MIB, 609 * MIB)
    assert one.free == two.free == one.total - one.used == two.total - two.used - two.reserved
    with pytest.raises(pynvml.NVMLError_ArgumentVersionMismatch):
        pynvml.nvmlDeviceGetMemoryInfo(handle, 0x01000028)


def test_single_figures_are_reported_in_the_librarys_units() -> None:
    clocks = {"graphics": 2520, "sm": 2505, "memory": 9001, "video": 1965}
    handle = first(
        driver(
            card(
                temperature=54,
                power=110_120,
                power_limit=350_000,
                clocks=clocks,
                max_clocks=clocks | {"sm": 2520},
                performance_state=2,
                persistence_mode=1,
                compute_mode=3,
                mig_mode=[0, 1],
                driver_model=[0, 2],
            )
        )
    )
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) == 54
    assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 54
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 110_120
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 350_000
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) == 2505
    assert pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM) == 2520
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) == 9001
    assert pynvml.nvmlDeviceGetPerformanceState(handle) == pynvml.NVML_PSTATE_2
    assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 1
    assert pynvml.nvmlDeviceGetComputeMode(handle) == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
    assert pynvml.nvmlDeviceGetMigMode(handle) == [0, 1]
    assert pynvml.nvmlDeviceGetDriverModel(handle) == [pynvml.NVML_DRIVER_WDDM, pynvml.NVML_DRIVER_MCDM]


@pytest.mark.parametrize("field", ["driver_model", "utilisation", "memory", "temperature", "power", "mig_mode"])
def test_what_is_none_or_left_out_is_not_supported(field: str) -> None:
    reads = {
        "driver_model": pynvml.nvmlDeviceGetDriverModel,
        "utilisation": pynvml.nvmlDeviceGetUtilizationRates,
        "memory": pynvml.nvmlDeviceGetMemoryInfo,
        "temperature": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, 0),
        "power": pynvml.nvmlDeviceGetPowerUsage,
        "mig_mode": pynvml.nvmlDeviceGetMigMode,
    }
    with pytest.raises(pynvml.NVMLError_NotSupported):
        reads[field](first(driver(card(**{field: None}))))


def test_an_error_word_in_place_of_a_value_is_that_error() -> None:
    handle = first(driver(card(power="no permission", processes="no permission")))
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetComputeRunningProcesses(handle)


def test_processes_are_listed_by_kind_and_may_be_in_two_lists() -> None:
    processes = [
        {"pid": 11, "memory": 538 * MIB},
        {"pid": 12, "memory": 25 * MIB, "type": "G"},
        {"pid": 13, "memory": 99 * MIB, "type": "C+G"},
        {"pid": 14, "memory": 7 * MIB, "type": "M+C", "instance": [2, 0]},
    ]
    handle = first(driver(card(processes=processes)))
    compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert [(p.pid, p.usedGpuMemory) for p in compute] == [(11, 538 * MIB), (13, 99 * MIB), (14, 7 * MIB)]
    assert [(p.gpuInstanceId, p.computeInstanceId) for p in compute] == [(0xFFFFFFFF, 0xFFFFFFFF)] * 2 + [(2, 0)]
    assert [p.pid for p in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)] == [12, 13]
    assert [p.pid for p in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)] == [14]


def test_no_processes_is_an_empty_list_and_memory_that_is_not_available_is_none() -> None:
    nvsim.install(driver(card(), card(processes=[{"pid": 2140, "memory": None}])))
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(0)) == []
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(1))
    assert (process.pid, process.usedGpuMemory) == (2140, None)


def test_process_samples_are_the_newest_of_each_process_after_a_time() -> None:
    samples = [
        {"pid": 1, "time": 1_000, "sm": 10},
        {"pid": 1, "time": 2_000, "sm": 30, "memory": 4, "encoder": 5, "decoder": 6},
        {"pid": 2, "time": 1_500, "sm": 70},
    ]
    handle = first(driver(card(process_samples=samples)))
    found = {s.pid: s for s in pynvml.nvmlDeviceGetProcessUtilization(handle, 0)}
    assert (found[1].timeStamp, found[1].smUtil, found[2].smUtil) == (2_000, 30, 70)
    assert (found[1].memUtil, found[1].encUtil, found[1].decUtil, found[2].memUtil) == (4, 5, 6, 0)
    assert [s.pid for s in pynvml.nvmlDeviceGetProcessUtilization(handle, 1_500)] == [1]
    with pytest.raises(pynvml.NVMLError_NotFound):  # no newer samples: idle, not broken
        pynvml.nvmlDeviceGetProcessUtilization(handle, 2_000)


def test_readings_of_utilisation_move_through_the_moments_and_stay_at_the_last() -> None:
    moments = [{"utilisation": {"gpu": 100, "memory": 0}, "power": 9}, {"utilisation": None}, {}, {"error": "lost"}]
    handle = first(driver(card(moments=moments)))
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 9
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 100
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 9
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(handle)
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 9
    for _ in range(2):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            pynvml.nvmlDeviceGetUtilizationRates(handle)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetName(handle)


def test_a_lost_gpu_is_counted_and_does_not_touch_the_others() -> None:
    nvsim.install(driver(card(error="lost"), card(uuid="GPU-2")))
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(1)) == "GPU-2"


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("driver not loaded", pynvml.NVMLError_DriverNotLoaded),
        ("library not found", pynvml.NVMLError_LibraryNotFound),
        ("version mismatch", pynvml.NVMLError_LibRmVersionMismatch),
    ],
)
def test_a_driver_with_an_error_does_not_start(word: str, error: type[Exception]) -> None:
    nvsim.install(driver(error=word))
    with pytest.raises(error):
        pynvml.nvmlInit()


def test_an_old_driver_lacks_functions() -> None:
    old = ["nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetMemoryInfo_v2"]
    handle = first(driver(card(), missing=old))
    with pytest.raises(pynvml.NVMLLibraryMismatchError):  # which is no NVMLError
        pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetFanSpeed(handle)  # not simulated at all


def test_installing_again_replaces_the_state_which_is_a_copy() -> None:
    state = driver(card())
    assert pynvml.nvmlDeviceGetName(first(state)) == "NVIDIA L40S"
    state["devices"][0]["name"] = "changed later"
    assert pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)) == "NVIDIA L40S"
    assert pynvml.nvmlDeviceGetName(first(driver(card(name="another")))) == "another"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (driver(card(utilization={"gpu": 1})), "of device 0 has an unknown key 'utilization'. Known: ['clocks', "),
        (driver(card(moments=[{"moments": []}])), "of a moment of device 0 has an unknown key 'moments'."),
        (driver(driver="610"), "of the driver has an unknown key 'driver'. Known: ['cuda_version', "),
        (driver(card(), card(error="gone")), "The simulated error 'gone' of device 1 is unknown. Known: ['driver not"),
    ],
)
def test_a_misspelt_state_is_refused(state: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="simulated") as refused:
        nvsim.install(state)
    assert says in str(refused.value)
    assert not nvsim.installed()


@pytest.mark.parametrize("windows", [False, True])
def test_random_states_are_plausible(windows: bool) -> None:
    for seed in range(50):
        state = nvsim.random_state(random.Random(seed), windows=windows)
        assert state == nvsim.random_state(random.Random(seed), windows=windows)
        nvsim.install(state)
        assert 1 <= len(state["devices"]) <= 4
        for device in state["devices"]:
            memory, known = device["memory"], [p["memory"] for p in device["processes"]]
            assert memory["used"] + memory["reserved"] <= memory["total"]
            assert (device["driver_model"] is not None) == windows
            assert (None in known) == (windows and bool(known))
            assert windows or sum(known) <= memory["used"]
            assert device["power"] <= device["power_limit"]
        for field in ("uuid", "pci_bus_id"):
            assert len({device[field] for device in state["devices"]}) == len(state["devices"])


def test_practice_says_that_the_gpus_are_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(None):
        labkit.simulate_gpu(2, seed=1)
        said = capsys.readouterr().out
        pynvml.nvmlInit()
        names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(2)]
        labkit.simulate_gpu(1, seed=2)
        assert "shows a simulated one in this notebook" in capsys.readouterr().out
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 1
    assert said == (
        "This server has no GPU that NVML can see, so NVML now shows 2 simulated ones in this notebook: "
        "all their numbers are made up, and nothing can run on them.\n"
    )
    assert all(name.endswith(" (simulated)") for name in names)


def test_practice_leaves_a_real_gpu_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(Library(Card(), Card())):
        real = pynvml.nvmlLib
        labkit.simulate_gpu()
        assert pynvml.nvmlLib is real
    said = capsys.readouterr().out
    assert said == (
        "This server has a real GPU (NVIDIA H200 and 1 more): NVML shows that one, and nothing is simulated.\n"
    )
