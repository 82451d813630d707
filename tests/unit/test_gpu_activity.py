"""The account of who uses which GPU, fed with frames by hand."""

from __future__ import annotations

from typing import Any

from gradlab.gpu.activity import Activity
from tests.gpuframes import device, frame, process, silent
from tests.monitors import ADA, BOB

OWNERS = {10: ADA, 11: ADA, 20: BOB}
MIB = 1 << 20


class Account(Activity):
    """Takes samples at times counted from 1000, of processes that are Ada's, Bob's or nobody's."""

    def at(
        self, now: float, *devices: dict[str, Any], message: str = "", spent: dict[str, float] | None = None
    ) -> dict[str, Any]:
        at = 1000.0 + now
        self.take(silent(at, message=message) if message else frame(*devices, at=at), OWNERS, spent or {}, at)
        return self.report(at)


def on(
    uuid: str, *processes: tuple[int, int | None], busy: dict[int, int] | None = None, **more: Any
) -> dict[str, Any]:
    samples = {str(pid): percent for pid, percent in (busy or {}).items()}
    return device(uuid, *(process(pid, memory) for pid, memory in processes), busy=samples, **more)


def test_processes_and_memory_are_told_by_container_and_device() -> None:
    found = Account().at(0, on("GPU-0", (10, MIB), (20, 5 * MIB)), on("GPU-1", (10, MIB), (11, MIB), (99, MIB)))
    assert set(found["containers"]) == {ADA, BOB}
    ada = found["containers"][ADA]
    assert (ada["processes"], ada["memory"]) == (3, 3 * MIB)
    assert ada["devices"] == {"GPU-0": {"processes": 1, "memory": MIB}, "GPU-1": {"processes": 2, "memory": 2 * MIB}}
    assert (found["ok"], found["message"], found["since"]) == (True, "", 1000.0)


def test_busy_is_who_computed_above_a_percent_and_idle_holders_are_not() -> None:
    account = Account()
    account.at(0, on("GPU-0", (10, MIB), (20, MIB)))
    found = account.at(1, on("GPU-0", (10, MIB), (20, MIB), busy={10: 1, 20: 2}))
    assert (found["containers"][ADA]["busy_at"], found["containers"][BOB]["busy_at"]) == (1000.0, 1001.0)
    assert found["devices"]["GPU-0"] == {"busy_at": 1001.0, "measured": True, "error": ""}
    later = account.at(2, on("GPU-0", (10, MIB), (20, MIB)))
    assert (later["containers"][BOB]["busy_at"], later["containers"][BOB]["held_at"]) == (1001.0, 1002.0)


def test_memory_that_changes_is_use_too() -> None:
    """A cell of a few milliseconds leaves no sample of utilisation."""
    account = Account()
    account.at(0, on("GPU-0", (10, MIB)))
    assert account.at(1, on("GPU-0", (10, MIB)))["containers"][ADA]["busy_at"] == 1000.0
    assert account.at(2, on("GPU-0", (10, 2 * MIB)))["containers"][ADA]["busy_at"] == 1002.0


def test_a_sample_of_a_process_that_has_just_ended_still_finds_its_container() -> None:
    account = Account()
    account.at(0, on("GPU-0", (10, MIB)))
    found = account.at(1, on("GPU-0", busy={10: 80}))
    assert (found["containers"][ADA]["busy_at"], found["containers"][ADA]["processes"]) == (1001.0, 0)


def test_a_sample_of_nobodys_process_makes_the_device_busy_and_nobody_else() -> None:
    found = Account().at(0, on("GPU-0", (99, MIB), busy={99: 90, 4711: 90}))
    assert (found["containers"], found["devices"]["GPU-0"]["busy_at"]) == ({}, 1000.0)


def test_memory_that_is_not_reported_is_none_and_counts_as_held() -> None:
    account = Account()
    account.at(0, on("MIG-1", (10, None), (11, MIB), measured=False))
    found = account.at(1, on("MIG-1", (10, None), (11, MIB), measured=False))["containers"][ADA]
    assert (found["memory"], found["held_at"], found["busy_at"], found["measured"]) == (None, 1001.0, 1000.0, False)


def test_who_is_on_one_device_that_is_not_measured_is_not_measured() -> None:
    account = Account()
    both = account.at(0, on("GPU-0", (10, MIB)), on("MIG-1", (11, MIB), measured=False))
    assert both["containers"][ADA]["measured"] is False
    assert account.at(1, on("GPU-0", (10, MIB)))["containers"][ADA]["measured"] is True


def test_computing_on_processors_is_seen_where_it_is_counted() -> None:
    account = Account()
    assert account.at(0)["processors"] is False
    account.at(1, spent={ADA: 5.0, BOB: 5.0})
    found = account.at(2, spent={ADA: 5.03, BOB: 5.5})
    assert found["processors"] is True
    assert (found["containers"][ADA]["computing_at"], found["containers"][BOB]["computing_at"]) == (None, 1002.0)


def test_sampling_begins_anew_after_a_gap_a_clock_set_back_and_a_device_that_comes_back() -> None:
    account = Account()
    well, lost = on("GPU-0", (10, MIB)), on("GPU-0", error="It is lost.")
    assert account.at(0, well)["since"] == account.at(5, well)["since"] == 1000.0
    assert account.at(11, well)["since"] == 1011.0
    assert account.at(10, well)["since"] == 1010.0
    assert account.at(11, lost)["since"] == 1010.0
    assert account.at(12, lost)["devices"] == {
        "GPU-0": {"busy_at": None, "measured": True, "error": "It is lost."},
    }
    assert account.at(13, well)["since"] == 1013.0
    assert account.at(14, well, on("GPU-1"))["since"] == 1014.0


def test_a_driver_that_says_nothing_or_no_longer_is_not_ok() -> None:
    account = Account()
    never = account.report(1000.0)
    assert (never["ok"], never["since"]) == (False, None)
    assert never["message"].startswith("Nothing has been heard of the NVIDIA driver yet. If it stays so, run")
    account.at(0, on("GPU-0", (10, MIB)))
    assert account.report(1005.0)["ok"]
    stale = account.report(1006.0)
    assert not stale["ok"]
    assert stale["message"].startswith("The NVIDIA driver does not answer; what is known is from ")
    assert stale["containers"][ADA]["processes"] == 1
    assert account.at(7, message="No driver.") | {"ok": False, "message": "No driver."} == account.report(1007.0)


def test_a_device_that_does_not_list_processes_is_not_idle() -> None:
    found = Account().at(0, on("GPU-0", processes=None))
    assert found["devices"]["GPU-0"]["error"].startswith("The driver does not say which processes use this GPU")


def divided(*percents: int | None) -> dict[str, Any]:
    """A GPU with instances, the process 10 on the first and 20 on the second."""
    names = [f"MIG-{number}" for number, _ in enumerate(percents)]
    instances = [
        {"uuid": name, "utilisation": percent, "error": None} for name, percent in zip(names, percents, strict=True)
    ]
    on = [process(pid, MIB, sm=None, instance=name) for pid, name in zip((10, 20), names, strict=True)]
    return device("GPU-0", *on, mig=instances, measured=False)


def test_processes_on_a_mig_instance_are_told_by_the_instance() -> None:
    account = Account()
    account.at(0, divided(None, None))
    found = account.at(1, divided(None, None))
    assert found["containers"][ADA]["devices"] == {"MIG-0": {"processes": 1, "memory": MIB}}
    assert (found["containers"][ADA]["measured"], found["containers"][ADA]["busy_at"]) == (False, 1000.0)
    assert found["devices"].keys() == {"MIG-0", "MIG-1"}


def test_an_instance_whose_utilisation_is_known_is_measured() -> None:
    account = Account()
    account.at(0, divided(0, 0))
    found = account.at(1, divided(70, 0))["containers"]
    assert (found[ADA]["measured"], found[ADA]["busy_at"], found[BOB]["busy_at"]) == (True, 1001.0, 1000.0)


def test_an_instance_that_cannot_be_asked_is_an_error_of_its_own() -> None:
    one = divided(None, None)
    one["mig"][1]["error"] = "It is gone."
    assert {name: found["error"] for name, found in Account().at(0, one)["devices"].items()} == {
        "MIG-0": "",
        "MIG-1": "It is gone.",
    }


def test_what_is_long_over_is_forgotten() -> None:
    account = Account()
    account.at(0, on("GPU-0", (10, MIB), (20, MIB)))
    days = 2 * 86400.0
    account.at(1, on("GPU-0", (20, MIB)))
    assert set(account.at(days, on("GPU-0", (20, MIB)))["containers"]) == {ADA, BOB}
    assert set(account.at(days + 1, on("GPU-0", (20, MIB)))["containers"]) == {BOB}
    assert set(account.at(days + 2, on("GPU-1"), spent={ADA: 1.0})["devices"]) == {"GPU-1"}
