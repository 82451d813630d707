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
from gradlab.gpu.remote import RemoteMonitor
from gradlab.roster import Roster, Server, Waiter
from gradlab.settings import ROOT, Settings
from tests.monitors import ADA, NOBODYS, asking, monitoring, serving
from tests.nvml import GIB, Card, Library, Runs
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
    (instance,) = divided["mig"]
    assert (instance["uuid"], instance["name"]) == ("MIG-0-0", "NVIDIA H200 MIG 1g.18gb")
    assert (instance["memory_total"], instance["memory_used"], instance["utilisation"]) == (16 * GIB, GIB, None)
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
        monitor.library.cards.append(Card(used=0))
        assert monitor.sampled(lambda found: found["ok"])["devices"].keys() == {"GPU-0"}


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_fault_of_ours_is_said_and_sampling_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mended = threading.Event()

    def faulty(_self: Any) -> dict[str, float]:
        if not mended.is_set():
            raise RuntimeError("a bug of ours")
        return {}

    monkeypatch.setattr("gradlab.gpu.host.Host.processor_seconds", faulty)
    said = "Sampling the GPUs failed: RuntimeError: a bug of ours. The log has more."
    with monitoring(tmp_path, Library(Card(used=0))) as monitor:
        assert not monitor.sampled(lambda found: found["message"] == said)["ok"]
        mended.set()
        monitor.sampled(lambda found: found["ok"])
    assert caplog.text.count("Traceback") == 1


# -- the service ---------------------------------------------------------------------------------------------------


def test_what_the_portal_hears_is_what_the_monitor_says(tmp_path: Path) -> None:
    server = Server("ada", container=ADA, device="GPU-0", held_since=1.0)
    line = (Waiter("eve", "", 2.0, 1),)
    roster = Roster((server,), line, mode="exclusive", slots=1, free=0)
    runs = [Runs(10, GIB), Runs(NOBODYS, GIB)]
    with (
        monitoring(tmp_path, Library(Card(runs=runs)), lambda: roster) as monitor,
        closing(RemoteMonitor(monitor.socket)) as remote,
    ):
        monitor.sampled(lambda found: found["ok"])
        assert remote.reading()["devices"][0]["name"] == "NVIDIA H200"
        view = remote.view()
        assert (view["available"], view["mode"], view["slots"], view["message"]) == (True, "exclusive", 1, "")
        (device,) = view["devices"]
        assert [(part["learner"], part["memory"]) for part in device["parts"]] == [("ada", GIB)]
        assert (device["machine"]["processes"], device["unattributed"]) == (1, GIB)
        assert [one["learner"] for one in view["queue"]] == ["eve"]
        until(lambda: remote.usage()["rows"], what="a row of the account")
        assert remote.usage()["rows"][0]["learner"] == "ada"
        history = remote.history()
        assert history["devices"]["GPU-0"]["memory"][-1] == 3 * GIB
        assert remote.history(time.time() + 60)["count"] == 0


def test_who_is_over_a_share_is_told_with_the_numbers_that_processes_have_inside(tmp_path: Path) -> None:
    server = Server("ada", container=ADA, device="GPU-0", share=2 * GIB)
    with monitoring(
        tmp_path, Library(Card(runs=[Runs(10, GIB), Runs(11, 3 * GIB), Runs(20, 9 * GIB)])), lambda: Roster((server,))
    ) as monitor:
        for outer, inner in ((10, 7), (11, 8)):
            (monitor.machine.proc / str(outer) / "status").write_text(f"Name:\tpython\nNSpid:\t{outer}\t{inner}\n")
        monitor.sampled(lambda found: found["ok"])
        assert monitor.get("/over") == [
            {
                "learner": "ada",
                "server": "",
                "container": ADA,
                "device": "GPU-0",
                "share": 2 * GIB,
                "memory": 4 * GIB,
                "processes": [{"pid": 8, "memory": 3 * GIB}, {"pid": 7, "memory": GIB}],
            }
        ]


def test_a_hosted_portal_asks_the_monitor_and_a_trials_the_driver(tmp_path: Path) -> None:
    with ExitStack() as stack:
        hosted = portal._gpus(Settings(spawner="docker", run_dir=tmp_path), stack, None)
        assert hosted.view()["message"].startswith(f"The GPU monitor does not answer at {tmp_path / 'gpus.sock'} (")
        trial = portal._gpus(Settings(state_dir=tmp_path), stack, None)
        found = until(lambda: trial.reading()["state"] != "silent" and trial.reading(), 20, what="a first frame")
        assert (found["available"], found["state"]) in ((False, "no driver"), (True, "ok"))


def test_a_monitor_that_is_down_or_confused_is_a_sentence(tmp_path: Path) -> None:
    socket = tmp_path / "gpus.sock"
    remedy = "See whether its service runs: docker compose ps gpu-monitor."
    with closing(RemoteMonitor(socket)) as remote:
        down = remote.reading()
        assert (down["available"], down["devices"], down["driver_version"]) == (False, [], None)
        assert down["message"].startswith(f"The GPU monitor does not answer at {socket} (")
        assert down["message"].endswith(remedy)
        view = remote.view()
        assert (view["state"], view["message"], view["servers"]) == ("silent", down["message"], [])
        assert remote.history(7.0) == {"from": 7, "step": 1, "count": 0, "devices": {}}
        with pytest.raises(ConnectionError, match=r"The GPU monitor does not answer at .*compose ps gpu-monitor"):
            remote.usage()
        with serving(FastAPI(), socket):
            assert "404 Not Found" in remote.reading()["message"]
    other = tmp_path / "other.sock"
    app = FastAPI()
    app.get("/gpus")(lambda: {"available": True})
    with serving(app, other), closing(RemoteMonitor(other)) as remote:
        said = f"The GPU monitor does not answer at {other} (it gives no reading). {remedy}"
        assert remote.reading()["message"] == said


def test_a_connection_that_the_monitor_gives_up_is_no_silence(tmp_path: Path) -> None:
    """It keeps one for five seconds; here it closes each after the answer, when the next question may be on its way."""
    socket = tmp_path / "gpus.sock"
    app = FastAPI()
    app.get("/gpus")(lambda: {"available": True, "message": "", "driver_version": "1", "devices": []})
    with serving(app, socket, timeout_keep_alive=0), closing(RemoteMonitor(socket)) as remote:
        assert [remote.reading()["message"] for _ in range(300)] == [""] * 300


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
