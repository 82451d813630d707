"""What the measurements of hosted servers amount to: the table, the targets and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import sites, spawn
from bench.environments import BenchError
from bench.report import Machine
from bench.spawn import Measured, markdown, table, targets

STOCK = Measured(
    "bare DockerSpawner",
    one=[2.0, 9.0, 2.5],
    cpu=[1.8, 1.8, 1.8],
    torch=[6.0, 5.0, 7.0],
    five=[9.0, 9.1, 12.0],
    trips=[0.048, 0.050, 0.048],
    memory=[0.7, 0.9, 0.8],
)
OURS = Measured(
    "Gradlab",
    one=[1.0, 1.0, 8.0],
    cpu=[0.9, 1.0, 0.8],
    torch=[2.0, 3.0, 2.5],
    five=[4.0, 5.0, 4.55],
    trips=[0.006, 0.007, 0.020],
    memory=[0.1, 0.2, 0.0],
)
MACHINE = Machine("2026-11-21", 2, "a processor", 24.0, {"jupyterhub": "6.1.1"}, "make bench-hosting")


def test_targets_are_ratios_of_medians_within_the_run() -> None:
    found = {target.name: target for target in targets(STOCK, OURS)}
    assert {name: (round(target.value or 0, 3), target.met) for name, target in found.items()} == {
        "one server, of bare": (0.4, True),
        "five servers at once, of bare": (0.5, True),
        "processor time of a server's start, of bare": (0.5, True),
        "round trip of 1 + 1": (7.0, True),
    }
    slow = Measured("Gradlab", [2.0], [1.8], [1.0], [6.4], [0.011], [0.0])
    assert [target.met for target in targets(STOCK, slow)] == [False, False, False, False]


def test_the_page_has_the_medians_of_both_how_they_compare_and_what_they_are() -> None:
    page = markdown([STOCK, OURS], targets(STOCK, OURS), MACHINE)
    assert "| bare DockerSpawner | 2.50 | 1.80 | 6.00 | 9.10 | 48.0 | 0.800 |" in page
    assert "| Gradlab | 1.00 | 0.900 | 2.50 | 4.55 | 7.00 | 0.100 |" in page
    assert "| bare to ours | 2.50 | 2.00 | 2.40 | 2.00 | 6.86 | 8.00 |" in page
    assert "| five servers at once, of bare | ≤ 0.700 x | 0.500 x | reached |" in page
    assert "Written by `make bench-hosting` on 2026-11-21" in page
    assert "Medians of 3 rounds (3 cells for the round trip)" in page
    assert table([STOCK, OURS]).row_count == 2


def test_without_the_lab_image_it_ends_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_rounds: int) -> list[Measured]:
        raise BenchError("The image gradlab-lab is not on this machine. Build it: make images")

    monkeypatch.setattr(spawn, "_measured", missing)
    assert spawn.main(["--quick"]) == 1
    assert "The benchmark ended: The image gradlab-lab is not on this machine." in capsys.readouterr().err


@pytest.mark.parametrize(("quick", "written"), [(["--quick"], False), ([], True)])
def test_a_missed_target_is_named_and_a_quick_run_writes_no_page(
    quick: list[str],
    written: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(spawn, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(spawn, "_measured", lambda _rounds: [OURS, STOCK])
    assert spawn.main(quick) == 1
    assert "Missed: one server, of bare;" in capsys.readouterr().out
    assert (tmp_path / "page.md").exists() is written


def test_the_image_to_compare_with_is_made_of_the_same_wheels() -> None:
    text = (Path(sites.__file__).parent / "stock" / "Dockerfile").read_text()
    assert "images/wheelhouse/packages images/wheelhouse/torch-${TORCH}" in text
    assert "--constraint /wheels/requirements.lock" in text
