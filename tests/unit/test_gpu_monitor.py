"""The GPU monitor: the service on a real Unix socket, the real binding, and no fake but the driver below it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pynvml
import pytest
from fastapi import FastAPI

from gradlab import service as portal
from gradlab.gpu.remote import RemoteGpus
from gradlab.settings import ROOT, Settings
from tests.monitors import asking, monitoring, serving
from tests.nvml import GIB, Card, Library, Runs, loaded, replaceable
from tests.waiting import until

# -- readings ------------------------------------------------------------------------------------------------------


def test_a_reading_has_mig_instances_and_says_why_memory_is_not_limited(tmp_path: Path) -> None:
    small = Card(name="NVIDIA H200 MIG 1g.18gb", used=GIB, total=16 * GIB)
    library = Library(
        Card(instances=[small, None]), Card(instances=[]), Card(), missing=("nvmlDeviceSetMemoryLimits_v1",)
    )
    with monitoring(tmp_path, library) as monitor:
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
    with monitoring(tmp_path, Library(lost, Card())) as monitor:
        first, second = monitor.get("/gpus")["devices"]
    assert first["mig"] is None
    assert first["memory_limits"]["why"] == first["error"]
    assert second["error"] is None


def test_a_machine_without_a_driver_is_healthy_and_says_what_it_lacks(tmp_path: Path) -> None:
    with monitoring(tmp_path, None) as monitor:
        assert monitor.get("/health") == {"state": "ok"}
        assert "No NVIDIA driver is installed here" in monitor.get("/gpus")["message"]
        found = monitor.sampled(lambda found: "No NVIDIA driver" in found["message"])
        assert (found["ok"], found["since"]) == (False, None)
        assert "No NVIDIA driver is installed here" in monitor.limit()["why"]


def test_a_driver_without_a_gpu_says_so_and_is_started_anew(tmp_path: Path) -> None:
    with monitoring(tmp_path, Library()) as monitor:
        monitor.sampled(lambda found: found["message"].startswith("The NVIDIA driver is loaded but shows no GPU."))
        assert not monitor.get("/gpus")["available"]
        monitor.library.cards.append(Card())
        assert monitor.sampled(lambda found: found["ok"])["devices"].keys() == {"GPU-0"}


# -- what goes wrong -----------------------------------------------------------------------------------------------


def hanging(library: Library, symbol: str) -> threading.Event:
    """From now on this function of the driver hangs until the event is set."""
    gate = threading.Event()
    answer = getattr(library, f"_{symbol}")

    def hang(*arguments: Any) -> Any:
        gate.wait(30)
        return answer(*arguments)

    setattr(type(library), f"_{symbol}", lambda _self, *arguments: hang(*arguments))
    return gate


def test_a_driver_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    library = replaceable(Card(runs=[Runs(10)]))
    with monitoring(tmp_path, library, deadline=0.1, clock=Clock()) as monitor:
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
    with monitoring(tmp_path, Library(Card())) as monitor:
        assert not monitor.sampled(lambda found: found["message"] == said)["ok"]
        monitor.sampled(lambda found: found["ok"])
    assert "Traceback" in caplog.text


# -- the service ---------------------------------------------------------------------------------------------------


def test_the_portals_reading_is_the_monitors(tmp_path: Path) -> None:
    with monitoring(tmp_path, Library(Card())) as monitor, closing(RemoteGpus(monitor.socket)) as remote:
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


def test_a_connection_that_the_monitor_gives_up_is_no_silence(tmp_path: Path) -> None:
    """It keeps one for five seconds; here it closes each after the answer, when the next question may be on its way."""
    socket = tmp_path / "gpus.sock"
    app = FastAPI()
    app.get("/gpus")(lambda: {"available": True, "message": "", "driver_version": "1", "devices": []})
    with serving(app, socket, timeout_keep_alive=0), closing(RemoteGpus(socket)) as remote:
        assert [remote()["message"] for _ in range(300)] == [""] * 300


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
