"""GPU readings: named scenarios under the real NVML binding, and a driver that hangs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pynvml
import pytest

from gradlab.gpu.nvml import Nvml, read
from gradlab.gpu.reader import Reader
from tests.nvml import GIB, Card, Library, loaded
from tests.waiting import until

KEYS = {"index", "uuid", "name", "memory_used", "memory_total", "utilisation", "temperature", "power", "error"}
REMEDY = "If it stays so, run `nvidia-smi`: when that hangs too, only a restart of the machine helps."


def test_two_healthy_gpus_are_reported_in_bytes_percent_degrees_and_watts() -> None:
    with loaded(Library(Card(), Card(name="NVIDIA L40S", utilisation=0, milliwatts=31_000))):
        reading = read()
    assert (reading["available"], reading["message"], reading["driver_version"]) == (True, "", "610.43")
    first, second = reading["devices"]
    assert first == {
        "index": 0,
        "uuid": "GPU-0",
        "name": "NVIDIA H200",
        "memory_used": 3 * GIB,  # without the gibibyte that the driver keeps for itself
        "memory_total": 140 * GIB,
        "utilisation": 42,
        "temperature": 35,
        "power": 78.5,
        "error": None,
    }
    assert (second["index"], second["name"], second["utilisation"], second["power"]) == (1, "NVIDIA L40S", 0, 31.0)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "installed but not loaded, so no GPU can be read. Run `modprobe nvidia`"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was updated while the old one is still loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "This user may not talk to the NVIDIA driver. Give it read and write access"),
        (pynvml.NVML_ERROR_UNKNOWN, "answered 'Unknown Error' (NVML error 999). Run `nvidia-smi`"),
        (
            4711,
            "answered 'NVML Error with code 4711' (NVML error 4711). "
            "Run `nvidia-smi`, and look for lines with NVRM in `dmesg`.",
        ),
    ],
)
def test_a_driver_that_does_not_start_is_a_sentence_with_a_remedy(code: int, says: str) -> None:
    with loaded(Library(Card(), fails={"nvmlInitWithFlags": code})):
        reading = read()
    assert says in reading["message"]
    assert (reading["available"], reading["devices"], reading["driver_version"]) == (False, [], None)


def test_a_machine_without_a_driver_says_so_plainly() -> None:
    with loaded(None):
        reading = read()
    assert reading == {
        "available": False,
        "message": "No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found. Everything runs on the CPU. "
        "To use a GPU, install NVIDIA's driver; inside a container, start it with the NVIDIA container toolkit.",
        "driver_version": None,
        "devices": [],
    }


def test_a_driver_without_a_gpu_says_so() -> None:
    with loaded(Library()):
        reading = read()
    assert (reading["available"], reading["driver_version"]) == (False, "610.43")
    assert "loaded but shows no GPU" in reading["message"]


@pytest.mark.parametrize("symbol", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetName"])
def test_a_lost_gpu_does_not_hide_the_other(symbol: str) -> None:
    with loaded(Library(Card(fails={symbol: pynvml.NVML_ERROR_GPU_IS_LOST}), Card())):
        reading = read()
    lost, well = reading["devices"]
    assert reading["available"]
    assert lost["error"].startswith("This GPU has fallen off the bus. Restart the machine")
    assert (lost["utilisation"], lost["power"]) == (None, None)
    assert (well["error"], well["utilisation"], well["memory_used"]) == (None, 42, 3 * GIB)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            pynvml.NVML_ERROR_RESET_REQUIRED,
            "This GPU needs a reset: end its processes and run `nvidia-smi --gpu-reset`.",
        ),
        (
            pynvml.NVML_ERROR_NO_PERMISSION,
            "This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.",
        ),
    ],
)
def test_a_gpu_that_cannot_be_read_says_what_to_do(code: int, says: str) -> None:
    with loaded(Library(Card(fails={"nvmlDeviceGetHandleByIndex_v2": code}))):
        (device,) = read()["devices"]
    assert device["error"] == says


def test_mig_mode_reports_no_utilisation_and_the_rest() -> None:
    mig = Card(fails={"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED})
    with loaded(Library(mig)):
        (device,) = read()["devices"]
    assert (device["utilisation"], device["error"]) == (None, None)
    assert (device["temperature"], device["power"]) == (35, 78.5)


def test_an_old_driver_lacks_functions_and_is_read_all_the_same() -> None:
    with loaded(Library(Card(), missing=("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV"))):
        (device,) = read()["devices"]
    assert (device["memory_used"], device["temperature"], device["error"]) == (4 * GIB, 35, None)


def test_memory_that_is_not_reported_is_none_and_not_a_huge_number() -> None:
    unified = Card(used=(1 << 64) - 1, total=(1 << 64) - 1)
    with loaded(Library(unified)):
        (device,) = read()["devices"]
    assert (device["memory_used"], device["memory_total"]) == (None, None)


def test_a_gpu_that_reports_nothing_has_all_its_keys() -> None:
    symbols = [name.removeprefix("_") for name in vars(Library) if name.startswith("_nvmlDeviceGet")]
    silent = Card(fails={s: pynvml.NVML_ERROR_NOT_SUPPORTED for s in symbols if "Handle" not in s})
    with loaded(Library(silent)):
        (device,) = read()["devices"]
    assert set(device) == KEYS
    assert {key: value for key, value in device.items() if value is not None} == {"index": 0}


def test_a_binding_that_does_not_fit_the_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch() -> None:
        raise pynvml.NVMLLibraryMismatchError("Unversioned function called and the pyNVML version does not match")

    with loaded(Library(Card())):
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", mismatch)
        reading = read()
    assert not reading["available"]
    assert "too old for this server's NVML binding" in reading["message"]
    assert reading["message"].endswith("Update the driver.")


def test_the_library_is_started_once_and_again_after_a_failure() -> None:
    library = Library(Card())
    with loaded(library):
        nvml = Nvml()
        assert nvml.read()["available"]
        assert nvml.read()["available"]
        assert library.starts == 1
        library.fails["nvmlDeviceGetCount_v2"] = pynvml.NVML_ERROR_UNINITIALIZED  # the module was reloaded
        assert not nvml.read()["available"]
        del library.fails["nvmlDeviceGetCount_v2"]
        assert nvml.read()["available"]
        assert library.starts == 2
        nvml.close()


class Source:
    """A source that hangs while its gate is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        call = self.calls
        self.gate.wait(30)
        return {"available": True, "message": "", "driver_version": "610.43", "devices": [{"index": 0, "power": call}]}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_readings_are_shared_while_they_are_fresh() -> None:
    source, clock = Source(), Clock()
    reader = Reader(source, fresh=1.0, clock=clock)
    assert reader()["devices"] == reader()["devices"] == [{"index": 0, "power": 1}]
    clock.now += 1.5
    assert reader()["devices"] == [{"index": 0, "power": 2}]
    assert source.calls == 2


def test_a_hanging_driver_gives_the_last_reading_and_says_so() -> None:
    source, clock = Source(), Clock()
    reader = Reader(source, deadline=0.05, fresh=1.0, clock=clock)
    reader()
    source.gate.clear()
    clock.now += 60
    stale = reader()
    assert (stale["available"], stale["devices"]) == (True, [{"index": 0, "power": 1}])
    since = time.strftime("%H:%M:%S", time.localtime(1_000_000.0))
    assert stale["message"] == f"The NVIDIA driver does not answer; these figures are from {since}. {REMEDY}"
    for _ in range(5):
        reader()
    assert source.calls == 2  # one good, one that hangs; never a heap of hanging threads
    source.gate.set()
    patient = Reader(source, deadline=20, clock=clock)
    assert patient()["message"] == ""


def test_it_recovers_when_the_driver_answers_again() -> None:
    source, clock = Source(), Clock()
    reader = Reader(source, deadline=5.0, fresh=0.0, clock=clock)
    source.gate.clear()
    threading.Timer(0.05, source.gate.set).start()
    assert reader()["message"] == ""
    assert reader()["devices"] == [{"index": 0, "power": 2}]


def test_a_driver_that_never_answered_is_not_available() -> None:
    source = Source()
    source.gate.clear()
    reader = Reader(source, deadline=0.05)
    for _ in range(3):
        reading = reader()
        assert not reading["available"]
        assert reading["message"] == f"The NVIDIA driver has not answered for 0.05 s. {REMEDY}"
    assert source.calls == 1
    source.gate.set()
    until(lambda: reader()["available"])


def test_a_source_that_raises_is_a_reading_with_a_sentence_and_asked_again_later() -> None:
    answers: list[Any] = [ValueError("a bug of ours"), {"available": True, "message": "", "devices": []}]
    clock = Clock()

    def source() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    reader = Reader(source, fresh=1.0, clock=clock)
    for _ in range(2):
        reading = reader()
        assert not reading["available"]
        assert "Reading the GPUs failed: ValueError: a bug of ours" in reading["message"]
    clock.now += 1.5
    assert reader()["available"]
