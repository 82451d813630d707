"""A real hub, proxy and portal: who may log in as whom, and what a learner's server and kernel can do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psutil
import pytest
import websocket

from gradlab.hub.environment import uid_of
from gradlab.hub.processes import tree
from gradlab.settings import ROOT
from tests.conftest import Require
from tests.servers import Kernel, Person, RunningServer, command_line, login_error
from tests.waiting import until


def groups_of(person: Person) -> list[str]:
    groups: list[str] = person.api("GET", "/hub/api/user").json()["groups"]
    return groups


@pytest.fixture(scope="module")
def ada(running_server: RunningServer) -> Person:
    """A learner whose server runs."""
    person = running_server.log_in("ada")
    person.start_server()
    return person


@pytest.fixture(scope="module")
def kernel(ada: Person) -> Iterator[Kernel]:
    kernel = ada.kernel()
    yield kernel
    kernel.close()


@pytest.fixture(scope="module")
def neighbour(running_server: RunningServer) -> Person:
    """Another learner whose server runs."""
    person = running_server.log_in("neighbour")
    person.start_server()
    return person


# -- login -------------------------------------------------------------------------------------------------------------


def test_each_password_leads_to_its_group(running_server: RunningServer) -> None:
    assert groups_of(running_server.log_in("login-learner")) == ["learners"]
    assert groups_of(running_server.log_in("login-teacher", running_server.instructor_password)) == ["instructors"]


@pytest.mark.parametrize("password", ["", "wrong-password", "pässwörd"])
def test_another_password_is_refused(running_server: RunningServer, password: str) -> None:
    client, answer = running_server.post_login("somebody", password)
    client.close()
    assert answer.status_code == 403
    assert login_error(answer) == "Invalid username or password"


def test_the_learners_password_opens_no_instructors_name(running_server: RunningServer) -> None:
    teacher = running_server.log_in("grace", running_server.instructor_password)
    client, answer = running_server.post_login(" Grace ", running_server.learner_password)
    client.close()
    assert answer.status_code == 403
    assert "belongs to an instructor and needs the instructors" in login_error(answer)
    assert groups_of(teacher) == ["instructors"]


def test_the_instructors_password_makes_no_learner_an_instructor(running_server: RunningServer) -> None:
    learner = running_server.log_in("mallory")
    client, answer = running_server.post_login("mallory", running_server.instructor_password)
    client.close()
    assert answer.status_code == 403
    assert "mallory-teaches" in login_error(answer)
    assert groups_of(learner) == ["learners"]


@pytest.mark.parametrize("name", ["../etc", "a b", "-dash", "ünal", "x" * 33, "a%2fb", "a\nb"])
def test_a_name_that_is_no_folder_name_is_refused(running_server: RunningServer, name: str) -> None:
    client, answer = running_server.post_login(name, running_server.learner_password)
    client.close()
    assert answer.status_code == 403
    assert "1 to 32 letters a-z" in login_error(answer)


def test_nobody_is_an_administrator(running_server: RunningServer) -> None:
    teacher = running_server.log_in("login-teacher", running_server.instructor_password)
    assert teacher.api("GET", "/hub/api/user").json()["admin"] is False
    assert teacher.client.get("/hub/admin").status_code == 403
    assert teacher.api("GET", "/hub/api/users").status_code == 403


def test_a_login_lands_in_the_portal(running_server: RunningServer) -> None:
    client, answer = running_server.post_login("login-learner", running_server.learner_password)
    client.close()
    assert answer.headers["Location"] == "/services/portal/"


# -- servers and kernels -----------------------------------------------------------------------------------------------


def test_a_kernel_computes_through_the_proxys_websocket(kernel: Kernel) -> None:
    assert kernel.run("1 + 1") == "2"


def test_lab_is_there_without_an_import(kernel: Kernel) -> None:
    assert kernel.run("print(lab.__name__)").strip() == "labkit"


def test_the_labs_lie_in_the_home(kernel: Kernel, running_server: RunningServer) -> None:
    expected = [path.with_suffix(".ipynb").name for path in running_server.settings.labs_dir.glob("[0-9]*_*.py")]
    assert expected
    found = kernel.json("import json, os; print(json.dumps([os.getcwd(), os.environ['HOME'], sorted(os.listdir())]))")
    assert found[0] == found[1]
    assert set(expected) <= set(found[2])
    assert kernel.json(f"print(open({expected[0]!r}).read())")["metadata"]["gradlab"]["lab"]


def test_the_notebook_may_ask_the_portal_who_it_is(kernel: Kernel) -> None:
    code = """
import json, os, urllib.request
url, token = os.environ["GRADLAB_PORTAL_URL"] + "/api/me", os.environ["JUPYTERHUB_API_TOKEN"]
request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
print(urllib.request.urlopen(request).read().decode())
"""
    assert kernel.json(code)["name"] == "ada"


def test_kernels_listen_on_no_port_that_others_could_reach(kernel: Kernel) -> None:
    assert kernel.json("from ipykernel import get_connection_info; print(get_connection_info())")["transport"] == "ipc"


def test_a_terminal_runs_bash_in_the_home(ada: Person) -> None:
    answer = ada.api("POST", "/user/ada/api/terminals")
    assert answer.status_code == 200, answer.text
    url = f"{ada.client.base_url}".rstrip("/").replace("http", "ws", 1)
    header = [f"Authorization: token {ada.token}"]
    socket = websocket.create_connection(
        f"{url}/user/ada/terminals/websocket/{answer.json()['name']}", header=header, timeout=60
    )
    try:
        socket.send(json.dumps(["stdin", "echo in:$PWD:$BASH_VERSION\r"]))
        seen = ""
        while "in:" not in seen.replace("echo in:", ""):
            kind, *rest = json.loads(socket.recv())
            seen += rest[0] if kind == "stdout" else ""
        assert ":5." in seen
        assert "no name" not in seen
    finally:
        socket.close()


def test_jupyterlab_asks_for_no_news_and_no_updates(ada: Person) -> None:
    name = "@jupyterlab/apputils-extension:notification"
    settings = ada.api("GET", f"/user/ada/lab/api/settings/{name}").json()
    assert "fetchNews" in settings["raw"] or settings["schema"]["properties"]["fetchNews"]["default"] == "false"
    assert settings["schema"]["properties"]["checkForUpdates"]["default"] is False


# -- what protects the others ------------------------------------------------------------------------------------------

LISTING = """
import json, os
found = []
for folder in ["/", "/home", "/opt", "/opt/gradlab", "/tmp", "/mnt", "/srv", "/root", "/var", *PARENTS]:
    try:
        found += [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        pass
print(json.dumps(found))
"""


def test_nothing_of_the_server_is_visible_inside(
    kernel: Kernel, neighbour: Person, running_server: RunningServer, require: Require
) -> None:
    if "Protection      limits only" in running_server.said():
        require("unshare")
    state = running_server.state_dir.resolve()
    parents = [str(path) for path in (ROOT, *ROOT.parents, state, *state.parents)]
    secret = [ROOT / "checker", ROOT / "gradlab", ROOT / "labs", ROOT / "var", ROOT / ".git", state]
    secret += [state / "credentials.json", state / "gradlab.sqlite", state / "homes" / "neighbour"]
    found = kernel.json(f"PARENTS = {parents!r}\n{LISTING}")
    assert not {str(path) for path in secret} & set(found)
    assert [path for path in found if path.startswith("/home/")] == ["/home/ada"]
    assert [path for path in found if path.startswith("/opt/gradlab/")] == ["/opt/gradlab/labkit"]
    exists = f"import json, os; print(json.dumps([p for p in {[str(p) for p in secret]!r} if os.path.exists(p)]))"
    assert kernel.json(exists) == []


def test_nothing_but_the_home_and_tmp_can_be_written(kernel: Kernel) -> None:
    code = """
import json, os, sys
def writable(folder):
    try:
        open(os.path.join(folder, "x"), "w").close(); os.unlink(os.path.join(folder, "x")); return True
    except OSError:
        return False
folders = ["/", "/usr", "/etc", "/opt/gradlab/labkit", sys.prefix, os.environ["HOME"], "/tmp"]
print(json.dumps([folder for folder in folders if writable(folder)]))
"""
    assert kernel.json(code) == ["/home/ada", "/tmp"]


def test_no_secret_of_the_server_is_in_the_environment(kernel: Kernel, running_server: RunningServer) -> None:
    code = """
import glob
seen = ""
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        seen += open(path, errors="replace").read()
    except OSError:
        pass
print(seen)
"""
    seen = kernel.run(code)
    assert "JUPYTERHUB_API_TOKEN" in seen  # it really looked
    credentials = running_server.credentials
    assert [name for name, value in vars(credentials).items() if value and value in seen] == []
    assert "GRADLAB_STATE_DIR" not in seen
    assert "CONFIGPROXY_AUTH_TOKEN" not in seen


def test_other_learners_processes_are_out_of_sight(kernel: Kernel, neighbour: Person) -> None:
    names = kernel.run("import glob; print([open(p).read() for p in glob.glob('/proc/[0-9]*/cmdline')])")
    assert "configurable-http-proxy" not in names
    assert "neighbour" not in names


def test_limits_bind_memory_processes_and_files(kernel: Kernel, running_server: RunningServer) -> None:
    settings = running_server.settings
    found = kernel.json(
        "import json, resource as r; "
        "print(json.dumps([r.getrlimit(x) for x in (r.RLIMIT_DATA, r.RLIMIT_NPROC, r.RLIMIT_NOFILE, r.RLIMIT_CORE)]))"
    )
    memory, processes = settings.learner_memory_mb << 20, settings.learner_processes
    assert found == [[memory, memory], [processes, processes], [4096, 4096], [0, 0]]
    assert kernel.run(f"try:\n    bytearray({memory})\nexcept MemoryError:\n    print('refused')").strip() == "refused"


def test_a_fork_bomb_ends_at_the_limit(kernel: Kernel, running_server: RunningServer) -> None:
    code = """
import os, signal, time
children = []
try:
    while len(children) < 5000:
        pid = os.fork()
        if pid == 0:
            time.sleep(600); os._exit(0)
        children.append(pid)
except BlockingIOError:
    pass
for pid in children:
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
print(len(children))
"""
    started = int(kernel.run(code))
    assert 50 < started < running_server.settings.learner_processes


def test_each_learner_has_a_user_id_of_their_own(
    kernel: Kernel, neighbour: Person, running_server: RunningServer, require: Require
) -> None:
    require("root")
    inside = int(kernel.run("import os; print(os.getuid())"))
    home = running_server.state_dir / "homes" / "ada"
    assert inside == home.stat().st_uid != 0
    assert (home.stat().st_mode & 0o777) == 0o700
    assert inside != (running_server.state_dir / "homes" / "neighbour").stat().st_uid
    assert inside - uid_of(running_server.settings, 0) < 1000


def test_stopping_a_server_ends_its_whole_tree(running_server: RunningServer) -> None:
    person = running_server.log_in("stops")
    person.start_server()
    kernel = person.kernel()
    kernel.run("import subprocess; p = subprocess.Popen(['setsid', 'setsid', 'sleep', '4321'])")
    kernel.close()

    def sleepers() -> list[psutil.Process]:
        return [p for p in running_server.processes() if command_line(p)[-2:] == ["sleep", "4321"]]

    until(sleepers, what="the daemon's start")
    person.stop_server()
    assert sleepers() == []
    assert [p for p in tree(running_server.process.pid) if "--user=stops" in command_line(p)] == []
