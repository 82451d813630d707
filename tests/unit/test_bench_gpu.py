"""The benchmark of the GPU monitor, and the comparison with ``nvidia-smi`` on a machine with a real GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import gpu, gpu_real, smi
from bench.gpu import Found, Lab, markdown, table, targets
from bench.gpu_real import Costs, Verified
from bench.measure import Failed
from bench.report import Machine
from bench.smi import Compared, Smi, compare, compare_processes
from gradlab.settings import ROOT
from tests.gpuframes import MIB, device, process
from tests.simulated import device as simulated_device
from tests.simulated import driver, simulated

MACHINE = Machine("2026-11-22", 2, "a processor", 24.0, {"nvitop": "1.7.2"}, "make bench-gpu")


def found(ours: float = 1.0, delays: tuple[float, ...] = (0.25, 0.75, 0.5)) -> Found:
    """What a run of three rounds measured."""
    made = gpu.blank()
    for place, tool in enumerate(made.tools.values()):
        tool.cpu = [ours + 2 * place, ours + 2 * place, 90.0]
        tool.memory = [100.0 + place, 10.0, 200.0]
    for part in made.parts.values():
        part.cpu, part.memory = [0.5 * ours], [30.0]
    made.delays = list(delays)
    return made


# -- bench/gpu.py ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "met"),
    [(found(2.0), (True, True)), (found(2.1), (False, True)), (found(1.0, (0.4, 1.6)), (True, False))],
)
def test_targets_are_the_cost_in_the_median_and_the_longest_delay(made: Found, met: tuple[bool, ...]) -> None:
    assert tuple(target.met for target in targets(made)) == met


def test_the_page_has_all_tools_how_they_compare_and_what_was_measured() -> None:
    page = markdown(found(), targets(found()), MACHINE)
    assert "| Gradlab | 1.00 | 1.00 | 90.0 | 1.00 | 100 |" in page
    assert "| nvitop | 5.00 | 5.00 | 90.0 | 5.00 | 102 |" in page
    assert "| gpustat --json | 9.00 |" in page
    assert "| sampler | 0.500 | 30.0 |" in page
    assert "A change is in the view after 0.500 s in the median, 0.750 s at most." in page
    assert "| sampler and monitor, of a core | ≤ 2.00 % | 1.00 % | reached |" in page
    assert "Medians of 3 rounds" in page
    assert table(found()).row_count == 5


@pytest.mark.parametrize(("quick", "written"), [(["--quick"], False), ([], True)])
def test_a_missed_target_is_named_and_a_quick_run_writes_no_page(
    quick: list[str],
    written: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(gpu, "_measured", lambda _rounds, _changes: found(3.0))
    assert gpu.main(quick) == 1
    assert "Missed: sampler and monitor, of a core." in capsys.readouterr().out
    assert (tmp_path / "page.md").exists() is written


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of seconds: two GPUs, two learners, one short window."""
    for name, value in {
        "GPUS": 2,
        "LEARNERS": 2,
        "PROCESSES": 2 * gpu.EACH,
        "WINDOW_SECONDS": 1.0,
        "_SETTLE_SECONDS": 0.1,
        "CHANGES": 5,
    }.items():
        monkeypatch.setattr(gpu, name, value)


@pytest.mark.usefixtures("few")
def test_it_runs_with_the_real_service_and_the_real_peers() -> None:
    made = gpu._measured(1, 1)
    for tool in made.tools.values():
        assert len(tool.cpu) == len(tool.memory) == 1
        assert tool.memory[0] > 5
    assert made.tools["command"].cpu[0] > 1  # a Python starts every second
    assert {name: part.memory[0] > 5 for name, part in made.parts.items()} == {"sampler": True, "monitor": True}
    assert 0 < made.delays[0] < 20


@pytest.mark.usefixtures("few")
def test_a_peer_that_does_not_see_all_is_not_measured(tmp_path: Path) -> None:
    with Lab.opened(tmp_path) as lab:
        lab.households = lab.households[:1]
        lab.change(0)
        with pytest.raises(Failed, match=r"gpustat sees \[b'2', b'5'\], not 2 GPUs and 10 processes"):
            gpu._peer(lab, "gpustat").__enter__()


def test_a_tool_that_ends_is_a_failure_with_what_it_said() -> None:
    def ended() -> None:
        with gpu._program(["sh", "-c", "echo no such driver >&2; exit 3"], os.environ) as process:
            process.wait()
            gpu._alive(process)

    with pytest.raises(Failed, match="it ended with status 3\nno such driver"):
        ended()


# -- nvidia-smi --------------------------------------------------------------------------------------------------------

# An H100 at work, as nvidia-smi 590 has it with nounits.
WORKING = {
    "uuid": "GPU-0",
    "name": "NVIDIA H100 80GB HBM3",
    "pci.bus_id": "00000000:00:09.0",
    "index": "0",
    "utilization.gpu": "100",
    "utilization.memory": "11",
    "utilization.encoder": "0",
    "utilization.decoder": "0",
    "memory.used": "19818",
    "memory.total": "81559",
    "memory.reserved": "479",
    "temperature.gpu": "59",
    "fan.speed": "[N/A]",
    "power.draw": "631.95",
    "enforced.power.limit": "700.00",
    "clocks.current.graphics": "1980",
    "clocks.current.sm": "1980",
    "clocks.current.memory": "2619",
    "clocks.current.video": "1545",
    "clocks.max.graphics": "1980",
    "clocks.max.sm": "1980",
    "clocks.max.memory": "2619",
    "pstate": "P0",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "clocks_event_reasons.active": "0x0000000000000004",
    "ecc.mode.current": "Enabled",
    "ecc.errors.corrected.volatile.total": "0",
    "ecc.errors.uncorrected.volatile.total": "0",
    "mig.mode.current": "Disabled",
}


def card(**more: Any) -> dict[str, Any]:
    """The same, as a frame has it."""
    clocks = {"graphics": 1980, "sm": 1980, "memory": 2619, "video": 1545}
    usual = {
        "name": "NVIDIA H100 80GB HBM3",
        "pci": "00000000:00:09.0",
        "utilisation": 100,
        "memory_utilisation": 11,
        "memory_used": 19818 * MIB + 70_000,
        "memory_total": 81559 * MIB,
        "memory_reserved": 479 * MIB,
        "temperature": 59,
        "power": 631.949,
        "clocks": clocks,
        "max_clocks": clocks,
        "throttle_reasons": ["power limit"],
    }
    return device("GPU-0", **(usual | more))


def compared(ours: dict[str, Any], before: dict[str, str], after: dict[str, str]) -> dict[str, Compared]:
    rows: dict[str, Compared] = {}
    compare(rows, [ours], {"GPU-0": before}, {"GPU-0": after})
    return rows


def test_a_frame_that_says_the_same_agrees_in_every_figure() -> None:
    rows = compared(card(), WORKING, WORKING)
    assert {name: row.differences for name, row in rows.items() if row.differences} == {}
    assert {row.agreed for row in rows.values()} == {1}
    assert rows.keys() == {figure.name for figure in smi.FIGURES}
    assert [name for name, row in rows.items() if row.unreported] == ["fan"]


def test_an_older_geforce_without_ecc_and_mig_agrees_in_what_it_does_not_report() -> None:
    absent = ("ecc.mode.current", "ecc.errors.corrected.volatile.total", "ecc.errors.uncorrected.volatile.total")
    told = WORKING | dict.fromkeys(absent, "[N/A]") | {"mig.mode.current": "[N/A]", "fan.speed": "38", "pstate": "P8"}
    told["clocks_throttle_reasons.active"] = told.pop("clocks_event_reasons.active")
    ecc = {"enabled": None, "corrected": None, "uncorrected": None}
    rows = compared(card(ecc=ecc, fan=38, performance_state=8), told, told)
    assert {name: row.differences for name, row in rows.items() if row.differences} == {}
    assert rows["throttle_reasons"].asked == "clocks_throttle_reasons.active"
    assert [rows[f"ecc: {name}"].unreported for name in ecc] == [1, 1, 1]


def test_a_figure_may_lie_between_the_two_looks() -> None:
    rest = WORKING | {"utilization.gpu": "0", "memory.used": "0", "temperature.gpu": "41", "pstate": "P0"}
    rows = compared(card(utilisation=50, memory_used=9000 * MIB, temperature=50), rest, WORKING)
    assert [rows[name].agreed for name in ("utilisation", "memory_used (MiB)", "temperature")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("figure", "ours", "said"),
    [
        ("memory_used (MiB)", {"memory_used": 20297 * MIB}, "nvidia-smi 19818 and 19818, the frame 20297."),
        ("power", {"power": 631950.0}, "nvidia-smi 631.95 and 631.95, the frame 631950."),
        ("utilisation", {"utilisation": None}, "nvidia-smi 100 and 100, the frame not reported."),
        ("fan", {"fan": 0}, "nvidia-smi not reported and not reported, the frame 0."),
        ("persistence", {"persistence": False}, "nvidia-smi yes and yes, the frame no."),
        ("mig", {"mig": []}, "nvidia-smi no and no, the frame yes."),
        ("performance_state", {"performance_state": 2}, "nvidia-smi 0 and 0, the frame 2."),
        ("throttle_reasons", {"throttle_reasons": []}, "nvidia-smi power limit and power limit, the frame none."),
        ("pci", {"pci": "0000:00:09.0"}, "nvidia-smi 00000000:00:09.0 and 00000000:00:09.0, the frame 0000:00:09.0."),
    ],
)
def test_a_figure_that_differs_is_said_with_all_three_values(figure: str, ours: dict[str, Any], said: str) -> None:
    rows = compared(card(**ours), WORKING, WORKING)
    assert rows[figure].differences == [f"GPU 0: {said}"]
    assert (rows[figure].agreed, rows[figure].looks) == (0, 1)
    assert [name for name, row in rows.items() if row.differences] == [figure]


def test_a_word_that_is_not_known_is_a_difference_and_no_end() -> None:
    rows = compared(card(), WORKING, WORKING | {"compute_mode": "Shared_Somehow"})
    assert rows["compute_mode"].differences == []  # it may have been changed between the two looks
    rows = compared(card(), *(2 * (WORKING | {"compute_mode": "Shared_Somehow"},)))
    assert rows["compute_mode"].differences == [
        "GPU 0: nvidia-smi Shared_Somehow and Shared_Somehow, the frame default."
    ]


Apps = dict[tuple[str, int], float | None]


def apps(**megabytes: float | None) -> Apps:
    return {("GPU-0", int(pid.removeprefix("p"))): memory for pid, memory in megabytes.items()}


@pytest.mark.parametrize(
    ("before", "after", "differences"),
    [
        (apps(p11=1024.0, p12=2048.0), apps(p11=1024.0, p12=2048.0), []),
        (apps(p11=1024.0, p12=1.0), apps(p11=1024.0, p12=4096.0), []),
        (apps(p11=1024.0, p12=2048.0, p13=5.0), apps(p11=1024.0, p12=2048.0), []),
        (apps(p11=1024.0), apps(p11=1024.0, p12=2048.0), []),
        (apps(p11=1024.0), apps(p11=1024.0), ["process 12: only the frame lists it on GPU-0."]),
        (
            apps(p11=1024.0, p12=2048.0, p13=5.0),
            apps(p11=1024.0, p12=2048.0, p13=5.0),
            ["process 13: only nvidia-smi lists it on GPU-0."],
        ),
        (
            apps(p11=900.0, p12=2048.0),
            apps(p11=900.0, p12=2048.0),
            ["process 11: nvidia-smi 900 and 900, the frame 1024."],
        ),
    ],
)
def test_processes_are_compared_but_for_those_that_come_or_go(
    before: Apps, after: Apps, differences: list[str]
) -> None:
    drawing = process(20, 25 * MIB, kinds="G")
    ours = device("GPU-0", process(11, 1024 * MIB), process(12, 2048 * MIB, kinds="C+G"), drawing)
    rows: dict[str, Compared] = {}
    compare_processes(rows, [ours], before, after)
    assert rows["processes"].differences == differences


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Smi]:
    """A program that answers as nvidia-smi does, knows these fields, and lists these processes."""

    def made(fields: dict[str, str], processes: str = "") -> Smi:
        (tmp_path / "fields.json").write_text(json.dumps(fields))
        (tmp_path / "processes").write_text(processes)
        script = tmp_path / "nvidia-smi"
        script.write_text(
            f"#!{sys.executable} -S\n"
            "import json, sys\n"
            f"folder = {str(tmp_path)!r}\n"
            "query, names = sys.argv[1].split('=')\n"
            "assert sys.argv[2:] == ['--format=csv,noheader,nounits']\n"
            "if query == '--query-compute-apps':\n"
            "    print(open(folder + '/processes').read())\n"
            "    sys.exit()\n"
            "fields = json.load(open(folder + '/fields.json'))\n"
            "for name in names.split(','):\n"
            "    if name not in fields:\n"
            "        print(f'Field \"{name}\" is not a valid field to query.\\n')\n"
            "        sys.exit(2)\n"
            "print(', '.join(fields[name] for name in names.split(',')))\n"
        )
        script.chmod(0o755)
        return Smi([str(script)])

    return made


def test_fields_that_nvidia_smi_does_not_know_are_left_out(fake: Callable[..., Smi]) -> None:
    old = {name: value for name, value in WORKING.items() if name not in ("memory.reserved", "utilization.encoder")}
    asked = fake(old)
    assert asked.gpus() == {"GPU-0": old}
    assert asked.gpus() == {"GPU-0": old}
    rows = compared(card(), dict(old), dict(old))
    assert {"memory_reserved (MiB)", "encoder_utilisation"} & rows.keys() == set()


def test_processes_are_read_with_and_without_their_memory(fake: Callable[..., Smi]) -> None:
    asked = fake(WORKING, "GPU-0, 11327, 2566\nGPU-0, 11345, [N/A]\n")
    assert asked.apps() == {("GPU-0", 11327): 2566.0, ("GPU-0", 11345): None}
    assert fake(WORKING).apps() == {}


def test_an_nvidia_smi_that_fails_or_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"cannot be asked: .*No such file"):
        Smi([str(tmp_path / "nvidia-smi")]).gpus()
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    with pytest.raises(RuntimeError, match="couldn't communicate"):
        Smi(["sh", "-c", f'echo "{said}"; exit 9']).gpus()


# -- bench/gpu_real.py -------------------------------------------------------------------------------------------------


def verified() -> Verified:
    rows = compared(card(), WORKING, WORKING)
    calls = {"nvmlDeviceGetName": [2e-6], "nvmlDeviceGetPowerUsage": [0.001, 0.002, 0.009]}
    times = Costs(calls, frames=[0.004, 0.005, 0.006], cpu=[0.002, 0.002, 0.004], starts=[1.5])
    frame = {
        "devices": [card(), card()],
        "driver_version": "590.48.01",
        "nvml_version": "590.48",
        "cuda_version": "13.1",
    }
    children = [{"device": "NVIDIA H100", "seconds": 0.31}, {"device": "NVIDIA H100", "seconds": 0.29}]
    return Verified(frame, rows, "", times, {"children": children})


def test_the_report_names_cards_driver_figures_costs_and_the_fork() -> None:
    page = gpu_real.markdown(verified(), MACHINE)
    assert "2 x NVIDIA H100 80GB HBM3; driver 590.48.01, NVML 590.48, CUDA 13.1." in page
    assert "| power | `power.draw` | 631.95 | 1 of 1 | 0 |" in page
    assert "| fan | `fan.speed` | not reported | 1 of 1 | 1 |" in page
    assert "Nothing differs." in page
    assert "takes 5.00 ms in the median, 6.00 ms in the 95th percentile of 3, with 2.00 ms of processor time" in page
    assert "0.200 % of a core at one a second. The first one, with the start of the library, takes 1.50 s." in page
    assert "| `nvmlDeviceGetPowerUsage` | 3 | 2000 | 9000 | 9000 |" in page
    assert page.index("nvmlDeviceGetPowerUsage") < page.index("nvmlDeviceGetName")
    assert "two of them needed 0.310 s and 0.290 s for their first sum" in page


def test_the_report_has_what_differs_and_what_was_not_looked_at() -> None:
    found = verified()
    compare(found.compared, [card(power=5.0)], {"GPU-0": WORKING}, {"GPU-0": WORKING})
    found.fork, found.worked = {"skipped": "torch 2.13.0+cpu has no CUDA here"}, "torch 2.13.0+cpu has no CUDA here"
    page = gpu_real.markdown(found, MACHINE)
    assert "- power: GPU 0: nvidia-smi 631.95 and 631.95, the frame 5." in page
    assert "| power | `power.draw` | 631.95 | 1 of 2 | 0 |" in page
    assert "while it rested (torch 2.13.0+cpu has no CUDA here)" in page
    assert "Not looked at: torch 2.13.0+cpu has no CUDA here." in page
    found.fork = {"problem": "A forked child could not use CUDA: it ended with status 1"}
    assert "It does not work: A forked child could not use CUDA" in gpu_real.markdown(found, MACHINE)


def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100)


def test_without_a_real_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    before = gpu_real.PAGE.read_text()
    sim = simulated(tmp_path, driver(simulated_device()))
    done = run(sys.executable, "-m", "bench.gpu_real", env=sim.env)
    assert done.returncode == 2
    assert "simulator, which proves nothing about a real one" in done.stderr
    broken = simulated(tmp_path, driver(simulated_device(), error="driver not loaded"))
    done = run(sys.executable, "-m", "bench.gpu_real", env=broken.env)
    assert done.returncode == 2
    assert "There is no GPU here to compare with: The NVIDIA driver is installed but not loaded" in done.stderr
    assert gpu_real.PAGE.read_text() == before


def test_frames_and_calls_are_timed_and_compared_through_the_real_binding(
    tmp_path: Path, fake: Callable[..., Smi]
) -> None:
    """The simulated driver and a program in nvidia-smi's place, which tell of the same GPU."""
    listed = [{"pid": 11, "memory": 1024 * MIB, "type": "C", "namespace": {}}]
    memory = {"total": 81559 * MIB, "reserved": 479 * MIB, "used": 19818 * MIB}
    clocks = {"graphics": 1980, "sm": 1980, "memory": 2619, "video": 1545}
    about = {"name": WORKING["name"], "pci_bus_id": WORKING["pci.bus_id"], "memory": memory, "processes": listed}
    numbers = {"temperature": 59, "power": 631_950, "clocks": clocks, "max_clocks": clocks, "throttle_reasons": 4}
    sim = simulated(tmp_path, driver(simulated_device(**about, **numbers, utilisation={"gpu": 100, "memory": 11})))
    fake(WORKING, "GPU-0, 11, 1024\n")
    code = (
        "import json; from bench import gpu_real; from bench.smi import Smi\n"
        f"found = {{}}; gpu_real.look(found, Smi([{str(tmp_path / 'nvidia-smi')!r}]), 2)\n"
        "costs = gpu_real.costs(20, 2)\n"
        "print(json.dumps([{name: [row.agreed, row.looks, row.differences] for name, row in found.items()},\n"
        "    {name: len(times) for name, times in costs.calls.items()}, len(costs.frames), len(costs.starts),\n"
        "    min(min(times) for times in costs.calls.values()) > 0]))\n"
    )
    done = run(sys.executable, "-c", code, env=sim.env)
    assert done.returncode == 0, done.stderr
    rows, calls, frames, starts, positive = json.loads(done.stdout)
    assert rows == {name: [2, 2, []] for name in ["processes", *(figure.name for figure in smi.FIGURES)]}
    assert (frames, starts, positive) == (20, 2, True)
    # Once for each look: two starts, a first one and twenty frames.
    assert calls["nvmlDeviceGetUtilizationRates"] == 23
    assert calls["nvmlInitWithFlags"] == 3
    assert calls["nvmlDeviceGetName"] == 3


def test_two_children_of_a_warm_parent_are_asked_and_a_failure_is_a_problem() -> None:
    told = gpu_real.forked("tests.forked:torch_state")["children"]
    assert [(one["cuda"], one["bad fork"]) for one in told] == [(False, False)] * 2
    problem = gpu_real.forked("tests.forked:fails")["problem"]
    assert problem == "A forked child could not use CUDA: it ended with status 1"
