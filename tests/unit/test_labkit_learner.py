"""Is the file what is on the screen? Asked of a real kernel, with this test as its front end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.utils import ensure_event_loop

from gradlab.settings import ROOT
from tests.browser.notebooks import STUB, lab_notebook, sources, write
from tests.fake_portal import TOKEN, FakePortal, fake_portal, result, verdict
from tests.handlers import JsonHandler, serving
from tests.screens import RIGHT, WRONG, Screen, kernel, with_answer

CHECK = 'lab.check("rank_of")'


def judge(notebook: dict[str, Any], only: str | None) -> dict[str, Any]:
    return verdict(result(only or "rank_of", "passed" if RIGHT in sources(notebook) else "failed"))


@pytest.fixture(scope="module", autouse=True)
def no_loop_is_left() -> Iterator[None]:
    """jupyter_client's blocking calls make an event loop for the thread and leave it open."""
    yield
    ensure_event_loop().close()
    asyncio.set_event_loop(None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakePortal, Screen]]:
    with fake_portal(judge=judge) as portal:
        path = tmp_path_factory.mktemp("home") / "04_tensors.ipynb"
        with kernel(portal, path) as screen:
            yield portal, screen


@pytest.fixture
def portal(shared: tuple[FakePortal, Screen]) -> FakePortal:
    portal = shared[0]
    portal.requests.clear()
    portal.refuse, portal.state, portal.opened = None, "judged", 0
    return portal


@pytest.fixture
def screen(shared: tuple[FakePortal, Screen]) -> Screen:
    """The kernel as if just restarted, with nobody who saves, and labkit not waiting for one."""
    screen = shared[1]
    screen.saves = None
    screen.run("labkit.learner.on_screen = functools.partial(real, silence=0.05, patience=0.3)")
    screen.run("get_ipython().history_manager.reset()")
    write(screen.path, with_answer(STUB))
    return screen


def saves(screen: Screen, notebook: dict[str, Any], **answer: str) -> Callable[[], dict[str, Any]]:
    """JupyterLab with this notebook on the screen."""
    screen.run("labkit.learner.on_screen = functools.partial(real, patience=0.3)")

    def save() -> dict[str, Any]:
        write(screen.path, notebook)
        return answer or {"state": "saved"}

    return save


def test_the_front_end_saves_while_the_cell_runs_and_that_file_is_sent(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT))
    shown, error = screen.run(CHECK)
    assert error == ""
    assert shown.startswith("✓ passed · rank_of · 2 of 2 points")
    assert "In the interview: About rank_of." in shown
    assert sources(portal.notebooks[0])[0] == RIGHT
    assert portal.requests[0].query == {"only": ["rank_of"]}


def test_an_answer_edited_after_its_last_run_is_judged_as_shown_and_that_is_said(
    portal: FakePortal, screen: Screen
) -> None:
    screen.run(WRONG)
    screen.saves = saves(screen, with_answer(RIGHT))
    assert "`rank_of` changed after you last ran it. What is on the screen was judged." in screen.run(CHECK)[0]
    screen.run(RIGHT)
    assert "changed" not in screen.run(CHECK)[0]


def test_a_verdict_is_shown_once_and_again_when_asked_for(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT))
    assert screen.run(f"verdict = {CHECK}; verdict")[0].count("✓ passed") == 1
    assert screen.run("verdict")[0].startswith("✓ passed · rank_of")
    assert screen.run("verdict.passed, verdict.points, verdict.max_points, bool(verdict)")[0] == "(True, 2, 2, True)"
    assert screen.run("sorted(verdict.to_dict())")[0] == str(sorted([*verdict(), "answers"]))


def test_a_question_on_the_screen_is_not_waited_for_for_ever(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT), state="saving")
    shown, error = screen.run(CHECK)
    assert error == (
        "JupyterLab has not finished saving this notebook. It may be asking you something: answer that. "
        "Nothing was sent. Save with Ctrl+S, then run this cell again."
    )
    assert shown == "Checking `rank_of`: no verdict."
    assert portal.requests == []


def test_a_save_that_failed_says_why(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT), state="failed", reason="the file is read-only")
    assert screen.run(CHECK)[1].startswith(
        "JupyterLab could not save 04_tensors.ipynb: the file is read-only. Nothing was sent."
    )
    assert portal.requests == []


def test_an_unsaved_answer_is_never_judged_by_its_old_file(portal: FakePortal, screen: Screen) -> None:
    screen.run(RIGHT)
    assert screen.run(CHECK)[1] == (
        "04_tensors.ipynb on disk is not what you ran (rank_of), and JupyterLab did not save it. "
        "Nothing was sent. Save with Ctrl+S, then run this cell again."
    )
    assert portal.requests == []
    write(screen.path, with_answer(RIGHT))  # Ctrl+S
    shown, error = screen.run(CHECK)
    assert error == ""
    assert re.search(r"JupyterLab did not answer, so the file was judged as it was saved at \d\d:\d\d:\d\d\.", shown)
    assert sources(portal.notebooks[0])[0] == RIGHT


def test_a_check_cell_that_the_file_does_not_have_shows_that_it_is_old(portal: FakePortal, screen: Screen) -> None:
    assert "is not what you ran (the cell that runs now)" in screen.run('lab.check( "rank_of")')[1]
    assert portal.requests == []


def test_the_whole_lab_and_a_function_as_the_name(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT, "lab.check()", "lab.check(rank_of)"))
    screen.run(RIGHT)
    screen.run("lab.check()")
    screen.run("lab.check(rank_of)")
    assert [one.query for one in portal.requests if one.path.endswith("/checks")] == [{}, {"only": ["rank_of"]}]


def test_a_refusal_is_one_sentence_without_a_traceback(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT, 'lab.check("rnk")'))
    portal.refuse = (404, json.dumps({"detail": "Lab 'tensors' has no exercise 'rnk'. It has: rank_of."}))
    assert screen.run('lab.check("rnk")') == (
        "Checking `rnk`: no verdict.",
        "Lab 'tensors' has no exercise 'rnk'. It has: rank_of.",
    )


def test_a_check_that_a_newer_one_replaced_says_so(portal: FakePortal, screen: Screen) -> None:
    screen.saves = saves(screen, with_answer(RIGHT))
    portal.state = "superseded"
    assert (
        screen.run(CHECK)[1]
        == "A newer check of yours replaced this one before it was judged: read that one's verdict."
    )


def interrupted(portal: FakePortal, screen: Screen, answer: Callable[[threading.Event, Any], tuple[int, str]]) -> str:
    """The error of a check that is interrupted once ``answer``, which stands in for the portal's, sets its event."""
    screen.saves = saves(screen, with_answer(RIGHT))
    asked = threading.Event()
    stopper = threading.Thread(target=lambda: asked.wait(30) and os.kill(screen.process, signal.SIGINT))
    stopper.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portal, "answer", lambda request: answer(asked, request))
        shown, error = screen.run(CHECK)
    stopper.join()
    assert shown == "Checking `rank_of`: you stopped waiting."
    return error


def test_an_interrupt_stops_the_waiting_not_the_check(portal: FakePortal, screen: Screen) -> None:
    portal.state = "accepted"
    real = portal.answer

    def answer(asked: threading.Event, request: Any) -> tuple[int, str]:
        if "/submissions/" in request.path:
            asked.set()
        return real(request)

    assert interrupted(portal, screen, answer) == (
        f"Stopped waiting. Check 1 goes on, and its verdict will be in the portal: {portal.url}/attempts"
    )


def test_an_interrupt_before_the_portal_has_the_check_says_that_nothing_is_certain(
    portal: FakePortal, screen: Screen
) -> None:
    stopped = threading.Event()

    def answer(asked: threading.Event, _request: Any) -> tuple[int, str]:
        asked.set()
        stopped.wait(30)
        return 503, ""

    error = interrupted(portal, screen, answer)
    stopped.set()
    assert error == "Stopped before the portal confirmed the check. Run the cell again to check."


def test_an_exercise_is_named_by_a_string_or_what_it_defines(portal: FakePortal, screen: Screen) -> None:
    for call in ("lab.check(3)", "lab.hint(3)"):
        assert screen.run(call)[1] == (
            'An exercise is named by a string, as in lab.check("exercise"), not by a value of type int.'
        )
    assert portal.requests == []


def test_hints_come_one_after_another(portal: FakePortal, screen: Screen) -> None:
    for number in (1, 2, 2):
        assert screen.run('lab.hint("rank_of")')[0].startswith(
            f"rank_of · hint {number} of 2\n{portal.hints[number - 1]}"
        )
    assert portal.requests[0].path == "/services/portal/api/labs/tensors/exercises/rank_of/hints"


def test_a_hint_for_nothing_says_how_to_ask(portal: FakePortal, screen: Screen) -> None:
    expected = 'Name the exercise you want a hint for, as its check cell does: lab.hint("exercise").'
    assert screen.run("lab.hint()")[1] == expected
    assert screen.run("lab.hint(3)")[1].endswith("not by a value of type int.")


def test_the_server_knows_a_renamed_notebook(tmp_path: Path) -> None:
    """JPY_SESSION_NAME is the path when the kernel started; the sessions of the Jupyter server follow a rename."""
    old = write(tmp_path / "old.ipynb", lab_notebook(lab="another"))
    write(tmp_path / "new.ipynb", lab_notebook())
    sessions: list[dict[str, Any]] = []

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            ours = self.path == "/user/ada/api/sessions" and self.headers["Authorization"] == f"token {TOKEN}"
            self.answer(200 if ours else 403, sessions if ours else {"message": "Forbidden"})

    with fake_portal() as portal, serving(Handler) as port, kernel(portal, old) as screen:
        about = {"url": f"http://127.0.0.1:{port}/user/ada/", "token": "", "root_dir": str(tmp_path)}
        (screen.connection_file.parent / f"jpserver-{os.getpid()}.json").write_text(json.dumps(about))
        here = {"type": "notebook", "path": "new.ipynb", "kernel": {"id": "1f2e"}}
        sessions[:] = [{**here, "path": "old.ipynb", "kernel": {"id": "another"}}, here]
        screen.run('lab.hint("rank_of")')
        sessions.clear()
        screen.run('lab.hint("rank_of")')
    assert [one.path.split("/")[5] for one in portal.requests] == ["tensors", "another"]


# -- without a kernel ------------------------------------------------------------------------------------------------


def python(code: str, portal: FakePortal, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "GRADLAB_PORTAL_URL": portal.url,
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_named_file_is_checked_from_a_terminal(portal: FakePortal, tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", with_answer(RIGHT))
    done = python("import labkit as lab; lab.check('rank_of', notebook='a.ipynb')", portal, tmp_path)
    assert done.stdout.startswith("Checking `rank_of` …\n✓ passed · rank_of · 2 of 2 points\n"), done.stderr
    assert sources(portal.notebooks[0])[0] == RIGHT


def test_a_terminal_without_a_file_is_told_to_name_one(portal: FakePortal, tmp_path: Path) -> None:
    done = python("import labkit as lab; lab.check('rank_of')", portal, tmp_path)
    assert "There is no telling which notebook this is." in done.stderr
    assert 'lab.check("exercise", notebook="lab.ipynb")' in done.stderr
    assert portal.requests == []
