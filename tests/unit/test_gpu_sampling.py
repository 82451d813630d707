"""The process that asks the driver, and who keeps it: a real child, which is stopped, killed or not there at all."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from gradlab.errors import LimitRefused
from gradlab.gpu.sampler import serve
from gradlab.gpu.sampling import Sampling
from tests.sampled import EVERY, children, sampled
from tests.simulated import GIB, Simulated, device, driver, instance, simulated
from tests.waiting import ended, until

SAMPLER = [sys.executable, "-P", "-m", "gradlab.gpu.sampler"]
REMEDY = "If it stays so, run `nvidia-smi`: when that hangs too, only a restart of the machine helps."
TWO = driver(
    device(memory={"total": 140 * GIB, "reserved": GIB, "used": 3 * GIB}, events=[{"xid": 31}]),
    device(1, mig_mode=[1, 1], instances=[instance()]),
)


@pytest.fixture
def sim(tmp_path: Path) -> Simulated:
    return simulated(tmp_path, TWO)


# -- the child -----------------------------------------------------------------------------------------------------


def test_it_answers_a_line_with_a_line_until_its_input_ends(tmp_path: Path) -> None:
    asked = [{"do": "frame"}, {"do": "limit", "gpu": "GPU-7", "group": str(tmp_path), "bytes": GIB}, {"do": "frame"}]
    text = "".join(json.dumps(one) + "\n" for one in asked)
    env = simulated(tmp_path, TWO).env
    done = subprocess.run(SAMPLER, input=text, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, refused, second = (json.loads(line) for line in done.stdout.splitlines())
    assert [one["uuid"] for one in first["frame"]["devices"]] == ["GPU-0", "GPU-1"]
    assert second["frame"]["simulated"] is True
    assert refused == {"refused": "This machine has no GPU GPU-7. `nvidia-smi -L` lists those it has."}
    assert ": " not in done.stdout.splitlines()[1].replace(refused["refused"], "")  # compact


def test_it_is_small_and_starts_fast() -> None:
    code = "import gradlab.gpu.sampler, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    large = {"asyncio", "fastapi", "httpx", "numpy", "pydantic", "torch", "typer", "uvicorn", "importlib.metadata"}
    assert not large & set(done.stdout.split())


def test_what_a_library_prints_is_not_an_answer() -> None:
    code = (
        "import os, pynvml, gradlab.gpu.sampler as sampler\n"
        "def init():\n"
        "    os.write(1, b'NVIDIA is loud'), print('so is Python')\n"
        "    raise pynvml.NVMLError(9)\n"
        "pynvml.nvmlInit = init\n"
        "sampler.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input='{"do":"frame"}\n', capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout)["frame"]["state"] == "not loaded"
    assert "NVIDIA is loud" in done.stderr


class Faulty:
    """An NVML with a bug of ours."""

    def frame(self) -> dict[str, Any]:
        raise ZeroDivisionError("a bug of ours")

    def limit(self, *_: Any) -> None:
        raise ZeroDivisionError("another")


def test_a_fault_of_ours_is_an_answer_too(capsys: pytest.CaptureFixture[str]) -> None:
    answers = io.BytesIO()
    requests = [{"do": "frame"}, {"do": "limit", "gpu": "GPU-0", "group": "/", "bytes": 1}]
    serve(Faulty(), io.BytesIO(b"".join(json.dumps(one).encode() + b"\n" for one in requests)), answers)  # type: ignore[arg-type]
    frame, refused = (json.loads(line) for line in answers.getvalue().splitlines())
    assert (frame["frame"]["state"], frame["frame"]["available"]) == ("failed", False)
    assert frame["frame"]["message"] == ("Reading the GPUs failed: ZeroDivisionError: a bug of ours. The log has more.")
    assert refused == {"refused": "The limit could not be set: ZeroDivisionError: another. The log has more."}
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("stopped", [False, True])
def test_it_dies_with_its_parent_though_a_call_hangs(sim: Simulated, stopped: bool) -> None:
    code = "from gradlab.gpu.sampling import Sampling; s = Sampling(); s.start(); s.first(30); print(1); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env=sim.env, stdin=pipe, stdout=pipe) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"1\n"
            (child,) = children(psutil.Process(parent.pid))
            if stopped:
                child.suspend()
        finally:
            parent.kill()
    until(lambda: ended([child]), 10, what="the child's end")


# -- frames --------------------------------------------------------------------------------------------------------


def test_frames_come_once_in_a_while_from_one_process(sim: Simulated) -> None:
    began = time.time()
    with sampled(env=sim.env, deadline=30.0) as gpus:
        first = gpus.sampling.first(30)
        child = gpus.child
        until(lambda: len(gpus.frames) >= 8)
        assert gpus.child == child
        times = [frame["at"] for frame in gpus.frames]
    assert (first["state"], first["available"], first["devices"][0]["memory_used"]) == ("ok", True, 3 * GIB)
    assert times == sorted(set(times))
    assert times[-1] - began >= EVERY * (len(times) - 1)
    assert ended([child])


def test_nothing_was_heard_yet() -> None:
    sampling = Sampling()
    frame = sampling.latest()
    sampling.close()
    assert (frame["state"], frame["available"], frame["devices"]) == ("silent", False, [])
    assert frame["message"] == f"Nothing has been heard of the NVIDIA driver yet. {REMEDY}"


def test_without_a_driver_it_is_asked_rarely_by_one_process() -> None:
    began = time.time()
    with sampled(deadline=30.0) as gpus:
        gpus.state("no driver")
        child = gpus.child
        until(lambda: len(gpus.frames) >= 4)
        assert gpus.child == child
        assert gpus.frames[3]["at"] - began >= 3 * 10 * EVERY
        assert gpus.sampling.latest()["state"] == "no driver"  # which is no silence, though it is old


def test_who_hears_the_frames_may_fail(sim: Simulated, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []

    def hear(frame: dict[str, Any]) -> None:
        heard.append(frame)
        raise ZeroDivisionError("a bug of theirs")

    with sampled(env=sim.env, on_frame=hear):
        until(lambda: len(heard) >= 3)
    assert "A frame of the GPUs could not be taken in." in caplog.text
    assert "a bug of theirs" in caplog.text


# -- a driver that hangs -------------------------------------------------------------------------------------------


def test_a_process_that_hangs_is_silence_without_figures_and_is_replaced(sim: Simulated) -> None:
    with sampled(env=sim.env, deadline=0.3) as gpus:
        good = gpus.state("ok")
        stopped = gpus.child
        stopped.suspend()
        silent = gpus.state("silent")
        latest = gpus.sampling.latest()
        again = gpus.state("ok")
        assert gpus.child != stopped
        assert ended([stopped])
        assert len(gpus.frames) > 3
    when = time.strftime("%H:%M:", time.localtime(good["at"]))
    assert silent["message"].startswith(f"The NVIDIA driver has not answered since {when}")
    assert silent["message"].endswith(REMEDY)
    assert (silent["available"], silent["driver_version"], silent["simulated"]) == (False, "615.71.09", True)
    assert latest["devices"] == silent["devices"]
    whole, divided = silent["devices"]
    identity = {"index", "uuid", "name", "pci", "driver_model", "memory_total", "max_clocks", "events", "memory_limits"}
    assert {name: whole[name] for name in identity} == {name: good["devices"][0][name] for name in identity}
    said = {name: value for name, value in whole.items() if name not in identity and value not in (None, {}, [])}
    assert said == {
        "state": "silent",
        "measured": False,
        "clocks": dict.fromkeys(("graphics", "sm", "memory", "video")),
        "ecc": dict.fromkeys(("enabled", "corrected", "uncorrected")),
    }
    assert (whole["error"], whole["processes"]) == (None, None)
    (slice_,) = divided["mig"]
    assert (slice_["uuid"], slice_["memory_total"], slice_["memory_used"]) == ("MIG-0", 16 * GIB, None)
    assert again["devices"][0]["memory_used"] == 3 * GIB
    # What the hung process had heard is still known.
    assert [event["xid"] for event in again["devices"][0]["events"]][:1] == [31]


def test_a_silence_is_told_again_and_again_and_at_once_to_who_asks(sim: Simulated) -> None:
    """Though a new process, which also hangs, has more time for its first answer."""
    with sampled(env=sim.env, deadline=0.3, starting=60.0) as gpus:
        gpus.state("ok")
        sim.change(TWO | {"hangs": True})
        gpus.state("silent")
        times = [gpus.state("silent")["at"] for _ in range(10)]
        began = time.monotonic()
        assert gpus.sampling.latest()["state"] == "silent"
        assert time.monotonic() - began < 1
        assert times == sorted(set(times))
        sim.change(TWO)
        gpus.state("ok")


def test_a_driver_that_hangs_from_the_start_is_silent(tmp_path: Path) -> None:
    env = simulated(tmp_path, TWO | {"hangs": ["nvmlInitWithFlags"]}).env
    with sampled(env=env, deadline=0.2, starting=0.4) as gpus:
        frame = gpus.sampling.first(0.3)
        assert (frame["state"], frame["devices"]) == ("silent", [])
        assert frame["message"] == f"The NVIDIA driver has not answered for 0.2 s. {REMEDY}"


def test_the_latest_frame_gets_too_old_by_itself(sim: Simulated) -> None:
    """Whatever keeps the thread that asks: here it is who hears the frames."""
    gate = threading.Event()
    heard = threading.Event()

    def hear(frame: dict[str, Any]) -> None:
        if frame["state"] == "ok":
            heard.set()
            gate.wait(60)

    with sampled(env=sim.env, deadline=0.2, on_frame=hear) as gpus:
        assert heard.wait(30)
        until(lambda: gpus.sampling.latest()["state"] == "silent")
        gate.set()
        until(lambda: gpus.sampling.latest()["state"] == "ok")


class Unkillable:
    """A process that hangs in the kernel: it is killed, and there all the same until the test ends that."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self.released = threading.Event()
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1

    def poll(self) -> int | None:
        if not self.released.is_set():
            return None
        self.process.kill()
        return self.process.wait()

    def wait(self, timeout: float) -> int | None:
        if not self.released.is_set():
            raise subprocess.TimeoutExpired("sampler", timeout)
        return self.poll()


def test_beside_a_process_that_cannot_be_killed_none_is_started(sim: Simulated) -> None:
    made: list[Any] = []

    def popen(*arguments: Any, **options: Any) -> Any:
        process = subprocess.Popen(*arguments, **options)
        made.append(process if made else Unkillable(process))
        return made[-1]

    with sampled(env=sim.env, deadline=0.2, popen=popen) as gpus:
        gpus.state("ok")
        psutil.Process(made[0].process.pid).suspend()
        stuck = (
            "The process that asked it hangs in the kernel and cannot be ended; until that ends no other is started."
        )
        frame = gpus.sees(lambda frame: frame["message"].endswith(stuck))
        assert (frame["state"], frame["devices"][0]["uuid"]) == ("silent", "GPU-0")
        for _ in range(10):
            gpus.state("silent")
        assert (len(made), made[0].kills) == (1, 1)
        with pytest.raises(LimitRefused, match=r"has not answered for 0\.2 s, so no limit is known to be set"):
            gpus.sampling.limit("GPU-0", Path("/"), GIB)
        made[0].released.set()
        gpus.state("ok")
        assert len(made) == 2


@pytest.mark.parametrize("hangs", [False, True])
def test_it_ends_within_two_seconds(sim: Simulated, hangs: bool) -> None:
    with sampled(env=sim.env, deadline=60.0) as gpus:
        child = gpus.child
        gpus.state("ok")
        if hangs:
            child.suspend()
            until(lambda: time.time() - gpus.frames[-1]["at"] > 4 * EVERY, what="a frame that is due")
        began = time.monotonic()
        gpus.sampling.close()
        assert time.monotonic() - began < 2
        assert ended([child])


def test_one_that_was_never_started_ends_too() -> None:
    Sampling().close()


# -- a process that ends -------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_said_to_be_and_started_again(sim: Simulated) -> None:
    with sampled(env=sim.env) as gpus:
        gpus.state("ok")
        gpus.child.send_signal(signal.SIGSEGV)
        frame = gpus.state("failed")
        assert frame["message"] == (
            "The process that reads the GPUs was ended by SIGSEGV, and is started again. If this goes on, see the log."
        )
        assert (frame["available"], frame["devices"][0]["state"]) == (False, "silent")
        gpus.state("ok")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "The process that reads the GPUs ended with code 3, and is started again."),
        ("input(); print('hello')", "The process that reads the GPUs answered what it should not, and is started"),
        ("import os; input(); os.close(1); input()", "The process that reads the GPUs has closed its output, and is"),
    ],
)
def test_a_process_that_makes_no_sense_is_said_to(code: str, says: str) -> None:
    with sampled(command=[sys.executable, "-c", code]) as gpus:
        assert says in gpus.state("failed")["message"]


def test_a_process_that_cannot_be_started_is_said_to_be() -> None:
    with sampled(command=["/no/such/python"]) as gpus:
        message = gpus.state("failed")["message"]
        assert message.startswith("The process that reads the GPUs could not be started: ")
        assert "/no/such/python" in message


def test_it_is_started_less_and_less_often() -> None:
    starts: list[float] = []

    def popen(*arguments: Any, **options: Any) -> Any:
        starts.append(time.monotonic())
        return subprocess.Popen(*arguments, **options)

    with sampled(command=["false"], popen=popen) as gpus:
        until(lambda: len(starts) >= 5)
        assert gpus.sampling.latest()["state"] == "failed"
        # Between two starts the failure is told as often as frames are.
        assert len(gpus.frames) > len(starts)
    pauses = [later - before for before, later in pairwise(starts)]
    assert all(pause >= EVERY * 2**turn for turn, pause in enumerate(pauses))


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    tree = tmp_path / "cgroup"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("cpu memory\n")
    return tree


def test_a_limit_goes_to_the_same_process_between_two_frames(
    tmp_path: Path, cgroups: Path, require: Callable[[str], None]
) -> None:
    from gradlab.gpu.simulator.scenario import limits

    require("root")
    sim = simulated(tmp_path, driver(device(memory_limits={})))
    group = cgroups / "docker" / ("a" * 64)
    with sampled(env=sim.env, cgroups=cgroups, every=60.0) as gpus:
        gpus.state("ok")
        child = gpus.child
        gpus.sampling.limit("GPU-0", group, 4 * GIB)
        gpus.sampling.limit("GPU-0", group, None)
        assert gpus.child == child
    everything = (1 << 64) - 1
    assert [(one.uuid, one.group, one.hard) for one in limits(sim.path)] == [
        ("GPU-0", str(group), 4 * GIB),
        ("GPU-0", str(group), everything),
    ]


def test_a_limit_that_is_refused_says_why(sim: Simulated, tmp_path: Path) -> None:
    with sampled(env=sim.env, cgroups=tmp_path) as gpus:
        gpus.state("ok")
        with pytest.raises(LimitRefused, match=f"Memory limits need cgroup v2, and {tmp_path} is no such tree"):
            gpus.sampling.limit("GPU-0", tmp_path, GIB)
    with sampled() as gpus, pytest.raises(LimitRefused, match="No NVIDIA driver is installed here"):
        gpus.sampling.limit("GPU-0", tmp_path, GIB)


def test_no_limit_waits_for_a_driver_that_hangs(sim: Simulated, tmp_path: Path) -> None:
    said = "The NVIDIA driver has not answered for 0.3 s, so no limit is known to be set."
    with sampled(env=sim.env, deadline=0.3) as gpus:
        gpus.state("ok")
        gpus.child.suspend()
        began = time.monotonic()
        with pytest.raises(LimitRefused) as refused:
            gpus.sampling.limit("GPU-0", tmp_path, GIB)
        assert time.monotonic() - began < 5
        assert str(refused.value) == said
        gpus.state("ok")  # the driver of this moment has never heard of that limit
        assert not (sim.path.parent / "scenario.limits").exists()


def test_between_two_processes_there_is_no_limit(tmp_path: Path) -> None:
    with sampled(command=["false"]) as gpus:
        gpus.state("failed")
        with pytest.raises(LimitRefused, match="The process that reads the GPUs ended with code 1"):
            until(lambda: gpus.sampling.limit("GPU-0", tmp_path, GIB))
