"""``gradlab gpu`` as an operator runs it: without a GPU, with the simulator, with a driver that is broken, and live."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gradlab import roster
from gradlab.roster import Roster, Server
from gradlab.settings import ROOT
from tests.conftest import Require
from tests.simulated import GIB, Simulated, device, driver, simulated

COMMAND = [sys.executable, "-P", "-m", "gradlab.cli", "gpu"]


@pytest.fixture(autouse=True)
def compiler(require: Require) -> None:
    require("cc")


@pytest.fixture
def learner() -> Iterator[subprocess.Popen[bytes]]:
    """A learner's server, as far as it matters: a process."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def environment(folder: Path, sim: Simulated | None = None) -> dict[str, str]:
    kept = {name: value for name, value in (sim.env if sim else os.environ).items() if not name.startswith("GRADLAB_")}
    return kept | {"GRADLAB_STATE_DIR": str(folder), "COLUMNS": "140"}


def run(env: Mapping[str, str], *options: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, *options], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def told(env: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    code, text = run(env, "--json")
    return code, json.loads(text)


def busy(pid: int, **more: Any) -> dict[str, Any]:
    """A driver with one GPU, on which this process computes."""
    on = {"pid": pid, "memory": 12 * GIB, "type": "C"}
    sample = {"pid": pid, "time": "now", "sm": 50, "memory": 3}
    memory = {"total": 140 * GIB, "reserved": GIB, "used": 20 * GIB}
    return driver(device(0, memory=memory, processes=[on], process_samples=[sample], **more))


def test_a_machine_without_a_gpu_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    env = environment(tmp_path) | {"LD_LIBRARY_PATH": str(folder)}
    code, found = told(env)
    if found["state"] == "ok":
        pytest.skip("this machine has a GPU")
    assert (code, found["available"], found["devices"], found["servers"]) == (1, False, [], [])
    assert found["message"].startswith("No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found.")
    assert run(env)[1].replace("\n", " ").startswith("No NVIDIA driver is installed here")


def test_on_the_simulator_everything_is_said_and_that_it_is_one(
    tmp_path: Path, learner: subprocess.Popen[bytes]
) -> None:
    sim = simulated(tmp_path, busy(learner.pid))
    server = Server("ada", lab="tensors", pid=learner.pid, device="GPU-0", held_since=1.0)
    roster.write(tmp_path / "servers.json", Roster((server,), mode="exclusive", slots=1, free=0))
    code, found = told(environment(tmp_path, sim))
    assert (code, found["state"], found["simulated"], found["cuda_version"]) == (0, "ok", True, "13.4")
    (one,) = found["devices"]
    assert [(part["learner"], part["lab"], part["memory"], part["utilisation"]) for part in one["parts"]] == [
        ("ada", "tensors", 12 * GIB, 50)
    ]
    assert (one["unattributed"], one["fan"], one["problems"]) == (8 * GIB, None, {})
    code, text = run(environment(tmp_path, sim))
    assert code == 0
    assert "Simulated GPUs, driver 615.71.09" in text
    assert "ada (tensors)" in text
    assert "0 of 1 places on GPUs are free, 0 wait." in text


def test_the_doctor_says_that_gpus_are_simulated(tmp_path: Path) -> None:
    sim = simulated(tmp_path, driver(device(0)))
    look = "from gradlab.doctor import gpu; print(gpu().value)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", look], env=environment(tmp_path, sim), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "simulated driver 615.71.09: NVIDIA H200\n", done.stderr


@pytest.mark.parametrize(
    ("state", "word", "says"),
    [
        (driver(error="version mismatch"), "mismatch", "was updated while the old one is still loaded"),
        (driver(error="driver not loaded"), "not loaded", "is installed but not loaded"),
        (driver(), "no gpu", "is loaded but shows no GPU"),
        (driver(device(0), error="no permission"), "no permission", "may not talk to the NVIDIA driver"),
    ],
)
def test_a_driver_that_is_broken_is_named_with_the_remedy(
    tmp_path: Path, state: dict[str, Any], word: str, says: str
) -> None:
    code, found = told(environment(tmp_path, simulated(tmp_path, state)))
    assert (code, found["state"], found["available"], found["devices"]) == (1, word, False, [])
    assert says in found["message"]


def test_one_gpu_that_is_lost_hides_no_other_and_is_no_success(tmp_path: Path) -> None:
    sim = simulated(tmp_path, driver(device(0, error="lost"), device(1)))
    code, found = told(environment(tmp_path, sim))
    lost, well = found["devices"]
    assert (code, lost["state"], lost["utilisation"]) == (1, "lost", None)
    assert lost["error"].startswith("This GPU has fallen off the bus. Restart the machine")
    assert (well["state"], well["error"], well["memory_total"]) == ("ok", None, 140 * GIB)


def test_a_driver_that_hangs_is_given_up_after_a_while(tmp_path: Path) -> None:
    code, found = told(environment(tmp_path, simulated(tmp_path, driver(device(0), hangs=True))))
    assert (code, found["state"], found["available"]) == (1, "silent", False)
    assert found["message"].startswith("The NVIDIA driver has not answered for 5 s. If it stays so, run `nvidia-smi`")


@contextmanager
def watching(env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "--watch", "--json"]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_watching_shows_every_second_until_ctrl_c(tmp_path: Path, learner: subprocess.Popen[bytes]) -> None:
    sim = simulated(tmp_path, busy(learner.pid, temperature=40))
    with watching(environment(tmp_path, sim)) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert json.loads(next(lines))["devices"][0]["temperature"] == 40
        sim.change(busy(learner.pid, temperature=50))
        assert any(json.loads(next(lines))["devices"][0]["temperature"] == 50 for _ in range(10))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_who_reads_no_more_ends_it_quietly(tmp_path: Path) -> None:
    sim = simulated(tmp_path, driver(device(0)))
    with watching(environment(tmp_path, sim)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) in (0, 120)  # 120: Python could not flush what nobody reads
