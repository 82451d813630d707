"""A checker that breaks, and what the judge's own messages give away."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.attacks.campaign import Campaign
from tests.attacks.lab import MARKER, RIGHT, attacked_lab, attacks_notebook


def test_the_same_seed_gives_the_same_verdict_and_another_one_other_inputs(campaign: Campaign, tmp_path: Path) -> None:
    lab = attacked_lab(tmp_path, 1)
    wrong = attacks_notebook(["def energy(x):\n    return x.sum()"])
    first, again, other = (campaign.judge.check(lab, wrong, seed=seed).results[0].message for seed in (5, 5, 6))
    assert first == again
    assert first != other


BROKEN_CHECK = """
@check("energy_0")
def is_broken():
    raise ValueError("author")

"""


def test_a_check_that_breaks_is_our_fault_and_the_next_exercise_is_judged_all_the_same(
    campaign: Campaign, tmp_path: Path
) -> None:
    lab = attacked_lab(tmp_path, 2)
    lab.checks.write_text(lab.checks.read_text().replace("# %%\n@check", f"# %%{BROKEN_CHECK}# %%\n@check", 1))
    verdict = campaign.judge.check(lab, attacks_notebook([RIGHT, RIGHT]), seed=1)
    first, second = verdict.results
    assert (first.outcome, first.points) == ("our fault", 0)
    assert first.message == "The check 'is_broken' is broken: ValueError: author"
    assert (second.outcome, second.points) == ("passed", 3)
    assert "in is_broken" in verdict.report  # the traceback


def raised(report: str) -> list[tuple[str, str]]:
    """The errors among the outputs of an executed notebook."""
    outputs = [output for cell in json.loads(report)["cells"] for output in cell.get("outputs", ())]
    return [(o["ename"], o["evalue"]) for o in outputs if o["output_type"] == "error"]


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        ("raise ValueError('author')", ("ValueError", "author")),
        ("def broken(", ("SyntaxError", "line 1")),
        ("import os; os._exit(1)", None),
    ],
)
def test_a_broken_checker_never_passes_anyone_and_its_error_is_in_the_report(
    extra: str, error: tuple[str, str] | None, campaign: Campaign, tmp_path: Path
) -> None:
    lab = attacked_lab(tmp_path, 1)
    lab.checks.write_text(lab.checks.read_text() + f"\n# %%\n{extra}\n")
    verdict = campaign.judge.check(lab, attacks_notebook([RIGHT]), seed=1)
    assert (verdict.results[0].outcome, verdict.points) == ("our fault", 0)
    if error is None:  # the kernel itself is gone, and with it what it had to say
        assert verdict.report == ""
    else:
        [(name, text)] = raised(verdict.report)
        assert name == error[0]
        assert error[1] in text


def test_the_report_is_the_executed_notebook_once(campaign: Campaign, tmp_path: Path) -> None:
    verdict = campaign.judge.check(attacked_lab(tmp_path, 1), attacks_notebook([RIGHT]), seed=1)
    assert raised(verdict.report) == []
    assert verdict.report.count(MARKER) == 1
    assert "gradlab-job-" not in json.loads(verdict.report)["metadata"]["papermill"].values()


def test_an_exercise_without_checks_is_our_fault_not_a_pass(campaign: Campaign, tmp_path: Path) -> None:
    lab = attacked_lab(tmp_path, 1)
    lab.checks.write_text(lab.checks.read_text().split("# %%\n@check")[0])
    verdict = campaign.judge.check(lab, attacks_notebook([RIGHT]), seed=1)
    assert verdict.results[0].outcome == "our fault"
    assert "no check for this exercise" in verdict.results[0].message


ECHOES = """
import json
def energy(x):
    print(json.dumps(x.tolist()))
    return (x * x).sum() + 1
"""


def test_what_one_check_shows_is_of_no_use_in_the_next(campaign: Campaign, tmp_path: Path) -> None:
    """A program may print its inputs, and is told the first value that was expected: the next check has other ones."""
    lab = attacked_lab(tmp_path, 1)
    seen = campaign.judge.check(lab, attacks_notebook([ECHOES]), seed=5).results[0]
    inputs = [json.loads(line) for line in seen.output.splitlines()]
    table = {json.dumps(value): float(sum(v * v for v in torch.tensor(value).flatten().tolist())) for value in inputs}
    replay = f"import json\ntable = {table}\ndef energy(x):\n    return torch.tensor(table[json.dumps(x.tolist())])"
    again = campaign.judge.check(lab, attacks_notebook([replay]), seed=6).results[0]
    assert (again.outcome, again.points) == ("error in your code", 0)
    assert "KeyError" in again.message


def test_a_wrong_answer_is_told_in_the_same_words_whatever_the_inputs(campaign: Campaign, tmp_path: Path) -> None:
    """Only the numbers of the first difference change from seed to seed, and no input is among them."""
    lab = attacked_lab(tmp_path, 1)
    wrong = attacks_notebook(["def energy(x):\n    print(x.tolist())\n    return (x * x).sum() * 2"])
    results = [campaign.judge.check(lab, wrong, seed=seed).results[0] for seed in (7, 8)]
    first, second = (re.sub(r"[\d.e-]+", "#", re.sub(r"\([\d, ]+\)", "#", result.message)) for result in results)
    assert first == second
    for result in results:
        printed = [torch.tensor(json.loads(line)) for line in result.output.splitlines()]
        inputs = [value for tensor in printed for value in tensor.flatten().tolist()]
        assert not [value for value in inputs if f"{abs(value):.4g}" in result.message]
