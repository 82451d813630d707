"""GPU by learner as the command line shows it: a table for people, and every state told in words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from gradlab.gpu.account import Account
from gradlab.gpu.join import join
from gradlab.gpu.owners import Owner
from gradlab.gpu.view import view_of
from gradlab.roster import Roster, Server, Waiter
from gradlab.terminal import gpu_view
from tests.gpuframes import GIB, device, frame, process, silent

ADA = Server("ada", lab="tensors", container="a" * 64, device="GPU-0", held_since=900.0)
BOB = Server("bob", name="second", container="b" * 64, device="GPU-1", held_since=900.0)
OWNERS = {
    10: Owner("learner", ADA, ADA.container),
    20: Owner("learner", BOB, BOB.container),
    30: Owner("machine", None, ""),
}
ROSTER = Roster((ADA, BOB), (Waiter("eve", "", 950.0, 1),), mode="exclusive", slots=2, free=0)

NOBODY = Roster()


def shown(found: dict[str, Any], roster: Roster = NOBODY, since: float = 0.0) -> str:
    joined = join(found, OWNERS, roster)
    account = Account()
    account.take(joined, since or found["at"], sampled=found["available"])
    view = view_of(found, joined, roster, account.standing, since=since or found["at"])
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        console.print(gpu_view(view))
    return capture.get()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_every_gpu_has_a_row_and_so_has_everybody_on_it() -> None:
    first = device("GPU-0", process(10, 3 * GIB, sm=30), process(30, GIB), memory_used=6 * GIB)
    text = shown(frame(first, device("GPU-1", index=1, memory_used=0)), ROSTER)
    assert "Driver 610.43" in text
    assert rows(text) == [
        ["0", "NVIDIA H200", "all", "6.0 of 140.0 GiB", "42 %", "35 °C", "98.5 W"],
        ["", "", "ada (tensors)", "3.0 GiB", "30 %", "", ""],
        ["", "", "no learner (1 process)", "1.0 GiB", "0 %", "", ""],
        ["", "", "unattributed", "2.0 GiB", "", "", ""],
        ["1", "NVIDIA H200", "all", "0.0 of 140.0 GiB", "42 %", "35 °C", "98.5 W"],
        ["", "", "bob/second holds it", "nothing", "", "", ""],
    ]
    assert "0 of 2 places on GPUs are free, 1 wait." in text


def test_what_is_not_reported_is_a_dash_and_never_nothing() -> None:
    unreported = dict.fromkeys(("utilisation", "temperature", "power", "memory_used"))
    one = device("GPU-0", process(10, None, sm=None), measured=False, **unreported)
    assert rows(shown(frame(one), ROSTER)) == [
        ["0", "NVIDIA H200", "all", "-", "-", "-", "-"],
        ["", "", "ada (tensors)", "-", "-", "", ""],
    ]


def test_slices_of_a_divided_gpu_have_rows_of_their_own() -> None:
    part = {"uuid": "MIG-1", "name": "H200 MIG 1g.18gb", "memory_used": GIB, "memory_total": 16 * GIB, "utilisation": 9}
    text = shown(frame(device("GPU-0", mig=[part], utilisation=None, memory_used=GIB)))
    assert rows(text)[1] == ["", "", "slice H200 MIG 1g.18gb", "1.0 of 16.0 GiB", "9 %", "", ""]


def test_faults_and_events_and_who_is_idle_stand_below() -> None:
    event = {"at": 0.0, "xid": 79, "meaning": "It has fallen off the bus.", "application": False}
    fault = {"at": 0.0, "xid": 31, "meaning": "A program went astray.", "application": True}
    lost = device("GPU-1", index=1, state="lost", error="This GPU has fallen off the bus.", events=[event, fault])
    odd = device("GPU-0", problems={"memory_utilisation": "NVIDIA's driver answered 'Unknown Error'."})
    text = shown(frame(odd, lost), ROSTER, since=400.0)
    assert "GPU 1: This GPU has fallen off the bus." in text
    assert "GPU 0, memory utilisation: NVIDIA's driver answered 'Unknown Error'." in text
    assert re.search(r"GPU 1, \d\d:\d\d:\d\d, Xid 79: It has fallen off the bus\.\n", text)
    assert re.search(r"GPU 1, \d\d:\d\d:\d\d, Xid 31: A program went astray\. The GPU itself is well\.\n", text)
    assert "ada has not used GPU 0 for 2 min." in text


def test_a_simulation_says_so() -> None:
    assert "Simulated GPUs, driver 610.43" in shown(frame(device("GPU-0"), simulated=True))


def test_without_a_gpu_there_is_a_sentence_and_no_table() -> None:
    assert shown(silent(1000.0, message="No driver.")) == "No driver.\n"


def test_names_cannot_steer_the_terminal() -> None:
    evil = Server("ada\x1b[31m", lab="\x1b]0;x", container="a" * 64)
    owners = {10: Owner("learner", evil, evil.container)}
    joined = join(frame(device("GPU-0", process(10))), owners, Roster((evil,)))
    view = view_of(frame(device("GPU-0", name="\x1b[2J")), joined, Roster(), lambda _: None, since=None)
    console = Console(width=140)
    with console.capture() as capture:
        console.print(gpu_view(view))
    assert "\x1b" not in capture.get()


@pytest.mark.parametrize("version", [None, "610.43"])
def test_a_driver_without_a_version_is_no_none(version: str | None) -> None:
    assert "None" not in shown(frame(device("GPU-0"), driver_version=version))
