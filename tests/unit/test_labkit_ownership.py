"""Which processes on a GPU are a learner's own, in a container and where several servers share a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.ownership import own_processes

MACHINES = "pid:[4026531836]"
CONTAINERS = "pid:[4026532799]"


def proc(folder: Path, *, namespace: str = MACHINES, **parents: int) -> Path:
    """A /proc with a process for each ``p<pid>=parent``."""
    for name, parent in parents.items():
        home = folder / name.removeprefix("p")
        home.mkdir()
        # A program may call itself anything.
        (home / "stat").write_text(f"{home.name} (a) 1 (b) R {parent} 1 1")
    (folder / "self" / "ns").mkdir(parents=True)
    (folder / "self" / "ns" / "pid").symlink_to(namespace)
    return folder


def test_of_servers_that_share_a_machine_only_the_descendants_of_ones_own_count(tmp_path: Path) -> None:
    tree = proc(tmp_path, p1=0, p10=1, p20=10, p21=20, p22=21, p23=22, p30=10, p31=30, p32=31)
    found = own_processes([22, 23, 32, 31, 99], proc=tree, environ={"JPY_PARENT_PID": "20"}, me=22)
    assert found == {22, 23}


def test_in_a_container_of_its_own_whatever_is_there_is_ones_own(tmp_path: Path) -> None:
    """Also what was started and whose parent has ended."""
    for first, folder in ((1, tmp_path / "server"), (7, tmp_path / "init")):
        folder.mkdir()
        tree = proc(folder, namespace=CONTAINERS, p1=0, p7=1, p8=7, p9=1)
        found = own_processes([8, 9, 4711], proc=tree, environ={"JPY_PARENT_PID": str(first)}, me=8)
        assert found == {8, 9}


def test_several_servers_in_one_container_are_told_apart(tmp_path: Path) -> None:
    tree = proc(tmp_path, namespace=CONTAINERS, p1=0, p5=1, p10=5, p11=10, p20=5, p21=20)
    assert own_processes([11, 21], proc=tree, environ={"JPY_PARENT_PID": "10"}, me=11) == {11}


def test_on_the_machine_itself_the_first_process_is_nobodys_server(tmp_path: Path) -> None:
    tree = proc(tmp_path, p1=0, p7=1, p8=7, p9=1)
    assert own_processes([8, 9], proc=tree, environ={"JPY_PARENT_PID": "7"}, me=8) == {8}


@pytest.mark.parametrize("told", ["", "0", "none", "99", "4" * 10, "²"])
def test_outside_of_a_server_all_of_this_users_processes_are_meant(told: str, tmp_path: Path) -> None:
    tree = proc(tmp_path, p1=0, p8=1, p9=1)
    assert own_processes([8, 9, 99999], proc=tree, environ={"JPY_PARENT_PID": told}, me=8) == {8, 9}


def test_a_circle_of_parents_ends(tmp_path: Path) -> None:
    """Numbers are used again: what is read one after the other need not fit."""
    tree = proc(tmp_path, p8=9, p9=8, p20=1)
    assert own_processes([8], proc=tree, environ={"JPY_PARENT_PID": "20"}, me=20) == set()


def test_without_a_proc_nobody_can_tell(tmp_path: Path) -> None:
    assert own_processes([1, 2], proc=tmp_path / "none", environ={}, me=1) is None


def test_real_processes() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = [1, os.getppid(), os.getpid(), child.pid]
        found = own_processes(pids, environ={"JPY_PARENT_PID": str(os.getpid())})
        assert found is not None
        assert {os.getpid(), child.pid} <= found
        assert os.getppid() not in found or os.readlink("/proc/self/ns/pid") != MACHINES
    finally:
        child.communicate()
    assert child.pid not in (own_processes([child.pid]) or set())
