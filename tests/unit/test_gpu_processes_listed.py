"""Which processes use a GPU and how busy they keep it: under a driver of our own, and under a whole simulated one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gradlab.gpu.nvml import Nvml, read
from tests.nvml import GIB, Card, Library, Runs, loaded, replaceable
from tests.sampled import HIDDEN, HOST, first, runs, sample, sampling
from tests.simulated import MIB, device, driver

SECOND = 1_000_000
NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION


def microseconds(ago: float = 0.0) -> int:
    return int((time.time() - ago) * SECOND)


def one(library: Library) -> dict[str, Any]:
    """The only device."""
    with loaded(library):
        (found,) = read()["devices"]
    return found


# -- processes -----------------------------------------------------------------------------------------------------


def test_each_process_is_there_once_with_what_it_does() -> None:
    unreported = (1 << 64) - 1
    runs = [Runs(10, GIB), Runs(11, GIB, kinds="CG"), Runs(20, 2 * GIB, kinds="M"), Runs(30, unreported, kinds="G")]
    found = one(Library(Card(runs=runs)))
    assert {process["pid"]: (process["kinds"], process["memory"]) for process in found["processes"]} == {
        10: ("C", GIB),
        11: ("C+G", GIB),
        20: ("M", 2 * GIB),
        30: ("G", None),  # as on Windows
    }
    assert {process["instance"] for process in found["processes"]} == {None}


def test_processes_hidden_from_us_are_not_an_idle_gpu() -> None:
    found = one(Library(Card(fails={"nvmlDeviceGetComputeRunningProcesses_v3": NO_PERMISSION})))
    assert (found["processes"], found["problems"], found["utilisation"]) == (None, {"processes": HIDDEN}, 42)


def test_a_list_that_grows_while_it_is_read_is_read_again() -> None:
    library = replaceable(Card(runs=[Runs(10, busy=5, time=microseconds())]))
    grows(library, "nvmlDeviceGetComputeRunningProcesses_v3", -1)
    grows(library, "nvmlDeviceGetProcessUtilization", -3)
    found = one(library)
    assert ([process["pid"] for process in found["processes"]], found["busy"]) == ([10], {"10": 5})
    assert found["problems"] == {}


def grows(library: Library, symbol: str, place: int) -> None:
    """The first buffer, at this place of the arguments, is too small by the time it is filled."""
    answer: Callable[..., Any] = getattr(type(library), f"_{symbol}")
    grown = iter([True])

    def growing(*arguments: Any) -> Any:
        if arguments[place] is not None and next(grown, False):
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        return answer(*arguments)

    setattr(type(library), f"_{symbol}", lambda *arguments: growing(*arguments))


# -- who is busy ---------------------------------------------------------------------------------------------------


class Sampled:
    """A GPU with processes 10 and 20, looked at again and again; ``busy`` is of the newest frame."""

    def __init__(self, nvml: Nvml, card: Card) -> None:
        self._nvml, self._card = nvml, card

    def __call__(self, *samples: tuple[int, int, int]) -> dict[str, int]:
        """``samples`` are pid, percent and time stamp."""
        for process in self._card.runs:
            process.busy = 0
        for pid, percent, at in samples:
            process = next(process for process in self._card.runs if process.pid == pid)
            process.busy, process.time = percent, at
        self.frame = self._nvml.frame()
        (self.device,) = self.frame["devices"]
        busy: dict[str, int] = self.device["busy"]
        return busy


@pytest.fixture
def sampled() -> Any:
    card = Card(runs=[Runs(10), Runs(20)])
    with loaded(Library(card)):
        nvml = Nvml()
        yield Sampled(nvml, card)
        nvml.close()


def test_a_process_without_a_sample_was_idle(sampled: Sampled) -> None:
    assert sampled((10, 57, microseconds())) == {"10": 57}
    assert {process["pid"]: process["sm"] for process in sampled.device["processes"]} == {10: 57, 20: 0}
    assert sampled.device["measured"]


def test_a_sample_counts_once(sampled: Sampled) -> None:
    at = microseconds()
    assert sampled((10, 57, at)) == {"10": 57}
    assert sampled((10, 57, at)) == {}
    assert sampled((10, 57, at - 10)) == {}
    assert sampled((10, 31, microseconds())) == {"10": 31}


def test_percentages_that_cannot_be_are_left_out(sampled: Sampled) -> None:
    assert sampled((10, 4711, microseconds()), (20, 100, microseconds())) == {"20": 100}


def test_a_stamp_of_the_future_hides_nothing_and_counts_once(sampled: Sampled) -> None:
    ahead = 2 * microseconds()
    assert sampled((10, 50, ahead)) == {"10": 50}
    assert sampled((10, 50, ahead)) == {}
    assert sampled((20, 30, microseconds())) == {"20": 30}


def test_a_process_that_ended_since_the_last_frame_was_busy_till_then() -> None:
    card = Card(runs=[Runs(10), Runs(20)])
    library = replaceable(card)
    ended = Runs(20, busy=80)
    answer = type(library)._nvmlDeviceGetProcessUtilization

    def late(self: Any, card: Card, *arguments: Any) -> Any:
        return answer(self, Card(runs=[ended, Runs(4711, busy=50, time=ended.time)]), *arguments)

    with loaded(library):
        nvml = Nvml()
        nvml.frame()
        type(library)._nvmlDeviceGetProcessUtilization = late  # type: ignore[method-assign]
        del card.runs[1]
        ended.time = microseconds()
        (found,) = nvml.frame()["devices"]
        nvml.close()
    # The number of a process that nobody has seen may be garbage.
    assert ([process["pid"] for process in found["processes"]], found["busy"]) == ([10], {"20": 80})


def test_no_sample_is_not_a_failure_however_the_driver_says_it() -> None:
    library = replaceable(Card(runs=[Runs(10)]))

    def none(_self: Any, _card: Card, _handle: Any, _samples: Any, count: Any, _since: Any) -> None:
        count._obj.value = 0  # a success without any, which the binding raises as error 0

    type(library)._nvmlDeviceGetProcessUtilization = none  # type: ignore[method-assign]
    found = one(library)
    assert (found["problems"], found["measured"], found["processes"][0]["sm"]) == ({}, True, 0)


def test_samples_that_fail_are_not_idleness() -> None:
    found = one(Library(Card(runs=[Runs(10)], fails={"nvmlDeviceGetProcessUtilization": pynvml.NVML_ERROR_UNKNOWN})))
    assert (found["measured"], found["processes"][0]["sm"], found["busy"]) == (False, None, {})
    assert found["problems"]["busy"].startswith("NVIDIA's driver answered 'Unknown Error' (NVML error 999).")


@pytest.mark.parametrize(
    ("utilisation", "busy", "measured"), [(30, {"10": 30, "20": 30}, True), (0, {}, True), (None, {}, False)]
)
def test_where_only_the_whole_gpu_is_measured_everybody_on_it_is_busy_with_it(
    utilisation: int | None, busy: dict[str, int], measured: bool
) -> None:
    fails = {"nvmlDeviceGetProcessUtilization": pynvml.NVML_ERROR_NOT_SUPPORTED}
    if utilisation is None:
        fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    found = one(Library(Card(runs=[Runs(10), Runs(20)], utilisation=utilisation or 0, fails=fails)))
    assert (found["busy"], found["measured"]) == (busy, measured)
    assert [process["sm"] for process in found["processes"]] == [None, None]
    assert found["problems"] == {}


# -- under a simulated driver ----------------------------------------------------------------------------------------


def test_processes_that_are_kept_from_us_are_not_an_idle_gpu(tmp_path: Path) -> None:
    card = device(processes=[runs(10)], fails={"nvmlDeviceGetComputeRunningProcesses_v3": "no permission"})
    (found,) = first(tmp_path, card)["devices"]
    assert (found["processes"], found["problems"]) == (None, {"processes": HIDDEN})


def test_a_list_that_never_fits_is_given_up(tmp_path: Path) -> None:
    card = device(processes=[runs(10)], fails={"nvmlDeviceGetProcessUtilization": "insufficient size"})
    (found,) = first(tmp_path, card)["devices"]
    assert found["problems"]["busy"].startswith("NVIDIA's driver answered 'Insufficient Size' (NVML error 7).")
    assert (found["measured"], found["busy"], found["processes"][0]["sm"]) == (False, {}, None)


def test_long_lists_are_read_whole(tmp_path: Path) -> None:
    many = range(1000, 1500)
    card = device(processes=[runs(pid, MIB) for pid in many], process_samples=[sample(pid, 1) for pid in many][:100])
    (found,) = first(tmp_path, card)["devices"]
    assert [one["pid"] for one in found["processes"]] == list(many)
    assert sum(one["sm"] for one in found["processes"]) == len(found["busy"]) == 100


def test_nobody_busy_is_a_measurement(tmp_path: Path) -> None:
    """The driver says "not found"."""
    (found,) = first(tmp_path, device(processes=[runs(10)]))["devices"]
    assert (found["busy"], found["measured"], found["processes"][0]["sm"], found["problems"]) == ({}, True, 0, {})


def test_samples_count_once_and_garbage_never(tmp_path: Path) -> None:
    processes = [runs(10), runs(11), runs(12), runs(13)]
    stale, now = microseconds() - 60_000_000, microseconds()
    samples = [sample(10, 40, now), sample(11, 4711, now), sample(12, 30, stale), sample(4711, 50, now)]
    with sampling(tmp_path, device(processes=processes, process_samples=samples)) as (sim, gpus):
        (found,) = gpus.sampling.first(30)["devices"]
        assert (found["busy"], found["measured"]) == ({"10": 40}, True)
        for _ in range(3):
            assert gpus.device(lambda _: True)["busy"] == {}
        # Whoever was busy and is gone by the time of the frame is told of once more.
        samples = [sample(13, 20, microseconds()), sample(11, 100, microseconds())]
        sim.change(driver(device(processes=processes[:3], process_samples=samples), **HOST))
        assert gpus.device(lambda found: found["busy"])["busy"] == {"13": 20, "11": 100}


def test_samples_not_supported_leave_the_figure_of_the_gpu(tmp_path: Path) -> None:
    card = device(utilisation={"gpu": 0, "memory": 0}, processes=[runs(10)], process_samples=None)
    with sampling(tmp_path, card) as (sim, gpus):
        (found,) = gpus.sampling.first(30)["devices"]
        assert (found["busy"], found["measured"], found["processes"][0]["sm"]) == ({}, True, None)
        sim.change(driver(card | {"utilisation": {"gpu": 70, "memory": 0}}, **HOST))
        assert gpus.device(lambda found: found["utilisation"] == 70)["busy"] == {"10": 70}
