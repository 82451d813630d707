"""NVML as a learner's kernel asks it: through the real binding, in a thread of its own, every failure a sentence."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from labkit import nvsim
from labkit.driver import Driver, simulated_here
from labkit.readings import Reading
from tests.nvml import GIB, Card, Library, Runs, loaded, replaceable
from tests.waiting import until

NOW = int(time.time() * 1e6) + 86_400_000_000  # still to come when the last of these tests runs


@pytest.fixture(autouse=True)
def _outside_of_a_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    yield
    until(
        lambda: all(thread.name != "labkit-nvml" for thread in threading.enumerate()), what="the end of NVML's thread"
    )
    nvsim.uninstall()


def read(library: Library | None) -> Reading:
    with loaded(library), Driver() as driver:
        return driver.read()


def only(reading: Reading) -> dict[str, Any]:
    (device,) = reading.devices
    return device


def test_a_gpu_with_the_part_of_this_process_and_of_others() -> None:
    mine, theirs = Runs(os.getpid(), 3 * GIB, busy=12, time=NOW), Runs(2**22 + 5, 6 * GIB, busy=40, time=NOW)
    reading = read(Library(Card(used=10 * GIB, runs=[mine, theirs])))
    device = only(reading)
    assert (reading.driver_version, reading.simulated, reading.failed) == ("610.43", False, False)
    assert (device["name"], device["uuid"], device["utilisation"]) == ("NVIDIA H200", "GPU-0", 42)
    assert (device["memory_used"], device["memory_total"], device["memory_reserved"]) == (10 * GIB, 140 * GIB, GIB)
    assert (device["temperature"], device["power"], device["driver_model"]) == (35, 78.5, "not applicable on Linux")
    assert device["mine"] == {"memory": 3 * GIB, "utilisation": 12, "processes": 1}
    assert device["others"]["memory"] == 7 * GIB  # also what no process accounts for


def test_a_process_that_computes_and_draws_counts_once() -> None:
    device = only(read(Library(Card(runs=[Runs(os.getpid(), 2 * GIB, kinds="CG")]))))
    assert device["mine"] == {"memory": 2 * GIB, "utilisation": 0, "processes": 1}


def test_samples_that_make_no_sense_are_left_out() -> None:
    """Drivers give stale ones, and some above a hundred percent."""
    for runs in (Runs(os.getpid(), busy=101, time=NOW), Runs(os.getpid(), busy=50, time=1)):
        assert only(read(Library(Card(runs=[runs]))))["mine"]["utilisation"] == 0


@pytest.mark.parametrize(
    ("symbol", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilisation"),
        ("nvmlDeviceGetPowerUsage", "power"),
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetUUID", "uuid"),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_what_is_not_reported_is_none_and_costs_nothing_else(symbol: str, field: str, code: int) -> None:
    device = only(read(Library(Card(fails={symbol: code}))))
    assert (device[field], device["error"], device["problems"]) == (None, None, {})
    assert device["temperature"] == 35
    device = only(read(Library(Card(), missing=(symbol,))))
    assert (device[field], device["problems"]) == (None, {})


def test_an_older_driver_has_older_calls() -> None:
    device = only(read(Library(Card(), missing=("nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2"))))
    assert device["temperature"] == 35
    assert (device["memory_used"], device["memory_reserved"]) == (4 * GIB, None)  # what the driver keeps is in it


def test_a_figure_that_fails_otherwise_is_a_problem_of_its_own() -> None:
    failing = {"nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_UNKNOWN}
    device = only(read(Library(Card(fails=failing))))
    assert (device["power"], device["problems"]) == (None, {"power": "Unknown Error"})
    assert device["temperature"] == 35


@pytest.mark.parametrize("symbol", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetTemperatureV"])
def test_a_lost_gpu_is_said_to_be_lost_and_the_others_are_read(symbol: str) -> None:
    lost = Card(fails={symbol: pynvml.NVML_ERROR_GPU_IS_LOST})
    reading = read(Library(lost, Card()))
    assert "has fallen off the bus" in reading.devices[0]["error"]
    assert reading.devices[1]["error"] is None
    assert reading.devices[1]["utilisation"] == 42


def test_a_gpu_that_needs_a_reset_says_so() -> None:
    device = only(read(Library(Card(fails={"nvmlDeviceGetName": pynvml.NVML_ERROR_RESET_REQUIRED}))))
    assert "has to be reset" in device["error"]


def test_gpus_of_other_containers_are_counted_by_the_driver_and_not_shown() -> None:
    closed = {"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_NO_PERMISSION}
    reading = read(Library(Card(fails=closed), Card(), Card(fails=closed)))
    assert [device["index"] for device in reading.devices] == [1]
    reading = read(Library(Card(fails=closed)))
    assert only(reading)["error"] == "This server may not read this GPU, so it is not yours to use."


def test_processes_that_are_not_listed_are_not_known_rather_than_none() -> None:
    silent = {"nvmlDeviceGetComputeRunningProcesses_v3": pynvml.NVML_ERROR_NOT_SUPPORTED}
    device = only(read(Library(Card(fails=silent))))
    assert device["mine"] == {"memory": None, "utilisation": None, "processes": None}
    assert device["others"]["memory"] is None
    # The error of a binding that is newer than the driver is no NVMLError.
    device = only(read(Library(Card(), missing=("nvmlDeviceGetComputeRunningProcesses_v3",))))
    assert (device["mine"]["memory"], device["problems"]) == (None, {})
    broken = {"nvmlDeviceGetComputeRunningProcesses_v3": pynvml.NVML_ERROR_UNKNOWN}
    device = only(read(Library(Card(fails=broken))))
    assert device["problems"] == {"mine": "Unknown Error"}


def test_a_driver_that_hides_this_very_process_does_not_make_it_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(cuda=cuda))
    device = only(read(Library(Card(runs=[]))))
    assert device["mine"]["memory"] is None
    assert device["others"]["memory"] is None
    device = only(read(Library(Card(runs=[Runs(os.getpid(), GIB)]))))
    assert device["mine"]["memory"] == GIB


def test_instances_of_a_divided_gpu_are_shown_in_its_place() -> None:
    unsupported = {"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED}
    slice_ = Card(name="NVIDIA H200 MIG 1g.18gb", used=GIB, total=16 * GIB, fails=unsupported)
    whole = Card(instances=[None, slice_], fails=unsupported)
    device = only(read(Library(whole)))
    assert (device["index"], device["name"]) == (0, "NVIDIA H200 MIG 1g.18gb")
    assert (device["memory_total"], device["utilisation"]) == (16 * GIB, None)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "The NVIDIA driver is installed here but not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "The NVIDIA driver was updated while the old one is still loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "This server may not talk to the NVIDIA driver"),
        (pynvml.NVML_ERROR_TIMEOUT, "The GPU driver is there, but it answered “Timeout”"),
        (pynvml.NVML_ERROR_UNKNOWN, "If this server had a GPU before, stop the server and open the lab again."),
    ],
)
@pytest.mark.parametrize("symbol", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_fails_has_a_sentence_with_what_to_do(code: int, sentence: str, symbol: str) -> None:
    reading = read(Library(Card(), fails={symbol: code}))
    assert (reading.devices, reading.failed, reading.lasting) == ([], True, False)
    assert sentence in reading.message
    assert reading.message.endswith("Tell your instructor.")


def test_a_driver_that_was_too_old_for_the_binding() -> None:
    reading = read(Library(Card(), missing=("nvmlInitWithFlags",)))
    assert reading.failed
    assert reading.message.endswith("Tell your instructor.")


def test_no_driver_is_no_failure() -> None:
    reading = read(None)
    assert (reading.failed, reading.lasting, reading.devices) == (False, True, [])


@pytest.mark.parametrize(
    ("model", "name"), [([0, 0], "WDDM"), ([1, 0], "TCC"), ([2, 2], "MCDM"), (None, "not applicable on Linux")]
)
def test_the_driver_model_is_windows(model: list[int] | None, name: str) -> None:
    nvsim.install({"driver_version": "610.62", "devices": [{"name": "NVIDIA L40S", "driver_model": model}]})
    with Driver() as driver:
        assert only(driver.read())["driver_model"] == name


def test_a_simulated_driver_is_known_as_one_in_this_process_and_by_its_symbol() -> None:
    with loaded(Library(Card())):
        assert not simulated_here()
    library = replaceable(Card())
    type(library)._gradlabSimulated = lambda self, card: None  # type: ignore[attr-defined]
    assert read(library).simulated
    nvsim.install({"driver_version": "1", "devices": [{"name": "NVIDIA L40S"}]})
    assert simulated_here()
    with Driver() as driver:
        assert driver.read().simulated


def test_it_is_started_once_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    library = replaceable(Card())
    ends: list[int] = []
    type(library)._nvmlShutdown = lambda self, card: ends.append(1)  # type: ignore[assignment]
    with loaded(library):
        with Driver() as driver:
            assert all(driver.read().devices for _ in range(3))
            assert (library.starts, ends) == (1, [])
        until(lambda: ends, what="the end")
    assert (library.starts, ends) == (1, [1])


def test_a_notebook_that_ends_nvml_once_too_often_does_not_blind_the_reading() -> None:
    nvsim.install({"driver_version": "1", "devices": [{"name": "NVIDIA L40S"}]})
    with Driver() as driver:
        assert driver.read().devices
        pynvml.nvmlShutdown()
        assert driver.read().devices
        # And a simulation that is put in place of the other meanwhile is the one that is read.
        nvsim.install({"driver_version": "2", "devices": [{"name": "NVIDIA H200"}]})
        assert only(driver.read())["name"] == "NVIDIA H200"


def hanging(card: Card) -> tuple[Library, Callable[[], None]]:
    """A driver whose answers come when they are let go."""
    library, gate = replaceable(card), threading.Event()

    def count(self: Library, _card: None, out: Any) -> None:
        gate.wait(60)
        out._obj.value = len(self.cards)

    type(library)._nvmlDeviceGetCount_v2 = count  # type: ignore[assignment]
    return library, gate.set


def test_a_driver_that_hangs_is_said_to_be_silent_and_is_not_asked_twice() -> None:
    library, release = hanging(Card())
    with loaded(library):
        with Driver() as driver:
            started = time.monotonic()
            reading = driver.read(0.2)
            assert time.monotonic() - started < 5
            assert (reading.failed, reading.devices) == (True, [])
            assert reading.message.startswith("The GPU driver has not answered for 0 s, so nothing is known")
            assert driver.read(0.05).failed
        threads = threading.active_count()
        with Driver() as another:  # another cell
            assert another.read(30).failed
        assert threading.active_count() == threads
        release()
        until(lambda: not Driver._silent or not Driver._silent._hangs(), what="an answer")
        with Driver() as later:
            assert later.read().devices


def test_a_driver_that_answers_late_is_read_anew() -> None:
    library, release = hanging(Card(utilisation=1))
    with loaded(library), Driver() as driver:
        assert driver.read(0.05).failed
        release()
        library.cards[0].utilisation = 99
        until(lambda: driver.read(5).devices, what="an answer")
        assert only(driver.read())["utilisation"] == 99


def test_a_fault_in_the_reading_itself_is_no_hanging_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    library = replaceable(Card())

    def faulty(*_: Any) -> None:
        raise RuntimeError("a fault")

    type(library)._nvmlDeviceGetCount_v2 = faulty  # type: ignore[assignment]
    reading = read(library)
    assert (reading.failed, reading.message) == (
        True,
        "Reading the GPUs failed (RuntimeError: a fault). Tell your instructor.",
    )
