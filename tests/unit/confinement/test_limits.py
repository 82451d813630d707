"""What a confined program may use at the most, tried from inside; and the filter it starts behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from checker.sandbox.confinement import Confinement, Limits, command
from gradlab.settings import ROOT
from labkit import seal
from tests.places import CONFINED, Place
from tests.waiting import until

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


ALLOWED, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF_0000, 0x0005_0001, 0x0005_0026, 0x0005_0061
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# The audit architecture, and the numbers of calls that the filter looks at: include/uapi/asm-generic/unistd.h and
# arch/x86/entry/syscalls/syscall_64.tbl of Linux.
NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "architecture": 0xC000_003E, "read": 0, "clone": 56, "unshare": 272, "setns": 308, "clone3": 435,
        "socket": 41, "add_key": 248, "request_key": 249, "keyctl": 250, "io_uring_setup": 425, "userfaultfd": 323,
        "perf_event_open": 298, "bpf": 321, "fanotify_init": 300, "syslog": 103, "shmget": 29, "memfd_create": 319,
    },
    "aarch64": {
        "architecture": 0xC000_00B7, "read": 63, "clone": 220, "unshare": 97, "setns": 268, "clone3": 435,
        "socket": 198, "add_key": 217, "request_key": 218, "keyctl": 219, "io_uring_setup": 425, "userfaultfd": 282,
        "perf_event_open": 241, "bpf": 280, "fanotify_init": 262, "syslog": 116, "shmget": 194, "memfd_create": 279,
    },
}  # fmt: skip


def decided(machine: str, call: int, argument: int = 0, *, architecture: int | None = None) -> int:
    """What the kernel would do with a call, by the filter."""
    data = {0: call, 4: architecture or NUMBERS[machine]["architecture"], 16: argument}
    steps, at, loaded = seal.program(machine), 0, 0
    while True:
        code, yes, no, operand = steps[at]
        if code == RETURN:
            return operand
        if code == LOAD:
            loaded, jump = data[operand], 0
        else:
            holds = {EQUAL: loaded == operand, AT_LEAST: loaded >= operand, ANY_BIT: bool(loaded & operand)}[code]
            jump = yes if holds else no
        at += 1 + jump


@pytest.mark.parametrize("machine", NUMBERS)
def test_the_filter_decides_as_it_says(machine: str) -> None:
    numbers = NUMBERS[machine]
    refused = ["add_key", "request_key", "keyctl", "io_uring_setup", "userfaultfd", "perf_event_open", "bpf"]
    for name in [*refused, "fanotify_init", "syslog", "shmget", "memfd_create", "clone3"]:
        assert decided(machine, numbers[name]) == ENOSYS, name
    assert decided(machine, numbers["setns"]) == EPERM
    for name in ("clone", "unshare"):
        assert decided(machine, numbers[name], 0x1000_0011) == EPERM  # CLONE_NEWUSER and a signal
        assert decided(machine, numbers[name], 17) == ALLOWED
    families = {family for family in range(64) if decided(machine, numbers["socket"], family) == ALLOWED}
    assert families == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    assert decided(machine, numbers["socket"], 40) == EAFNOSUPPORT  # of virtual machines
    assert decided(machine, numbers["read"]) == ALLOWED
    assert decided(machine, numbers["read"], architecture=0x4000_0003) == ENOSYS  # of 32 bits
    assert decided(machine, numbers["read"] | 0x4000_0000) == ENOSYS  # x86's third set of numbers


def test_an_unknown_machine_gets_no_wrong_filter() -> None:
    assert seal.program("riscv64") == []


def test_a_filter_that_the_kernel_refuses_is_named() -> None:
    """In a process of its own, which is given up half-way: nothing takes a part of it off again."""
    script = "import sys; from labkit import seal\n"
    script += "seal.program = lambda machine: [(0xFFFF, 0, 0, 0)]\n"
    script += "try: seal.seal('x86_64')\nexcept OSError as error: sys.exit(error.strerror)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "the sandbox's system call filter cannot be installed: Invalid argument\n"


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


def test_without_a_filter_for_the_machine_there_are_still_no_new_privileges() -> None:
    script = "from labkit import seal; seal.seal('riscv64'); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "NoNewPrivs:\t1\n" in done.stdout
    assert "Seccomp:\t0\n" in done.stdout
