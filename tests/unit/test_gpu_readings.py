"""Frames: named scenarios under the real NVML binding, in this process, with traps that only a fake driver sets.

tests/unit/test_gpu_failures.py has what a whole simulated driver can do, in a process of its own.
"""

from __future__ import annotations

import time
from typing import Any

import pynvml
import pytest

from gradlab.errors import LimitRefused
from gradlab.gpu.nvml import Nvml, read
from gradlab.gpu.nvml.events import APPLICATION, MEANINGS, event
from tests.nvml import GIB, Card, Library, Runs, loaded, replaceable

SECOND = 1_000_000
FIGURES = {
    "utilisation",
    "memory_utilisation",
    "encoder_utilisation",
    "decoder_utilisation",
    "memory_used",
    "memory_total",
    "memory_reserved",
    "temperature",
    "fan",
    "power",
    "power_limit",
    "energy",
    "performance_state",
    "persistence",
    "compute_mode",
    "throttle_reasons",
    "mig",
    "processes",
}
NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
HIDDEN = (
    "The driver does not say which processes use this GPU, so whether it is idle is not known. Give the GPU monitor "
    "more rights: docs/operators.md, “Idle servers and idle GPUs”, has them."
)


def microseconds(ago: float = 0.0) -> int:
    return int((time.time() - ago) * SECOND)


def one(library: Library) -> dict[str, Any]:
    """The only device."""
    with loaded(library):
        (found,) = read()["devices"]
    return found


# -- a frame -------------------------------------------------------------------------------------------------------


def test_two_healthy_gpus_are_reported_in_bytes_percent_degrees_and_watts() -> None:
    before = time.time()
    with loaded(Library(Card(), Card(name="NVIDIA L40S", utilisation=0, milliwatts=31_000))):
        frame = read()
    assert before <= frame["at"] <= time.time()
    assert 0 < frame["took"] < 10
    assert {name: value for name, value in frame.items() if name not in ("at", "took", "devices")} == {
        "state": "ok",
        "available": True,
        "message": "",
        "simulated": False,
        "driver_version": "610.43",
        "nvml_version": None,
        "cuda_version": None,
    }
    first, second = frame["devices"]
    known = {name: value for name, value in first.items() if value not in (None, [], {})}
    del known["clocks"], known["max_clocks"], known["ecc"], known["memory_limits"]
    assert known == {
        "index": 0,
        "uuid": "GPU-0",
        "name": "NVIDIA H200",
        "pci": "00000000:17:00.0",
        "state": "ok",
        "driver_model": "not applicable on Linux",
        "utilisation": 42,
        "memory_utilisation": 7,
        "memory_used": 3 * GIB,  # without the gibibyte that the driver keeps for itself
        "memory_total": 140 * GIB,
        "memory_reserved": GIB,
        "temperature": 35,
        "power": 78.5,
        "measured": True,
    }
    assert (second["index"], second["name"], second["utilisation"], second["power"]) == (1, "NVIDIA L40S", 0, 31.0)


def test_a_gpu_that_reports_nothing_has_all_its_keys_and_no_figure() -> None:
    symbols = [name.removeprefix("_") for name in vars(Library) if name.startswith("_nvmlDeviceGet")]
    silent = Card(fails={s: pynvml.NVML_ERROR_NOT_SUPPORTED for s in symbols if "Handle" not in s})
    found = one(Library(silent))
    assert found.keys() == one(Library(Card())).keys()
    assert {name: found[name] for name in FIGURES} == dict.fromkeys(FIGURES)
    nothing = dict.fromkeys(("graphics", "sm", "memory", "video"))
    assert (found["clocks"], found["max_clocks"]) == (nothing, nothing)
    assert found["ecc"] == {"enabled": None, "corrected": None, "uncorrected": None}
    assert (found["state"], found["error"], found["measured"], found["busy"]) == ("ok", None, False, {})
    assert found["problems"] == {"processes": HIDDEN}


# -- nothing can be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "state", "says"),
    [
        (
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
            "not loaded",
            "installed but not loaded, so no GPU can be read. Run `modprobe nvidia`",
        ),
        (
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            "mismatch",
            "was updated while the old one is still loaded",
        ),
        (NO_PERMISSION, "no permission", "This user may not talk to the NVIDIA driver. Give it read and write access"),
        (
            pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            "too old",
            "too old for this server's NVML binding: Function Not Found. Update the driver.",
        ),
        (pynvml.NVML_ERROR_UNKNOWN, "failed", "answered 'Unknown Error' (NVML error 999). Run `nvidia-smi`"),
        (
            4711,
            "failed",
            "answered 'NVML Error with code 4711' (NVML error 4711). "
            "Run `nvidia-smi`, and look for lines with NVRM in `dmesg`.",
        ),
    ],
)
def test_a_driver_that_does_not_start_is_a_state_and_a_sentence_with_a_remedy(code: int, state: str, says: str) -> None:
    with loaded(Library(Card(), fails={"nvmlInitWithFlags": code})):
        frame = read()
    assert says in frame["message"]
    assert (frame["state"], frame["available"], frame["devices"]) == (state, False, [])
    assert frame["driver_version"] is None


def test_a_machine_without_a_driver_says_so_plainly() -> None:
    with loaded(None):
        frame = read()
    assert (frame["state"], frame["available"], frame["devices"]) == ("no driver", False, [])
    assert frame["message"] == (
        "No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found. Everything runs on the CPU. "
        "To use a GPU, install NVIDIA's driver; inside a container, start it with the NVIDIA container toolkit."
    )


def test_a_driver_without_a_gpu_says_so_and_is_started_anew() -> None:
    library = Library()
    with loaded(library):
        nvml = Nvml()
        frame = nvml.frame()
        assert (frame["state"], frame["driver_version"]) == ("no gpu", "610.43")
        assert frame["message"] == (
            "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`; inside a container, give it a GPU."
        )
        library.cards.append(Card())
        assert nvml.frame()["available"]
        assert library.starts == 2
        nvml.close()


def test_a_binding_that_does_not_fit_the_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch() -> None:
        raise pynvml.NVMLLibraryMismatchError("Unversioned function called and the pyNVML version does not match")

    with loaded(Library(Card())):
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", mismatch)
        frame = read()
    assert (frame["state"], frame["available"]) == ("too old", False)
    assert "too old for this server's NVML binding" in frame["message"]
    assert frame["message"].endswith("Update the driver.")


def test_the_library_is_started_once_and_again_after_a_failure() -> None:
    library = Library(Card())
    with loaded(library):
        nvml = Nvml()
        assert nvml.frame()["available"]
        assert nvml.frame()["available"]
        assert library.starts == 1
        library.fails["nvmlDeviceGetCount_v2"] = pynvml.NVML_ERROR_UNINITIALIZED  # the module was reloaded
        assert nvml.frame()["message"] == (
            "The NVIDIA driver was unloaded while it was read; reading begins anew. If this stays so, run `nvidia-smi`."
        )
        del library.fails["nvmlDeviceGetCount_v2"]
        assert nvml.frame()["available"]
        assert library.starts == 2
        nvml.close()


@pytest.mark.parametrize("symbol", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetHandleByIndex_v2"])
def test_a_driver_unloaded_in_the_middle_of_a_frame_is_no_fault_of_a_gpu(symbol: str) -> None:
    with loaded(Library(Card(), Card(fails={symbol: pynvml.NVML_ERROR_UNINITIALIZED}))):
        frame = read()
    assert (frame["state"], frame["devices"]) == ("failed", [])
    assert frame["message"].startswith("The NVIDIA driver was unloaded while it was read")


def test_a_gpu_that_is_lost_for_long_has_the_library_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(Card(fails={"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_GPU_IS_LOST}), Card())
    with loaded(library):
        nvml = Nvml()
        for _ in range(3):
            assert [device["state"] for device in nvml.frame()["devices"]] == ["lost", "ok"]
        assert library.starts == 1
        monkeypatch.setattr("gradlab.gpu.nvml.session._ANEW_SECONDS", 0.0)
        for _ in range(3):
            assert [device["state"] for device in nvml.frame()["devices"]] == ["lost", "ok"]
        assert library.starts == 3
        nvml.close()


def test_a_gpu_added_to_the_machine_is_there_in_the_next_frame() -> None:
    library = Library(Card())
    with loaded(library):
        nvml = Nvml()
        assert len(nvml.frame()["devices"]) == 1
        library.cards.append(Card())
        assert [device["uuid"] for device in nvml.frame()["devices"]] == ["GPU-0", "GPU-1"]
        nvml.close()


# -- one GPU cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetName"])
def test_a_lost_gpu_does_not_hide_the_other(symbol: str) -> None:
    with loaded(Library(Card(fails={symbol: pynvml.NVML_ERROR_GPU_IS_LOST}), Card())):
        frame = read()
    lost, well = frame["devices"]
    assert frame["available"]
    assert lost["state"] == "lost"
    assert lost["error"].startswith("This GPU has fallen off the bus. Restart the machine")
    assert lost["memory_limits"] == {"hard": False, "why": lost["error"]}
    assert (lost["utilisation"], lost["power"], lost["processes"], lost["measured"]) == (None, None, None, False)
    assert (well["error"], well["utilisation"], well["memory_used"]) == (None, 42, 3 * GIB)


def test_a_gpu_lost_later_is_still_known_by_name() -> None:
    library = Library(Card(), Card())
    with loaded(library):
        nvml = Nvml()
        nvml.frame()
        library.cards[0].fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_GPU_IS_LOST
        lost, _ = nvml.frame()["devices"]
        nvml.close()
    assert (lost["state"], lost["uuid"], lost["name"], lost["memory_total"]) == (
        "lost",
        "GPU-0",
        "NVIDIA H200",
        140 * GIB,
    )
    assert (lost["memory_used"], lost["temperature"]) == (None, None)


@pytest.mark.parametrize(
    ("code", "state", "says"),
    [
        (
            pynvml.NVML_ERROR_RESET_REQUIRED,
            "reset required",
            "This GPU needs a reset: end its processes and run `nvidia-smi --gpu-reset`.",
        ),
        (
            NO_PERMISSION,
            "no permission",
            "This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.",
        ),
        (
            pynvml.NVML_ERROR_UNKNOWN,
            "failed",
            "NVIDIA's driver answered 'Unknown Error' (NVML error 999). Run `nvidia-smi`, and look for lines with NVRM "
            "in `dmesg`. A container in which nothing else works either has lost its devices: start the container "
            "anew.",
        ),
    ],
)
def test_a_gpu_that_cannot_be_read_says_what_to_do(code: int, state: str, says: str) -> None:
    with loaded(Library(Card(fails={"nvmlDeviceGetHandleByIndex_v2": code}), Card())):
        frame = read()
    assert frame["available"]
    assert (frame["devices"][0]["state"], frame["devices"][0]["error"]) == (state, says)


@pytest.mark.parametrize(("code", "state"), [(NO_PERMISSION, "no permission"), (pynvml.NVML_ERROR_UNKNOWN, "failed")])
def test_gpus_none_of_which_can_be_read_are_not_available(code: int, state: str) -> None:
    fails = {"nvmlDeviceGetHandleByIndex_v2": code}
    with loaded(Library(Card(fails=fails), Card(fails=fails))):
        frame = read()
    assert (frame["state"], frame["available"], len(frame["devices"])) == (state, False, 2)
    assert frame["message"] == frame["devices"][0]["error"] == frame["devices"][1]["error"]


def test_a_gpu_of_which_every_figure_fails_has_failed() -> None:
    symbols = [name.removeprefix("_") for name in vars(Library) if name.startswith("_nvmlDeviceGet")]
    fails = {s: pynvml.NVML_ERROR_UNKNOWN for s in symbols if "Handle" not in s}
    with loaded(Library(Card(fails=fails), Card())):
        first, second = read()["devices"]
    assert (first["state"], first["problems"], second["state"]) == ("failed", {}, "ok")


@pytest.mark.parametrize(
    ("symbol", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilisation"),
        ("nvmlDeviceGetPowerUsage", "power"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "processes"),
    ],
)
def test_a_single_figure_that_fails_is_none_with_a_reason_and_the_rest_is_read(symbol: str, field: str) -> None:
    found = one(Library(Card(fails={symbol: pynvml.NVML_ERROR_TIMEOUT})))
    assert (found[field], found["state"], found["error"], found["temperature"]) == (None, "ok", None, 35)
    assert found["problems"] == {
        field: "NVIDIA's driver answered 'Timeout' (NVML error 10). Run `nvidia-smi`, and look for lines with NVRM in "
        "`dmesg`."
    }


def test_a_figure_for_others_only_is_no_silence_of_the_hardware() -> None:
    found = one(Library(Card(fails={"nvmlDeviceGetPowerUsage": NO_PERMISSION})))
    assert found["power"] is None
    assert found["problems"]["power"] == (
        "The driver tells this only to a user with more rights. Give the GPU monitor more rights: docs/operators.md, "
        "“Idle servers and idle GPUs”, has them."
    )


def test_a_name_that_is_no_text_spoils_nothing_else() -> None:
    library = replaceable(Card())

    def garbled(_self: Any, _card: Card, _handle: Any, text: Any, _size: Any) -> None:
        text.value = b"NVIDIA \xff\xfe"

    type(library)._nvmlDeviceGetName = garbled  # type: ignore[method-assign]
    found = one(library)
    assert (found["name"], found["uuid"], found["utilisation"]) == (None, "GPU-0", 42)
    assert found["problems"]["name"].startswith("The driver gave a text that is none: 'utf-8' codec can't decode")


# -- older drivers -------------------------------------------------------------------------------------------------


def test_an_old_driver_lacks_functions_and_is_read_all_the_same() -> None:
    old = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetComputeRunningProcesses_v3")
    found = one(Library(Card(runs=[Runs(10)]), missing=old))
    # The first version of the call counts what the driver keeps for itself.
    assert (found["memory_used"], found["memory_reserved"], found["temperature"]) == (4 * GIB, None, 35)
    assert [process["pid"] for process in found["processes"]] == [10]
    assert (found["error"], found["problems"]) == (None, {})


def test_memory_that_the_newer_call_fails_to_tell_is_told_by_the_older() -> None:
    found = one(Library(Card(fails={"nvmlDeviceGetMemoryInfo_v2": pynvml.NVML_ERROR_UNKNOWN})))
    assert (found["memory_used"], found["problems"]) == (4 * GIB, {})


def test_memory_that_is_not_reported_is_none_and_not_a_huge_number() -> None:
    found = one(Library(Card(used=(1 << 64) - 1, total=(1 << 64) - 1)))
    assert (found["memory_used"], found["memory_total"]) == (None, None)


def test_a_list_with_longer_entries_than_the_binding_knows_is_not_misread() -> None:
    """Drivers 535.43 to 535.98: the third version of the list has one number more in each entry."""
    library = replaceable(Card(runs=[Runs(10, GIB), Runs(11, 2 * GIB)]))

    def longer(*_: Any) -> int:
        raise AssertionError("the third version was asked")

    for kind in ("Compute", "Graphics", "MPSCompute"):
        setattr(type(library), f"_nvmlDeviceGet{kind}RunningProcesses_v3", longer)
    type(library)._nvmlDeviceGetConfComputeMemSizeInfo = longer  # type: ignore[attr-defined]
    assert [(process["pid"], process["memory"]) for process in one(library)["processes"]] == [
        (10, GIB),
        (11, 2 * GIB),
    ]


def test_a_driver_without_lists_of_processes_says_that_nobody_knows() -> None:
    versions = tuple(f"nvmlDeviceGetComputeRunningProcesses{version}" for version in ("_v2", "_v3"))
    found = one(Library(Card(runs=[Runs(10)]), missing=versions))
    assert (found["processes"], found["problems"]) == (None, {"processes": HIDDEN})


# -- the first figure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "first"),
    [
        (Card(utilisation=100, persistence=0), None),
        (Card(utilisation=100, persistence=0, runs=[Runs(10)]), 100),
        (Card(utilisation=100, persistence=1), 100),
        (Card(utilisation=0, persistence=0), 0),
    ],
)
def test_the_first_figure_of_a_gpu_that_was_asleep_is_left_out(card: Card, first: int | None) -> None:
    """An L40S without persistence showed 100 % to the first who looked, with nobody on it."""
    with loaded(Library(card)):
        nvml = Nvml()
        (found,) = nvml.frame()["devices"]
        assert found["utilisation"] == first
        assert ("utilisation" in found["problems"]) == (first is None)
        (later,) = nvml.frame()["devices"]
        assert (later["utilisation"], later["problems"]) == (card.utilisation, {})
        nvml.close()
    if first is None:
        assert found["problems"]["utilisation"] == (
            "The first figure after the driver has started a GPU that nobody uses is too high, and is left out. "
            "`nvidia-smi -pm 1` as root keeps the GPU started (persistence mode)."
        )


# -- what is looked up once ----------------------------------------------------------------------------------------


def test_what_changes_rarely_is_asked_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    library = replaceable(Card(), Card())
    asked: list[str] = []
    for symbol in ("nvmlDeviceGetName", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPowerUsage"):
        counted(library, symbol, asked)
    with loaded(library):
        nvml = Nvml()
        for _ in range(5):
            nvml.frame()
        assert {symbol: asked.count(symbol) for symbol in asked} == {
            "nvmlDeviceGetHandleByIndex_v2": 2,
            "nvmlDeviceGetName": 2,
            "nvmlDeviceGetPowerUsage": 10,
        }
        nvml.close()


def counted(library: Library, symbol: str, asked: list[str]) -> None:
    answer = getattr(type(library), f"_{symbol}")

    def count(*arguments: Any) -> Any:
        asked.append(symbol)
        return answer(*arguments)

    setattr(type(library), f"_{symbol}", lambda *arguments: count(*arguments))


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_limit_before_the_first_frame_starts_the_library(tmp_path: Any) -> None:
    with loaded(Library(Card())):
        nvml = Nvml(cgroups=tmp_path)
        with pytest.raises(LimitRefused, match=r"This machine has no GPU GPU-7\. `nvidia-smi -L` lists those it has."):
            nvml.limit("GPU-7", tmp_path, GIB)
        with pytest.raises(LimitRefused, match="Memory limits need cgroup v2"):
            nvml.limit("GPU-0", tmp_path, GIB)
        nvml.close()


def test_a_gpu_that_cannot_be_read_has_no_limit(tmp_path: Any) -> None:
    library = Library(Card())
    with loaded(library):
        nvml = Nvml(cgroups=tmp_path)
        nvml.frame()
        library.cards[0].fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_GPU_IS_LOST
        nvml.frame()
        with pytest.raises(LimitRefused, match="This GPU has fallen off the bus"):
            nvml.limit("GPU-0", tmp_path, GIB)
        nvml.close()


def test_no_limit_without_a_driver(tmp_path: Any) -> None:
    with loaded(None), pytest.raises(LimitRefused, match="No NVIDIA driver is installed here"):
        Nvml().limit("GPU-0", tmp_path, GIB)


# -- events --------------------------------------------------------------------------------------------------------


def test_errors_of_programs_are_told_from_errors_of_the_card() -> None:
    assert MEANINGS.keys() >= APPLICATION
    assert event(79, 5.0) == {
        "at": 5.0,
        "xid": 79,
        "meaning": "The GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked.",
        "application": False,
    }
    assert event(31, 5.0)["application"]
    assert event(31, 5.0)["meaning"] == "A program touched GPU memory that it does not have."
    assert event(555, 5.0)["meaning"] == "NVIDIA's documentation of Xid errors says what 555 means."
