"""What drivers and cards do, and what is said of it: the simulated driver under the real binding in the real child."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sampled import HIDDEN, HOST, children, first, runs, sample, sampled, sampling
from tests.simulated import GIB, MIB, device, driver, simulated
from tests.waiting import ended, until

DMESG = "Run `nvidia-smi`, and look for lines with NVRM in `dmesg`."
LOST = "This GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked."
NO_RIGHTS = (
    "The driver tells this only to a user with more rights. Give the GPU monitor more rights: docs/operators.md, "
    "“Idle servers and idle GPUs”, has them."
)


# -- everything that is reported -----------------------------------------------------------------------------------


def test_all_figures_of_a_gpu_have_the_units_of_the_frame(tmp_path: Path) -> None:
    card = device(
        memory={"total": 140 * GIB, "reserved": GIB, "used": 3 * GIB},
        utilisation={"gpu": 97, "memory": 31},
        encoder=5,
        decoder=6,
        fan=120,  # may be
        power=650_500,
        energy=5_000_250,
        persistence_mode=1,
        compute_mode=3,
        performance_state=2,
        throttle_reasons=0x4 | 0x40,
        ecc={"mode": [1, 1], "corrected": 7, "uncorrected": 0},
        processes=[runs(20037, 564 * MIB), runs(20038, kinds="C+G")],
        process_samples=[sample(20037, 90)],
    )
    frame = first(tmp_path, card)
    assert (frame["state"], frame["message"], frame["simulated"]) == ("ok", "", True)
    assert (frame["driver_version"], frame["nvml_version"], frame["cuda_version"]) == (
        "615.71.09",
        "13.615.71.09",
        "13.4",
    )
    (found,) = frame["devices"]
    assert found.pop("memory_limits")["hard"] is False
    assert found == {
        "index": 0,
        "uuid": "GPU-0",
        "name": "NVIDIA H200",
        "pci": "00000000:17:00.0",
        "state": "ok",
        "error": None,
        "problems": {},
        "driver_model": "not applicable on Linux",
        "utilisation": 97,
        "memory_utilisation": 31,
        "encoder_utilisation": 5,
        "decoder_utilisation": 6,
        "memory_used": 3 * GIB,
        "memory_total": 140 * GIB,
        "memory_reserved": GIB,
        "temperature": 35,
        "fan": 120,
        "power": 650.5,
        "power_limit": 700.0,
        "energy": 5000.25,
        "clocks": {"graphics": 345, "sm": 345, "memory": 3201, "video": 765},
        "max_clocks": {"graphics": 1980, "sm": 1980, "memory": 3201, "video": 1545},
        "performance_state": 2,
        "persistence": True,
        "compute_mode": "exclusive process",
        "throttle_reasons": ["power limit", "thermal (hardware)"],
        "ecc": {"enabled": True, "corrected": 7, "uncorrected": 0},
        "events": [],
        "mig": None,
        "processes": [
            {"pid": 20037, "memory": 564 * MIB, "kinds": "C", "sm": 90, "instance": None},
            {"pid": 20038, "memory": GIB, "kinds": "C+G", "sm": 0, "instance": None},
        ],
        "busy": {"20037": 90},
        "measured": True,
    }


# -- what hardware does not report ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "none", "there"),
    [
        pytest.param(
            device(name="NVIDIA GeForce RTX 2080 SUPER", fan=34, ecc=None, mig_mode=None, memory_temperature=None),
            {"mig"},
            {"fan": 34, "encoder_utilisation": 0, "ecc": dict.fromkeys(("enabled", "corrected", "uncorrected"))},
            id="RTX 2080S",
        ),
        pytest.param(
            device(name="NVIDIA L40S", fan=None, mig_mode=None),
            {"fan", "mig"},
            {"ecc": {"enabled": True, "corrected": 0, "uncorrected": 0}},
            id="L40S",
        ),
        pytest.param(device(fan=None), {"fan", "mig"}, {"utilisation": 0, "measured": True}, id="H200"),
        pytest.param(
            device(utilisation=None, encoder=None, decoder=None, fan=None, mig_mode=[1, 1], instances=[]),
            {"utilisation", "memory_utilisation", "encoder_utilisation", "decoder_utilisation", "fan"},
            {"mig": [], "measured": False, "temperature": 35, "power": 78.5},
            id="H200 in MIG mode",
        ),
        pytest.param(
            device(name="NVIDIA GH200 480GB", memory=None),
            {"memory_used", "memory_total", "memory_reserved"},
            {"utilisation": 0},
            id="unified memory",
        ),
        pytest.param(
            device(memory={"total": None, "reserved": 0, "used": None}),
            {"memory_used", "memory_total"},
            {"utilisation": 0},
            id="memory that is not available",
        ),
        pytest.param(
            device(power=None, power_limit=None, energy=None, temperature=None, performance_state=None),
            {"power", "power_limit", "energy", "temperature", "performance_state"},
            {"memory_used": 0},
            id="no sensors",
        ),
    ],
)
def test_what_the_hardware_does_not_report_is_none_and_no_problem(
    tmp_path: Path, card: dict[str, Any], none: set[str], there: dict[str, Any]
) -> None:
    (found,) = first(tmp_path, card)["devices"]
    assert {name: found[name] for name in none} == dict.fromkeys(none)
    assert {name: found[name] for name in there} == there
    assert (found["state"], found["problems"]) == ("ok", {})


def test_a_card_that_nobody_uses_is_not_busy_because_the_driver_just_started_it(tmp_path: Path) -> None:
    asleep = device(name="NVIDIA L40S", utilisation={"gpu": 100, "memory": 0}, persistence_mode=0)
    with sampling(tmp_path, asleep, device(1)) as (sim, gpus):
        (found, other) = gpus.sampling.first(30)["devices"]
        assert (found["utilisation"], other["utilisation"]) == (None, 0)
        assert found["problems"] == {
            "utilisation": "The first figure after the driver has started a GPU that nobody uses is too high, and is "
            "left out. `nvidia-smi -pm 1` as root keeps the GPU started (persistence mode)."
        }
        sim.change(driver(asleep | {"utilisation": {"gpu": 12, "memory": 0}}, device(1), **HOST))
        assert gpus.device(lambda found: found["utilisation"] == 12)["problems"] == {}


def test_memory_of_processes_that_windows_keeps_to_itself_is_none(tmp_path: Path) -> None:
    (found,) = first(tmp_path, device(processes=[runs(10, None), runs(11)]))["devices"]
    assert [one["memory"] for one in found["processes"]] == [None, GIB]


# -- older drivers -------------------------------------------------------------------------------------------------


NEWER = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlGpmQueryDeviceSupport",
)


@pytest.mark.parametrize("absent", [True, False], ids=["not there", "there, and says so"])
def test_an_older_driver_is_asked_as_it_can_be(tmp_path: Path, absent: bool) -> None:
    how: dict[str, Any] = {"without": NEWER} if absent else {"missing": list(NEWER)}
    card = device(
        memory={"total": 140 * GIB, "reserved": GIB, "used": 3 * GIB},
        throttle_reasons=0x20,
        processes=[runs(10), runs(11, kinds="G"), runs(12, kinds="M+C")],
    )
    (found,) = first(tmp_path, card, **how)["devices"]
    # The first version of the call counts what the driver keeps for itself as used.
    assert (found["memory_used"], found["memory_reserved"]) == (4 * GIB, None)
    assert (found["temperature"], found["throttle_reasons"]) == (35, ["thermal (software)"])
    assert {one["pid"]: one["kinds"] for one in found["processes"]} == {10: "C", 11: "G", 12: "C+M"}
    assert (found["state"], found["problems"]) == ("ok", {})


def test_functions_that_nobody_needs_may_be_missing(tmp_path: Path) -> None:
    without = ("nvmlDeviceGetProcessUtilization", "nvmlEventSetCreate", "nvmlDeviceGetMPSComputeRunningProcesses_v3")
    card = device(utilisation={"gpu": 30, "memory": 1}, processes=[runs(10)], events=[{"xid": 31}])
    (found,) = first(tmp_path, card, without=without)["devices"]
    # Whoever is on a GPU of which only the whole is measured is busy with it, and nobody knows how much is whose.
    assert (found["busy"], found["measured"], found["processes"][0]["sm"]) == ({"10": 30}, True, None)
    assert (found["events"], found["problems"]) == ([], {})


def test_a_driver_that_lists_no_processes_says_that_nobody_knows(tmp_path: Path) -> None:
    without = tuple(f"nvmlDeviceGetComputeRunningProcesses_{version}" for version in ("v2", "v3"))
    (found,) = first(tmp_path, device(processes=[runs(10)]), without=without)["devices"]
    assert (found["processes"], found["problems"]) == (None, {"processes": HIDDEN})


def test_a_driver_too_old_to_be_started_says_so(tmp_path: Path) -> None:
    frame = first(tmp_path, device(), without=("nvmlInitWithFlags",))
    assert (frame["state"], frame["available"]) == ("too old", False)
    assert frame["message"] == (
        "The NVIDIA driver is too old for this server's NVML binding: Function Not Found. Update the driver."
    )


# -- the driver as a whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "says"),
    [
        (
            "version mismatch",
            "mismatch",
            "The NVIDIA driver was updated while the old one is still loaded, so no GPU can be read. Restart the "
            "machine.",
        ),
        (
            "driver not loaded",
            "not loaded",
            "The NVIDIA driver is installed but not loaded, so no GPU can be read. Run `modprobe nvidia` as root (or "
            "restart the machine), then `nvidia-smi`.",
        ),
        (
            "no permission",
            "no permission",
            "This user may not talk to the NVIDIA driver. Give it read and write access to /dev/nvidiactl and "
            "/dev/nvidia*.",
        ),
        ("unknown", "failed", f"NVIDIA's driver answered 'Unknown Error' (NVML error 999). {DMESG}"),
    ],
)
def test_a_driver_that_does_not_start_says_why_and_is_seen_when_it_does(
    tmp_path: Path, error: str, state: str, says: str
) -> None:
    with sampling(tmp_path, device(), error=error) as (sim, gpus):
        frame = gpus.state(state)
        assert (frame["available"], frame["devices"], frame["message"]) == (False, [], says)
        sim.change(driver(device(), **HOST))
        assert gpus.state("ok")["devices"][0]["uuid"] == "GPU-0"


@pytest.mark.parametrize(("error", "replaced"), [("version mismatch", True), ("no permission", False)])
def test_a_process_with_an_old_library_is_replaced(tmp_path: Path, error: str, replaced: bool) -> None:
    """One that keeps the library of before would never see the new driver."""
    made: list[subprocess.Popen[bytes]] = []

    def popen(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(*arguments, **options))
        return made[-1]

    sim = simulated(tmp_path, driver(device(), error=error, **HOST))
    with sampled(env=sim.env, popen=popen) as gpus:
        gpus.sampling.first(30)
        sim.change(driver(device(), **HOST))
        gpus.state("ok")
    assert (len(made) > 1) is replaced


def test_a_driver_updated_under_us_is_seen_at_the_next_start(tmp_path: Path) -> None:
    with sampling(tmp_path, device()) as (sim, gpus):
        gpus.state("ok")
        sim.change(driver(device(), error="version mismatch", fails={"*": "unknown"}, **HOST))
        gpus.state("mismatch")
        sim.change(driver(device(), driver_version="620.10", **HOST))
        assert gpus.state("ok")["driver_version"] == "620.10"


def test_a_driver_that_is_unloaded_and_loaded_again_is_seen_both_times(tmp_path: Path) -> None:
    with sampling(tmp_path, device()) as (sim, gpus):
        gpus.state("ok")
        sim.path.unlink()
        assert f"answered 'Unknown Error' (NVML error 999). {DMESG}" in gpus.state("failed")["message"]
        assert "Run `modprobe nvidia` as root" in gpus.state("not loaded")["message"]
        sim.change(driver(device(), **HOST))
        gpus.state("ok")


def test_a_library_that_was_ended_under_us_is_started_anew(tmp_path: Path) -> None:
    with sampling(tmp_path, device()) as (sim, gpus):
        gpus.state("ok")
        sim.change(driver(device(), fails={"nvmlDeviceGetUtilizationRates": "uninitialised"}, **HOST))
        frame = gpus.state("failed")
        assert (frame["devices"], frame["available"]) == ([], False)
        assert frame["message"] == (
            "The NVIDIA driver was unloaded while it was read; reading begins anew. If this stays so, run `nvidia-smi`."
        )
        sim.change(driver(device(), **HOST))
        gpus.state("ok")


def test_a_driver_without_a_gpu_says_so_until_there_is_one(tmp_path: Path) -> None:
    with sampling(tmp_path) as (sim, gpus):
        frame = gpus.state("no gpu")
        assert (frame["available"], frame["driver_version"]) == (False, "615.71.09")
        assert frame["message"] == (
            "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`; inside a container, give it a GPU."
        )
        sim.change(driver(device(), **HOST))
        gpus.state("ok")


def test_a_container_that_has_lost_its_devices_says_so(tmp_path: Path) -> None:
    """What `systemctl daemon-reload` does to one: everything is "unknown error" but the count."""
    cards = [device(index, fails={"*": "unknown"}) for index in range(2)]
    frame = first(tmp_path, *cards)
    assert (frame["state"], frame["available"]) == ("failed", False)
    assert frame["message"] == (
        f"NVIDIA's driver answered 'Unknown Error' (NVML error 999). {DMESG} A container in which nothing else works "
        "either has lost its devices: start the container anew."
    )


@pytest.mark.parametrize("call", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetComputeRunningProcesses_v3", "*"])
def test_a_call_that_hangs_is_silence_and_is_over_when_it_is(tmp_path: Path, call: str) -> None:
    used = {"total": 140 * GIB, "reserved": GIB, "used": 3 * GIB}
    busy = device(memory=used, utilisation={"gpu": 90, "memory": 1})
    with sampling(tmp_path, busy, deadline=0.5) as (sim, gpus):
        gpus.device(lambda found: found["utilisation"] == 90)
        (asked,) = children()
        sim.change(driver(device(hangs=[call]), **HOST))
        frame = gpus.state("silent")
        (found,) = frame["devices"]
        assert (found["uuid"], found["state"], found["memory_total"]) == ("GPU-0", "silent", 140 * GIB)
        # Neither busy as before nor idle.
        assert (found["utilisation"], found["memory_used"], found["processes"]) == (None, None, None)
        assert "The NVIDIA driver has not answered since " in frame["message"]
        until(lambda: ended([asked]), what="the end of the process that hangs")
        sim.change(driver(device(utilisation={"gpu": 11, "memory": 1}), **HOST))
        gpus.device(lambda found: found["utilisation"] == 11)


def test_a_slow_driver_is_waited_for(tmp_path: Path) -> None:
    with sampling(tmp_path, device(latency={"nvmlDeviceGetPowerUsage": 0.2})) as (_, gpus):
        frame = gpus.state("ok")
        assert frame["took"] > 0.2
        child = gpus.child
        gpus.state("ok")
        assert gpus.child == child
        assert all(frame["state"] == "ok" for frame in gpus.frames)


# -- one GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "says"),
    [
        ("lost", "lost", LOST),
        (
            "reset required",
            "reset required",
            "This GPU needs a reset: end its processes and run `nvidia-smi --gpu-reset`.",
        ),
        (
            "no permission",
            "no permission",
            "This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.",
        ),
    ],
)
def test_a_bad_gpu_says_what_to_do_hides_no_other_and_is_found_again(
    tmp_path: Path, error: str, state: str, says: str
) -> None:
    other = device(1, utilisation={"gpu": 66, "memory": 1}, processes=[runs(20)])
    with sampling(tmp_path, device(processes=[runs(10)]), other) as (sim, gpus):
        gpus.state("ok")
        sim.change(driver(device(error=error), other, **HOST))
        frame = gpus.sees(lambda frame: frame["devices"][0]["state"] == state)
        bad, well = frame["devices"]
        assert (frame["available"], bad["error"]) == (True, says)
        # It is known which one it is; and nothing of it looks idle.
        assert (bad["uuid"], bad["name"], bad["memory_total"]) == ("GPU-0", "NVIDIA H200", 140 * GIB)
        assert (bad["utilisation"], bad["processes"], bad["busy"], bad["measured"]) == (None, None, {}, False)
        assert (well["utilisation"], [one["pid"] for one in well["processes"]]) == (66, [20])
        child = gpus.child
        sim.change(driver(device(processes=[runs(11)]), other, **HOST))
        found = gpus.device(lambda found: found["state"] == "ok")
        assert [one["pid"] for one in found["processes"]] == [11]
        assert gpus.child == child


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetUUID"])
def test_a_gpu_may_be_lost_at_any_call(tmp_path: Path, call: str) -> None:
    bad, well = first(tmp_path, device(fails={call: "lost"}), device(1))["devices"]
    assert (bad["state"], bad["error"], well["state"]) == ("lost", LOST, "ok")


def test_a_lost_gpu_tells_of_the_error_that_led_to_it(tmp_path: Path) -> None:
    with sampling(tmp_path, device()) as (sim, gpus):
        gpus.state("ok")
        sim.change(driver(device(error="lost", events=[{"xid": 79}]), **HOST))
        found = gpus.device(lambda found: found["state"] == "lost" and found["events"])
    assert [(one["xid"], one["meaning"], one["application"]) for one in found["events"]] == [(79, LOST_EVENT, False)]


LOST_EVENT = "The GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked."

# The call, the figure it is for, and whether the call before it is asked in its place.
FIGURES = [
    ("nvmlDeviceGetUtilizationRates", "utilisation"),
    ("nvmlDeviceGetEncoderUtilization", "encoder_utilisation"),
    ("nvmlDeviceGetDecoderUtilization", "decoder_utilisation"),
    ("nvmlDeviceGetFanSpeed", "fan"),
    ("nvmlDeviceGetPowerUsage", "power"),
    ("nvmlDeviceGetEnforcedPowerLimit", "power_limit"),
    ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
    ("nvmlDeviceGetPerformanceState", "performance_state"),
    ("nvmlDeviceGetPersistenceMode", "persistence"),
    ("nvmlDeviceGetComputeMode", "compute_mode"),
    ("nvmlDeviceGetName", "name"),
    ("nvmlDeviceGetPciInfo_v3", "pci"),
    ("nvmlDeviceGetMigMode", "mig"),
    ("nvmlDeviceGetComputeRunningProcesses_v3", "processes"),
]


def test_every_figure_may_fail_by_itself_or_not_be_supported(tmp_path: Path) -> None:
    """All in one frame: each GPU lacks one figure, once by an error and once by the hardware."""
    whole = device(fan=30, processes=[runs(10)])
    failing = [device(n, fan=30, fails={call: "timeout"}) for n, (call, _) in enumerate(FIGURES)]
    silent = [
        device(n, fan=30, fails={call: "not supported"}) for n, (call, _) in enumerate(FIGURES, start=len(FIGURES))
    ]
    found = first(tmp_path, *failing, *silent, whole)["devices"]
    assert all(found[-1][field] is not None for _, field in FIGURES if field != "mig")
    for (call, field), error, unsupported in zip(FIGURES, found, found[len(FIGURES) :], strict=False):
        assert (error[field], error["state"], error["temperature"]) == (None, "ok", 35), call
        assert error["problems"] == {field: f"NVIDIA's driver answered 'Timeout' (NVML error 10). {DMESG}"}, call
        assert (unsupported[field], unsupported["state"], unsupported["temperature"]) == (None, "ok", 35), call
        assert unsupported["problems"] == ({"processes": HIDDEN} if field == "processes" else {}), call


@pytest.mark.parametrize(
    ("calls", "field", "lacks"),
    [
        (("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"), "memory_used", ["memory_used", "memory_total"]),
        (("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"), "temperature", ["temperature"]),
        (
            ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
            "throttle_reasons",
            ["throttle_reasons"],
        ),
    ],
)
def test_a_figure_with_two_calls_fails_if_both_do(
    tmp_path: Path, calls: tuple[str, ...], field: str, lacks: list[str]
) -> None:
    cards = [device(0, fails=dict.fromkeys(calls, "timeout")), device(1, fails={calls[1]: "timeout"})]
    neither, one = first(tmp_path, *cards)["devices"]
    assert {name: neither[name] for name in lacks} == dict.fromkeys(lacks)
    assert neither["problems"].keys() == {field}
    assert (one[field] is not None, one["problems"]) == (True, {})


def test_clocks_and_counters_fail_one_by_one(tmp_path: Path) -> None:
    clocks = {"graphics": 345, "sm": 345, "memory": None, "video": "timeout"}
    card = device(clocks=clocks, ecc={"mode": [1, 1], "corrected": 3, "uncorrected": "unknown"})
    (found,) = first(tmp_path, card)["devices"]
    assert found["clocks"] == {"graphics": 345, "sm": 345, "memory": None, "video": None}
    assert found["ecc"] == {"enabled": True, "corrected": 3, "uncorrected": None}
    assert found["problems"].keys() == {"clocks", "ecc"}


def test_a_figure_for_others_only_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    (found,) = first(tmp_path, device(power="no permission"))["devices"]
    assert (found["power"], found["problems"]) == (None, {"power": NO_RIGHTS})


# -- events --------------------------------------------------------------------------------------------------------


def test_errors_of_the_card_and_of_programs_are_told_with_their_time(tmp_path: Path) -> None:
    with sampling(tmp_path, device(), device(1)) as (sim, gpus):
        gpus.state("ok")
        before = time.time()
        sim.change(driver(device(events=[{"xid": 31}, {"xid": 48}, {"xid": 777}]), device(1), **HOST))
        found = gpus.device(lambda found: len(found["events"]) == 3)
        assert [(one["xid"], one["application"]) for one in found["events"]] == [(31, True), (48, False), (777, False)]
        assert found["events"][0]["meaning"] == "A program touched GPU memory that it does not have."
        assert all(before <= one["at"] <= time.time() for one in found["events"])
        sim.change(driver(device(), device(1), **HOST))
        # They do not vanish, and their time stays what it was.
        frame = gpus.sees(lambda frame: frame["at"] > found["events"][-1]["at"] + 0.2)
        assert [device["events"] for device in frame["devices"]] == [found["events"], []]


def test_the_latest_twenty_are_kept(tmp_path: Path) -> None:
    with sampling(tmp_path, device(events=[{"xid": 100 + n} for n in range(30)])) as (_, gpus):
        found = gpus.device(lambda found: found["events"])
    assert [one["xid"] for one in found["events"]] == list(range(110, 130))


def test_a_gpu_without_events_is_read_all_the_same(tmp_path: Path) -> None:
    (found,) = first(tmp_path, device(events=None))["devices"]
    assert (found["events"], found["state"], found["problems"]) == ([], "ok", {})


def test_what_a_process_had_heard_outlives_it(tmp_path: Path) -> None:
    with sampling(tmp_path, device(events=[{"xid": 119}]), deadline=0.5) as (sim, gpus):
        gpus.device(lambda found: found["events"])
        sim.change(driver(device(hangs=True), **HOST))
        frame = gpus.state("silent")
        assert [one["xid"] for one in frame["devices"][0]["events"]] == [119]
        sim.change(driver(device(), **HOST))
        assert [one["xid"] for one in gpus.state("ok")["devices"][0]["events"]] == [119]
