"""Whose the processes on a GPU are while they come and go: on paper, and with processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gradlab.gpu import residents as module
from gradlab.gpu.owners import Owner
from gradlab.gpu.residents import Residents
from gradlab.roster import Roster, Server
from gradlab.settings import ROOT
from tests.conftest import Require
from tests.procs import end, process
from tests.waiting import until

ADA, BEN = Server("ada", container="a" * 64), Server("ben", container="b" * 64)
ROSTER = Roster((ADA, BEN))
MACHINE = Owner("machine")


def inside(server: Server) -> str:
    return f"0::/system.slice/docker-{server.container}.scope\n"


def learners(found: dict[int, Owner]) -> dict[int, str]:
    return {pid: owner.server.learner if owner.server else owner.kind for pid, owner in found.items()}


# -- on paper ----------------------------------------------------------------------------------------------------------


def test_processes_are_told_by_container(tmp_path: Path) -> None:
    process(tmp_path, 10, inside(ADA))
    process(tmp_path, 11, inside(ADA), name="odd) S 1 (name")
    process(tmp_path, 20, inside(BEN))
    process(tmp_path, 30, "0::/docker/" + "c" * 64 + "\n")
    process(tmp_path, 99, "0::/user.slice\n")
    found = Residents(tmp_path).owners([10, 11, 20, 30, 99], ROSTER)
    assert learners(found) == {10: "ada", 11: "ada", 20: "ben", 30: "container", 99: "machine"}
    assert found[30].container == "c" * 64


def test_a_number_that_is_given_to_another_process_is_another_process(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    process(tmp_path, 10, inside(ADA), started=100)
    assert learners(residents.owners([10], ROSTER)) == {10: "ada"}
    process(tmp_path, 10, inside(BEN), started=101)
    assert learners(residents.owners([10], ROSTER)) == {10: "ben"}


def test_what_has_ended_is_left_out_though_the_driver_still_lists_it(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    for pid in (10, 11, 12):
        process(tmp_path, pid, inside(ADA))
    assert set(residents.owners([10, 11, 12], ROSTER)) == {10, 11, 12}
    end(tmp_path, 11)
    process(tmp_path, 12, inside(ADA), state="Z")
    process(tmp_path, 13, inside(ADA), state="Z")
    assert set(residents.owners([10, 11, 12, 13], ROSTER)) == {10}
    assert residents.problem == ""


def test_numbers_that_are_no_processes_are_left_out(tmp_path: Path) -> None:
    process(tmp_path, 10, inside(ADA))
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "stat").write_text("11 (cut of")
    (tmp_path / "11" / "status").write_text("Name:\tcut\n")
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "stat").write_text("12 (short) S 1\n")
    (tmp_path / "12" / "status").write_text("Name:\tshort\n")
    nonsense = [0, -1, 2**32 - 1, 2**63]
    assert learners(Residents(tmp_path).owners([*nonsense, 11, 12, 10], ROSTER)) == {10: "ada"}
    with closing(Residents()) as residents:
        assert set(residents.owners([*nonsense, os.getpid()], ROSTER)) == {os.getpid()}


def test_a_process_is_read_once_and_anew_when_it_has_been_gone(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    process(tmp_path, 10, inside(ADA))
    residents.owners([10], ROSTER)
    process(tmp_path, 10, inside(BEN))
    assert learners(residents.owners([10], ROSTER)) == {10: "ada"}
    assert residents.owners([], ROSTER) == {}
    assert learners(residents.owners([10], ROSTER)) == {10: "ben"}


def test_with_another_roster_everything_is_decided_anew(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    process(tmp_path, 10, inside(ADA))
    process(tmp_path, 20, inside(BEN))
    assert learners(residents.owners([10, 20], Roster())) == {10: "container", 20: "container"}
    assert learners(residents.owners([10, 20], Roster((BEN,)))) == {10: "container", 20: "ben"}
    moved = Server("ada", lab="attention", container=ADA.container, device="GPU-1")
    assert residents.owners([10, 20], Roster((moved,)))[10].server == moved


def test_in_a_trial_ancestors_are_followed(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    process(tmp_path, 1, started=0, parent=0)
    process(tmp_path, 100, started=50)
    process(tmp_path, 110, started=60, parent=100)
    process(tmp_path, 120, started=70, parent=110)
    process(tmp_path, 130, started=70)
    roster = Roster((Server("ada", pid=100),))
    assert learners(residents.owners([100, 120, 130], roster)) == {100: "ada", 120: "ada", 130: "machine"}
    # Its parent has ended, so it is init's child now; it was hers, and is.
    end(tmp_path, 110)
    process(tmp_path, 120, started=70, parent=1)
    assert learners(residents.owners([120], Roster((Server("ada", pid=100),)))) == {120: "ada"}
    assert learners(Residents(tmp_path).owners([120], roster)) == {120: "machine"}


def test_ancestors_are_found_when_a_server_of_a_trial_comes_up_later(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    process(tmp_path, 100, started=50)
    process(tmp_path, 110, started=60, parent=100)
    assert residents.owners([110], Roster()) == {110: MACHINE}
    assert learners(residents.owners([110], Roster((Server("ada", pid=100),)))) == {110: "ada"}


def test_a_server_with_the_number_of_an_ancestor_that_has_ended_is_no_ancestor(tmp_path: Path) -> None:
    residents = Residents(tmp_path)
    process(tmp_path, 100, started=50)
    process(tmp_path, 110, started=60, parent=100)
    process(tmp_path, 500, started=50)
    assert residents.owners([110], Roster((Server("ada", pid=500),))) == {110: MACHINE}
    process(tmp_path, 100, started=80)
    assert residents.owners([110], Roster((Server("ada", pid=500), Server("ben", pid=100)))) == {110: MACHINE}
    # Nor one whose number has gone to a younger process between two looks.
    process(tmp_path, 120, started=70, parent=100)
    assert residents.owners([120], Roster((Server("ben", pid=100),))) == {120: MACHINE}


def test_a_circle_of_ancestors_ends(tmp_path: Path) -> None:
    process(tmp_path, 100, parent=110)
    process(tmp_path, 110, parent=100)
    assert Residents(tmp_path).owners([110], Roster((Server("ada", pid=500),))) == {110: MACHINE}


def test_an_orphan_is_told_by_its_user_id(tmp_path: Path) -> None:
    process(tmp_path, 110, uid=100_001)
    process(tmp_path, 120, uid=0)
    roster = Roster((Server("ada", pid=100, uid=100_001), Server("ben", pid=200, uid=0)))
    assert learners(Residents(tmp_path).owners([110, 120], roster)) == {110: "ada", 120: "machine"}


# -- on this machine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(10)]
    yield started
    for one in started:
        one.kill()
        one.wait()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("descriptors", [256, 3, 0])
def test_the_end_of_a_process_is_noticed(sleepers: list[subprocess.Popen[bytes]], descriptors: int) -> None:
    pids = [one.pid for one in sleepers]
    roster = Roster((Server("ada", pid=os.getpid()),))
    with closing(Residents(descriptors=descriptors)) as residents:
        assert set(learners(residents.owners(pids, roster)).values()) == {"ada"}
        assert set(residents.owners(pids, roster)) == set(pids)
        sleepers[0].kill()
        sleepers[5].kill()
        sleepers[5].wait()  # the other one may be a zombie
        left = set(pids) - {pids[0], pids[5]}
        until(lambda: set(residents.owners(pids, roster)) == left, what="the end of two processes")


def test_descriptors_are_bounded_and_given_back(sleepers: list[subprocess.Popen[bytes]]) -> None:
    pids = [one.pid for one in sleepers]
    before = open_files()
    residents = Residents(descriptors=4)
    for _ in range(3):
        assert set(residents.owners(pids, ROSTER)) == set(pids)
        assert open_files() == before + 4
    residents.owners(pids[:2], ROSTER)
    assert open_files() <= before + 2
    for _ in range(3):
        residents.owners(pids, ROSTER)
        assert open_files() == before + 4
    for one in sleepers:
        one.kill()
        one.wait()
    assert residents.owners(pids, ROSTER) == {}
    assert open_files() == before
    residents.owners([os.getpid()], ROSTER)
    assert open_files() == before + 1
    residents.close()
    assert open_files() == before
    residents.owners([os.getpid()], ROSTER)
    del residents
    assert open_files() == before


def test_of_known_processes_nothing_is_read_again(
    sleepers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = [one.pid for one in sleepers]
    roster = Roster((Server("ada", pid=os.getpid()),))
    with closing(Residents()) as residents:
        found = residents.owners(pids, roster)
        monkeypatch.delattr(module, "_content")
        monkeypatch.delattr(module, "owner_of")
        assert residents.owners(pids, roster) == found


REUSE = """
import subprocess, sys, time
from pathlib import Path
from gradlab.gpu.residents import Residents
from gradlab.roster import Roster, Server
from tests.waiting import until

def started(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])

for descriptors in (256, 0):
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    pid = int(shell.stdout.readline())
    roster = Roster((Server("ada", pid=shell.pid),))
    residents = Residents(descriptors=descriptors)
    (owner,) = residents.owners([pid], roster).values()
    assert owner.server.learner == "ada", owner
    born = started(pid)
    subprocess.run(["kill", "-9", str(pid)])
    shell.wait()
    until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * 100 > born + 1, what="the clock's next tick")
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    other = subprocess.Popen(["sleep", "600"])
    assert other.pid == pid
    assert residents.owners([pid], roster)[pid].kind == "machine"
    other.kill()
    other.wait()
print("well")
"""


def test_a_number_that_the_kernel_gives_again_is_another_process(require: Require) -> None:
    """In a PID namespace of its own, where nobody else takes numbers."""
    require("root")
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run([*namespace, sys.executable, "-c", REUSE], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("well\n", "")


HIDDEN = """
import sys
from gradlab.gpu.residents import Residents
from gradlab.roster import Roster
residents = Residents(descriptors=int(sys.argv[1]))
print(residents.owners([1], Roster()), residents.problem)
import os
print(len(residents.owners([1, os.getpid()], Roster())), residents.problem)
"""


@pytest.mark.parametrize(("hidepid", "descriptors"), [("invisible", 256), ("noaccess", 256), ("noaccess", 0)])
def test_processes_that_may_not_be_looked_at_are_left_out_with_a_sentence(
    require: Require, hidepid: str, descriptors: int
) -> None:
    require("root")
    script = (
        f"mount -t proc -o hidepid={hidepid} proc /proc && "
        'exec setpriv --reuid 60000 --regid 60000 --clear-groups -- "$@"'
    )
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", HIDDEN, str(descriptors)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == [
        "{} The processes on GPUs may not be looked at in /proc, so nobody knows whose they are. Mount it without "
        "hidepid, or put the GPU monitor into the group that the mount's option gid names.",
        "1 ",
    ], done.stderr
