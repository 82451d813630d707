"""What keeps a server from starting, said in full; and the tools that find and end processes."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from checker.sandbox.confinement import Method, describe
from gradlab import server
from gradlab.credentials import Credentials
from gradlab.errors import ServerError, SettingsError
from gradlab.hub.environment import MARKER, PART, Ports
from gradlab.hub.processes import end_all, listening_uid, living, marked, owned_by, port_fault, tree
from gradlab.settings import Settings
from tests.conftest import Require

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", config_dir=tmp_path / "config.d", port=Ports.choose().hub)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a process that is up when this returns and ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(argv: list[str] = SLEEP, **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, env=os.environ | env, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            process.wait()


# -- what keeps it from starting ---------------------------------------------------------------------------------------


def test_a_port_in_use_is_named_with_its_holder_and_the_remedy(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.port)), pytest.raises(ServerError) as caught:
        server.serve(settings)
    said = str(caught.value)
    assert f"Port {settings.port} of 127.0.0.1 cannot be used: Address already in use" in said
    assert f"by process {os.getpid()}" in said
    assert f"PORT={settings.port + 1} make up" in said


def test_a_port_whose_holder_is_not_found_comes_with_the_way_to_find_it() -> None:
    with socket.socket() as held:  # bound, and not listening
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        assert port_fault("127.0.0.1", port) == (f"Address already in use (`ss -ltnp 'sport = :{port}'` shows by whom)")
    assert port_fault("127.0.0.1", port) == ""


def test_an_address_of_another_machine_is_named(settings: Settings) -> None:
    with pytest.raises(ServerError, match=r"of 192\.0\.2\.1 cannot be used: Cannot assign requested address"):
        server.serve(settings.model_copy(update={"host": "192.0.2.1"}))


def test_a_second_server_on_the_state_folder_is_refused_by_the_process_it_names(settings: Settings) -> None:
    settings.state_dir.mkdir()
    lock = settings.state_dir / "server.lock"
    lock.write_text("4711")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ServerError) as caught:
            server.serve(settings)
    assert f"already runs on {settings.state_dir} (process 4711)" in str(caught.value)
    assert "kill 4711" in str(caught.value)
    assert "GRADLAB_STATE_DIR=other PORT=8001 make up" in str(caught.value)


def test_a_state_folder_that_cannot_be_made_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match="choose another one with GRADLAB_STATE_DIR"):
        server.serve(settings.model_copy(update={"state_dir": tmp_path / "file" / "state"}))


def test_a_missing_proxy_says_how_to_get_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PROXY_SCRIPT", Path("/nowhere/configurable-http-proxy"))
    with pytest.raises(
        ServerError, match=r"/nowhere/configurable-http-proxy is missing\. Delete node_modules and run `make up`"
    ):
        server.serve(settings)


def test_a_folder_that_learners_user_ids_cannot_reach_is_refused_without_namespaces(
    settings: Settings, require: Require
) -> None:
    require("root")
    settings.state_dir.mkdir()  # below pytest's folder, which is its owner's alone
    with pytest.raises(ServerError) as caught:
        server._check_python(settings, "plain")
    said = str(caught.value)
    assert "learners' servers run under user ids of their own, and these cannot read " in said
    assert str(settings.state_dir) in said
    assert (
        "Install bubblewrap (sudo apt install bubblewrap), or put Gradlab and Python where every user may read" in said
    )


def test_what_an_earlier_run_left_and_cannot_be_ended_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "end_all", lambda find, seconds: [psutil.Process()])
    with pytest.raises(ServerError, match=rf"left processes that cannot be ended: {os.getpid()}\. End them with `kill"):
        server.serve(settings)


def test_what_cannot_be_ended_when_it_stops_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = object.__new__(server._Supervisor)  # without its signal handlers, which are the whole process's
    supervisor._settings, supervisor._signals, supervisor._beside = settings, 0, []
    for name in ("hub", "portal"):
        child = server._Child(name, ["sleep", "600"], dict(os.environ), settings.state_dir / "logs")
        setattr(supervisor, f"_{name}", child)
    monkeypatch.setattr(server, "end_all", lambda find, seconds: [psutil.Process()])
    with pytest.raises(ServerError) as caught:
        supervisor._stop()
    assert str(caught.value) == (
        f"These processes could not be ended: {os.getpid()} ({psutil.Process().name()}). "
        "End them with `kill -9`, as root if need be."
    )
    assert (supervisor._hub.process.returncode, supervisor._portal.process.returncode) == (-15, -15)


def test_half_written_credentials_stop_the_start_and_stay(settings: Settings) -> None:
    settings.state_dir.mkdir()
    settings.credentials_file.write_text('{"learner_pass')
    with pytest.raises(SettingsError, match="half-written or damaged"):
        server.serve(settings)
    assert settings.credentials_file.read_text() == '{"learner_pass'


def test_a_failed_start_gives_the_lock_back(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.port)), pytest.raises(ServerError):
        server.serve(settings)
    with (settings.state_dir / "server.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_welcome_says_where_to_go_and_what_the_login_is_worth(settings: Settings) -> None:
    credentials = Credentials.ensure(settings.credentials_file)
    text = "\n".join(server._welcome(settings, credentials, describe("plain")))
    assert f"http://127.0.0.1:{settings.port}" in text
    assert credentials.learner_password in text
    assert credentials.instructor_password in text
    assert "limits only" in text
    assert "can log in under any learner's name" in text


def test_checks_that_are_confined_worse_than_learners_servers_are_a_warning_of_their_own(settings: Settings) -> None:
    plain = settings.model_copy(update={"check_sandbox": "plain"})
    assert server._warnings(plain, "bubblewrap") == [
        f"checks are confined without bubblewrap (GRADLAB_CHECK_SANDBOX=plain): {describe('plain')}."
    ]
    everywhere = f"learners' code is confined without bubblewrap: {describe('plain')}."
    assert server._warnings(plain, "plain") == [everywhere]
    assert server._warnings(settings.model_copy(update={"sandbox": "plain"}), "plain") == [everywhere]
    assert server._warnings(settings.model_copy(update={"check_sandbox": "docker"}), "bubblewrap") == []
    assert server._warnings(settings.model_copy(update={"check_sandbox": "docker"}), "plain") == [everywhere]


def test_a_sandbox_of_checks_that_does_not_work_stops_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(preference: str) -> Method:
        if preference == "unshare":
            raise RuntimeError("It does not work: set GRADLAB_SANDBOX=auto.")
        return "plain"

    monkeypatch.setattr(server, "detect", broken)
    monkeypatch.setattr(server, "_check_python", lambda settings, method: None)
    with pytest.raises(ServerError, match=r"^It does not work: set GRADLAB_CHECK_SANDBOX=auto\.$"):
        server.serve(settings.model_copy(update={"check_sandbox": "unshare"}))
    assert not settings.credentials_file.exists()


# -- processes ---------------------------------------------------------------------------------------------------------


def test_marked_finds_an_instances_processes_and_its_parts_but_not_ourselves(spawn: Spawn) -> None:
    portal, hub = spawn(**{MARKER: "test-a", PART: "portal"}), spawn(**{MARKER: "test-a", PART: "hub"})
    spawn(**{MARKER: "test-ab"})
    assert {process.pid for process in marked("test-a")} == {portal.pid, hub.pid}
    assert [process.pid for process in marked("test-a", "portal")] == [portal.pid]
    code = "import os; from gradlab.hub.processes import marked; print('up' if not marked('test-c') else 'found')"
    spawn([sys.executable, "-c", code + "; import time; time.sleep(600)"], **{MARKER: "test-c"})


def test_tree_lists_grandchildren_and_nothing_of_the_dead(spawn: Spawn) -> None:
    code = f"import subprocess; subprocess.run({SLEEP!r})"
    parent = spawn([sys.executable, "-c", code])
    assert tree(parent.pid)[0].pid == parent.pid
    assert len(tree(parent.pid)) == 2
    assert len(tree(parent.pid, itself=False)) == 1
    assert end_all(lambda: tree(parent.pid), seconds=10) == []
    parent.wait()
    assert tree(parent.pid) == []


def test_end_all_kills_what_ignores_sigterm_and_reports_what_stays(spawn: Spawn) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    stubborn = psutil.Process(spawn([sys.executable, "-c", code]).pid)
    assert end_all(lambda: living([stubborn]), seconds=10) == []
    begun = time.monotonic()
    assert end_all(lambda: [stubborn], seconds=0.1) == [stubborn]
    assert time.monotonic() - begun < 5


ADOPT = """
import os, subprocess, time, psutil
from gradlab.hub.processes import become_subreaper, reap_adopted
become_subreaper()
own = subprocess.Popen(["true"])
subprocess.run(["sh", "-c", "sleep 0.3 &"])
[orphan] = [child for child in psutil.Process().children() if child.pid != own.pid]
while orphan.status() != psutil.STATUS_ZOMBIE: time.sleep(0.01)
own.wait()
reap_adopted(set())
print(orphan.is_running() and orphan.pid in psutil.pids())
own = subprocess.Popen(["false"])
while psutil.Process(own.pid).status() != psutil.STATUS_ZOMBIE: time.sleep(0.01)
reap_adopted({own.pid})
print(own.wait())
"""


def test_orphans_are_adopted_and_collected_and_our_own_children_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ADOPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "1"], done.stderr


def test_processes_are_found_by_their_user_id(spawn: Spawn) -> None:
    process = spawn()
    assert process.pid in {found.pid for found in owned_by(os.getuid())}
    assert owned_by(2**31 - 7) == []


def test_the_listener_of_a_port_has_a_user_id() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as bound:
        port = bound.getsockname()[1]
        assert listening_uid(port) == os.getuid()
    assert listening_uid(port) is None
