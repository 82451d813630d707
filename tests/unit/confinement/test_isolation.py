"""What a confined program can and cannot do, tried from inside, for each method that works on this machine.

Each test runs as the tests' own user and, where that is root, once more as an ordinary user: the two take different
ways through bubblewrap and unshare. ``plain`` promises limits only, so only those are tried with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from checker.sandbox.confinement import Method, describe, detect
from gradlab.settings import ROOT
from tests.places import CONFINED, Place
from tests.waiting import until


def test_at_least_one_method_works_and_the_best_one_is_chosen() -> None:
    method = detect()
    assert method in ("bubblewrap", "unshare", "plain")
    for better in ("bubblewrap", "unshare", "plain"):
        if better == method:
            break
        with pytest.raises(RuntimeError, match=f"The sandbox method '{better}' does not work on this machine"):
            detect(better)


def test_an_unknown_method_says_what_to_do() -> None:
    with pytest.raises(RuntimeError) as error:
        detect("chroot")
    assert "The sandbox method 'chroot' does not work on this machine: no such method." in str(error.value)
    assert "Install bubblewrap, allow unprivileged user namespaces, or set GRADLAB_SANDBOX=auto." in str(error.value)


@pytest.mark.parametrize("method", ["bubblewrap", "unshare", "plain"])
def test_every_method_is_described_in_a_sentence(method: Method) -> None:
    text = describe(method)
    assert len(text) > 30
    assert ("Install bubblewrap for more" in text) == (method == "plain")


# -- network -------------------------------------------------------------------------------------------------------

CONNECT = """
found = {}
for name, family, address in json.loads(%r):
    s = socket.socket(getattr(socket, family))
    s.settimeout(3)
    try:
        s.connect(tuple(address) if isinstance(address, list) else address.replace("@", chr(0)))
        found[name] = "connected"
    except OSError as error:
        found[name] = type(error).__name__
say(found)
"""


@contextlib.contextmanager
def listeners() -> Iterator[list[tuple[str, str, Any]]]:
    """A TCP port and an abstract Unix socket of this machine that anybody may connect to."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        name = f"@gradlab-test-{os.getpid()}-{time.monotonic_ns()}"
        abstract.bind(name.replace("@", "\0"))
        tcp.listen()
        abstract.listen()
        yield [("tcp", "AF_INET", list(tcp.getsockname())), ("abstract", "AF_UNIX", name)]


def test_there_is_no_network_and_no_socket_of_the_machine(isolating: Place) -> None:
    with listeners() as targets:
        found = isolating.says(CONNECT % json.dumps(targets))
    assert "connected" not in found.values(), found
    assert isolating.says("say([name for _, name in socket.if_nameindex()])") == ["lo"]


def test_network_is_there_when_it_is_granted(isolating: Place) -> None:
    with listeners() as targets:
        found = isolating.says(CONNECT % json.dumps(targets), network=True)
    assert found == {"tcp": "connected", "abstract": "connected"}


# -- files ---------------------------------------------------------------------------------------------------------

WRITE = """
import glob
written = []
folders = ["/", "/usr", "/usr/bin", "/etc", "/dev", "/dev/shm", "/proc", "/run", "/var", "/var/tmp", "/home", "/root",
           "/opt", "/mnt", "/srv", "/sys", sys.prefix, os.path.dirname(sys.executable), os.path.dirname(os.__file__)]
folders += [os.path.dirname(path) for path in glob.glob("/*/*/")] + glob.glob("/*/") + glob.glob("/.*/")
for folder in sorted(set(os.path.realpath(f) for f in folders)):
    try:
        with open(os.path.join(folder, "gradlab-was-here"), "w"): pass
        written.append(folder)
    except OSError: pass
files = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/user/max_user_namespaces", "/etc/passwd")
for path in files:
    try:
        with open(path, "r+"): written.append(path)
    except OSError: pass
say(written)
"""


def test_only_the_scratch_folder_is_writable(isolating: Place) -> None:
    assert isolating.says(WRITE) == ["/tmp"]


def test_the_scratch_folder_has_a_size(isolating: Place) -> None:
    script = """
written = 0
try:
    with open("/tmp/fill", "wb", buffering=0) as file:
        for _ in range(64):
            written += file.write(bytes(1 << 20))
except OSError as error:
    say([error.errno, written >> 20])
else:
    say(["no end", written >> 20])
"""
    errno_, written = isolating.says(script)
    assert errno_ == 28  # ENOSPC
    assert 4 <= written <= 8


def test_the_scratch_folder_is_empty_at_every_start(isolating: Place) -> None:
    script = "say(os.listdir('/tmp')); open('/tmp/left-behind', 'w').close()"
    isolating.run(script)
    below_tmp = Path(isolating.python).is_relative_to("/tmp")
    python = [Path(isolating.python).parts[2]] if below_tmp else []  # shown read-only where it is, even there
    assert isolating.says(script) == python


def test_nothing_of_the_project_or_of_people_is_visible(isolating: Place) -> None:
    paths = [ROOT / name for name in ("checker", "gradlab", "labkit", "labs", "tests", "pyproject.toml", ".git", "var")]
    paths += [Path("/etc/shadow"), Path("/etc/ssh"), Path("/var"), Path("/run"), Path("/sys/kernel")]
    paths += [Path(__file__), Path.home() / ".bashrc", Path("/proc/kcore"), Path("/.old/usr")]
    seen = isolating.says(f"say([p for p in {[str(path) for path in paths]!r} if os.access(p, os.R_OK)])")
    assert seen == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="gradlab-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_is_bound_is_there_and_read_only_or_writable_as_told(isolating: Place, open_folder: Path) -> None:
    given, kept = open_folder / "given", open_folder / "kept"
    given.mkdir()
    kept.mkdir()
    given.chmod(0o755)
    kept.chmod(0o777)
    (given / "a.txt").write_text("given")
    (given / "a.txt").chmod(0o644)
    script = """
with open("/opt/in/a.txt") as file: text = file.read()
try:
    open("/opt/in/b.txt", "w").close()
    text += ", changed"
except OSError as error:
    text += f", {error.errno}"
with open("/home/kept/c.txt", "w") as file: file.write("kept")
say([text, os.getcwd()])
"""
    said = isolating.says(
        script, read_only=[(str(given), "/opt/in")], writable=[(str(kept), "/home/kept")], chdir="/home/kept"
    )
    assert said[0] in ("given, 30", "given, 13")  # EROFS, or EACCES where the owner is another
    assert said[1] == "/home/kept"
    assert (kept / "c.txt").read_text() == "kept"
    assert not (given / "b.txt").exists()


def test_only_harmless_devices_are_there(isolating: Place) -> None:
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "console", "core", "fd"}
    harmless |= {"stdin", "stdout", "stderr"}
    assert set(isolating.says("say(os.listdir('/dev'))")) <= harmless


# -- privileges and processes --------------------------------------------------------------------------------------


def test_the_program_has_a_user_of_its_own_and_no_capability(place: Place) -> None:
    script = """
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
caps = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
say([os.getuid(), os.getgroups(), caps, int(status["NoNewPrivs"]), int(status["Seccomp"])])
"""
    uid, groups, capabilities, no_new_privileges, seccomp = place.says(script)
    if os.getuid() == 0 and not place.ordinary:
        assert (uid, groups) == (CONFINED, [])
    elif place.method == "unshare":
        assert uid == 0  # of its own namespace, without a capability: nobody outside
    else:
        assert uid == place.uid
    assert capabilities == [0, 0, 0, 0]
    assert (no_new_privileges, seccomp) == (1, 2)


NAMESPACES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNS = 0x10000000, 0x20000
found = {}
def tried(name, result): found[name] = "made" if result == 0 else ctypes.get_errno()
tried("unshare", libc.unshare(NEWUSER))
tried("unshare both", libc.unshare(NEWUSER | NEWNS))
machine = os.uname().machine
child = libc.syscall(ctypes.c_long({"x86_64": 56, "aarch64": 220}[machine]), ctypes.c_long(NEWUSER | 17), 0, 0, 0, 0)
if child == 0: os._exit(0)
found["clone"] = "made" if child > 0 else ctypes.get_errno()
found["clone3"] = "made" if libc.syscall(ctypes.c_long(435), 0, 0) > 0 else ctypes.get_errno()
with open("/proc/self/ns/mnt") as own: tried("setns", libc.setns(own.fileno(), 0))
say(found)
"""


def test_no_user_namespace_can_be_made_in_which_it_would_be_root_again(place: Place) -> None:
    assert place.says(NAMESPACES) == {"unshare": 1, "unshare both": 1, "clone": 1, "clone3": 38, "setns": 1}


def test_threads_and_processes_still_start_below_the_filter(place: Place) -> None:
    script = """
import subprocess, threading as t
done = []
thread = t.Thread(target=done.append, args=(1,)); thread.start(); thread.join()
done.append(subprocess.run(["/bin/sh", "-c", "yes | head -n 1"], capture_output=True, text=True).stdout)
pid = os.fork()
if pid == 0: os._exit(7)
done.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
say(done)
"""
    assert place.says(script) == [1, "y\n", 7]


def test_a_program_starts_with_the_signals_of_any_other(place: Place) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; what it starts for us must not inherit that (nor drop what we inherit)."""
    done = subprocess.run(
        place.argv(["/bin/sh", "-c", "grep SigIgn /proc/self/status"]),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd="/",
        timeout=60,
    )
    pythons_own = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))
    inherited = int(Path("/proc/self/status").read_text().split("SigIgn:")[1].split()[0], 16) & ~pythons_own
    assert done.stdout.split() == ["SigIgn:", f"{inherited:016x}"], done.stderr


def test_other_processes_are_neither_seen_nor_reached(isolating: Place) -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        script = f"""
def reach(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return "no such process"
    except PermissionError: return "forbidden"
    return "reached"
paths = [f"/proc/{{name}}/cmdline" for name in os.listdir("/proc") if name.isdigit()]
commands = [open(path).read() for path in paths if os.access(path, os.R_OK)]
say([len(commands) < 6, [c for c in commands if c.startswith("sleep")], reach({os.getpid()}), reach({other.pid})])
"""
        found = isolating.says(script)
        other.kill()
    assert found == [True, [], "no such process", "no such process"]


def test_all_its_processes_end_with_it_even_those_that_left_the_session(isolating: Place) -> None:
    mark = f"100{os.getpid()}{time.monotonic_ns() % 10**6}"
    script = f"""
import subprocess, time
subprocess.Popen(["/bin/sleep", "{mark}"], start_new_session=True)
say("started")
time.sleep(100)
"""
    argv = isolating.argv([isolating.python, "-I", "-c", f"import json\ndef say(x): print(x, flush=True)\n{script}"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, cwd="/", start_new_session=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"started\n"
        assert sleepers(mark) == 1
        os.killpg(outer.pid, signal.SIGKILL)
    until(lambda: sleepers(mark) == 0)


def sleepers(mark: str) -> int:
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += process.cmdline() == ["/bin/sleep", mark]
    return found
