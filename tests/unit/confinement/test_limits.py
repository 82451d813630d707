"""What a confined program may use at the most, tried from inside; and the filter it starts behind."""

from __future__ import annotations

import os
import subprocess

import psutil
import pytest

from checker.sandbox.confinement import Confinement, Limits, command
from gradlab.settings import ROOT
from labkit import seal
from tests.judges import until
from tests.places import CONFINED, Place

# -- limits --------------------------------------------------------------------------------------------------------


def test_memory_is_limited(place: Place) -> None:
    script = """
held = []
try:
    for _ in range(600): held.append(bytearray(1 << 20))
except MemoryError:
    count = len(held); held.clear(); say(count)
else:
    say("no end")
"""
    reached = place.says(script, limits={"memory_mb": 200})
    assert isinstance(reached, int)
    assert 100 <= reached <= 200
    assert place.says(script) == "no end"  # without the limit the same script goes through


def wait_until_alone(place: Place) -> int:
    """What an earlier test left may take a moment to end, and counts until then. Returns how many must fit at least."""
    if place.uid == os.getuid():
        return 0  # whatever else this user runs counts too
    until(lambda: not any((uids := p.info["uids"]) and uids.real == place.uid for p in psutil.process_iter(["uids"])))
    return 5


def test_processes_are_limited(place: Place) -> None:
    script = """
children = []
try:
    for _ in range(60):
        pid = os.fork()
        if pid == 0:
            import time; time.sleep(60); os._exit(0)
        children.append(pid)
except BlockingIOError:
    pass
for pid in children: os.kill(pid, 9)
say(len(children))
"""
    least = wait_until_alone(place)
    assert least <= place.says(script, limits={"processes": 20}) <= 20


def test_threads_count_as_processes(place: Place) -> None:
    script = """
import threading as t
stop, started = t.Event(), 0
try:
    for _ in range(60):
        t.Thread(target=stop.wait, daemon=True).start(); started += 1
except RuntimeError:
    pass
say(started)
os._exit(0)
"""
    least = wait_until_alone(place)
    assert least <= place.says(script, limits={"processes": 20}) <= 20


def test_a_file_has_a_largest_size(place: Place) -> None:
    script = """
import tempfile
with tempfile.TemporaryFile(dir="/tmp") as file:
    try:
        for _ in range(8): os.write(file.fileno(), bytes(1 << 20))
        say("no end")
    except OSError as error:
        say([error.errno, os.fstat(file.fileno()).st_size >> 20])
"""
    assert place.says(script, limits={"file_mb": 3}) == [27, 3]  # EFBIG


def test_open_files_are_limited(place: Place) -> None:
    script = """
held = []
try:
    for _ in range(100): held.append(open("/dev/null"))
except OSError as error:
    say([error.errno, len(held) < 32])
"""
    assert place.says(script, limits={"open_files": 32}) == [24, True]  # EMFILE


def test_there_are_no_core_dumps(place: Place) -> None:
    assert place.says("import resource; say(resource.getrlimit(resource.RLIMIT_CORE))") == [0, 0]


# -- the filter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_nowhere_but_inside_itself(machine: str) -> None:
    steps = seal.program(machine)
    ends = [index for index, step in enumerate(steps) if step[0] == 0x06]
    assert ends == [len(steps) - 3, len(steps) - 2, len(steps) - 1]
    for index, (_, yes, no, _) in enumerate(steps[: ends[0]]):
        assert index + 1 + max(yes, no) < len(steps)


def test_an_unknown_machine_gets_no_wrong_filter() -> None:
    assert seal.program("riscv64") == []


def test_a_program_that_cannot_be_started_is_named_in_one_line(place: Place) -> None:
    done = subprocess.run(
        place.argv(["/no/such/program"]),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd="/",
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("/no/such/program cannot be started as user ")
    assert line.endswith(" in the sandbox: No such file or directory")


def test_the_command_is_a_pure_function() -> None:
    confinement = Confinement(Limits(memory_mb=100), scratch_mb=1, uid=CONFINED)
    first = command("bubblewrap", confinement, ["true"])
    assert first == command("bubblewrap", confinement, ["true"])
    assert first[-1] == "true"
