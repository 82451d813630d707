"""The GPU monitor: the service on a real Unix socket, the real binding, and no fake but the driver below it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pynvml
import pytest
from fastapi import FastAPI

from gradlab import service as portal
from gradlab.gpu.monitor import Monitor, create_monitor_app
from gradlab.gpu.nvml import Nvml
from gradlab.gpu.remote import RemoteGpus
from gradlab.settings import ROOT, Settings
from tests.monitors import ADA, BOB, Machine, asking, serving
from tests.nvml import GIB, Card, Library, Runs, loaded
from tests.waiting import until

NOBODYS = 99


@dataclass
class Service:
    library: Library
    machine: Machine
    client: httpx.Client
    socket: Path

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def sampled(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first activity of which this is true."""
        return until(lambda: (found := self.get("/activity")) and what(found) and found, 10, what="that activity")

    def limit(self, **values: Any) -> Any:
        wanted = {"container": ADA, "pid": 10, "gpu": "GPU-0", "bytes": 4 * GIB}
        answer = self.client.post("/limits", json=wanted | values)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def service(folder: Path, library: Library | None, **options: Any) -> Iterator[Service]:
    machine = Machine(folder)
    machine.container(ADA, 10, 11)
    machine.container(BOB, 20)
    machine.process(NOBODYS, "/user.slice/session-2.scope")
    socket = folder / "gpus.sock"
    with ExitStack() as stack:
        stack.enter_context(loaded(library))
        monitor = Monitor(Nvml(cgroups=machine.cgroups), machine.host, every=0.02, **options)
        client = stack.enter_context(serving(create_monitor_app(monitor), socket))
        stack.enter_context(closing(monitor))
        monitor.start()
        yield Service(library or Library(), machine, client, socket)


def now() -> int:
    return time.time_ns() // 1000


def hanging(library: Library, symbol: str) -> threading.Event:
    """From now on this function of the driver hangs until the event is set."""
    gate = threading.Event()
    answer = getattr(library, f"_{symbol}")

    def hang(*arguments: Any) -> Any:
        gate.wait(30)
        return answer(*arguments)

    setattr(type(library), f"_{symbol}", lambda _self, *arguments: hang(*arguments))
    return gate


@pytest.fixture
def library() -> Library:
    """A driver of its own class, so that a test can replace a function of it."""

    class Own(Library):
        pass

    return Own(Card(), Card())


# -- readings ------------------------------------------------------------------------------------------------------


def test_a_reading_has_mig_instances_and_says_why_memory_is_not_limited(tmp_path: Path) -> None:
    small = Card(name="NVIDIA H200 MIG 1g.18gb", used=GIB, total=16 * GIB)
    library = Library(
        Card(instances=[small, None]), Card(instances=[]), Card(), missing=("nvmlDeviceSetMemoryLimits_v1",)
    )
    with service(tmp_path, library) as monitor:
        reading = monitor.get("/gpus")
    assert (reading["available"], reading["message"], reading["driver_version"]) == (True, "", "610.43")
    divided, empty, whole = reading["devices"]
    assert divided["mig"] == [
        {"uuid": "MIG-0-0", "name": "NVIDIA H200 MIG 1g.18gb", "memory_total": 16 * GIB, "memory_used": GIB}
    ]
    assert (empty["mig"], whole["mig"]) == ([], None)
    assert divided["memory_limits"]["hard"] is False
    assert divided["memory_limits"]["why"].startswith("This GPU is in MIG mode, where the hardware bounds the memory")
    assert whole["memory_limits"] == {
        "hard": False,
        "why": "Memory limits need NVIDIA's driver 615 or newer; this is 610.43. Update the driver.",
    }
    assert whole["memory_used"] == 3 * GIB


def test_a_lost_gpu_has_neither_instances_nor_limits(tmp_path: Path) -> None:
    lost = Card(fails={"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_GPU_IS_LOST})
    with service(tmp_path, Library(lost, Card())) as monitor:
        first, second = monitor.get("/gpus")["devices"]
    assert first["mig"] is None
    assert first["memory_limits"]["why"] == first["error"]
    assert second["error"] is None


def test_a_machine_without_a_driver_is_healthy_and_says_what_it_lacks(tmp_path: Path) -> None:
    with service(tmp_path, None) as monitor:
        assert monitor.get("/health") == {"state": "ok"}
        assert "No NVIDIA driver is installed here" in monitor.get("/gpus")["message"]
        found = monitor.sampled(lambda found: "No NVIDIA driver" in found["message"])
        assert (found["ok"], found["since"]) == (False, None)
        assert "No NVIDIA driver is installed here" in monitor.limit()["why"]


def test_a_driver_without_a_gpu_says_so_and_is_started_anew(tmp_path: Path) -> None:
    with service(tmp_path, Library()) as monitor:
        monitor.sampled(lambda found: found["message"].startswith("The NVIDIA driver is loaded but shows no GPU."))
        assert not monitor.get("/gpus")["available"]
        monitor.library.cards.append(Card())
        assert monitor.sampled(lambda found: found["ok"])["devices"].keys() == {"GPU-0"}


# -- activity ------------------------------------------------------------------------------------------------------


def test_processes_are_told_by_container(tmp_path: Path) -> None:
    runs = [Runs(10, GIB), Runs(11, GIB, kinds="CG"), Runs(20, 2 * GIB, kinds="M"), Runs(NOBODYS), Runs(4711)]
    with service(tmp_path, Library(Card(runs=runs), Card())) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    ada, bob = found["containers"][ADA], found["containers"][BOB]
    assert ada["devices"] == {"GPU-0": {"processes": 2, "memory": 2 * GIB}}
    assert (bob["processes"], bob["memory"], bob["measured"]) == (1, 2 * GIB, True)
    assert set(found["containers"]) == {ADA, BOB}
    assert set(found["devices"]) == {"GPU-0", "GPU-1"}


def test_who_computes_is_busy_until_the_samples_end(tmp_path: Path) -> None:
    computing, idle = Runs(10, busy=57), Runs(20)
    with service(tmp_path, Library(Card(runs=[computing, idle]))) as monitor:
        began = monitor.sampled(lambda found: found["ok"])
        computing.time = now()
        busy = monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > began["containers"][ADA]["busy_at"])
        # The same sample again is old.
        at = monitor.sampled(lambda found: found["containers"][ADA]["held_at"] > busy["containers"][ADA]["busy_at"])
        assert at["containers"][ADA]["busy_at"] <= busy["containers"][ADA]["held_at"]
        assert at["containers"][BOB]["busy_at"] == began["containers"][BOB]["busy_at"]
        assert at["devices"]["GPU-0"]["busy_at"] == at["containers"][ADA]["busy_at"]


def test_samples_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    garbage = Runs(10, busy=4711, time=now() * 2)
    with service(tmp_path, Library(Card(runs=[garbage]))) as monitor:
        began = monitor.sampled(lambda found: found["ok"])["containers"][ADA]["busy_at"]
        monitor.sampled(lambda found: found["containers"][ADA]["held_at"] > began + 0.1)
        assert monitor.get("/activity")["containers"][ADA]["busy_at"] == began
        garbage.busy = 50  # a time stamp of the future must not hide what comes before it
        monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > began)
        garbage.time = now() + 10_000_000
        later = monitor.get("/activity")["containers"][ADA]["busy_at"]
        monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > later)


def test_no_sample_is_not_a_failure_however_the_driver_says_it(tmp_path: Path, library: Library) -> None:
    def none(_self: Any, _card: Card, _handle: Any, _samples: Any, count: Any, _since: Any) -> None:
        count._obj.value = 0  # a success without any, which the binding raises as error 0

    type(library)._nvmlDeviceGetProcessUtilization = none  # type: ignore[method-assign]
    library.cards[0].runs = [Runs(10)]
    with service(tmp_path, library) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert (found["devices"]["GPU-0"]["error"], found["devices"]["GPU-0"]["measured"]) == ("", True)


def test_a_list_that_grows_while_it_is_read_is_read_again(tmp_path: Path, library: Library) -> None:
    card = library.cards[0]
    card.runs = [Runs(10)]
    grown = iter([True])
    answer = type(library)._nvmlDeviceGetComputeRunningProcesses_v3

    def growing(self: Any, card: Card, handle: Any, count: Any, processes: Any) -> int:
        if processes is not None and next(grown, False):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        return answer(self, card, handle, count, processes)

    type(library)._nvmlDeviceGetComputeRunningProcesses_v3 = growing  # type: ignore[method-assign]
    with service(tmp_path, library) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert (found["containers"][ADA]["processes"], found["devices"]["GPU-0"]["error"]) == (1, "")


def test_mig_instances_have_holders_and_no_utilisation(tmp_path: Path) -> None:
    unreported = (1 << 64) - 1
    first, second = Card(runs=[Runs(10, unreported)]), Card(runs=[Runs(20, GIB)])
    with service(tmp_path, Library(Card(instances=[first, None, second]))) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert found["containers"][ADA]["devices"] == {"MIG-0-0": {"processes": 1, "memory": None}}
    assert (found["containers"][ADA]["measured"], found["containers"][BOB]["measured"]) == (False, False)
    assert found["devices"].keys() == {"MIG-0-0", "MIG-0-2"}


def test_instances_made_later_are_found_when_an_old_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.gpu.nvml.session._AGAIN_SECONDS", 0.0)
    card = Card(instances=[Card()])
    with service(tmp_path, Library(card)) as monitor:
        monitor.sampled(lambda found: found["ok"])
        gone = {"nvmlDeviceGetComputeRunningProcesses_v3": pynvml.NVML_ERROR_INVALID_ARGUMENT}
        card.instances = [Card(fails=gone), Card(runs=[Runs(10)])]
        found = monitor.sampled(lambda found: "MIG-0-1" in found["devices"])
        assert found["containers"][ADA]["processes"] == 1
        assert "answered 'Invalid Argument'" in found["devices"]["MIG-0-0"]["error"]


def test_where_only_the_whole_gpu_is_measured_everybody_on_it_is_busy_with_it(tmp_path: Path) -> None:
    fails = {"nvmlDeviceGetProcessUtilization": pynvml.NVML_ERROR_NOT_SUPPORTED}
    card = Card(runs=[Runs(10)], utilisation=0, fails=fails)
    with service(tmp_path, Library(card)) as monitor:
        began = monitor.sampled(lambda found: found["ok"])["containers"][ADA]
        assert began["measured"]
        card.utilisation = 30
        monitor.sampled(lambda found: found["containers"][ADA]["busy_at"] > began["busy_at"])
        card.fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        monitor.sampled(lambda found: not found["containers"][ADA]["measured"])


def test_a_gpu_whose_processes_are_hidden_is_not_idle_but_unknown(tmp_path: Path) -> None:
    hidden = Card(fails={"nvmlDeviceGetComputeRunningProcesses_v3": pynvml.NVML_ERROR_NO_PERMISSION})
    with service(tmp_path, Library(hidden)) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert found["devices"]["GPU-0"]["error"] == (
        "The driver does not say which processes use this GPU, so whether it is idle is not known. Give the GPU "
        "monitor more rights: docs/operators.md, “Idle servers and idle GPUs”, has them."
    )


def test_a_gpu_lost_from_the_start_does_not_hide_the_others(tmp_path: Path) -> None:
    lost = Card(fails={"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_GPU_IS_LOST})
    with service(tmp_path, Library(lost, Card(runs=[Runs(10)]))) as monitor:
        found = monitor.sampled(lambda found: found["ok"])
    assert found["devices"]["GPU at index 0"]["error"].startswith("This GPU has fallen off the bus.")
    assert found["containers"][ADA]["devices"].keys() == {"GPU-1"}


def test_containers_that_compute_on_processors_are_seen(tmp_path: Path) -> None:
    with service(tmp_path, Library(Card())) as monitor:
        monitor.sampled(lambda found: found["processors"])
        monitor.machine.computed(BOB, 30.0)
        found = monitor.sampled(lambda found: found["containers"][BOB]["computing_at"])
        assert (found["containers"][BOB]["processes"], found["containers"][ADA]["computing_at"]) == (0, None)


def test_a_monitor_in_a_process_namespace_of_its_own_says_that_it_is_blind(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    machine = Machine(folder)
    machine.process(1, (machine.proc / "self" / "cgroup").read_text().strip().removeprefix("0::"))
    with loaded(Library(Card())), closing(Monitor(Nvml(), machine.host, every=0.02)) as monitor:
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


def test_a_driver_that_hangs_keeps_nobody_waiting(tmp_path: Path, library: Library) -> None:
    library.cards[0].runs = [Runs(10)]
    with service(tmp_path, library, deadline=0.1, clock=Clock()) as monitor:
        monitor.sampled(lambda found: found["ok"])
        monitor.get("/gpus")
        gate = hanging(library, "nvmlDeviceGetCount_v2")
        try:
            Clock.ahead = 60.0
            began = time.monotonic()
            stale = monitor.get("/activity")
            reading = monitor.get("/gpus")
            for _ in range(60):  # more than there are threads to answer
                assert monitor.get("/gpus")["message"].startswith(
                    "The NVIDIA driver does not answer; these figures are"
                )
            refused = monitor.limit()
            again = monitor.limit()
            assert monitor.get("/health") == {"state": "ok"}
            assert time.monotonic() - began < 5
        finally:
            gate.set()
            Clock.ahead = 0.0
        assert not stale["ok"]
        assert stale["message"].startswith("The NVIDIA driver does not answer; what is known is from ")
        assert (reading["available"], reading["devices"][0]["uuid"]) == (True, "GPU-0")
        silent = "The NVIDIA driver has not answered for 0.1 s, so no limit is known to be set."
        assert refused == again == {"hard": False, "why": silent}
        monitor.sampled(lambda found: found["ok"])


class Clock:
    """Time, and a leap."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def test_a_fault_of_ours_is_said_and_sampling_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = iter([RuntimeError("a bug of ours")])

    def faulty(_self: Any) -> dict[str, float]:
        for fault in faults:
            raise fault
        return {}

    monkeypatch.setattr("gradlab.gpu.host.Host.processor_seconds", faulty)
    said = "Sampling the GPUs failed: RuntimeError: a bug of ours. The log has more."
    with service(tmp_path, Library(Card())) as monitor:
        assert not monitor.sampled(lambda found: found["message"] == said)["ok"]
        monitor.sampled(lambda found: found["ok"])
    assert "Traceback" in caplog.text


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("root")
def test_a_limit_is_set_on_the_containers_own_group_and_lifted_again(tmp_path: Path) -> None:
    with service(tmp_path, Library(Card())) as monitor:
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
    with service(tmp_path, Library(Card())) as monitor:
        for pid in (20, NOBODYS, 4711):
            assert monitor.limit(pid=pid)["why"] == (
                f"The process {pid} is not one of the container aaaaaaaaaaaa in a tree of cgroups v2. "
                "Ask with the State.Pid that Docker tells of the running container."
            )
        monitor.machine.process(10, f"/elsewhere.slice/docker-{ADA}.scope")
        assert "is not below" in monitor.limit()["why"]
        assert (
            "This machine has no GPU GPU-7. `nvidia-smi -L` lists those it has."
            in monitor.limit(gpu="GPU-7", pid=11)["why"]
        )
        assert monitor.library.limits == []


@pytest.mark.usefixtures("root")
def test_a_group_is_found_from_another_cgroup_namespace(tmp_path: Path) -> None:
    with service(tmp_path, Library(Card())) as monitor:
        for path in (f"/../docker-{ADA}.scope", f"/../../system.slice/docker-{ADA}.scope"):
            monitor.machine.process(10, path)
            assert monitor.limit()["hard"]
        assert len({group for _, group, _, _ in monitor.library.limits}) == 1
        monitor.machine.process(10, f"/../../../etc/docker-{ADA}.scope")
        assert "is not below" in monitor.limit()["why"]


@pytest.mark.parametrize(
    "wrong",
    [{"container": "../etc"}, {"container": "A" * 64}, {"pid": 0}, {"bytes": 0}, {"bytes": "all"}, {"gpu": "G" * 97}],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with service(tmp_path, Library(Card())) as monitor:
        wanted = {"container": ADA, "pid": 10, "gpu": "GPU-0", "bytes": 1} | wrong
        assert monitor.client.post("/limits", json=wanted).status_code == 422


@pytest.mark.usefixtures("root")
def test_what_the_driver_says_to_a_limit_is_told(tmp_path: Path) -> None:
    card = Card(fails={"nvmlDeviceSetMemoryLimits_v1": pynvml.NVML_ERROR_NO_PERMISSION})
    with service(tmp_path, Library(card)) as monitor:
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
            return str(nvml.read_all()["devices"][0]["memory_limits"]["why"])

        monkeypatch.setattr(os, "geteuid", lambda: 990)
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
        assert nvml.read_all()["devices"][0]["memory_limits"]["hard"] is True
        (machine.cgroups / "cgroup.controllers").unlink()
        assert why() == (
            f"Memory limits need cgroup v2, and {machine.cgroups} is no such tree. Start the machine with "
            "systemd.unified_cgroup_hierarchy=1; the GPU monitor needs the host's tree there."
        )


def test_processor_time_is_read_from_the_older_tree_too(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (machine.cgroups / "cgroup.controllers").unlink()
    group = machine.cgroups / "cpuacct" / "docker" / ADA
    group.mkdir(parents=True)
    (group / "cpuacct.usage").write_text("2500000000\n")
    (machine.cgroups / "cpuacct" / "docker" / BOB).mkdir()
    assert machine.host.processor_seconds() == {ADA: 2.5}


# -- the service ---------------------------------------------------------------------------------------------------


def test_the_portals_reading_is_the_monitors(tmp_path: Path) -> None:
    with service(tmp_path, Library(Card())) as monitor, closing(RemoteGpus(monitor.socket)) as remote:
        assert remote() == monitor.get("/gpus")


def test_a_hosted_portal_asks_the_monitor_and_a_trials_the_driver(tmp_path: Path) -> None:
    with ExitStack() as stack, loaded(Library(Card())):
        hosted = portal._gpus(Settings(spawner="docker", run_dir=tmp_path), stack)
        assert hosted()["message"].startswith(f"The GPU monitor does not answer at {tmp_path / 'gpus.sock'} (")
        assert portal._gpus(Settings(), stack)()["devices"][0]["uuid"] == "GPU-0"


def test_a_monitor_that_is_down_or_confused_is_a_sentence(tmp_path: Path) -> None:
    socket = tmp_path / "gpus.sock"
    remedy = "See whether its service runs: docker compose ps gpu-monitor."
    with closing(RemoteGpus(socket)) as remote:
        down = remote()
        assert (down["available"], down["devices"], down["driver_version"]) == (False, [], None)
        assert down["message"].startswith(f"The GPU monitor does not answer at {socket} (")
        assert down["message"].endswith(remedy)
        with serving(FastAPI(), socket):
            assert "404 Not Found" in remote()["message"]
    other = tmp_path / "other.sock"
    app = FastAPI()
    app.get("/gpus")(lambda: {"available": True})
    with serving(app, other), closing(RemoteGpus(other)) as remote:
        assert remote()["message"] == f"The GPU monitor does not answer at {other} (it gives no reading). {remedy}"


def test_the_command_serves_every_user_on_a_machine_without_a_gpu_and_ends_on_sigterm(tmp_path: Path) -> None:
    settings = Settings(run_dir=tmp_path)
    settings.gpu_socket.touch()  # of one that was killed
    environ = os.environ | {"GRADLAB_RUN_DIR": str(tmp_path), "GRADLAB_SPAWNER": "docker"}
    argv = [sys.executable, "-m", "gradlab.cli", "gpu-monitor"]
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            with asking(settings.gpu_socket) as client:
                until(lambda: _answers(client), 30, what="the monitor's answer")
                assert client.get("/activity").json().keys() >= {"containers", "devices", "since", "ok", "message"}
            assert stat.S_IMODE(settings.gpu_socket.stat().st_mode) == 0o666
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").json() == {"state": "ok"}
    except httpx.TransportError:
        return False
