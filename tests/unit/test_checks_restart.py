"""What a server that was stopped or killed leaves unjudged, and what the next start makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradlab.checks import STARTS, Checks
from gradlab.errors import SubmissionRefused
from gradlab.store import Store
from tests.checks import MIB, Make, causes, ended, outcomes, state
from tests.courses import write_course
from tests.judges import ScriptedJudge
from tests.waiting import until


def test_resume_judges_what_a_crash_left(make: Make, store: Store, notebook: bytes) -> None:
    left = [store.accept(name, "tensors", notebook, seed=7, now=1.0)[0] for name in ("ada", "bob")]
    judge = ScriptedJudge()
    checks = make(judge)
    assert checks.resume() == 2
    ended(checks, *left)
    assert outcomes(store, left[0]) == ["passed", "passed"]
    assert {seed for _, _, seed, _ in judge.calls} == {7}
    assert checks.resume() == 0


def test_resume_keeps_one_running_and_one_waiting_per_learner(make: Make, store: Store, notebook: bytes) -> None:
    left = [store.accept("ada", "tensors", notebook, seed=7, now=1.0)[0] for _ in range(3)]
    checks = make(ScriptedJudge())
    checks.resume()
    ended(checks, *left)
    assert [state(store, number) for number in left] == ["judged", "superseded", "judged"]


def test_a_lab_that_is_gone_at_resume_is_our_fault_and_does_not_loop(make: Make, store: Store, notebook: bytes) -> None:
    gone = store.accept("ada", "chess", notebook, seed=7, now=1.0)[0]
    renamed = store.accept("bob", "tensors", notebook, only="mate", seed=7, now=1.0)[0]
    judge = ScriptedJudge()
    checks = make(judge)
    checks.resume()
    ended(checks, gone)
    ended(checks, renamed)
    assert outcomes(store, gone) == outcomes(store, renamed) == ["our fault"]
    found = store.submission(gone)
    assert found is not None
    assert found.verdict is not None
    assert "the course has changed. There is no lab 'chess'" in found.verdict["results"][0]["message"]
    gone_cause = "The course has changed. There is no lab 'chess' on this server. It has: tensors."
    assert ("ada", ("chess",), (gone_cause,)) in causes(store)
    assert judge.calls == []
    assert store.unjudged() == []


def test_a_submission_that_kills_every_start_is_given_up(make: Make, store: Store, notebook: bytes) -> None:
    number = store.accept("ada", "tensors", notebook, seed=7, now=1.0)[0]
    for _ in range(STARTS):
        store.count_try(number)
    judge = ScriptedJudge()
    checks = make(judge)
    checks.resume()
    ended(checks, number)
    assert outcomes(store, number) == ["our fault", "our fault"]
    assert causes(store)[0][2] == ("The judge began 10 times and came to no verdict.",)
    assert judge.calls == []


def test_closing_leaves_what_is_not_judged_for_the_next_start(make: Make, store: Store, notebook: bytes) -> None:
    judge = ScriptedJudge([RuntimeError("the judge was closed under it")])
    judge.gate.clear()
    checks = make(judge)
    running = checks.accept("ada", "tensors", notebook)
    waiting = checks.accept("ada", "tensors", notebook)
    until(lambda: judge.running == 1)
    checks.close(seconds=0.05)
    judge.gate.set()
    until(lambda: judge.running == 0)
    checks.close()
    assert store.unjudged() == [(running, "ada"), (waiting, "ada")]
    with pytest.raises(
        SubmissionRefused, match=r"The server is stopping\. Run the check again in a minute\."
    ) as refusal:
        checks.accept("ada", "tensors", notebook)
    assert refusal.value.status == 503


CRASHING = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from gradlab.checks import Checks
from gradlab.course import Course
from gradlab.store import Store

class Hanging:
    def check(self, *args, **kwargs):
        print("judging", flush=True)
        threading.Event().wait()

labs, hidden, url = sys.argv[1:]
course = Course.load(Path(labs), Path(hidden))
checks = Checks(course, Store.open(url), Hanging(), ThreadPoolExecutor(1), notebook_bytes=1 << 20)
notebook = course.labs[0].notebook.encode()
print(checks.accept("ada", "tensors", notebook), flush=True)
print(checks.accept("bob", "tensors", notebook), flush=True)
threading.Event().wait()
"""


def test_a_killed_server_owes_nobody_a_verdict_after_the_next_start(tmp_path: Path) -> None:
    folder = write_course(tmp_path / "course")
    url = f"sqlite:///{tmp_path / 'gradlab.sqlite'}"
    child = subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(folder.labs), str(folder.checks), url], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        said = [child.stdout.readline().strip() for _ in range(3)]  # two ids and "judging", in any order
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert "judging" in said
    store = Store.open(url)
    left = sorted(int(word) for word in said if word != "judging")
    assert sorted(number for number, _ in store.unjudged()) == left
    with ThreadPoolExecutor(1) as executor:
        checks = Checks(folder.load(), store, ScriptedJudge(), executor, notebook_bytes=MIB)
        assert checks.resume() == 2
        ended(checks, *left)
        checks.close()
    assert [outcomes(store, number) for number in left] == [["passed", "passed"]] * 2
    store.close()
