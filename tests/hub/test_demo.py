"""The demonstration as a whole: an instructor sees simulated learners at work, and nothing of it is left at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradlab.demo.files import servers_file
from gradlab.demo.run import BANNER, demo_settings
from gradlab.demo.students import names
from gradlab.gpu.simulator import build
from tests.courses import write_course
from tests.portals import NAVIGATION
from tests.servers import Person, RunningServer, command_line, launch, settings_for
from tests.waiting import ended, until

pytestmark = pytest.mark.hub

LEARNERS = 4
DEMO = f"""
import sys
from gradlab.demo.run import demo
from gradlab.errors import GradlabError
from gradlab.settings import Settings
try:
    sys.exit(demo(Settings.from_env(env_file=None), learners={LEARNERS}, pace=4.0))
except GradlabError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[RunningServer]:
    build()  # what takes seconds once is not part of what is waited for
    course = write_course(tmp_path)
    given = settings_for(tmp_path, labs_dir=course.labs, checks_dir=course.checks)
    server = launch(given, script=DEMO)
    server.settings = demo_settings(given)
    yield server
    server.destroy()


def ready(server: RunningServer) -> bool:
    assert server.process.poll() is None, server.said()
    return "Ready after" in server.said()


def attempts(teacher: Person) -> list[dict[str, Any]]:
    """Of the whole class."""
    rows = teacher.api("GET", "/services/portal/api/class").json()["learners"]
    return [
        attempt
        for row in rows
        for attempt in teacher.api("GET", f"/services/portal/api/learners/{row['name']}/attempts").json()
    ]


def outcomes(teacher: Person) -> set[str]:
    """How exercises of the whole class ended until now."""
    verdicts = [attempt["verdict"] for attempt in attempts(teacher) if attempt["verdict"]]
    return {result["outcome"] for verdict in verdicts for result in verdict["results"]}


def answered_since(teacher: Person, since: float) -> bool:
    """Whether anything that was handed in after ``since`` has a verdict. A portal that just starts does not answer."""
    if teacher.api("GET", "/services/portal/api/me").status_code != 200:
        return False
    return any(attempt["accepted_at"] > since and attempt["verdict"] for attempt in attempts(teacher))


def busy_parts(teacher: Person) -> list[dict[str, Any]]:
    """Learners' parts of GPUs that compute now."""
    view = teacher.api("GET", "/services/portal/api/gpu/view").json()
    return [part for device in view["devices"] for part in device["parts"] if part["utilisation"]]


def test_an_instructor_sees_a_class_at_work_and_ctrl_c_ends_all_of_it(demo: RunningServer) -> None:
    until(lambda: ready(demo), what="the demonstration's start")
    assert BANNER in demo.said()
    assert not (demo.state_dir.parent / "gradlab.sqlite").exists()  # where the ordinary server keeps its state
    teacher = demo.log_in("mira", demo.instructor_password)
    until(lambda: {"passed", "failed"} <= outcomes(teacher), what="a solution and a mistake that were judged")
    rows = teacher.api("GET", "/services/portal/api/class").json()["learners"]
    assert {row["name"] for row in rows} <= set(names(LEARNERS))

    [part, *_] = until(lambda: busy_parts(teacher), what="a learner who computes")
    assert part["learner"] in names(LEARNERS)
    assert part["lab"] == "tensors"
    view = teacher.api("GET", "/services/portal/api/gpu/view").json()
    assert view["simulated"]
    assert len(view["devices"]) == 8
    assert {server["learner"] for server in view["servers"]} <= set(names(LEARNERS))
    assert all(device["machine"]["processes"] == 0 for device in view["devices"])

    for page in ("", "class"):
        assert BANNER in teacher.client.get(f"/services/portal/{page}", headers=NAVIGATION).text
    log = demo.state_dir / "logs" / "crowd.log"
    assert "tries again" not in log.read_text()

    [portal] = [process for process in demo.processes() if "gradlab.demo.portal" in command_line(process)]
    portal.kill()
    until(lambda: "is started again" in demo.said(), what="a new portal")
    since = time.time()
    until(lambda: answered_since(teacher, since), what="a verdict of the new portal")
    assert log.read_text().count("tries again") <= LEARNERS  # each says it once

    running = demo.processes()
    assert sum(command_line(process) == ["sleep", "infinity"] for process in running) > 0
    assert demo.stop() == 0
    assert ended(running)
    assert not servers_file(demo.settings).exists()


def test_kill_9_of_the_demonstration_takes_everything_with_it(demo: RunningServer) -> None:
    def at_work() -> bool:
        return any(command_line(process) == ["sleep", "infinity"] for process in demo.processes())

    until(at_work, what="a program on a GPU")
    running = demo.processes()
    demo.process.kill()
    demo.process.wait()
    until(lambda: ended(running), what="the end of all processes")
