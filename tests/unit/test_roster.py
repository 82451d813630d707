"""The file in which the hub tells the GPU monitor who has a server and a GPU."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from gradlab.roster import Roster, RosterFile, Server, Waiter, write

ADA = Server("ada", "", "tensors", "a" * 64, 0, None, "GPU-1", 35 << 30, False, 1_700_000_000.5, 1_700_000_001.25)
BEN = Server("ben", "second", pid=4711, uid=100_001, since=1_700_000_000.0)
FULL = Roster(
    servers=(ADA, BEN),
    line=(Waiter("cyd", "", 1_700_000_100.0, 1, 42.5), Waiter("dan", "x", 1_700_000_200.0, 2)),
    mode="shared:4",
    slots=4,
    free=0,
    problem="",
)


@pytest.mark.parametrize("roster", [Roster(), FULL, Roster(problem="This server has no GPU to give out.")])
def test_what_is_written_is_read(tmp_path: Path, roster: Roster) -> None:
    path = tmp_path / "servers.json"
    write(path, roster)
    assert RosterFile(path)() == roster
    assert Roster.parse(path.read_text()) == roster
    assert os.listdir(tmp_path) == ["servers.json"]


def test_servers_are_found_by_their_containers() -> None:
    assert FULL.by_container == {"a" * 64: ADA}
    assert (ADA.key, BEN.key) == (("ada", ""), ("ben", "second"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        '{"servers": [], "line": 3}',
        '{"servers": [{"learner": "ada"}]}',
        '{"servers": [{"learner": "ada", "gpu": 1}], "line": []}',
        '{"servers": [{"name": ""}], "line": []}',
        '{"servers": [3], "line": []}',
        '{"servers": [{"learner": "ada", "container": ["a"]}], "line": []}',
        '{"servers": [], "line": [], "colour": "blue"}',
    ],
)
def test_what_is_no_roster_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no roster of servers|Expecting"):
        Roster.parse(text)


def test_without_a_file_nobody_has_a_server(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    read = RosterFile(path)
    assert read() == Roster()
    write(path, FULL)
    assert read() == FULL
    path.unlink()
    assert read() == Roster()
    write(path, FULL)
    assert read() == FULL


@pytest.mark.parametrize("damage", [b"", b'{"servers": [{"lear', b"\xff\xfe\x00", b"[]"])
def test_a_damaged_file_leaves_what_was_known(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "servers.json"
    read = RosterFile(path)
    write(path, FULL)
    assert read() == FULL
    path.write_bytes(damage)
    assert read() == FULL
    write(path, Roster((BEN,)))
    assert read() == Roster((BEN,))


def test_a_folder_that_cannot_be_read_leaves_what_was_known(tmp_path: Path) -> None:
    """A path through a file is no folder for anybody, root included."""
    folder = tmp_path / "run"
    folder.mkdir()
    read = RosterFile(folder / "servers.json")
    write(folder / "servers.json", FULL)
    assert read() == FULL
    (folder / "servers.json").unlink()
    folder.rmdir()
    folder.write_text("no folder any more")
    assert read() == FULL


def test_the_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    read = RosterFile(path)
    write(path, FULL)
    first = read()
    assert read() is first
    write(path, FULL)
    assert read() is not first


def test_a_reader_never_sees_a_half(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    large = Roster(tuple(Server(f"learner-{number}", container=f"{number:064x}") for number in range(300)))
    write(path, large)
    ending = threading.Event()

    def keep_writing() -> None:
        while not ending.is_set():
            write(path, FULL)
            write(path, large)

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        seen = [Roster.parse(path.read_text()) for _ in range(300)]
    finally:
        ending.set()
        thread.join()
    assert all(one in (large, FULL) for one in seen)


def test_a_file_that_cannot_be_written_keeps_what_it_had(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"servers\.json"):
        write(tmp_path / "missing" / "servers.json", FULL)
    path = tmp_path / "servers.json"
    write(path, FULL)
    (tmp_path / f".servers.json.{os.getpid()}").mkdir()  # where the draft would be
    with pytest.raises(OSError, match=r"servers\.json"):
        write(path, Roster())
    assert json.loads(path.read_text())["mode"] == "shared:4"
