"""The judge as a whole: what was printed, and what it says where the checker, the kernel or a sandbox lets it down."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec

from checker import kernels
from checker.engine import Judge, JudgeConfig
from checker.job import Job, JobTask
from checker.kernels import KernelPool
from checker.results import Outcome, Result
from checker.sandbox.base import Sandbox
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.sandbox.pool import SandboxPool
from checker.sandbox.process import ProcessSandbox
from checker.spec import MAX_OUTPUT, Specification
from checker.workplace import Workplace
from tests.attacks.lab import RIGHT, attacked_lab, attacks_notebook

pytestmark = pytest.mark.xdist_group("judge")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with closing(Judge(JudgeConfig(SandboxConfig(method=detect(), output_kb=64), pool=1))) as judge:
        judge.warm()
        yield judge


def judged(judge: Judge, folder: Path, source: str, checks: str = "") -> Result:
    """The result of one exercise; ``checks`` is added to the checker notebook as a cell."""
    lab = attacked_lab(folder, 1)
    lab.checks.write_text(f"{lab.checks.read_text()}\n# %%\n{checks}\n")
    return judge.check(lab, attacks_notebook([source]), seed=1).results[0]


# -- what was printed ------------------------------------------------------------------------------------------------


FLOODS = """
def energy(x):
    print("the first line")
    for number in range(10**9):
        print("line", number)
"""


def test_whoever_prints_too_much_reads_what_came_first(judge: Judge, tmp_path: Path) -> None:
    result = judged(judge, tmp_path, FLOODS)
    assert result.outcome is Outcome.KILLED
    assert result.message == "Your code printed more than is allowed, and was stopped."
    assert result.output.startswith("the first line\nline 0\nline 1\n")
    assert len(result.output) == MAX_OUTPUT


class OneMore(SandboxPool):
    """Counts the sandboxes that were taken."""

    taken = 0

    def take(self) -> Sandbox:
        self.taken += 1
        return super().take()


def test_a_sandbox_that_was_ended_for_its_last_words_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output may come after all answers; what is too much of it then is no fault of the next exercise."""

    def task(name: str) -> JobTask:
        segment = {"source": f"def {name}(): return 1", "cell": 1, "line": 1}
        return JobTask(name, 10, needs=(), gpu=False, state="ready", message="", segments=[segment], future=[])

    take_output = ProcessSandbox.take_output

    def take_too_much(sandbox: ProcessSandbox) -> str:
        sandbox._output += bytes(sandbox._output_limit + 1)
        return take_output(sandbox)

    pool = OneMore(SandboxConfig(method=detect()))
    job = Job(seed=1, gpu=False, results=str(tmp_path / "results.json"), tasks=(task("first"), task("second")))
    specification = Specification(job, pool)
    monkeypatch.setattr(ProcessSandbox, "take_output", take_too_much)
    for name in ("first", "second"):
        specification.check(name)(lambda name=name: specification.student.call(name).equals(1))  # type: ignore[misc]
    specification.close()
    assert [judged.outcome for judged in specification._judged.values()] == [Outcome.PASSED, Outcome.PASSED]
    assert pool.taken == 2


# -- a checker that breaks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ("import os; os._exit(1)", "The checker notebook failed: DeadKernelError: the judge's kernel died"),
        (
            "student.energy_0(1)",
            "The checker notebook failed: PapermillExecutionError: RuntimeError: student is only there inside a check",
        ),
    ],
)
def test_a_checker_that_fails_is_named_with_its_last_words(
    checks: str, says: str, judge: Judge, tmp_path: Path
) -> None:
    result = judged(judge, tmp_path, RIGHT, checks)
    assert (result.outcome, result.message) == (Outcome.OUR_FAULT, says)


def test_what_a_broken_check_raised_is_in_the_report(judge: Judge, tmp_path: Path) -> None:
    lab = attacked_lab(tmp_path, 1)
    lab.checks.write_text(lab.checks.read_text() + '\n# %%\n@check("energy_0")\ndef halves():\n    1 / 0\n')
    verdict = judge.check(lab, attacks_notebook([RIGHT]), seed=1)
    assert verdict.results[0].message == "The check 'halves' is broken: ZeroDivisionError: division by zero"
    outputs = [output for cell in json.loads(verdict.report)["cells"] for output in cell.get("outputs", ())]
    assert [output["name"] for output in outputs] == ["stderr"]
    assert "".join(outputs[0]["text"]).endswith(
        "in halves\n    1 / 0\n    ~~^~~\nZeroDivisionError: division by zero\n"
    )


def test_a_checker_without_a_result_is_our_fault(judge: Judge, tmp_path: Path) -> None:
    lab = attacked_lab(tmp_path, 1)
    lab.checks.write_text('# %% tags=["parameters"]\njob = ""\n\n# %%\nprint("nothing is begun")\n')
    result = judge.check(lab, attacks_notebook([RIGHT]), seed=1).results[0]
    assert (result.outcome, result.message) == (Outcome.OUR_FAULT, "The checker gave no result.")


# -- a kernel that does not come -------------------------------------------------------------------------------------


def unwarmed(folder: Path) -> Result:
    """What a judge says that starts its kernel for this check."""
    with closing(Judge(JudgeConfig(SandboxConfig(method=detect()), pool=0))) as judge:
        return judged(judge, folder, RIGHT)


def test_a_kernel_that_cannot_be_started_is_our_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    result = unwarmed(tmp_path)
    assert result.outcome is Outcome.OUR_FAULT
    assert result.message.startswith("The judge's kernel does not start: ")
    assert "/no/such/python" in result.message


def test_a_kernel_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(_specs: Any, _name: str) -> KernelSpec:
        return KernelSpec(argv=["sleep", "600"], display_name="Mute", language="python")

    monkeypatch.setattr(kernels._JudgeSpecs, "get_kernel_spec", mute)
    monkeypatch.setattr(kernels, "_START_SECONDS", 1)
    result = unwarmed(tmp_path)
    assert result.outcome is Outcome.OUR_FAULT
    assert result.message == "The judge's kernel does not start: it did not answer within 1 s"


def test_containers_that_cannot_be_looked_for_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    with closing(Workplace()) as workplace:
        pool = KernelPool(SandboxConfig(method="docker", installation="nobody"), 0, workplace)
        pool._sweep(lambda holder: True)
        pool.close()
    [record] = [record for record in caplog.records if record.name == "checker.kernels"]
    assert record.getMessage().startswith(
        f"Containers of earlier checks could not be looked for: Docker does not answer at unix://{tmp_path}/nothing"
    )
