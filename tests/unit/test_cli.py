"""The command line as a person meets it: a real process with a real judge where that matters."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rich.console import Console

from gradlab.cli import main
from gradlab.settings import PREFIX
from gradlab.terminal import doctor_view, labs_view, line_view, plain, verdict_view
from gradlab.verification import mistaken_notebook, solved_notebook
from tests.courses import CourseFolder, write_course
from tests.waiting import ended, until

VERBS = (["up"], ["check"], ["labs", "verify"], ["gpu"], ["doctor"], ["password"], ["release"])


@pytest.fixture
def folder(tmp_path: Path) -> CourseFolder:
    return write_course(tmp_path / "course")


@pytest.fixture
def environment(tmp_path: Path, folder: CourseFolder) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith((PREFIX, "JUPYTERHUB"))}
    return kept | {
        "GRADLAB_LABS_DIR": str(folder.labs),
        "GRADLAB_CHECKS_DIR": str(folder.checks),
        "GRADLAB_STATE_DIR": str(tmp_path / "state"),
        "GRADLAB_CHECK_POOL": "0",
        "COLUMNS": "200",
    }


def gradlab(environment: dict[str, str], *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradlab.cli", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=280,
    )


def run_here(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    *words: str,
) -> tuple[int, str, str]:
    """The same in this process: for what ends before any judge starts."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "argv", ["gradlab", *words])
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # else `python -m pytest` is in the name
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    code = end.value.code
    assert isinstance(code, int)
    return code, out, err


# -- help and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_with_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    code, out, _ = run_here(monkeypatch, capsys, {}, *verb, "--help")
    assert code == 0
    assert f"Usage: gradlab {' '.join(verb)}" in out
    assert "Examples:\n    gradlab " in out or "Examples:\n    GRADLAB" in out
    assert ("--json" in out) == (verb != ["up"])


def test_help_lists_the_verbs_and_hides_the_inner_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_here(monkeypatch, capsys, {}, "--help")
    commands = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()]
    assert code == 0
    assert commands == ["up", "demo", "check", "gpu", "doctor", "password", "release", "labs"]
    assert "..." not in out.split("Commands:")[1]  # no sentence is cut


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['gradlab', '--help']\n"
        "from gradlab.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'jupyterhub', 'papermill', 'sqlalchemy', 'pydantic', 'fastapi', 'numpy', 'jupytext'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", "chess", "x.ipynb"], "There is no lab 'chess' on this server. It has: tensors."),
        (
            ["check", "tensors", "x.ipynb", "--only", "mate"],
            "Lab 'tensors' has no exercise 'mate'. It has: rank_of, double.",
        ),
        (
            ["check", "tensors", "missing.ipynb"],
            "missing.ipynb cannot be read: No such file or directory. Name a notebook",
        ),
        (["check", "tensors", "."], "cannot be read: Is a directory"),
        (["labs", "verify", "chess"], "There is no lab 'chess' on this server."),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    words: list[str],
    says: str,
) -> None:
    code, out, err = run_here(monkeypatch, capsys, environment, *words)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_notebook_over_the_limit_is_not_even_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], tmp_path: Path
) -> None:
    big = tmp_path / "big.ipynb"
    with big.open("wb") as file:
        file.truncate((1 << 20) + 1)
    environment |= {"GRADLAB_NOTEBOOK_MB": "1"}
    code, _, err = run_here(monkeypatch, capsys, environment, "check", "tensors", str(big))
    assert code == 2
    assert f"{big} is 1.0 MiB; the limit is 1 MiB. Clear the notebook's outputs, or raise GRADLAB_NOTEBOOK_MB." in err


@pytest.mark.parametrize("text", ["not a notebook", "[]", '{"cells": []}'])
def test_what_is_no_notebook_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    tmp_path: Path,
    text: str,
) -> None:
    path = tmp_path / "odd.ipynb"
    path.write_text(text)
    code, out, err = run_here(monkeypatch, capsys, environment, "check", "tensors", str(path), "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"{path}: ")
    assert "Traceback" not in err


def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    code, _, err = run_here(monkeypatch, capsys, environment | {"GRADLAB_PORT": "many"}, "labs", "verify")
    assert code == 2
    assert "GRADLAB_PORT='many' is not usable" in err


def test_a_lab_without_its_checker_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    folder: CourseFolder,
) -> None:
    (folder.hidden / "checks.py").unlink()
    code, _, err = run_here(monkeypatch, capsys, environment, "labs", "verify")
    assert code == 2
    assert "Lab 'tensors' has no checker: " in err
    assert "checks.py is missing. Add it, or remove 04_tensors.py." in err


def test_the_portal_is_not_for_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_URL", raising=False)
    code, _, err = run_here(monkeypatch, capsys, environment, "portal")
    assert code == 2
    assert "JUPYTERHUB_SERVICE_URL is ''" in err
    assert "Start everything with `gradlab up`." in err


# -- with the real judge -------------------------------------------------------------------------------------------


def test_a_solved_notebook_passes_and_a_blank_one_is_not_attempted(
    environment: dict[str, str], folder: CourseFolder, tmp_path: Path
) -> None:
    lab = folder.load().labs[0]
    solved, blank = tmp_path / "solved.ipynb", tmp_path / "blank.ipynb"
    solved.write_text(solved_notebook(lab))
    blank.write_text(lab.notebook)
    done = gradlab(environment, "check", "tensors", "solved.ipynb", "--json", cwd=tmp_path)
    verdict = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [(r["exercise"], r["outcome"], r["points"]) for r in verdict["results"]] == [
        ("rank_of", "passed", 2),
        ("double", "passed", 3),
    ]
    assert (verdict["passed"], verdict["points"], verdict["max_points"]) == (True, 5, 5)
    done = gradlab(environment, "check", "tensors", "blank.ipynb", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert [result["outcome"] for result in json.loads(done.stdout)["results"]] == ["not attempted", "not attempted"]
    assert not (tmp_path / "state").exists()  # nothing is stored


def test_a_mistake_is_explained_to_a_person(environment: dict[str, str], folder: CourseFolder, tmp_path: Path) -> None:
    lab = folder.load().labs[0]
    mistake = next(mistake for mistake in lab.mistakes if mistake.name == "rank_elements")
    path = tmp_path / "wrong.ipynb"
    path.write_text(mistaken_notebook(lab, mistake))
    done = gradlab(environment, "check", "tensors", str(path), "--only", "rank_of", "--seed", "7")
    assert done.returncode == 1
    assert "✗ rank_of  Rank  failed  0/2" in done.stdout
    assert "That is the number of elements." in done.stdout
    assert "double" not in done.stdout
    assert "\x1b" not in done.stdout  # a pipe gets no colours


def test_labs_verify_proves_the_course_and_prints_only_json(
    environment: dict[str, str], folder: CourseFolder, tmp_path: Path
) -> None:
    done = gradlab(environment | {"GRADLAB_CHECK_POOL": "2"}, "labs", "verify", "--json", "--seeds", "1")
    assert done.returncode == 0, done.stderr + done.stdout
    data = json.loads(done.stdout)
    (lab,) = data["labs"]
    assert lab["proven"]
    assert len([proof for exercise in lab["exercises"] for proof in exercise["proofs"]]) == 8
    assert {question["id"]: question["exercises"] for question in data["questions"]} == {
        "q001": [],
        "q010": ["tensors/rank_of"],
        "q011": ["tensors/double"],
    }


def test_the_portal_answers_and_sigterm_ends_it_with_all_its_processes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {
        "GRADLAB_CHECK_POOL": "1",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}",
        "JUPYTERHUB_SERVICE_NAME": "portal",
        "JUPYTERHUB_SERVICE_PREFIX": "/services/portal/",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
        "JUPYTERHUB_API_TOKEN": "a" * 64,
        "JUPYTERHUB_CLIENT_ID": "service-portal",
    }
    log = tmp_path / "portal.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "gradlab.cli", "portal"], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}/services/portal/api/openapi.json"
        until(lambda: child.poll() is not None or _answers(address), seconds=150)
        assert child.poll() is None, log.read_text()
        process = psutil.Process(child.pid)
        until(lambda: bool(process.children(recursive=True)), seconds=100)  # a judge is warming up
        children = process.children(recursive=True)
        started = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0, log.read_text()
        assert time.monotonic() - started < 30
        until(lambda: ended(children), seconds=20)
        assert "Traceback" not in log.read_text()
    finally:
        child.kill()
        child.wait(10)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


# -- what is shown: pure functions ---------------------------------------------------------------------------------


def shown(view: Any) -> str:
    console = Console(width=160, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def result(**changes: Any) -> dict[str, Any]:
    base = {"exercise": "rank_of", "outcome": "failed", "points": 0, "max_points": 2, "message": "No.", "output": ""}
    return base | changes


def verdict_of(*results: dict[str, Any]) -> dict[str, Any]:
    return {"results": results, "points": 0, "max_points": 2, "seconds": 0.1234}


def test_text_from_learners_is_no_markup_and_steers_no_terminal() -> None:
    text = shown(
        verdict_view(verdict_of(result(message="[red]x[/red] :smile: \x1b[2J", output="\x1b]0;title\x07")), {})
    )
    assert "[red]x[/red] :smile: \\x1b[2J" in text
    assert "\\x1b]0;title\\x07" in text
    assert plain("a\tb\nc\r\x9b") == "a\tb\nc\\r\\x9b"


def test_what_is_our_fault_is_not_scored_as_zero() -> None:
    fault = result(exercise="double", outcome="our fault")
    assert shown(verdict_view(verdict_of(fault), {})).splitlines()[0].endswith("double    our fault  not scored")
    assert shown(verdict_view(verdict_of(fault), {})).endswith("\nnot scored in 0.12 s\n")
    both = shown(verdict_view(verdict_of(result(outcome="passed", points=2), fault), {}))
    assert both.endswith("\n2 of 2 points in 0.12 s\n")


def test_a_pass_shows_no_message_and_no_output() -> None:
    text = shown(
        verdict_view(verdict_of(result(outcome="passed", points=2, message="m", output="o")), {"rank_of": "Rank"})
    )
    assert text.splitlines() == ["✓ rank_of  Rank  passed  2/2", "2 of 2 points in 0.12 s"]


def test_a_lab_that_is_not_proven_says_why_and_what_to_do() -> None:
    proof = {
        "kind": "mistake",
        "name": "half",
        "seed": 3,
        "expected": "failed",
        "outcome": "passed",
        "message": "",
        "ok": False,
        "remedy": "Sharpen the check.",
    }
    lab = {
        "slug": "tensors",
        "proven": False,
        "seconds": 1.0,
        "problems": ["Question q010 is answered by no exercise."],
        "exercises": [{"name": "double", "questions": ["q011"], "proofs": [proof]}],
    }
    questions = [{"id": "q011", "topic": "tensors", "exercises": ["tensors/double"]}]
    questions += [{"id": "q010", "topic": "tensors", "exercises": []}, {"id": "q9", "topic": "cuda", "exercises": []}]
    text = shown(labs_view({"labs": [lab], "questions": questions}))
    assert "✗ tensors/double: mistake 'half' ended as 'passed' where 'failed' is right (seed 3)." in text
    assert "    Sharpen the check." in text
    assert "✗ tensors: Question q010 is answered by no exercise." in text
    assert "tensors not proven in 1.0 s" in text
    assert "1 of 2 questions of these topics are answered by an exercise." in text
    assert "0/1" in text


def test_findings_show_their_remedy_below_them() -> None:
    line = {"name": "disk", "status": "failed", "value": "0.1 GiB free", "remedy": "Free some."}
    assert shown(line_view(line)).split() == ["✗", "disk:", "0.1", "GiB", "free", "Free", "some."]
    assert shown(doctor_view([line])).startswith("1 failed, 0 warnings. Follow the remedies above")
    assert shown(doctor_view([line | {"status": "warning"}])) == "Nothing failed, 1 warnings.\n"
    assert shown(doctor_view([line | {"status": "ok"}])) == "All is well.\n"
    elsewhere = line | {"status": "unseen", "value": "who may read it is not visible from here"}
    assert shown(line_view(elsewhere)).startswith("? disk: who may read it")
    assert shown(doctor_view([elsewhere])) == "All is well. 1 could not be seen from here; the commands above tell.\n"
