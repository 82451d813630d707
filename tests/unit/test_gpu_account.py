"""GPU-seconds: exact over gaps, midnights, restarts and files that cannot be read or written."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gradlab.gpu.account import Account
from gradlab.gpu.join import join
from gradlab.gpu.owners import Owner
from gradlab.roster import Roster, Server
from tests.gpuframes import GIB, MIB, device, frame, process, silent

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
ADA = Server("ada", lab="tensors", container="a" * 64, device="GPU-0", held_since=NOON - 60)
BOB = Server("bob", container="b" * 64)
OWNERS = {10: Owner("learner", ADA, ADA.container), 20: Owner("learner", BOB, BOB.container)}
ROSTER = Roster((ADA, BOB))


def feed(account: Account, at: float, *devices: dict[str, Any], roster: Roster = ROSTER) -> None:
    account.take(join(frame(*devices, at=at), OWNERS, roster), at, sampled=True)


def fail(account: Account, at: float, roster: Roster = ROSTER) -> None:
    account.take(join(silent(at), {}, roster), at, sampled=False)


def rows(account: Account) -> dict[tuple[str, str, str], tuple[float, float, int]]:
    found = account.totals()["rows"]
    return {(one["learner"], one["lab"], one["day"]): (one["held"], one["busy"], one["peak"]) for one in found}


def test_held_is_time_and_busy_is_the_integral_of_utilisation() -> None:
    account = Account()
    feed(account, NOON, device("GPU-0"))
    feed(account, NOON + 1, device("GPU-0", process(10, 3 * GIB, sm=50)))
    feed(account, NOON + 3, device("GPU-0", process(10, GIB, sm=100)), device("GPU-1", process(20, GIB, sm=25)))
    feed(account, NOON + 4, device("GPU-0"))
    assert rows(account) == {
        ("ada", "tensors", "2026-11-22"): (4.0, 0.5 + 2.0, 3 * GIB),  # it holds one, and used it for a part
        ("bob", "", "2026-11-22"): (2.0, 0.5, GIB),  # it was given none, and was on one
    }


def test_two_gpus_for_a_second_are_two_gpu_seconds() -> None:
    account = Account()
    feed(account, NOON)
    feed(account, NOON + 1, device("GPU-0", process(20, GIB, sm=100)), device("GPU-1", process(20, GIB, sm=100)))
    assert rows(account)["bob", "", "2026-11-22"] == (2.0, 2.0, 2 * GIB)


def test_time_without_a_sample_is_held_by_who_was_given_a_gpu_and_busy_for_nobody() -> None:
    account = Account()
    busy = device("GPU-0", process(10, GIB, sm=100)), device("GPU-1", process(20, GIB, sm=100))
    feed(account, NOON, *busy)
    for second in range(1, 11):
        fail(account, NOON + second)
    feed(account, NOON + 11, *busy)
    assert rows(account) == {
        ("ada", "tensors", "2026-11-22"): (11.0, 1.0, GIB),
        ("bob", "", "2026-11-22"): (1.0, 1.0, GIB),
    }


def test_of_a_gap_only_what_the_hub_had_given_away_counts() -> None:
    account = Account()
    feed(account, NOON, device("GPU-0", process(10, GIB, sm=100), process(20, GIB, sm=100)))
    later = Roster((Server("ada", lab="tensors", device="GPU-0", held_since=NOON + 40), BOB))
    feed(account, NOON + 100, device("GPU-0", process(20, GIB, sm=100)), roster=later)
    assert rows(account) == {("ada", "tensors", "2026-11-22"): (60.0, 0.0, 0), ("bob", "", "2026-11-22"): (0.0, 0.0, 0)}


def test_a_clock_that_is_set_back_counts_nothing_twice() -> None:
    account = Account()
    for at in (0, 1, 2, 1, 2):
        feed(account, NOON + at, device("GPU-0", process(10, GIB, sm=100)))
    assert rows(account)["ada", "tensors", "2026-11-22"] == (3.0, 3.0, GIB)


def test_seconds_belong_to_the_day_they_were_in() -> None:
    midnight = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    account = Account()
    feed(account, midnight - 1.5)
    feed(account, midnight + 0.5, device("GPU-0", process(20, GIB, sm=100)))
    assert rows(account)["bob", "", "2026-11-22"][:2] == (1.5, 1.5)
    assert rows(account)["bob", "", "2026-11-23"][:2] == (0.5, 0.5)


def test_a_restart_goes_on_with_the_account(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    first = Account(file)
    feed(first, NOON)
    feed(first, NOON + 1, device("GPU-0", process(10, 2 * GIB, sm=100)))
    first.save(NOON + 1)
    second = Account(file)
    assert second.totals() == first.totals()
    feed(second, NOON + 31, device("GPU-0", process(10, GIB, sm=100)))  # half a minute nobody looked
    feed(second, NOON + 32, device("GPU-0", process(10, GIB, sm=100)))
    assert rows(second)["ada", "tensors", "2026-11-22"] == (32.0, 2.0, 2 * GIB)
    assert second.totals()["run"] == first.totals()["run"]


def test_it_is_saved_every_few_seconds(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    account = Account(file)
    for second in range(7):
        feed(account, NOON + second, device("GPU-0", process(10, GIB, sm=100)))
    held = json.loads(file.read_text())["rows"][0]["held"]
    assert 1.0 <= held <= 6.0


def test_a_lost_file_begins_a_run_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    first = Account(file)
    first.save(NOON)
    file.unlink()
    assert Account(file).totals()["run"] != first.totals()["run"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"rows": [{}], "run": "1", "at": 1}', "\0"])
def test_a_broken_file_is_said_and_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    file = tmp_path / "account.json"
    file.write_text(text)
    assert Account(file).totals()["rows"] == []
    assert f"The account of GPU use in {file} cannot be read" in caplog.text
    assert caplog.text.count("a new one begins") == 1


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    account = Account(tmp_path / "missing" / "account.json")
    for second in range(30):
        feed(account, NOON + second, device("GPU-0", process(10, GIB)))
    assert caplog.text.count("cannot be kept in") == 1
    assert "Make room there." in caplog.text
    assert rows(account)["ada", "tensors", "2026-11-22"][0] == 29.0


def test_days_that_are_long_over_are_forgotten() -> None:
    account = Account()
    feed(account, NOON)
    feed(account, NOON + 1, device("GPU-0", process(10, GIB)))
    account.save(NOON + 3 * 86400)
    assert rows(account)
    account.save(NOON + 4 * 86400)
    assert not rows(account)


def test_a_standing_tells_last_use_and_peak_until_the_server_is_gone() -> None:
    account = Account()
    key = ("ada", "")
    feed(account, NOON, device("GPU-0", process(10, 4 * GIB)))
    feed(account, NOON + 1, device("GPU-0", process(10, 4 * GIB, sm=1)))  # as little as a display
    found = account.standing(key)
    assert found is not None
    assert (found.known_at, found.busy_at, found.peak) == (NOON, NOON, 4 * GIB)
    feed(account, NOON + 2, device("GPU-0", process(10, 4 * GIB, sm=2)))
    feed(account, NOON + 3, device("GPU-0", process(10, 4 * GIB)))
    assert found.busy_at == NOON + 2
    feed(account, NOON + 4, device("GPU-0", process(10, 4 * GIB - MIB)))
    assert found.busy_at == NOON + 4
    fail(account, NOON + 5)
    assert account.standing(key) == found
    assert found.busy_at == NOON + 4
    feed(account, NOON + 6, device("GPU-0"), roster=Roster((BOB,)))
    assert account.standing(key) is None
