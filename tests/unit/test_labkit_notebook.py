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
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_core.utils import ensure_event_loop

from gradlab.settings import ROOT
from labkit.errors import LabError
from labkit.notebook import Notebook, Ran
from tests.browser.notebooks import STUB, lab_notebook, sources, write
from tests.fake_portal import TOKEN, FakePortal, fake_portal, result, verdict

RIGHT = "def rank_of(x):\n    return x.dim()"
WRONG = "def rank_of(x):\n    return 6"
CHECK = 'lab.check("rank_of")'


def with_answer(answer: str, *more: str) -> dict[str, Any]:
    notebook = lab_notebook(*more)
    notebook["cells"][0]["source"] = answer
    return notebook


# -- reading ---------------------------------------------------------------------------------------------------------


def ran(*cells: str) -> list[Ran]:
    return [Ran(cell, cell) for cell in cells]


def test_a_notebook_knows_its_lab_and_the_names_of_its_answers(tmp_path: Path) -> None:
    notebook = Notebook.read(write(tmp_path / "a.ipynb", lab_notebook("x = 1", lab="gpu-usage")))
    assert notebook.lab == "gpu-usage"
    assert notebook.answer_names() == {"rank_of"}


@pytest.mark.parametrize("metadata", [{}, {"gradlab": {}}, {"gradlab": {"lab": 3}}, {"gradlab": "tensors"}, None])
def test_another_notebook_is_not_a_lab(tmp_path: Path, metadata: Any) -> None:
    path = write(tmp_path / "own.ipynb", {**lab_notebook(), "metadata": metadata})
    with pytest.raises(LabError, match=r"own\.ipynb is not a lab notebook: .* Open a lab from the portal's list"):
        _ = Notebook.read(path).lab


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cells": 3}', b"\xff\xfe"])
def test_a_file_that_is_no_notebook_is_not_sent(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    with pytest.raises(LabError, match=r"a\.ipynb is not a notebook \(\.ipynb\)\. Nothing was sent\."):
        Notebook.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"gone\.ipynb cannot be read: No such file or directory"):
        Notebook.read(tmp_path / "gone.ipynb")


@pytest.mark.parametrize(
    ("runs", "changed"),
    [
        ((), []),
        ((RIGHT,), []),
        ((RIGHT + "\n",), []),
        ((WRONG,), ["rank_of"]),
        ((WRONG, RIGHT), []),
        ((RIGHT, WRONG), ["rank_of"]),
        ((RIGHT, "helper = 3"), []),  # a scratch cell that is no answer
        ((RIGHT, "rank_of = print"), ["rank_of"]),
        ((RIGHT, "cache[rank_of] = 1"), []),
        ((RIGHT, "%%bash\nls"), []),
        ((RIGHT, "def rank_of(:"), []),
    ],
)
def test_an_answer_changed_if_its_last_run_is_not_among_the_cells(
    tmp_path: Path, runs: tuple[str, ...], changed: list[str]
) -> None:
    notebook = Notebook.read(write(tmp_path / "a.ipynb", with_answer(RIGHT)))
    assert notebook.changed_since(ran(*runs)) == changed


def test_the_answers_are_looked_up_once_however_long_the_history_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking them up parses every cell of the notebook, and every check waits for it."""
    looked_up = []
    names = Notebook.answer_names
    monkeypatch.setattr(Notebook, "answer_names", lambda self: looked_up.append(1) or names(self))
    notebook = Notebook.read(write(tmp_path / "a.ipynb", with_answer(RIGHT)))
    assert notebook.changed_since(ran(*[WRONG] * 100)) == ["rank_of"]
    assert len(looked_up) == 1


def test_without_exercise_marks_every_cell_counts(tmp_path: Path) -> None:
    content = lab_notebook("class Net:\n    pass")
    del content["cells"][0]["metadata"]["exercise"]
    notebook = Notebook.read(write(tmp_path / "a.ipynb", content))
    assert notebook.answer_names() == {"rank_of", "Net"}
    assert notebook.changed_since(ran("class Net:\n    x = 1")) == ["Net"]


# -- in a kernel -----------------------------------------------------------------------------------------------------


class Screen:
    """A front end of one kernel: runs cells, and may answer when the kernel asks it to save."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient, path: Path) -> None:
        self.path = path
        self.connection_file = Path(manager.connection_file)
        self.process = manager.provisioner.pid
        self.saves: Callable[[], dict[str, Any]] | None = None
        self._client = client
        self._subshell = ""

    def run(self, code: str) -> tuple[str, str]:
        """Run a cell: what its outputs show in the end, and its error."""
        number = self._client.execute(code, store_history=True)
        shown: dict[str, str] = {}
        error = ""
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("display_data", "update_display_data"):
                shown[content["transient"]["display_id"]] = content["data"]["text/plain"]
                self._asked_to_save(content["transient"].get("gradlab_save"))
            elif kind == "execute_result":
                shown["result"] = content["data"]["text/plain"]
            elif kind == "error":
                error = "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return "\n".join(shown.values()), error

    def _asked_to_save(self, request: str | None) -> None:
        if request is not None and self.saves is not None:
            where = {"request": request, "path": self.path.name, "root": str(self.path.parent)}
            self._tell({**where, "state": "saving", "reason": ""})
            answer = self.saves()
            if answer:
                self._tell({**where, "reason": "", **answer})

    def _tell(self, data: dict[str, Any]) -> None:
        """As JupyterLab does: over a comm on a subshell, since the kernel is busy with the cell that asked."""
        session = self._client.session
        if not self._subshell:
            self._client.control_channel.send(session.msg("create_subshell_request", {}))
            self._subshell = self._client.get_control_msg(timeout=30)["content"]["subshell_id"]
            self._send("comm_open", {"comm_id": "c1", "target_name": "gradlab.saved", "data": {}})
        self._send("comm_msg", {"comm_id": "c1", "data": data})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        message = self._client.session.msg(kind, content)
        message["header"]["subshell_id"] = self._subshell
        self._client.shell_channel.send(message)


@contextmanager
def kernel(portal: FakePortal, path: Path, **more: str) -> Iterator[Screen]:
    manager = KernelManager(kernel_name="python3", connection_file=str(path.parent / "kernel-1f2e.json"))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(path.parent / "ipython"),
        "GRADLAB_PORTAL_URL": portal.url,
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JPY_SESSION_NAME": str(path),
    }
    manager.start_kernel(env=environment | more, cwd=str(path.parent))
    client = manager.client()
    client.start_channels(hb=False)  # its thread would leave an event loop open
    try:
        client.wait_for_ready(timeout=60)
        screen = Screen(manager, client, path)
        screen.run("import labkit as lab, labkit.learner, functools\nreal = labkit.learner.on_screen")
        yield screen
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ours = self.path == "/user/ada/api/sessions" and self.headers["Authorization"] == f"token {TOKEN}"
            data = json.dumps(sessions).encode() if ours else b"no"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with (
        fake_portal() as portal,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        kernel(portal, old) as screen,
    ):
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            about = {"url": f"http://127.0.0.1:{server.server_port}/user/ada/", "token": "", "root_dir": str(tmp_path)}
            (screen.connection_file.parent / f"jpserver-{os.getpid()}.json").write_text(json.dumps(about))
            here = {"type": "notebook", "path": "new.ipynb", "kernel": {"id": "1f2e"}}
            sessions[:] = [{**here, "path": "old.ipynb", "kernel": {"id": "another"}}, here]
            screen.run('lab.hint("rank_of")')
            sessions.clear()
            screen.run('lab.hint("rank_of")')
        finally:
            server.shutdown()
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
