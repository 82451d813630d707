"""Starting, stopping and killing: nothing is left behind and nothing is lost, whichever process dies first."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gradlab.settings import Settings
from tests.conftest import Require
from tests.courses import write_course
from tests.servers import SERVE, RunningServer, command_line, launch, reachable, settings_for, start
from tests.waiting import ended, until

pytestmark = pytest.mark.hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    course = write_course(tmp_path)
    return settings_for(tmp_path, check_pool=0, labs_dir=course.labs, checks_dir=course.checks)


@pytest.fixture
def servers() -> Iterator[list[RunningServer]]:
    """Put every server you start in here; they are destroyed at the end."""
    started: list[RunningServer] = []
    yield started
    for server in started:
        server.destroy()


def child(server: RunningServer, *words: str) -> psutil.Process:
    """The server's process whose command line contains all the words."""
    found = [p for p in server.processes() if all(word in " ".join(command_line(p)) for word in words)]
    assert found, f"no process with {words}"
    return found[0]


def work(server: RunningServer, name: str = "ada") -> list[psutil.Process]:
    """Log in, start a server with a kernel and write a file; returns all processes that run now."""
    person = server.log_in(name)
    person.start_server()
    kernel = person.kernel()
    kernel.run("open('mine.txt', 'w').write('kept')")
    kernel.close()
    return server.processes()


def test_ctrl_c_stops_everything_and_the_next_start_has_all_data(settings: Settings, servers: list[Any]) -> None:
    first = start(settings)
    servers.append(first)
    before = work(first)
    assert len(before) > 6
    assert first.stop() == 0
    assert ended(before)
    assert f"Everything is kept in {settings.state_dir}" in first.said()
    second = start(settings)
    servers.append(second)
    assert second.learner_password == first.learner_password
    person = second.log_in("ada")
    person.start_server()
    kernel = person.kernel()
    assert kernel.run("print(open('mine.txt').read())").strip() == "kept"
    kernel.close()
    assert "earlier run" not in second.said()
    # A terminal that is closed sends SIGHUP.
    running = second.processes()
    second.process.send_signal(signal.SIGHUP)
    assert second.process.wait(timeout=60) == 0
    assert ended(running)


# A portal with a child in a PID namespace of its own, as the judge forks into sandboxes; it is dead and not waited for.
NAMESPACED = """
import ctypes, os, signal, subprocess, time
first = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo up; exec sleep 4324"],
                         stdout=subprocess.PIPE)
first.stdout.readline()
[init] = open(f"/proc/{first.pid}/task/{first.pid}/children").read().split()
ctypes.CDLL(None).setns(os.open(f"/proc/{init}/ns/pid", os.O_RDONLY), 0)
dead = subprocess.Popen(["true"])
os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
there = subprocess.Popen(["sleep", "4325"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def test_who_dies_in_a_pid_namespace_and_has_no_parent_left_keeps_nothing_from_ending(
    settings: Settings, servers: list[Any], require: Require
) -> None:
    require("root")
    script = SERVE.replace("env_file=None)", f'env_file=None), portal=[sys.executable, "-c", {NAMESPACED!r}]')
    server = launch(settings, script=script)
    servers.append(server)
    until(lambda: any(command_line(p) == ["sleep", "4325"] for p in server.processes()), what="the portal's work")
    running = server.processes()
    assert server.stop() == 0, server.said()
    assert ended(running)


def test_kill_9_of_the_supervisor_takes_everything_with_it(settings: Settings, servers: list[Any]) -> None:
    server = start(settings)
    servers.append(server)
    running = work(server)
    server.process.kill()
    server.process.wait()
    until(lambda: ended(running), what="the end of all processes")


def test_a_new_start_ends_what_a_killed_one_left(settings: Settings, servers: list[Any]) -> None:
    first = start(settings)
    servers.append(first)
    running = work(first)
    # Stopped, the hub and the portal cannot end anything themselves: the worst that kill -9 of the parent can meet.
    for process in (child(first, "-m jupyterhub ", "--config"), child(first, "gradlab.cli portal")):
        process.suspend()
    first.process.kill()
    first.process.wait()
    assert not ended(running)
    second = start(settings)
    servers.append(second)
    assert "that an earlier run had left behind" in second.said()
    assert ended(running)
    again = second.log_in("ada")  # whose server the hub's database still takes for a running one
    again.start_server()
    kernel = again.kernel()
    assert kernel.run("print(open('mine.txt').read())").strip() == "kept"
    kernel.close()


def test_a_killed_portal_is_started_again(settings: Settings, servers: list[Any]) -> None:
    server = start(settings.model_copy(update={"check_pool": 1}))
    servers.append(server)
    portal = child(server, "gradlab.cli portal")
    judge = until(lambda: portal.children(recursive=True), what="the warm judge's start")
    family = [portal, *judge]
    portal.kill()
    until(lambda: "The portal ended (exit status -9) and is started again" in server.said(), what="the message")
    until(lambda: ended(family), what="the end of the old portal's processes")

    def answers() -> bool:
        return httpx.get(f"{server.url}/services/portal/").status_code < 500

    until(answers, what="the portal's answer")
    assert child(server, "gradlab.cli portal").pid != portal.pid


def test_a_portal_that_keeps_ending_ends_the_server(settings: Settings, servers: list[Any]) -> None:
    server = start(settings.model_copy(update={"check_pool": 0}))
    servers.append(server)
    killed: set[int] = set()

    def kill_the_next() -> bool:
        for portal in server.processes():
            if "gradlab.cli" in command_line(portal) and portal.pid not in killed:
                killed.add(portal.pid)
                with contextlib.suppress(psutil.NoSuchProcess):  # in the moment of its end
                    portal.kill()
        return server.process.poll() is not None

    until(kill_the_next, what="the server's end")
    assert server.process.returncode == 1
    assert len(killed) > 3
    assert "The portal ended by itself (exit status -9). The last lines of" in server.said()
    assert server.processes() == []


def test_a_portal_that_never_answers_is_not_waited_for_for_ever(settings: Settings, servers: list[Any]) -> None:
    impatient = SERVE.replace("try:", "import gradlab.server\ngradlab.server._READY_SECONDS = 5\ntry:")
    script = impatient.replace("env_file=None)", 'env_file=None), portal=["sleep", "600"]')
    server = launch(settings, script=script)
    servers.append(server)
    assert server.process.wait(timeout=60) == 1
    said = server.said()
    assert f"The portal did not answer at http://127.0.0.1:{settings.port} within 5 s. The last lines of" in said
    assert server.processes() == []


def test_without_its_hub_the_server_ends_and_shows_the_log(settings: Settings, servers: list[Any]) -> None:
    server = start(settings)
    servers.append(server)
    running = work(server)
    child(server, "-m jupyterhub ", "--config").kill()
    assert server.process.wait(timeout=60) == 1
    assert "The hub ended by itself (exit status -9)" in server.said()
    assert "JupyterHub log:" in server.said()  # its last lines
    assert ended(running)


def test_a_second_server_on_the_same_state_folder_is_refused(settings: Settings, servers: list[Any]) -> None:
    first = start(settings)
    servers.append(first)
    second = launch(settings.model_copy(update={"port": settings.port + 1}))
    assert second.process.wait(timeout=60) == 1
    assert f"already runs on {settings.state_dir} (process {first.process.pid})" in second.said()
    assert httpx.get(f"{first.url}/hub/login").status_code == 200


def test_a_broken_addition_to_the_configuration_is_shown(settings: Settings, servers: list[Any]) -> None:
    settings.config_dir.mkdir()
    (settings.config_dir / "10-mine.py").write_text("c.JupyterHub.no_such = undefined_name\n")
    server = launch(settings)
    servers.append(server)
    assert server.process.wait(timeout=90) == 1
    assert "The hub ended by itself" in server.said()
    assert "undefined_name" in server.said()
    assert server.processes() == []


def test_an_addition_to_the_configuration_sees_and_changes_ours(settings: Settings, servers: list[Any]) -> None:
    settings.config_dir.mkdir()
    (settings.config_dir / "10-mine.py").write_text(
        "assert c.LearnerSpawner.settings is settings\n"
        "c.JupyterHub.services[0]['name']\n"
        "c.JupyterHub.template_vars = {'announcement_login': 'Changed by the operator'}\n"
    )
    server = start(settings)
    servers.append(server)
    assert "Changed by the operator" in httpx.get(f"{server.url}/hub/login").text


def test_a_learners_server_that_cannot_start_says_why(settings: Settings, servers: list[Any]) -> None:
    settings.config_dir.mkdir()
    (settings.config_dir / "10-wrong.py").write_text("c.LearnerSpawner.args = ['--ServerApp.port_retries=many']\n")
    server = start(settings)
    servers.append(server)
    person = server.log_in("ada")
    answer = person.api("POST", "/hub/api/users/ada/server")
    assert answer.status_code == 500
    assert "Your server ended while it started. Its last words:" in answer.json()["message"]
    assert "port_retries" in answer.json()["message"]


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="gradlab-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_limits_only_still_keep_user_ids_and_the_servers_files_apart(
    public_folder: Path, servers: list[Any], require: Require
) -> None:
    require("root")
    course = write_course(public_folder)
    settings = settings_for(
        public_folder, check_pool=0, sandbox="plain", labs_dir=course.labs, checks_dir=course.checks
    )
    server = start(settings, prefix=reachable())
    servers.append(server)
    assert "Warning: learners' code is confined without bubblewrap: limits only" in server.said()
    person = server.log_in("ada")
    person.start_server()
    kernel = person.kernel()
    assert kernel.run("import os; print(os.getcwd() == os.environ['HOME'], lab.__name__)").strip() == "True labkit"
    read = "try:\n    open({!r}).read()\nexcept PermissionError:\n    print('refused')"
    for name in ("credentials.json", "gradlab.sqlite", "jupyterhub.sqlite", "logs/hub.log", "logs/portal.log"):
        assert kernel.run(read.format(str(settings.state_dir / name))).strip() == "refused", name
    kernel.run("import subprocess; p = subprocess.Popen(['setsid', 'env', '-i', 'sleep', '4322'])")
    kernel.close()
    sleepers = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4322"]]
    assert len(sleepers) == 1
    person.stop_server()
    assert ended(sleepers)
    # What a server that ends by itself leaves behind is ended too.
    person.start_server()
    kernel = person.kernel()
    runtime = kernel.run("import os; print(os.environ['JUPYTER_RUNTIME_DIR'])").strip()
    kernel.run("import subprocess; p = subprocess.Popen(['setsid', 'env', '-i', 'sleep', '4323'])")
    kernel.close()
    sleepers = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4323"]]
    assert len(sleepers) == 1
    [singleuser] = [p for p in server.processes() if command_line(p)[1:3] == ["-m", "jupyterhub.singleuser"]]
    singleuser.kill()
    until(lambda: ended(sleepers) and not Path(runtime).exists(), what="the end of what the server left", seconds=90)
    running = server.processes()
    assert server.stop() == 0
    assert ended(running)


def test_unshare_hides_the_server_as_bubblewrap_does(settings: Settings, servers: list[Any], require: Require) -> None:
    require("unshare")
    server = start(settings.model_copy(update={"sandbox": "unshare"}))
    servers.append(server)
    assert "Warning: learners' code is confined without bubblewrap: util-linux unshare" in server.said()
    person = server.log_in("ada")
    person.start_server()
    kernel = person.kernel()
    seen = kernel.run("import os; print(lab.__name__, os.listdir('/home'), os.listdir('/opt/gradlab'))")
    assert seen.strip() == "labkit ['ada'] ['labkit']"
    assert kernel.run(f"print(os.path.exists({str(settings.state_dir)!r}))").strip() == "False"
    kernel.close()
    running = server.processes()
    assert server.stop() == 0
    assert ended(running)


def test_an_ordinary_user_needs_no_root(public_folder: Path, servers: list[Any], require: Require) -> None:
    require("root")  # to become somebody else
    uid = 54_321
    course = write_course(public_folder)
    os.chown(public_folder, uid, uid)
    settings = settings_for(public_folder, check_pool=0, labs_dir=course.labs, checks_dir=course.checks)
    settings.state_dir.mkdir()
    os.chown(settings.state_dir, uid, uid)
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    server = start(settings, prefix=[*reachable(), *become], env={"HOME": str(public_folder)})
    servers.append(server)
    person = server.log_in("ada")
    person.start_server()
    kernel = person.kernel()
    assert kernel.run("print(lab.__name__)").strip() == "labkit"
    assert (settings.homes_dir / "ada").stat().st_uid == uid
    if "Protection      limits only" not in server.said():
        seen = kernel.run("import os; print(os.path.exists('/opt/gradlab/labkit'), os.listdir('/home'))")
        assert seen.strip() == "True ['ada']"
        assert kernel.run(f"print(os.path.exists({str(settings.state_dir)!r}))").strip() == "False"
    kernel.close()
    running = server.processes()
    assert server.stop() == 0
    assert ended(running)
