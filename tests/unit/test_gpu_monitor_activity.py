"""Who uses which GPU, and since when: the GPU monitor with containers that compute, hold memory, come and go."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gradlab.gpu.monitor import Monitor
from gradlab.gpu.nvml import Nvml
from tests.monitors import ADA, BOB, NOBODYS, InThread, Machine, monitoring
from tests.nvml import GIB, Card, Library, Runs, loaded, replaceable
from tests.waiting import until


def now() -> int:
    return time.time_ns() // 1000


def test_processes_are_told_by_container(tmp_path: Path) -> None:
    runs = [Runs(10, GIB), Runs(11, GIB, kinds="CG"), Runs(20, 2 * GIB, kinds="M"), Runs(NOBODYS), Runs(4711)]
    with monitoring(tmp_path, Library(Card(runs=runs), Card())) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    ada, bob = found["containers"][ADA], found["containers"][BOB]
    assert ada["devices"] == {"GPU-0": {"processes": 2, "memory": 2 * GIB}}
    assert (bob["processes"], bob["memory"], bob["measured"]) == (1, 2 * GIB, True)
    assert set(found["containers"]) == {ADA, BOB}
    assert set(found["devices"]) == {"GPU-0", "GPU-1"}


def test_who_computes_is_busy_until_the_samples_end(tmp_path: Path) -> None:
    computing, idle = Runs(10, busy=57), Runs(20)
    with monitoring(tmp_path, Library(Card(runs=[computing, idle]))) as monitor:
        began = monitor.sampled(lambda found: found["ok"])
        computing.time = now()
        busy = monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > began["containers"][ADA]["busy_at"])
        # The same sample again is old.
        at = monitor.sampled(lambda found: found["containers"][ADA]["held_at"] > busy["containers"][ADA]["busy_at"])
        assert at["containers"][ADA]["busy_at"] == busy["containers"][ADA]["busy_at"]
        assert at["containers"][BOB]["busy_at"] == began["containers"][BOB]["busy_at"]
        assert at["devices"]["GPU-0"]["busy_at"] == at["containers"][ADA]["busy_at"]


def test_samples_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    garbage = Runs(10, busy=4711, time=now() * 2)
    with monitoring(tmp_path, Library(Card(runs=[garbage]))) as monitor:
        began = monitor.sampled(lambda found: found["ok"])["containers"][ADA]["busy_at"]
        monitor.sampled(lambda found: found["containers"][ADA]["held_at"] > began + 0.1)
        assert monitor.get("/activity")["containers"][ADA]["busy_at"] == began
        garbage.busy = 50  # a time stamp of the future must not hide what comes before it
        monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > began)
        garbage.time = now() + 10_000_000
        later = monitor.get("/activity")["containers"][ADA]["busy_at"]
        monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > later)


def test_no_sample_is_not_a_failure_however_the_driver_says_it(tmp_path: Path) -> None:
    library = replaceable(Card(runs=[Runs(10)]))

    def none(_self: Any, _card: Card, _handle: Any, _samples: Any, count: Any, _since: Any) -> None:
        count._obj.value = 0  # a success without any, which the binding raises as error 0

    type(library)._nvmlDeviceGetProcessUtilization = none  # type: ignore[method-assign]
    with monitoring(tmp_path, library) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert (found["devices"]["GPU-0"]["error"], found["devices"]["GPU-0"]["measured"]) == ("", True)


def test_a_list_that_grows_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    library = replaceable(Card(runs=[Runs(10)]))
    grown = iter([True])
    answer = type(library)._nvmlDeviceGetComputeRunningProcesses_v3

    def growing(self: Any, card: Card, handle: Any, count: Any, processes: Any) -> int:
        if processes is not None and next(grown, False):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        return answer(self, card, handle, count, processes)

    type(library)._nvmlDeviceGetComputeRunningProcesses_v3 = growing  # type: ignore[method-assign]
    with monitoring(tmp_path, library) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert (found["containers"][ADA]["processes"], found["devices"]["GPU-0"]["error"]) == (1, "")


def test_mig_instances_have_holders_and_no_utilisation(tmp_path: Path) -> None:
    unreported = (1 << 64) - 1
    first, second = Card(runs=[Runs(10, unreported)]), Card(runs=[Runs(20, GIB)])
    with monitoring(tmp_path, Library(Card(instances=[first, None, second]))) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert found["containers"][ADA]["devices"] == {"MIG-0-0": {"processes": 1, "memory": None}}
    assert (found["containers"][ADA]["measured"], found["containers"][BOB]["measured"]) == (False, False)
    assert found["devices"].keys() == {"MIG-0-0", "MIG-0-2"}


def test_instances_made_later_are_found_when_an_old_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.gpu.nvml.devices._AGAIN_SECONDS", 0.0)
    card = Card(used=0, instances=[Card()])
    with monitoring(tmp_path, Library(card)) as monitor:
        monitor.sampled(lambda found: found["ok"])
        gone = {"nvmlDeviceGetComputeRunningProcesses_v3": pynvml.NVML_ERROR_INVALID_ARGUMENT}
        card.instances = [Card(fails=gone), Card(runs=[Runs(10)])]
        found = monitor.sampled(lambda found: "MIG-0-1" in found["devices"])
        assert found["containers"][ADA]["processes"] == 1
        assert "answered 'Invalid Argument'" in found["devices"]["MIG-0-0"]["error"]


def test_where_only_the_whole_gpu_is_measured_everybody_on_it_is_busy_with_it(tmp_path: Path) -> None:
    fails = {"nvmlDeviceGetProcessUtilization": pynvml.NVML_ERROR_NOT_SUPPORTED}
    card = Card(runs=[Runs(10)], utilisation=0, fails=fails)
    with monitoring(tmp_path, Library(card)) as monitor:
        began = monitor.sampled(lambda found: found["ok"])["containers"][ADA]
        assert began["measured"]
        card.utilisation = 30
        monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > began["busy_at"])
        card.fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        monitor.sampled(lambda found: not found["containers"][ADA]["measured"])


def test_a_gpu_whose_processes_are_hidden_is_not_idle_but_unknown(tmp_path: Path) -> None:
    hidden = Card(fails={"nvmlDeviceGetComputeRunningProcesses_v3": pynvml.NVML_ERROR_NO_PERMISSION})
    with monitoring(tmp_path, Library(hidden)) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert found["devices"]["GPU-0"]["error"] == (
        "The driver does not say which processes use this GPU, so whether it is idle is not known. Give the GPU "
        "monitor more rights: docs/operators.md, “Idle servers and idle GPUs”, has them."
    )


def test_a_gpu_lost_from_the_start_does_not_hide_the_others(tmp_path: Path) -> None:
    lost = Card(fails={"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_GPU_IS_LOST})
    with monitoring(tmp_path, Library(lost, Card(runs=[Runs(10)]))) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert found["devices"]["GPU at index 0"]["error"].startswith("This GPU has fallen off the bus.")
    assert found["containers"][ADA]["devices"].keys() == {"GPU-1"}


def test_containers_that_compute_on_processors_are_seen(tmp_path: Path) -> None:
    with monitoring(tmp_path, Library(Card())) as monitor:
        monitor.sampled(lambda found: found["processors"])
        monitor.machine.computed(BOB, 30.0)
        found = monitor.sampled(lambda found: found["containers"][BOB]["computing_at"])
        assert (found["containers"][BOB]["processes"], found["containers"][ADA]["computing_at"]) == (0, None)


def test_a_monitor_in_a_process_namespace_of_its_own_says_that_it_is_blind(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    machine = Machine(folder)
    machine.process(1, (machine.proc / "self" / "cgroup").read_text().strip().removeprefix("0::"))
    with (
        loaded(Library(Card())),
        closing(Monitor(lambda hear: InThread(Nvml(), hear), host=machine.host)) as monitor,
    ):
        monitor.start()
        until(lambda: monitor.activity()["devices"])
        found = monitor.activity()
    assert not found["ok"]
    assert found["message"] == (
        "The GPU monitor does not see the machine's processes, so nobody knows who uses a GPU. Start its container in "
        "the host's PID namespace (pid: host), with a /proc that is not mounted with hidepid."
    )


def test_in_the_first_namespace_of_a_machine_nobody_is_hidden(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.process(1, "/")
    machine.process("self", "/")
    assert machine.host.why_blind()
    (machine.proc / "self" / "ns" / "pid").unlink()
    assert machine.host.why_blind()
    (machine.proc / "self" / "ns" / "pid").symlink_to("pid:[4026531836]")
    assert machine.host.why_blind() == ""


def test_processor_time_is_read_from_the_older_tree_too(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (machine.cgroups / "cgroup.controllers").unlink()
    group = machine.cgroups / "cpuacct" / "docker" / ADA
    group.mkdir(parents=True)
    (group / "cpuacct.usage").write_text("2500000000\n")
    (machine.cgroups / "cpuacct" / "docker" / BOB).mkdir()
    assert machine.host.processor_seconds() == {ADA: 2.5}
