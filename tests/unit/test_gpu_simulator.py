"""The simulated NVIDIA driver: what NVIDIA's binding and other people's monitors see of a scenario, unmodified."""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from gradlab.errors import SimulatorError
from gradlab.gpu.simulator import library, scenario
from labkit import nvsim
from tests.conftest import Require
from tests.simulated import GIB, MIB, Refused, answered, binding, device, driver, instance, simulated
from tests.waiting import until

LOST, RESET, NOT_SUPPORTED, NOT_FOUND, UNKNOWN = 15, 16, 3, 6, 999
NO_INSTANCE = 0xFFFFFFFF
TOOLS = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _compiler(require: Require) -> None:
    require("cc")


# -- the library -------------------------------------------------------------------------------------------------------


def exported(folder: Path) -> set[str]:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", folder / library.NAME], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in listed.stdout.splitlines()}


def test_it_exports_every_function_of_its_table_and_the_mark_of_a_simulation() -> None:
    found = exported(library.build())
    assert len(library.functions()) >= 45
    assert found == library.functions() | {"nvmlErrorString", "gradlabSimulated"}


def test_its_structures_are_the_bindings() -> None:
    said = re.findall(r"S\((\w+), (\w+), (\d+)\)", library.SOURCE.read_text())
    assert len(said) > 15
    for _, name, size in said:
        assert ctypes.sizeof(getattr(pynvml, name)) == int(size), name


def test_it_is_compiled_once_for_each_version_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = library.build(tmp_path)
    before = (first / library.NAME).stat()
    assert library.build(tmp_path) == first
    assert (first / library.NAME).stat().st_ino == before.st_ino
    changed = tmp_path / "nvml.c"
    changed.write_text(library.SOURCE.read_text() + "\n")
    monkeypatch.setattr(library, "SOURCE", changed)
    assert library.build(tmp_path) != first


def test_it_is_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.build().parent == tmp_path / "gradlab" / "nvml-simulator"


def test_processes_that_build_it_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = f"from gradlab.gpu.simulator import build; from pathlib import Path; print(build(Path({str(tmp_path)!r})))"

    def build(_: int) -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(3) as together:
        folders = set(together.map(build, range(3)))
    assert len(folders) == 1
    assert [file.name for file in Path(folders.pop()).iterdir()] == [library.NAME]


def test_without_a_compiler_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SimulatorError, match=r"there is no cc.*apt install gcc libc6-dev"):
        library.build(tmp_path)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cc").write_text("#!/bin/sh\necho 'nvml.c:1: no headers' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SimulatorError, match=r"(?s)no headers.*apt install gcc libc6-dev"):
        library.build(tmp_path)


def test_a_place_where_it_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SimulatorError, match=r"cannot be kept in .*Set XDG_CACHE_HOME"):
        library.build(tmp_path / "file")


def test_its_folder_comes_before_others_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    found = library.environment(tmp_path / "s")
    assert found["LD_LIBRARY_PATH"] == f"{library.build()}:/opt/lib"
    assert found["NVML_SCENARIO"] == str(tmp_path / "s")


def test_functions_can_be_absent_as_in_an_older_driver(tmp_path: Path) -> None:
    older = ("nvmlDeviceSetMemoryLimits_v1", "nvmlDeviceGetComputeRunningProcesses_v3")
    with binding(simulated(tmp_path, driver(device()), without=older)) as nvml:
        assert not nvml.ask("hasattr(pynvml.nvmlLib, 'nvmlDeviceSetMemoryLimits_v1')")
        assert nvml.ask("hasattr(pynvml.nvmlLib, 'nvmlDeviceGetMemoryLimits_v1')")
        with pytest.raises(Refused, match="NVMLLibraryMismatchError"):
            nvml.ask("pynvml.nvmlDeviceGetComputeRunningProcesses(h(0))")
    with pytest.raises(ValueError, match="nvmlTypo"):
        library.build(without=["nvmlTypo"])


def test_a_reader_can_tell_that_it_is_simulated(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver())) as nvml:
        assert nvml.ask("pynvml.nvmlLib.gradlabSimulated()") == 1


# -- the driver --------------------------------------------------------------------------------------------------------


def test_a_driver_says_its_versions_and_counts_its_gpus(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device(0), device(1)))) as nvml:
        assert nvml.ask("pynvml.nvmlSystemGetDriverVersion()") == "615.71.09"
        assert nvml.ask("pynvml.nvmlSystemGetNVMLVersion()") == "13.615.71.09"
        assert nvml.ask("pynvml.nvmlSystemGetCudaDriverVersion()") == 13040
        assert nvml.ask("pynvml.nvmlDeviceGetCount()") == 2
        assert nvml.ask("pynvml.nvmlErrorString(15)") == "GPU is lost"


def test_nothing_answers_before_init_and_after_the_last_shutdown(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device())), init=False) as nvml:
        nvml.ask("pynvml._LoadNvmlLibrary()")
        assert nvml.code("pynvml.nvmlDeviceGetCount()") == 1
        nvml.ask("pynvml.nvmlInit()")
        nvml.ask("pynvml.nvmlInit()")
        nvml.ask("pynvml.nvmlShutdown()")
        assert nvml.ask("pynvml.nvmlDeviceGetCount()") == 1
        nvml.ask("pynvml.nvmlShutdown()")
        assert nvml.code("pynvml.nvmlDeviceGetCount()") == 1
        assert nvml.code("pynvml.nvmlShutdown()") == 1


@pytest.mark.parametrize(
    ("error", "code"), [("driver not loaded", 9), ("no permission", 4), ("unknown", 999), (28, 28)]
)
def test_the_drivers_error_is_the_answer_to_init(tmp_path: Path, error: Any, code: int) -> None:
    with binding(sim := simulated(tmp_path, driver(device(), error=error)), init=False) as nvml:
        assert nvml.code("pynvml.nvmlInit()") == code
        sim.change(driver(device()))
        assert nvml.code("pynvml.nvmlInit()") == 0


def test_a_process_keeps_the_library_of_another_version_than_the_driver(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(error="version mismatch")), init=False) as nvml:
        assert nvml.code("pynvml.nvmlInit()") == 18
        sim.change(driver())
        assert nvml.code("pynvml.nvmlInit()") == 18
    with binding(sim):
        """A new one has the new library."""


def test_without_a_file_the_driver_is_not_loaded(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, None), init=False) as nvml:
        assert nvml.code("pynvml.nvmlInit()") == 9
        sim.change(driver(device()))
        nvml.ask("pynvml.nvmlInit(); handle = h(0)")
        sim.path.unlink()
        assert nvml.code("pynvml.nvmlDeviceGetName(handle)") == UNKNOWN
        assert nvml.code("pynvml.nvmlInit()") == 9
        assert nvml.code("pynvml.nvmlShutdown()") == 0


# -- one GPU -----------------------------------------------------------------------------------------------------------


def test_a_gpu_is_found_by_index_uuid_and_bus(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device(0), device(1, name="NVIDIA L40S")))) as nvml:
        for handle in ("h(1)", "pynvml.nvmlDeviceGetHandleByUUID('gpu-1')"):
            assert nvml.ask(f"pynvml.nvmlDeviceGetName({handle})") == "NVIDIA L40S"
        for bus in ("00000000:18:00.0", "0000:18:00.0", "18:00.0"):
            assert nvml.ask(f"pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByPciBusId({bus!r}))") == "GPU-1"
        assert nvml.ask("pynvml.nvmlDeviceGetIndex(h(1))") == nvml.ask("pynvml.nvmlDeviceGetMinorNumber(h(1))") == 1
        pci = nvml.ask("pynvml.nvmlDeviceGetPciInfo(h(1))")
        assert (pci["busId"], pci["busIdLegacy"]) == ("00000000:18:00.0", "0000:18:00.0")
        assert (pci["domain"], pci["bus"], pci["device"]) == (0, 0x18, 0)
        assert nvml.code("pynvml.nvmlDeviceGetHandleByUUID('GPU-2')") == NOT_FOUND
        assert nvml.code("pynvml.nvmlDeviceGetHandleByPciBusId('0000:19:00.0')") == NOT_FOUND
        assert nvml.code("pynvml.nvmlDeviceGetHandleByPciBusId('nonsense')") == 2


@pytest.mark.parametrize("handle", ["h(2)", "None", "ctypes.c_void_p(8)", "ctypes.c_void_p(0x1001)"])
def test_a_handle_that_is_none_is_an_invalid_argument(tmp_path: Path, handle: str) -> None:
    with binding(simulated(tmp_path, driver(device(), device(1)))) as nvml:
        assert nvml.code(f"pynvml.nvmlDeviceGetName({handle})") == 2


READS = {
    "name": ("pynvml.nvmlDeviceGetName(h(0))", "NVIDIA H200", "NVIDIA H200"),
    "uuid": ("pynvml.nvmlDeviceGetUUID(h(0))", "GPU-1", "GPU-1"),
    "serial": ("pynvml.nvmlDeviceGetSerial(h(0))", "165", "165"),
    "temperature": ("pynvml.nvmlDeviceGetTemperature(h(0), 0)", 54, 54),
    "memory_temperature": ("pynvml.nvmlDeviceGetFieldValues(h(0), [82])[0].value.uiVal", 60, 60),
    "fan": ("pynvml.nvmlDeviceGetFanSpeed(h(0))", 104, 104),
    "power": ("pynvml.nvmlDeviceGetPowerUsage(h(0))", 110_120, 110_120),
    "power_limit": ("pynvml.nvmlDeviceGetEnforcedPowerLimit(h(0))", 700_000, 700_000),
    "energy": ("pynvml.nvmlDeviceGetTotalEnergyConsumption(h(0))", 1 << 40, 1 << 40),
    "performance_state": ("pynvml.nvmlDeviceGetPerformanceState(h(0))", 2, 2),
    "persistence_mode": ("pynvml.nvmlDeviceGetPersistenceMode(h(0))", 1, 1),
    "compute_mode": ("pynvml.nvmlDeviceGetComputeMode(h(0))", 3, 3),
    "throttle_reasons": ("pynvml.nvmlDeviceGetCurrentClocksEventReasons(h(0))", 0x44, 0x44),
    "encoder": ("pynvml.nvmlDeviceGetEncoderUtilization(h(0))[0]", 12, 12),
    "decoder": ("pynvml.nvmlDeviceGetDecoderUtilization(h(0))[0]", 13, 13),
    "clocks": ("pynvml.nvmlDeviceGetClockInfo(h(0), pynvml.NVML_CLOCK_MEM)", {"memory": 3201}, 3201),
    "max_clocks": ("pynvml.nvmlDeviceGetMaxClockInfo(h(0), pynvml.NVML_CLOCK_SM)", {"sm": 1980}, 1980),
    "utilisation": ("pynvml.nvmlDeviceGetUtilizationRates(h(0))", {"gpu": 9, "memory": 2}, {"gpu": 9, "memory": 2}),
    "pcie": ("pynvml.nvmlDeviceGetPcieThroughput(h(0), 1)", {"received": 200}, 200),
    "mig_mode": ("pynvml.nvmlDeviceGetMigMode(h(0))", [0, 1], [0, 1]),
    "driver_model": ("pynvml.nvmlDeviceGetDriverModel(h(0))", [0, 2], [0, 2]),
    "compute_capability": ("pynvml.nvmlDeviceGetCudaComputeCapability(h(0))", [9, 0], [9, 0]),
    "ecc": ("pynvml.nvmlDeviceGetTotalEccErrors(h(0), 1, 0)", {"mode": 1, "uncorrected": 5}, 5),
    "bar1": ("pynvml.nvmlDeviceGetBAR1MemoryInfo(h(0)).bar1Free", {"total": 10, "used": 4}, 6),
    "memory": ("pynvml.nvmlDeviceGetMemoryInfo(h(0)).free", {"total": 10, "reserved": 3, "used": 2}, 5),
    "accounting": ("pynvml.nvmlDeviceGetAccountingMode(h(0))", {"mode": 1}, 1),
    "processes": ("pynvml.nvmlDeviceGetComputeRunningProcesses(h(0))", [], []),
    "process_samples": ("pynvml.nvmlDeviceGetProcessUtilization(h(0), 0)[0].smUtil", [{"pid": 1, "sm": 7}], 7),
    "display_active": ("pynvml.nvmlDeviceGetDisplayActive(h(0))", 1, 1),
}


@pytest.mark.parametrize("field", READS)
def test_a_field_has_its_value_or_is_not_supported_or_an_error(tmp_path: Path, field: str) -> None:
    read, value, told = READS[field]
    with binding(sim := simulated(tmp_path, driver({field: value}))) as nvml:
        assert nvml.ask(read) == told
        for nothing in ({field: None}, {}):
            sim.change(driver(nothing))
            if field == "memory_temperature":  # the call as a whole succeeds
                read = "pynvml._nvmlCheckReturn(pynvml.nvmlDeviceGetFieldValues(h(0), [82])[0].nvmlReturn)"
            assert nvml.code(read) == NOT_SUPPORTED
        sim.change(driver({field: "reset required"}))
        assert nvml.code(read) == RESET


def test_used_memory_has_the_reserved_part_in_it_only_in_the_first_version(tmp_path: Path) -> None:
    memory = {"total": 140 * GIB, "reserved": GIB, "used": 3 * GIB}
    with binding(sim := simulated(tmp_path, driver(device(memory=memory)))) as nvml:
        one = nvml.ask("pynvml.nvmlDeviceGetMemoryInfo(h(0))")
        two = nvml.ask("pynvml.nvmlDeviceGetMemoryInfo(h(0), pynvml.nvmlMemory_v2)")
        assert (one["total"], one["used"], one["free"]) == (140 * GIB, 4 * GIB, 136 * GIB)
        assert (two["total"], two["used"], two["free"], two["reserved"]) == (140 * GIB, 3 * GIB, 136 * GIB, GIB)
        assert nvml.code("pynvml.nvmlDeviceGetMemoryInfo(h(0), 0x01000028)") == 25
        sim.change(driver(device(memory={"total": 140 * GIB, "used": None})))
        assert nvml.ask("pynvml.nvmlDeviceGetMemoryInfo(h(0), pynvml.nvmlMemory_v2).used") == (1 << 64) - 1


def test_the_older_temperature_call_answers_as_the_newer_does(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device(temperature=-3)))) as nvml:
        assert nvml.ask("pynvml.nvmlDeviceGetTemperatureV(h(0), 0)") == -3
        sim.change(driver(device(temperature=54), missing=["nvmlDeviceGetTemperatureV"]))
        assert nvml.code("pynvml.nvmlDeviceGetTemperatureV(h(0), 0)") == 13
        assert nvml.ask("pynvml.nvmlDeviceGetTemperature(h(0), 0)") == 54
        assert nvml.code("pynvml.nvmlDeviceGetTemperature(h(0), 7)") == 2
        assert nvml.code("pynvml.nvmlDeviceGetClockInfo(h(0), 4)") == 2


def test_fields_are_answered_one_by_one(tmp_path: Path) -> None:
    state = device(power=80_000, power_limit=700_000, energy=1 << 33, recovery_action=2)
    with binding(simulated(tmp_path, driver(state))) as nvml:
        found = nvml.ask("pynvml.nvmlDeviceGetFieldValues(h(0), [(185, 0), 190, 191, 230, 1, (186, 1)])")
        assert [value["nvmlReturn"] for value in found] == [0, 0, 0, 0, NOT_SUPPORTED, NOT_SUPPORTED]
        assert [value["value"]["ullVal"] for value in found[:4]] == [80_000, 700_000, 1 << 33, 2]


def test_ecc_counts_by_kind_and_not_when_it_is_off(tmp_path: Path) -> None:
    counts = {"corrected": 4, "uncorrected": 1}
    with binding(sim := simulated(tmp_path, driver(device(ecc={"mode": [1, 0]} | counts)))) as nvml:
        assert nvml.ask("pynvml.nvmlDeviceGetEccMode(h(0))") == [1, 0]
        assert nvml.ask("[pynvml.nvmlDeviceGetTotalEccErrors(h(0), kind, 1) for kind in (0, 1)]") == [4, 1]
        sim.change(driver(device(ecc={"mode": 0} | counts)))
        assert nvml.code("pynvml.nvmlDeviceGetTotalEccErrors(h(0), 0, 0)") == NOT_SUPPORTED


def test_time_passes_with_readings_of_the_utilisation(tmp_path: Path) -> None:
    moments = [{"utilisation": {"gpu": percent, "memory": 0}} for percent in (1, 2)] + [{"error": "lost"}]
    with binding(simulated(tmp_path, driver(device(moments=moments), device(1)))) as nvml:
        nvml.ask("gpu = h(0)")
        assert [nvml.ask("pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu") for _ in range(2)] == [1, 2]
        assert nvml.ask("pynvml.nvmlDeviceGetName(gpu)") == "NVIDIA H200"
        assert nvml.code("pynvml.nvmlDeviceGetUtilizationRates(gpu)") == LOST
        assert nvml.code("pynvml.nvmlDeviceGetName(gpu)") == LOST
        assert nvml.code("pynvml.nvmlDeviceGetName(h(1))") == 0


# -- processes ---------------------------------------------------------------------------------------------------------


def listed(nvml: Any, kind: str = "Compute", handle: str = "h(0)") -> dict[int, int | None]:
    found = nvml.ask(f"pynvml.nvmlDeviceGet{kind}RunningProcesses({handle})")
    return {process["pid"]: process["usedGpuMemory"] for process in found}


def test_a_process_is_in_the_lists_of_its_kinds(tmp_path: Path) -> None:
    processes = [
        {"pid": 10, "memory": GIB},
        {"pid": 11, "memory": None, "type": "C+G"},
        {"pid": 12, "memory": MIB, "type": "M+C"},
        {"pid": 13, "memory": 0, "type": "G"},
    ]
    with binding(simulated(tmp_path, driver(device(processes=processes)))) as nvml:
        assert listed(nvml) == {10: GIB, 11: None, 12: MIB}
        assert listed(nvml, "Graphics") == {11: None, 13: 0}
        assert listed(nvml, "MPSCompute") == {12: MIB}
        one = nvml.ask("pynvml.nvmlDeviceGetComputeRunningProcesses_v2(h(0))")[0]
        assert (one["gpuInstanceId"], one["computeInstanceId"]) == (NO_INSTANCE, NO_INSTANCE)


def test_a_newer_list_has_all_kinds(tmp_path: Path) -> None:
    processes = [
        {"pid": 10, "memory": GIB},
        {"pid": 12, "memory": MIB, "type": "M+C"},
        {"pid": 9, "memory": 0, "type": "G"},
    ]
    call = "pynvml.nvmlDeviceGetRunningProcessDetailList(h(0), pynvml.nvmlProcessDetailList_v1, {})"
    with binding(sim := simulated(tmp_path, driver(device(processes=processes)))) as nvml:
        found = [[one["pid"] for one in nvml.ask(call.format(mode))] for mode in range(4)]
        assert found == [[10, 12], [9], [12], [10, 12, 9]]
        assert nvml.ask(call.format(0))[0]["usedGpuMemory"] == GIB
        sim.change(driver(device()))
        assert nvml.ask(call.format(3)) == []


def test_a_list_is_asked_for_its_size_first(tmp_path: Path) -> None:
    raw = "pynvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3(h(0), ctypes.byref(count), {room})"
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask("count = ctypes.c_uint(0)")
        assert nvml.ask(raw.format(room=None)) == 0
        assert nvml.ask("count.value") == 0
        sim.change(driver(device(processes=[{"pid": pid} for pid in (1, 2, 3)])))
        assert (nvml.ask(raw.format(room=None)), nvml.ask("count.value")) == (7, 3)
        nvml.ask("count.value = 2; room = (pynvml.c_nvmlProcessInfo_v3_t * 2)()")
        assert (nvml.ask(raw.format(room="room")), nvml.ask("count.value")) == (7, 3)


def test_samples_are_the_newest_of_each_process_since_a_time(tmp_path: Path) -> None:
    samples = [
        {"pid": 1, "time": 100, "sm": 10, "memory": 1, "encoder": 2, "decoder": 3},
        {"pid": 2, "time": 90, "sm": 250},
        {"pid": 1, "time": 80, "sm": 11},
    ]
    with binding(simulated(tmp_path, driver(device(process_samples=samples)))) as nvml:
        found = nvml.ask("pynvml.nvmlDeviceGetProcessUtilization(h(0), 0)")
        assert {one["pid"]: (one["timeStamp"], one["smUtil"]) for one in found} == {1: (100, 10), 2: (90, 250)}
        assert [one["pid"] for one in nvml.ask("pynvml.nvmlDeviceGetProcessUtilization(h(0), 90)")] == [1]
        assert nvml.code("pynvml.nvmlDeviceGetProcessUtilization(h(0), 100)") == NOT_FOUND
        newer = nvml.ask("pynvml.nvmlDeviceGetProcessesUtilizationInfo(h(0), 90)")[0]
        assert (newer["pid"], newer["encUtil"], newer["decUtil"], newer["ofaUtil"]) == (1, 2, 3, 0)


def test_the_size_of_the_sample_buffer_is_always_offered(tmp_path: Path) -> None:
    many = [{"pid": pid, "time": 5, "sm": 1} for pid in range(150)]
    raw = "pynvml.nvmlLib.nvmlDeviceGetProcessUtilization(h(0), None, ctypes.byref(count), ctypes.c_ulonglong(0))"
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask("count = ctypes.c_uint(0)")
        assert (nvml.ask(raw), nvml.ask("count.value")) == (7, 100)
        sim.change(driver(device(process_samples=many)))
        assert len(nvml.ask("pynvml.nvmlDeviceGetProcessUtilization(h(0), 0)")) == 150


def test_a_sample_of_now_is_always_new(tmp_path: Path) -> None:
    before = time.time_ns() // 1000
    with binding(simulated(tmp_path, driver(device(process_samples=[{"pid": 1, "time": "now", "sm": 40}])))) as nvml:
        first = nvml.ask(f"pynvml.nvmlDeviceGetProcessUtilization(h(0), {before})[0].timeStamp")
        second = nvml.ask(f"pynvml.nvmlDeviceGetProcessUtilization(h(0), {first})[0].timeStamp")
    assert before < first < second <= time.time_ns() // 1000


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_lost_gpu_answers_nothing_and_the_others_do(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device(0), device(1)))) as nvml:
        nvml.ask("lost = h(0)")
        sim.change(driver(device(0, error="lost"), device(1)))
        assert nvml.ask("pynvml.nvmlDeviceGetCount()") == 2
        for call in ("h(0)", "pynvml.nvmlDeviceGetHandleByUUID('GPU-0')", "pynvml.nvmlDeviceGetName(lost)"):
            assert nvml.code(call) == LOST
        assert nvml.code("pynvml.nvmlDeviceGetHandleByPciBusId('0000:17:00.0')") == LOST
        assert nvml.code("pynvml.nvmlDeviceGetComputeRunningProcesses(lost)") == LOST
        assert nvml.ask("pynvml.nvmlDeviceGetUUID(h(1))") == "GPU-1"


def test_single_functions_fail_for_the_driver_or_for_one_gpu(tmp_path: Path) -> None:
    fails = {"nvmlDeviceGetPowerUsage": "lost", "nvmlDeviceGetName": 24}
    state = driver(device(0, fails=fails), device(1), fails={"nvmlDeviceGetFanSpeed": "no permission"})
    with binding(simulated(tmp_path, state)) as nvml:
        assert [nvml.code(f"pynvml.nvmlDeviceGetPowerUsage(h({gpu}))") for gpu in (0, 1)] == [LOST, 0]
        assert [nvml.code(f"pynvml.nvmlDeviceGetName(h({gpu}))") for gpu in (0, 1)] == [24, 0]
        assert [nvml.code(f"pynvml.nvmlDeviceGetFanSpeed(h({gpu}))") for gpu in (0, 1)] == [4, 4]
        assert nvml.code("pynvml.nvmlDeviceGetUUID(h(0))") == 0


@pytest.mark.parametrize(
    ("latency", "slow"),
    [(0.2, {"Name", "UUID"}), ({"nvmlDeviceGetName": 0.2}, {"Name"}), ({"*": 0.2, "nvmlDeviceGetUUID": 0}, {"Name"})],
)
@pytest.mark.parametrize("place", ["driver", "device"])
def test_calls_take_their_time(tmp_path: Path, latency: Any, slow: set[str], place: str) -> None:
    state = driver(device(latency=latency)) if place == "device" else driver(device(), latency=latency)
    with binding(simulated(tmp_path, state)) as nvml:
        nvml.ask("handle = h(0)")
        for name in ("Name", "UUID"):
            nvml.ask("began = time.monotonic()")
            nvml.ask(f"pynvml.nvmlDeviceGet{name}(handle)")
            assert (nvml.ask("time.monotonic() - began") >= 0.2) == (name in slow)


@pytest.mark.parametrize(
    "state",
    [
        driver(device(), hangs=["nvmlDeviceGetName"]),
        driver(device(), hangs=True),
        driver(device(hangs=True)),
        driver(device(hangs=["nvmlDeviceGetHandleByIndex_v2"])),
    ],
    ids=["function", "all", "device", "lookup"],
)
def test_a_call_hangs_until_the_scenario_changes(tmp_path: Path, state: dict[str, Any]) -> None:
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        sim.change(state)
        nvml.begin("pynvml.nvmlDeviceGetName(h(0))")
        assert not select.select([nvml.process.stdout], [], [], 0.3)[0]
        sim.change(driver(device(name="NVIDIA B200")))
        assert nvml.answer() == "NVIDIA B200"


def test_a_process_that_hangs_can_be_killed(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        sim.change(driver(device(), hangs=True))
        nvml.begin("pynvml.nvmlDeviceGetCount()")
        nvml.process.send_signal(signal.SIGKILL)
        assert nvml.process.wait(30) == -signal.SIGKILL


def test_other_threads_work_while_one_hangs(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask("import threading; handle = h(0); done = []")
        sim.change(driver(device(hangs=["nvmlDeviceGetName"])))
        nvml.ask(
            "thread = threading.Thread(target=lambda: done.append(pynvml.nvmlDeviceGetName(handle)), daemon=True); "
            "thread.start()"
        )
        assert nvml.ask("pynvml.nvmlDeviceGetUUID(handle)") == "GPU-0"
        assert nvml.ask("done") == []
        sim.change(driver(device()))
        nvml.ask("thread.join()")
        assert nvml.ask("done") == ["NVIDIA H200"]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_change_is_seen_with_the_next_call(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask("handle = h(0)")
        for celsius in range(20, 60):  # all of one size, and faster than a clock tick
            sim.change(driver(device(temperature=celsius)))
            assert nvml.ask("pynvml.nvmlDeviceGetTemperature(handle, 0)") == celsius


def test_another_file_is_seen_whatever_its_time(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device(temperature=20)))) as nvml:
        before = sim.path.stat()
        assert nvml.ask("pynvml.nvmlDeviceGetTemperature(h(0), 0)") == 20
        with sim.path.open():  # so that its inode stays taken
            (tmp_path / "other").mkdir()
            other = simulated(tmp_path / "other", driver(device(temperature=21)))
            os.utime(other.path, ns=(before.st_mtime_ns,) * 2)
            other.path.replace(sim.path)
            assert (sim.path.stat().st_mtime_ns, sim.path.stat().st_size) == (before.st_mtime_ns, before.st_size)
            assert nvml.ask("pynvml.nvmlDeviceGetTemperature(h(0), 0)") == 21


@pytest.mark.parametrize(
    ("text", "line", "mistake"),
    [
        ("nonsense\nend\n", 1, "the first line is not"),
        ("gradlab-nvml-scenario 1\n", 2, "ends before its line"),
        ("gradlab-nvml-scenario 1\ndevice\nnumber power x\nend\n", 3, "x is no number"),
        ("gradlab-nvml-scenario 1\ndevice\nnumber power 99999999999999999999999\nend\n", 3, "is no number"),
        ("gradlab-nvml-scenario 1\ndevice\nnumber powder 1\nend\n", 3, "powder is no number"),
        ("gradlab-nvml-scenario 1\nfails nvmlTypo 3\nend\n", 2, "nvmlTypo is no function"),
        ("gradlab-nvml-scenario 1\nmoment\nend\n", 2, "a moment needs a GPU"),
        ("gradlab-nvml-scenario 1\ninstance\nend\n", 2, "an instance needs a GPU"),
        ("gradlab-nvml-scenario 1\ndevice\nprocess 1 2 X - -\nend\n", 3, "are no kinds"),
        ("gradlab-nvml-scenario 1\ndevice\nprocess 1 2 C - - 5\nend\n", 3, "is no INODE:PID"),
        ("gradlab-nvml-scenario 1\nwhatever\nend\n", 2, "whatever is not known"),
        ("gradlab-nvml-scenario 1\ndevice\nnumber power 5 6\nend\n", 3, "6 is too much"),
    ],
)
def test_a_malformed_file_is_told_once_and_nothing_works(tmp_path: Path, text: str, line: int, mistake: str) -> None:
    with (tmp_path / "said").open("w+") as said, binding(sim := simulated(tmp_path, driver()), stderr=said) as nvml:
        sim.path.write_text(text)
        assert nvml.code("pynvml.nvmlDeviceGetCount()") == UNKNOWN
        assert nvml.code("pynvml.nvmlInit()") == UNKNOWN
        said.seek(0)
        (told,) = said.read().splitlines()
        assert f"{sim.path}, line {line}: " in told
        assert mistake in told
        sim.change(driver(device()))
        assert nvml.ask("pynvml.nvmlDeviceGetCount()") == 1


def test_whatever_the_file_is_the_process_lives(tmp_path: Path) -> None:
    rng = random.Random(5)
    sim = simulated(tmp_path, rich())
    original = sim.path.read_bytes()
    reads = "; ".join(f"answer(lambda: {read})" for read, _, _ in READS.values())
    with binding(sim, stderr=subprocess.DEVNULL) as nvml:
        nvml.ask("def answer(read):\n    try:\n        read()\n    except pynvml.NVMLError:\n        pass")
        for _ in range(300):
            sim.path.write_bytes(mutated(rng, original))
            nvml.ask(reads)
        sim.change(driver(device()))
        assert nvml.ask("pynvml.nvmlDeviceGetCount()") == 1


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The file with a part of it removed, doubled, overwritten or exchanged."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 10, 200)))
    put = rng.choice(
        (b"", data[start:end] * 2, bytes([rng.randrange(256)]), b"18446744073709551615", b"-", b"\n", b" ")
    )
    return data[:start] + put + data[end:]


def test_reloads_leak_nothing(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, rich())) as nvml:
        process = psutil.Process(nvml.process.pid)
        nvml.ask(
            "import os\n"
            "def again(times):\n"
            "    for time in times:\n"
            f"        os.utime({str(sim.path)!r}, ns=(time, time))\n"
            "        pynvml.nvmlDeviceGetComputeRunningProcesses(h(0))\n"
        )
        nvml.ask("again(range(1, 300))")
        before = process.memory_info().rss
        nvml.ask("again(range(300, 10000))")
        assert process.memory_info().rss - before < MIB  # 100 bytes for each time it is read


def test_many_threads_read_while_it_changes(tmp_path: Path) -> None:
    """What belongs together is of one scenario, and nothing else than the two is ever seen."""
    one = driver(device(memory={"total": 10, "reserved": 1, "used": 1}))
    two = driver(device(memory={"total": 20, "reserved": 2, "used": 2}), device(1))
    with binding(sim := simulated(tmp_path, one)) as nvml:
        nvml.ask("from concurrent.futures import ThreadPoolExecutor; handle = h(0); stop = []")
        nvml.ask(
            "def read(_):\n"
            "    seen = set()\n"
            "    while not stop:\n"
            "        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)\n"
            "        seen.add((memory.total, memory.reserved, memory.used, memory.free))\n"
            "    return seen"
        )
        nvml.ask("pool = ThreadPoolExecutor(4); work = [pool.submit(read, n) for n in range(4)]")
        for _ in range(100):
            sim.change(two)
            sim.change(one)
        nvml.ask("stop.append(1)")
        seen = nvml.ask("sorted(set.union(*(one.result() for one in work)))")
    assert {tuple(one) for one in seen} == {(10, 1, 1, 8), (20, 2, 2, 16)}


def rich() -> dict[str, Any]:
    """A scenario with something of everything in it."""
    gpu = {field: value for field, (_, value, _) in READS.items()}
    many = [{"pid": pid, "memory": MIB, "namespace": {12345: pid}} for pid in range(50)]
    own = {
        "processes": many,
        "gpm": {"graphics": 50.0},
        "events": [{"xid": 13}],
        "memory_limits": {"dmem": True, "used": {"/a": 5}},
        "accounting": {"mode": 1, "processes": [{"pid": 1}]},
        "fails": {"nvmlDeviceGetName": 3},
        "latency": {"nvmlDeviceGetUUID": 0},
        "moments": [{}, {"power": 7}],
    }
    divided = device(1, instances=[instance(), None], mig_mode=[1, 1])
    return driver(gpu | own, divided)


# -- MIG ---------------------------------------------------------------------------------------------------------------


def divided(*instances: Any, **overrides: Any) -> dict[str, Any]:
    return driver(device(instances=list(instances), mig_mode=[1, 1], **overrides))


def test_instances_are_found_place_by_place(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, divided(instance(0), None, instance(2)))) as nvml:
        assert nvml.ask("pynvml.nvmlDeviceGetMaxMigDeviceCount(h(0))") == 3
        nvml.ask("mig = lambda place: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), place)")
        assert [nvml.code(f"mig({place})") for place in range(4)] == [0, NOT_FOUND, 0, 2]
        assert nvml.ask("pynvml.nvmlDeviceGetUUID(mig(2))") == "MIG-2"
        assert nvml.ask("pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByUUID('MIG-2'))").endswith("1g.18gb")
        assert nvml.ask("pynvml.nvmlDeviceGetGpuInstanceId(mig(2))") == 9
        assert nvml.ask("pynvml.nvmlDeviceGetComputeInstanceId(mig(2))") == 0
        assert nvml.ask("pynvml.nvmlDeviceGetMemoryInfo(mig(2)).total") == 16 * GIB
        attributes = nvml.ask("pynvml.nvmlDeviceGetAttributes(mig(2))")
        assert (attributes["memorySizeMB"], attributes["gpuInstanceSliceCount"]) == (16 * 1024, 1)
        assert nvml.ask("pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig(0)))") == (
            "GPU-0"
        )
        assert nvml.ask("[pynvml.nvmlDeviceIsMigDeviceHandle(one).value for one in (h(0), mig(0))]") == [0, 1]
        assert nvml.code("pynvml.nvmlDeviceGetGpuInstanceId(h(0))") == 2


def test_a_gpu_that_is_not_divided_has_no_instances(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device(0), device(1, mig_mode=None)))) as nvml:
        assert nvml.ask("[pynvml.nvmlDeviceGetMaxMigDeviceCount(h(gpu)) for gpu in (0, 1)]") == [0, 0]
        assert nvml.code("pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), 0)") == NOT_FOUND
        assert nvml.code("pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(1), 0)") == NOT_SUPPORTED


def test_in_mig_mode_there_is_no_utilisation_of_any_kind(tmp_path: Path) -> None:
    state = divided(instance(), process_samples=[{"pid": 1, "sm": 5}], utilisation={"gpu": 5, "memory": 5})
    with binding(simulated(tmp_path, state)) as nvml:
        nvml.ask("mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), 0)")
        for handle in ("h(0)", "mig"):
            for call in ("UtilizationRates({})", "EncoderUtilization({})", "ProcessUtilization({}, 0)"):
                assert nvml.code(f"pynvml.nvmlDeviceGet{call.format(handle)}") == NOT_SUPPORTED
        assert nvml.code("pynvml.nvmlDeviceGetTemperature(h(0), 0)") == 0
        assert nvml.code("pynvml.nvmlDeviceGetPowerUsage(mig)") == NOT_SUPPORTED


def test_the_gpu_lists_the_processes_of_its_instances(tmp_path: Path) -> None:
    places = (instance(0, processes=[{"pid": 1, "memory": MIB}]), instance(1, processes=[{"pid": 2, "memory": None}]))
    with binding(simulated(tmp_path, divided(*places, processes=[{"pid": 3, "instance": [8, 0]}]))) as nvml:
        nvml.ask("mig = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), place) for place in (0, 1)]")
        assert listed(nvml, handle="mig[0]") == {1: MIB}
        assert listed(nvml, handle="mig[1]") == {2: None, 3: None}
        of = {one["pid"]: one for one in nvml.ask("pynvml.nvmlDeviceGetComputeRunningProcesses(h(0))")}
        assert {pid: (one["gpuInstanceId"], one["computeInstanceId"]) for pid, one in of.items()} == {
            1: (7, 0),
            2: (8, 0),
            3: (8, 0),
        }


def test_the_handle_of_an_instance_that_is_no_more_stays_invalid(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, divided(instance(0), instance(1)))) as nvml:
        nvml.ask("mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), 1)")
        sim.change(divided(None, instance(1)))
        assert nvml.ask("pynvml.nvmlDeviceGetUUID(mig)") == "MIG-1"
        sim.change(divided(instance(0), instance(1, uuid="MIG-new")))
        assert nvml.code("pynvml.nvmlDeviceGetUUID(mig)") == 2
        assert nvml.ask("pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), 1))") == "MIG-new"
        assert nvml.code("pynvml.nvmlDeviceGetUUID(mig)") == 2


def test_one_instance_fails_and_with_the_gpu_all_do(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, divided(instance(0), instance(1)))) as nvml:
        nvml.ask("mig = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), place) for place in (0, 1)]")
        sim.change(divided(instance(0, error="unknown"), instance(1)))
        assert [nvml.code(f"pynvml.nvmlDeviceGetName(mig[{place}])") for place in (0, 1)] == [UNKNOWN, 0]
        sim.change(divided(instance(0), instance(1), error="lost"))
        assert [nvml.code(f"pynvml.nvmlDeviceGetName(mig[{place}])") for place in (0, 1)] == [LOST, LOST]


# -- GPM ---------------------------------------------------------------------------------------------------------------

GPM = """
def gpm(take, pause):
    metrics = pynvml.c_nvmlGpmMetricsGet_t()
    metrics.version, metrics.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 3
    metrics.sample1, metrics.sample2 = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    for place, metric in enumerate((1, 2, 10)):
        metrics.metrics[place].metricId = metric
    try:
        take(metrics.sample1)
        time.sleep(pause)
        take(metrics.sample2)
        pynvml.nvmlGpmMetricsGet(metrics)
        return [(one.nvmlReturn, one.value) for one in metrics.metrics[:3]]
    finally:
        pynvml.nvmlGpmSampleFree(metrics.sample1)
        pynvml.nvmlGpmSampleFree(metrics.sample2)
"""


def test_gpm_needs_two_samples_a_tenth_of_a_second_apart(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device(gpm={"graphics": 87.5, 10: 3.0}), device(1, gpm={})))) as nvml:
        nvml.ask(GPM)
        assert nvml.ask("pynvml.nvmlGpmQueryDeviceSupport(h(0)).isSupportedDevice") == 1
        take = "lambda sample: pynvml.nvmlGpmSampleGet(h(0), sample)"
        assert nvml.ask(f"gpm({take}, 0.11)") == [[0, 87.5], [NOT_SUPPORTED, 0.0], [0, 3.0]]
        assert nvml.code(f"gpm({take}, 0)") == 21
        assert nvml.code("gpm(lambda sample: None, 0)") == 2
        nvml.ask("gpus = [h(0), h(1)]")
        assert nvml.code("gpm(lambda sample: pynvml.nvmlGpmSampleGet(gpus.pop(), sample), 0.11)") == 2
        assert nvml.code("pynvml.nvmlGpmSampleFree(ctypes.cast(4096, pynvml.c_nvmlGpmSample_t))") == 2


def test_gpm_measures_an_instance(tmp_path: Path) -> None:
    state = divided(instance(0, gpm={"graphics": 12.0}), None, instance(2, gpm={"graphics": 34.0}), instance(3))
    with binding(simulated(tmp_path, state)) as nvml:
        nvml.ask(GPM)
        assert nvml.ask("pynvml.nvmlGpmQueryDeviceSupport(h(0)).isSupportedDevice") == 1
        assert nvml.ask("gpm(lambda sample: pynvml.nvmlGpmMigSampleGet(h(0), 9, sample), 0.11)[0]") == [0, 34.0]
        nvml.ask("mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(h(0), 0)")
        assert nvml.ask("gpm(lambda sample: pynvml.nvmlGpmSampleGet(mig, sample), 0.11)[0]") == [0, 12.0]
        assert nvml.code("gpm(lambda sample: pynvml.nvmlGpmMigSampleGet(h(0), 10, sample), 0)") == NOT_SUPPORTED
        assert nvml.code("gpm(lambda sample: pynvml.nvmlGpmMigSampleGet(h(0), 11, sample), 0)") == NOT_FOUND


def test_gpm_is_not_on_every_gpu(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask(GPM)
        assert nvml.ask("pynvml.nvmlGpmQueryDeviceSupport(h(0)).isSupportedDevice") == 0
        assert nvml.code("gpm(lambda sample: pynvml.nvmlGpmSampleGet(h(0), sample), 0)") == NOT_SUPPORTED


# -- events ------------------------------------------------------------------------------------------------------------

WATCH = (
    "events = pynvml.nvmlEventSetCreate()\n"
    "for gpu in range(pynvml.nvmlDeviceGetCount()):\n"
    "    pynvml.nvmlDeviceRegisterEvents(h(gpu), pynvml.nvmlEventTypeXidCriticalError, events)"
)


def test_an_event_is_delivered_once_to_each_set(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device(0), device(1)))) as nvml:
        nvml.ask(WATCH)
        assert nvml.code("pynvml.nvmlEventSetWait(events, 1)") == 10
        happened = [{"xid": 13, "time": 5.0}, {"xid": 13, "time": 5.0}, {"type": 4, "data": 1}]
        sim.change(driver(device(0), device(1, events=happened)))
        for _ in range(2):
            event = nvml.ask("pynvml.nvmlEventSetWait(events, 60000)")
            assert (event["eventType"], event["eventData"], event["gpuInstanceId"]) == (8, 13, NO_INSTANCE)
            assert event["device"] == nvml.ask("h(1)")
        assert nvml.code("pynvml.nvmlEventSetWait(events, 1)") == 10
        sim.change(driver(device(0), device(1, error="lost", events=[*happened, {"xid": 79, "instance": [7, 0]}])))
        event = nvml.ask("pynvml.nvmlEventSetWait(events, 60000)")
        assert (event["eventData"], event["gpuInstanceId"], event["computeInstanceId"]) == (79, 7, 0)
        sim.change(driver(device(0), device(1, events=happened)))
        nvml.ask(WATCH)
        assert nvml.ask("pynvml.nvmlEventSetWait(events, 60000).eventData") == 13


def test_waiting_ends_with_an_event_that_happens_meanwhile(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask(WATCH)
        nvml.begin("pynvml.nvmlEventSetWait(events, 60000).eventData")
        sim.change(driver(device(events=[{"xid": 48}])))
        assert nvml.answer() == 48


def test_an_event_of_the_future_waits_for_its_time(tmp_path: Path) -> None:
    with binding(sim := simulated(tmp_path, driver(device()))) as nvml:
        nvml.ask(WATCH)
        at = time.time() + 0.3
        sim.change(driver(device(events=[{"xid": 48, "time": at}])))
        assert nvml.ask("pynvml.nvmlEventSetWait(events, 60000).eventData") == 48
        assert time.time() >= at


def test_a_set_that_was_freed_is_invalid(tmp_path: Path) -> None:
    with binding(simulated(tmp_path, driver(device(0), device(1, events=None), device(2, error="lost")))) as nvml:
        nvml.ask("events = pynvml.nvmlEventSetCreate()")
        assert nvml.ask("pynvml.nvmlDeviceGetSupportedEventTypes(h(0)) & pynvml.nvmlEventTypeXidCriticalError") == 8
        assert nvml.code("pynvml.nvmlDeviceRegisterEvents(h(1), 8, events)") == NOT_SUPPORTED
        nvml.ask("pynvml.nvmlEventSetFree(events)")
        assert nvml.code("pynvml.nvmlEventSetWait(events, 0)") == 2
        assert nvml.code("pynvml.nvmlDeviceRegisterEvents(h(0), 8, events)") == 2
        assert nvml.code("pynvml.nvmlEventSetFree(events)") == 2


# -- limits on memory, accounting --------------------------------------------------------------------------------------

LIMIT = (
    "limits = pynvml.c_nvmlSetMemoryLimits_v1_t()\n"
    "limits.nameSpace, limits.hardLimit, limits.softLimit = {group!r}.encode(), {hard}, 0\n"
    "pynvml.nvmlDeviceSetMemoryLimits_v1(h({gpu}), limits)"
)
LIMITS = (
    "limits = pynvml.c_nvmlGetMemoryLimits_v1_t()\n"
    "limits.nameSpace = {group!r}.encode()\n"
    "pynvml.nvmlDeviceGetMemoryLimits_v1(h({gpu}), limits)"
)


def test_limits_are_recorded_and_told_to_every_process(tmp_path: Path) -> None:
    group = "/sys/fs/cgroup/system.slice/docker 1.scope"
    state = driver(device(memory_limits={"dmem": True, "used": {group: 5 * MIB}}), device(1, memory_limits={}))
    sim = simulated(tmp_path, state)
    with binding(sim) as nvml:
        nvml.ask(LIMITS.format(group=group, gpu=0))
        assert nvml.ask("limits.hardLimit") == pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX
        assert nvml.ask("limits.currentUsed") == 5 * MIB
        nvml.ask(LIMIT.format(group=group, hard=GIB, gpu=0))
        nvml.ask(LIMIT.format(group=group, hard=2 * GIB, gpu=0))
        nvml.ask(LIMIT.format(group="/other", hard=3, gpu=0))
        assert nvml.code(LIMIT.format(group="relative", hard=3, gpu=0)) == 2
    with binding(sim) as nvml:
        nvml.ask(LIMITS.format(group=group, gpu=0))
        assert nvml.ask("limits.hardLimit") == 2 * GIB
        nvml.ask(LIMITS.format(group=group, gpu=1))
        assert nvml.ask("limits.hardLimit") == pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX
    assert scenario.limits(sim.path) == [
        scenario.Limit("GPU-0", group, GIB, 0),
        scenario.Limit("GPU-0", group, 2 * GIB, 0),
        scenario.Limit("GPU-0", "/other", 3, 0),
    ]


@pytest.mark.parametrize(
    "state",
    [
        driver(device()),
        driver(device(memory_limits={"dmem": False})),
        divided(instance(), memory_limits={"dmem": True}),
    ],
    ids=["no driver support", "no kernel support", "MIG"],
)
def test_not_every_gpu_has_limits(tmp_path: Path, state: dict[str, Any]) -> None:
    with binding(sim := simulated(tmp_path, state)) as nvml:
        assert nvml.code(LIMITS.format(group="/a", gpu=0)) == NOT_SUPPORTED
        assert nvml.code(LIMIT.format(group="/a", hard=1, gpu=0)) == NOT_SUPPORTED
    assert scenario.limits(sim.path) == []


def test_accounting_outlives_processes(tmp_path: Path) -> None:
    accounted = [
        {"pid": 5, "gpu": 50, "memory": 10, "max_memory": GIB, "time": 60_000, "start": 7, "running": False},
        {"pid": 6, "max_memory": None},
    ]
    with binding(sim := simulated(tmp_path, driver(device(accounting={"processes": accounted})))) as nvml:
        assert nvml.ask("pynvml.nvmlDeviceGetAccountingBufferSize(h(0))") == 4000
        assert nvml.ask("pynvml.nvmlDeviceGetAccountingPids(h(0))") == [5, 6]
        stats = nvml.ask("pynvml.nvmlDeviceGetAccountingStats(h(0), 5)")
        assert (stats["gpuUtilization"], stats["memoryUtilization"], stats["maxMemoryUsage"]) == (50, 10, GIB)
        assert (stats["time"], stats["startTime"], stats["isRunning"]) == (60_000, 7, 0)
        assert nvml.code("pynvml.nvmlDeviceGetAccountingStats(h(0), 7)") == NOT_FOUND
        sim.change(driver(device(accounting={"mode": 0})))
        assert nvml.ask("pynvml.nvmlDeviceGetAccountingMode(h(0))") == 0
        assert nvml.code("pynvml.nvmlDeviceGetAccountingPids(h(0))") == NOT_SUPPORTED
        sim.change(divided(instance(), accounting={"mode": 1}))
        assert nvml.ask("pynvml.nvmlDeviceGetAccountingMode(h(0))") == 0


def test_root_turns_accounting_on(require: Require) -> None:
    require("root")
    with (
        tempfile.TemporaryDirectory() as folder,
        binding(simulated(Path(folder), driver(device(accounting={"mode": 0})))) as nvml,
    ):
        Path(folder).chmod(0o755)  # nobody reads the scenario, too
        nvml.ask("pynvml.nvmlDeviceSetAccountingMode(h(0), 1)")
        assert nvml.ask("pynvml.nvmlDeviceGetAccountingPids(h(0))") == []
        nvml.ask("import os; os.seteuid(65534)")
        assert nvml.code("pynvml.nvmlDeviceSetAccountingMode(h(0), 0)") == 4


# -- PID namespaces ----------------------------------------------------------------------------------------------------

INSIDE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def used_by(pid: int, **more: Any) -> dict[str, Any]:
    """A GPU that a process computes on."""
    accounted = {"processes": [{"pid": pid, "gpu": 9}, {"pid": pid, "gpu": 8, "running": False}]}
    samples = [{"pid": pid, "time": 5, "sm": 50}]
    return driver(
        device(processes=[{"pid": pid, "memory": MIB}], process_samples=samples, accounting=accounted), **more
    )


def test_a_process_is_seen_in_its_own_pid_namespace_by_its_number_there(tmp_path: Path, require: Require) -> None:
    require("root")
    require("unshare")
    sim = simulated(tmp_path, driver(device()))
    with (
        binding(sim, before=INSIDE) as inside,
        binding(sim, before=INSIDE) as elsewhere,
        binding(sim) as outside,
    ):
        inner = inside.ask("__import__('os').getpid()")
        (process,) = psutil.Process(inside.process.pid).children()
        assert inner == 1 != process.pid
        sim.change(used_by(process.pid))
        assert (listed(outside), listed(inside), listed(elsewhere)) == ({process.pid: MIB}, {inner: MIB}, {})
        sample = "pynvml.nvmlDeviceGetProcessUtilization(h(0), 0)[0].pid"
        # Whoever does not see the process gets its number on the host, as from NVIDIA's kernel module.
        assert (outside.ask(sample), inside.ask(sample)) == (process.pid, inner)
        assert elsewhere.ask(sample) == process.pid
        accounting = "pynvml.nvmlDeviceGetAccountingPids(h(0))"
        assert (outside.ask(accounting), inside.ask(accounting)) == ([process.pid] * 2, [inner])
        assert elsewhere.ask(accounting) == []
        sim.change(used_by(process.pid, visibility="host"))  # before 535.113.01
        assert listed(outside) == listed(inside) == listed(elsewhere) == {process.pid: MIB}


def test_a_namespace_around_the_process_sees_it_by_yet_another_number(tmp_path: Path, require: Require) -> None:
    require("root")
    require("unshare")
    sim = simulated(tmp_path, driver(device()))
    with binding(sim, before=INSIDE) as around:
        around.ask(f"import subprocess; inner = subprocess.Popen([*{INSIDE!r}, 'sleep', '1000'])")
        (process,) = psutil.Process(around.process.pid).children()
        (unshared,) = process.children()
        sleeping = until(lambda: [one for one in unshared.children() if one.name() == "sleep"], what="sleep")[0]
        sim.change(used_by(sleeping.pid))
        number = int(Path(f"/proc/{sleeping.pid}/status").read_text().split("NSpid:")[1].split()[1])
        assert listed(around) == {number: MIB}


def test_a_scenario_may_say_by_which_numbers_a_process_is_known(tmp_path: Path) -> None:
    sim = simulated(tmp_path, driver(device(processes=[{"pid": 4_000_000, "namespace": {99: 5}}])))
    assert "process 4000000 - C - - 99:5\n" in sim.path.read_text()
    with binding(sim) as nvml:
        assert listed(nvml) == {4_000_000: None}
        elsewhere = re.sub(r"namespace \d+", "namespace 98", sim.path.read_text())
        own = Path("/proc/self/ns/pid").stat().st_ino
        sim.path.write_text(elsewhere.replace("99:5", f"{own}:5"))
        assert listed(nvml) == {5: None}
        sim.path.write_text(elsewhere)
        assert listed(nvml) == {}


# -- other people's monitors -------------------------------------------------------------------------------------------


def busy_with(pid: int) -> dict[str, Any]:
    """Two GPUs: a process of this machine computes on the first, the second is lost."""
    return driver(
        device(
            memory={"total": 140 * GIB, "reserved": GIB, "used": 3 * GIB},
            utilisation={"gpu": 42, "memory": 7},
            processes=[{"pid": pid, "memory": 2 * GIB}],
            process_samples=[{"pid": pid, "time": "now", "sm": 41, "memory": 6}],
        ),
        device(1, error="lost"),
    )


def test_gpustat_shows_the_scenario(tmp_path: Path) -> None:
    sim = simulated(tmp_path, busy_with(os.getpid()))
    shown = json.loads(sim.run(TOOLS / "gpustat", "--json", check=True).stdout)
    assert shown["driver_version"] == "615.71.09"
    first, second = shown["gpus"]
    assert (first["name"], first["uuid"], first["temperature.gpu"]) == ("NVIDIA H200", "GPU-0", 35)
    assert (first["utilization.gpu"], first["memory.used"], first["memory.total"]) == (42, 3 * 1024, 140 * 1024)
    assert (first["power.draw"], first["enforced.power.limit"]) == (78, 700)
    (process,) = first["processes"]
    assert (process["pid"], process["gpu_memory_usage"]) == (os.getpid(), 2048)
    assert "lost" in second["name"]


NVITOP = """
import json
from nvitop import Device
found = []
for device in Device.all():
    one = {"name": device.name(), "used": device.memory_used(), "total": device.memory_total(),
           "gpu": device.gpu_utilization(), "power": device.power_usage(), "mig": device.mig_mode(),
           "migs": [mig.uuid() for mig in device.mig_devices()]}
    one["processes"] = [
        (pid, process.gpu_memory(), process.gpu_sm_utilization()) for pid, process in device.processes().items()]
    found.append(one)
print(json.dumps(found))
"""


def test_nvitop_shows_the_scenario(tmp_path: Path) -> None:
    pid = os.getpid()
    parts = [instance(0, processes=[{"pid": pid, "memory": GIB}]), instance(1), None]
    state = busy_with(pid)
    state["devices"].append(device(2, instances=parts, mig_mode=[1, 1]))
    done = simulated(tmp_path, state).run(sys.executable, "-c", NVITOP, check=True)
    whole, lost, split = json.loads(done.stdout)
    assert (whole["name"], whole["gpu"], whole["power"], whole["mig"]) == ("NVIDIA H200", 42, 78_500, "Disabled")
    assert (whole["used"], whole["total"]) == (3 * GIB, 140 * GIB)
    assert whole["processes"] == [[pid, 2 * GIB, 41]]
    assert (lost["used"], lost["processes"]) == ("N/A", [])
    assert (split["gpu"], split["mig"], split["migs"]) == ("N/A", "Enabled", ["MIG-0", "MIG-1"])
    assert [found[:2] for found in split["processes"]] == [[pid, GIB]]


def test_nvitops_screen_shows_the_scenario(tmp_path: Path) -> None:
    shown = simulated(tmp_path, busy_with(os.getpid())).run(TOOLS / "nvitop", "-1", "--ascii", check=True).stdout
    assert "Driver Version: 615.71.09" in shown
    assert re.search(r"3072MiB / 140\.0GiB \|\s+42%", shown)
    assert re.search(rf"\b{os.getpid()} C\b.*2048MiB\s+41\s+6", shown)


# -- the laboratory's simulation in Python -----------------------------------------------------------------------------

EVERYTHING = [
    "pynvml.nvmlSystemGetDriverVersion()",
    "pynvml.nvmlSystemGetNVMLVersion()",
    "pynvml.nvmlSystemGetCudaDriverVersion()",
    "pynvml.nvmlSystemGetCudaDriverVersion_v2()",
    "pynvml.nvmlDeviceGetCount()",
    "pynvml.nvmlDeviceGetHandleByUUID('GPU-none')",
]
OF_A_GPU = [
    "pynvml.nvmlDeviceGetName({})",
    "pynvml.nvmlDeviceGetUUID({})",
    "pynvml.nvmlDeviceGetIndex({})",
    "pynvml.nvmlDeviceGetMinorNumber({})",
    "pynvml.nvmlDeviceGetPciInfo({})",
    "pynvml.nvmlDeviceGetMemoryInfo({})",
    "pynvml.nvmlDeviceGetMemoryInfo({}, pynvml.nvmlMemory_v2)",
    "pynvml.nvmlDeviceGetMemoryInfo({}, 5)",
    "pynvml.nvmlDeviceGetTemperature({}, 0)",
    "pynvml.nvmlDeviceGetTemperatureV({}, 0)",
    *(f"pynvml.nvmlDeviceGetClockInfo({{}}, {kind})" for kind in range(4)),
    *(f"pynvml.nvmlDeviceGetMaxClockInfo({{}}, {kind})" for kind in range(4)),
    "pynvml.nvmlDeviceGetPowerUsage({})",
    "pynvml.nvmlDeviceGetEnforcedPowerLimit({})",
    "pynvml.nvmlDeviceGetPowerManagementLimit({})",
    "pynvml.nvmlDeviceGetPerformanceState({})",
    "pynvml.nvmlDeviceGetPersistenceMode({})",
    "pynvml.nvmlDeviceGetComputeMode({})",
    "pynvml.nvmlDeviceGetMigMode({})",
    "pynvml.nvmlDeviceGetDriverModel({})",
    "pynvml.nvmlDeviceGetComputeRunningProcesses({})",
    "pynvml.nvmlDeviceGetGraphicsRunningProcesses({})",
    "pynvml.nvmlDeviceGetMPSComputeRunningProcesses({})",
    *(f"pynvml.nvmlDeviceGetProcessUtilization({{}}, {since})" for since in (0, 150, 10**6)),
    # Last: time passes with it.
    *["pynvml.nvmlDeviceGetUtilizationRates({})"] * 3,
    "pynvml.nvmlDeviceGetName({})",
]


def questions(state: dict[str, Any]) -> list[str]:
    asked = [*EVERYTHING, f"h({len(state['devices'])})"]
    for index, found in enumerate(state["devices"]):
        handles = [f"h({index})", f"pynvml.nvmlDeviceGetHandleByUUID({found.get('uuid')!r})"]
        if ":" in (bus := found.get("pci_bus_id") or ""):
            handles.append(f"pynvml.nvmlDeviceGetHandleByPciBusId({bus!r})")
        asked += [f"pynvml.nvmlDeviceGetName({handle})" for handle in handles]
        asked += [question.format(handles[0]) for question in OF_A_GPU]
    return asked


def disturbed(rng: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """A random state with some of its fields gone or in error, samples, lost GPUs and functions that are too new."""
    for one in state["devices"]:
        one["process_samples"] = [
            {"pid": process["pid"], "time": rng.randint(1, 300), "sm": rng.randint(0, 120), "memory": 1}
            for process in one["processes"] * 2
        ]
        for field in list(one):
            if rng.random() < 0.1 and field not in ("moments", "uuid"):
                one[field] = rng.choice([None, *nvsim.ERRORS])
            elif rng.random() < 0.05 and field not in ("moments", "uuid"):
                del one[field]
        if rng.random() < 0.2:
            one["error"] = rng.choice(list(nvsim.ERRORS))
        if rng.random() < 0.3:
            one["moments"] = [{}, {"error": "lost"}, {"utilisation": {"gpu": 3, "memory": 1}, "name": "NVIDIA A"}]
    if rng.random() < 0.3:
        state["missing"] = rng.sample(["nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2"], 1)
    return state


def test_it_knows_the_errors_of_the_other_simulation() -> None:
    assert nvsim.ERRORS.items() <= scenario.ERRORS.items()


def without_words(answer: dict[str, Any]) -> Any:
    """The value, or the code of the error; only the words that explain it differ."""
    return answer["error"][1] if "error" in answer else answer


@pytest.mark.parametrize("calm", [True, False], ids=["plausible", "disturbed"])
def test_both_simulations_answer_the_same(tmp_path: Path, calm: bool) -> None:
    names = {"pynvml": pynvml, "h": pynvml.nvmlDeviceGetHandleByIndex}
    with binding(sim := simulated(tmp_path, driver())) as nvml:
        for seed in range(25):
            rng = random.Random(seed)
            state = nvsim.random_state(rng, windows=seed % 4 == 0, moments=seed % 3)
            state = state if calm else disturbed(rng, state)
            sim.change(state)
            nvsim.install(state)
            try:
                pynvml.nvmlInit()
                for question in questions(state):
                    here = without_words(json.loads(json.dumps(answered(question, names))))
                    assert without_words(nvml.tell(question)) == here, (seed, question)
            finally:
                nvsim.uninstall()


# -- what may be in a scenario -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"device": []}, r"the driver has an unknown key 'device'. Known: \['cuda_version'"),
        (driver({"powr": 1}), r"device 0 has an unknown key 'powr'. Known: .*'power'"),
        (driver({"memory": {"free": 1}}), r"the memory of device 0 has an unknown key 'free'. Known: \['reserved'"),
        (driver({"power": "1 W"}), r"power of device 0 is '1 W', which is neither a whole number nor an error.*'lost'"),
        (driver({"power": 1.5}), "power of device 0 is 1.5"),
        (driver({"power": 1 << 64}), "power of device 0"),
        (driver({"name": "a\nend"}), "not one line of text"),
        (driver({"name": 5}), "name 5 of device 0 is not one line of text"),
        (driver({"error": "gone"}), "error 'gone' of the error of device 0 is unknown. Known: .*'lost'"),
        (driver(error=1000), "error 1000"),
        (driver(missing=["nvmlTypo"]), "'missing' names an unknown function 'nvmlTypo'. Known: .*'nvmlDeviceGetName'"),
        (driver(missing="nvmlDeviceGetName"), "which is not a list"),
        (driver(fails={"nvmlTypo": 3}), "'fails' names an unknown function"),
        (driver(fails={"nvmlDeviceGetName": "typo"}), "error 'typo' of nvmlDeviceGetName of the driver"),
        (driver(latency=-1), "latency -1 of the driver"),
        (driver(hangs=["nvmlTypo"]), "'hangs' names an unknown function"),
        (driver(visibility="none"), r"visibility 'none' is unknown. Known: \['host', 'namespace'\]"),
        (driver({"processes": [{"memory": 5}]}), r"has no number \(pid\)"),
        (driver({"processes": [{"pid": 5, "type": "X"}]}), "type 'X' of a process is unknown. Known: C, G, M"),
        (driver({"processes": [{"pid": 5, "uid": 0}]}), "a process of device 0 has an unknown key 'uid'"),
        (driver({"processes": [{"pid": 5, "namespace": {"a": 1}}]}), "is not {inode: pid}"),
        (driver({"process_samples": [{"pid": 5, "time": "later"}]}), "time of device 0 is 'later'"),
        (driver({"events": [{"time": 5}]}), "it needs an xid, or a type and data"),
        (driver({"gpm": {"speed": 5}}), "metric 'speed' of device 0 is unknown. Known: .*'graphics'"),
        (driver({"gpm": {"sm": "a lot"}}), "which is no number"),
        (driver({"mig_mode": 1}), "mig_mode 1 of device 0 is not a pair"),
        (driver({"memory_limits": {"used": {"relative": 5}}}), "cgroup 'relative' of device 0 is not a path"),
        (driver({"instances": [{"fan": 5}]}), "instance 0 of device 0 has an unknown key 'fan'"),
        (driver({"moments": [{"moments": []}]}), "a moment of device 0 has an unknown key 'moments'"),
        (driver({"moments": [{"powr": 5}]}), "a moment of device 0 has an unknown key 'powr'"),
    ],
)
def test_what_is_wrong_with_a_scenario_is_named_and_the_file_stays(tmp_path: Path, state: Any, said: str) -> None:
    sim = simulated(tmp_path, driver(device()))
    before = sim.path.read_text()
    with pytest.raises(ValueError, match=said):
        sim.change(state)
    assert sim.path.read_text() == before
    assert list(tmp_path.iterdir()) == [sim.path]


def test_programs_of_other_users_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        sim = simulated(tmp_path, driver())
    finally:
        os.umask(before)
    assert stat.S_IMODE(sim.path.stat().st_mode) == 0o644


def test_everything_that_may_be_in_a_scenario_is_read(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w+") as said, binding(simulated(tmp_path, rich()), stderr=said) as nvml:
        assert nvml.ask("pynvml.nvmlDeviceGetCount()") == 2
        said.seek(0)
        assert said.read() == ""
