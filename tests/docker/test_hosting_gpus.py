"""GPUs of a hosted class: who gets one, who waits how, what Docker is asked for, and who is seen to use what.

There is no GPU here. The GPU monitor's container has the simulated driver, and what Docker is asked for is kept on the
wire (tests/dockerwire.py) instead of granted.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradlab.gpu.simulator import library
from tests.conftest import Require
from tests.dockerwire import Wire, listening
from tests.hosted import Hosted, docker_socket, hosted
from tests.servers import Person
from tests.simulated import GIB, Simulated, device, driver, simulated
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("networks")

GPU = "GPU-11111111-2222-3333-4444-555555555555"


def gpu(*processes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The machine's one GPU with these processes, each of which computes."""
    used = sum(process["memory"] for process in processes)
    samples = [{"pid": process["pid"], "time": "now", "sm": 40, "memory": 1} for process in processes]
    memory = {"total": 48 * GIB, "reserved": 0, "used": used}
    usual = {"name": "NVIDIA L40S", "uuid": GPU, "memory": memory, "utilisation": {"gpu": 40, "memory": 1}}
    return driver(device(0, **usual, processes=list(processes), process_samples=samples, **more))


def process(pid: int, gib: int) -> dict[str, Any]:
    return {"pid": pid, "memory": gib * GIB, "type": "C"}


@contextmanager
def machine(folder: Path, wire: Wire, **settings: str) -> Iterator[tuple[Hosted, Simulated]]:
    """A hosted server on a machine with the simulated GPU."""
    lib = library.build(folder / "library")
    scenarios = folder / "scenarios"
    scenarios.mkdir()
    for one in (lib, scenarios):
        one.chmod(0o755)  # the monitor's user is not ours
    sim = simulated(scenarios, gpu())
    simulation = {"LD_LIBRARY_PATH": "/simulated/library", "NVML_SCENARIO": "/simulated/scenarios/scenario"}
    volumes = [f"{lib}:/simulated/library:ro", f"{scenarios}:/simulated/scenarios:ro"]
    override = {
        "services": {
            "hub": {"volumes": [f"{wire.path}:/var/run/docker.sock"]},
            "gpu-monitor": {"environment": simulation, "volumes": volumes},
        }
    }
    with hosted(folder / "project", **settings) as server:
        path = folder / "override.yml"  # JSON is YAML
        path.write_text(json.dumps(override))
        server.overrides.append(path)
        server.up()
        yield server, sim


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[Wire]:
    require("images")
    require("cc")
    folder = tmp_path_factory.mktemp("wire")
    with listening(folder / "docker.sock", docker_socket()) as wire:
        yield wire


@pytest.fixture(scope="module")
def exclusive(tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[tuple[Hosted, Simulated]]:
    with machine(tmp_path_factory.mktemp("gpus"), wire, gpus="exclusive") as found:
        yield found


@pytest.fixture
def server(exclusive: tuple[Hosted, Simulated]) -> Hosted:
    return exclusive[0]


class Progress:
    """The stream behind the page that a learner looks at while the server starts."""

    def __init__(self, person: Person) -> None:
        self.messages: list[str] = []
        self._person = person
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        url = f"{self._person.client.base_url}".rstrip("/") + f"/hub/api/users/{self._person.name}/server/progress"
        headers = {"Authorization": f"token {self._person.token}"}
        with suppress(httpx.HTTPError), httpx.stream("GET", url, headers=headers, timeout=120) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    self.messages.append(json.loads(line[5:])["message"])

    def wait_for(self, text: str) -> str:
        try:
            return until(lambda: next((one for one in self.messages if text in one), ""), what=repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.messages}") from None


def ask(person: Person, **options: Any) -> None:
    """Ask for a server; it may have to wait."""
    answer = person.api("POST", f"/hub/api/users/{person.name}/server", json={"user_options": options})
    assert answer.status_code in (201, 202), answer.text


def ready(person: Person) -> bool:
    servers = person.api("GET", f"/hub/api/users/{person.name}").json().get("servers", {})
    return bool(servers.get("", {}).get("ready"))


def give_up(person: Person) -> None:
    answer = person.api("DELETE", f"/hub/api/users/{person.name}/server")
    assert answer.status_code in (202, 204), answer.text
    until(lambda: not person.api("GET", f"/hub/api/users/{person.name}").json()["servers"], what="the server's end")


def test_a_gpu_is_asked_for_by_its_uuid_and_only_by_whom_it_was_asked_for(server: Hosted, wire: Wire) -> None:
    ada, ben = server.log_in("ada"), server.log_in("ben")
    ask(ada, gpu=True, lab="tensors")
    until(lambda: ready(ada))
    (request,) = wire.device_requests("ada")
    assert (request["Driver"], request["DeviceIDs"]) == ("nvidia", [GPU])
    assert not request.get("Count")
    labels = server.server("ada").labels
    assert (labels["gradlab.gpu"], labels["gradlab.lab"]) == (f"{GPU}/1of1", "tensors")
    ben.start_server()
    assert wire.device_requests("ben") == []
    assert "NVIDIA_VISIBLE_DEVICES=void" in server.server("ben").attrs["Config"]["Env"]
    give_up(ben)
    give_up(ada)
    ada.start_server()  # a GPU has to be asked for each time
    assert wire.device_requests("ada") == []
    give_up(ada)


def test_the_second_waits_in_line_and_gets_the_slot_when_the_first_stops(server: Hosted, wire: Wire) -> None:
    first, second, third = (server.log_in(name) for name in ("first", "second", "third"))
    ask(first, gpu=True)
    until(lambda: ready(first))
    ask(second, gpu=True)
    waiting = Progress(second)
    waiting.wait_for("1 ahead of you")
    ask(third, gpu=True)
    behind = Progress(third)
    behind.wait_for("2 ahead of you")
    page = second.client.get("/hub/spawn-pending/second")
    assert page.status_code == 200
    give_up(second)
    behind.wait_for("1 ahead of you")
    give_up(first)
    until(lambda: ready(third), what="the third learner's server")
    assert wire.device_requests("third")[0]["DeviceIDs"] == [GPU]
    give_up(third)


def test_a_killed_hub_knows_who_has_the_gpu_and_keeps_places(server: Hosted) -> None:
    holder, other, waiter = (server.log_in(name) for name in ("holder", "other", "waiter"))
    ask(holder, gpu=True)
    other.start_server()
    until(lambda: ready(holder))
    ask(waiter, gpu=True)
    Progress(waiter).wait_for("1 ahead of you")
    server.service("hub").kill()
    server.compose("up", "--detach", "--no-build", "hub")
    server.wait_ready()
    until(lambda: ready(holder) and ready(other), what="both servers in the hub's list")
    for person in (holder, other):
        assert person.api("GET", f"/user/{person.name}/api/status").status_code == 200
    late = server.log_in("late")
    ask(late, gpu=True)
    Progress(late).wait_for("ahead of you")
    ask(waiter, gpu=True)
    Progress(waiter).wait_for("1 ahead of you")  # before her who came later
    Progress(late).wait_for("2 ahead of you")
    give_up(holder)
    until(lambda: ready(waiter), what="the waiter's server")
    for person in (late, waiter, other):
        give_up(person)


# -- who uses what -------------------------------------------------------------------------------------------------


def running(server: Hosted, learner: str) -> tuple[int, int]:
    """A program in this learner's container: its number on the machine, and the one it has inside."""
    container = server.server(learner)
    container.exec_run(["sleep", "3600"], detach=True, user="lab")

    def found() -> int:
        rows = container.top(ps_args="-eo pid,args")["Processes"]
        return next((int(pid) for pid, *words in rows if " ".join(words).endswith("sleep 3600")), 0)

    pid = until(found, what="the program in the container")
    inner = Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1]
    return pid, int(inner)


def seen(person: Person, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The first view of which this is true."""

    def found() -> Any:
        view = person.api("GET", "/services/portal/api/gpu/view").raise_for_status().json()
        return view if what(view) else None

    return until(found, 60, what="that view")


def test_everybody_sees_who_uses_the_gpu_and_learners_only_their_part(exclusive: tuple[Hosted, Simulated]) -> None:
    server, sim = exclusive
    teacher, user, waiter = server.log_in("teacher", instructor=True), server.log_in("user"), server.log_in("queued")
    ask(user, gpu=True, lab="tensors")
    until(lambda: ready(user))
    ask(waiter, gpu=True)
    pid, _ = running(server, "user")
    sim.change(gpu(process(pid, 10), process(os.getpid(), 2)))
    view = seen(teacher, lambda view: view["devices"] and view["devices"][0]["parts"] and view["queue"])
    (one,) = view["devices"]
    (part,) = one["parts"]
    assert (part["learner"], part["lab"], part["memory"], part["utilisation"]) == ("user", "tensors", 10 * GIB, 40)
    assert (one["machine"]["processes"], one["machine"]["memory"]) == (1, 2 * GIB)
    assert ([holder["learner"] for holder in one["holders"]], view["mode"]) == (["user"], "exclusive")
    assert ([place["learner"] for place in view["queue"]], view["slots"], view["free"]) == (["queued"], 1, 0)
    assert view["simulated"]

    mine = user.api("GET", "/services/portal/api/gpu/mine").json()
    assert mine["devices"][0]["mine"]["memory"] == 10 * GIB
    assert mine["devices"][0]["others"]["memory"] == 2 * GIB
    theirs = waiter.api("GET", "/services/portal/api/gpu/mine").json()
    assert (theirs["devices"], theirs["waiting"]["position"]) == ([], 1)
    assert user.api("GET", "/services/portal/api/gpu/view").status_code == 403

    shown = json.loads(server.service("gpu-monitor").exec_run(["gradlab", "gpu", "--json"], demux=True).output[0])
    assert [found["learner"] for found in shown["devices"][0]["parts"]] == ["user"]
    token = {"Authorization": f"token {server.env['GRADLAB_METRICS_TOKEN']}"}

    def counted() -> bool:
        text = httpx.get(f"{server.url}/services/portal/metrics", headers=token).text
        return 'gradlab_learner_gpu_busy_seconds_total{lab="tensors",learner="user"}' in text

    until(counted, 60, what="GPU-seconds in the store")
    sim.change(gpu())
    give_up(waiter)
    give_up(user)
    view = seen(teacher, lambda view: not view["queue"] and view["free"] == 1)
    assert view["servers"] == []


def test_a_monitor_that_is_killed_goes_on_with_its_account(exclusive: tuple[Hosted, Simulated]) -> None:
    server, sim = exclusive
    teacher, counted = server.log_in("counts", instructor=True), server.log_in("counted")
    ask(counted, gpu=True)
    until(lambda: ready(counted))
    pid, _ = running(server, "counted")
    sim.change(gpu(process(pid, 1)))

    def held() -> float:
        rows = teacher.api("GET", "/services/portal/api/gpu/usage").json()["rows"]
        return float(sum(row["held"] for row in rows if row["learner"] == "counted"))

    before = until(held, 60, what="GPU-seconds in the store")
    server.service("gpu-monitor").kill()
    server.compose("up", "--detach", "--no-build", "gpu-monitor")
    until(lambda: held() > before + 10, 90, what="more GPU-seconds")
    began = server.server("counted").attrs["State"]["StartedAt"][:19]
    most = time.time() - datetime.fromisoformat(f"{began}+00:00").timestamp()
    assert held() <= most + 2
    sim.change(gpu())
    give_up(counted)


def test_who_is_over_the_share_is_told_and_then_the_largest_program_is_stopped(tmp_path: Path, wire: Wire) -> None:
    with machine(tmp_path, wire, gpus="shared:2", gpu_over_share="stop") as (server, sim):
        greedy, modest = server.log_in("greedy"), server.log_in("modest")
        for person in (greedy, modest):
            ask(person, gpu=True)
            until(lambda person=person: ready(person))  # type: ignore[misc]
        (large, inner), (small, _) = running(server, "greedy"), running(server, "modest")
        sim.change(gpu(process(large, 30), process(small, 10), process(os.getpid(), 8)))

        def notices(person: Person) -> str:
            found = person.api("GET", "/services/portal/api/notices").json()
            return " ".join(one["text"] for one in found)

        told = until(lambda: notices(greedy), 60, what="the notice")
        assert told.startswith("Your programs have 30.0 GiB of GPU memory where your share is 24.0 GiB")
        until(lambda: not Path(f"/proc/{large}").exists(), 90, what="the end of the largest program")
        assert f"A program of yours (process {inner}) was stopped" in until(
            lambda: "was stopped" in notices(greedy) and notices(greedy), what="the second notice"
        )
        assert Path(f"/proc/{small}").exists()
        assert notices(modest) == ""


def test_a_lab_is_opened_with_a_gpu_from_the_portal(server: Hosted, wire: Wire) -> None:
    """As a browser does it: the running server has none, so the portal asks, and then restarts it."""
    person = server.log_in("opener")
    person.start_server()
    person.client.headers.update({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
    page = person.client.get("/services/portal/gpu/gpu-usage")
    assert "Your server runs without a GPU" in page.text, page.text
    xsrf = page.text.split('name="xsrf" value="')[1].split('"')[0]
    answer = person.client.post("/services/portal/gpu/gpu-usage", data={"xsrf": xsrf}, follow_redirects=False)
    target = urllib.parse.urlsplit(answer.headers["Location"])
    assert (answer.status_code, target.path) == (303, "/hub/spawn")
    person.client.get(answer.headers["Location"])
    until(lambda: ready(person), what="the server with a GPU")
    assert server.server("opener").labels["gradlab.gpu"].startswith(GPU)
    again = person.client.get("/services/portal/gpu/gpu-usage", follow_redirects=False)
    assert again.status_code == 302  # it has one: straight into the notebook
    give_up(person)


def test_a_pool_without_gpus_refuses_with_a_sentence(tmp_path: Path, require: Require) -> None:
    require("images")
    with hosted(tmp_path / "none") as server:
        server.up()
        person = server.log_in("wishful")
        answer = person.api("POST", "/hub/api/users/wishful/server", json={"user_options": {"gpu": True}})
        assert answer.status_code == 503
        assert "This server gives out no GPUs (GRADLAB_GPUS=none)." in answer.json()["message"]
        # A browser: nothing is started in silence.
        address = "/hub/spawn?opt-lab=tensors&opt-gpu=yes&next=%2Fhub%2Fuser-redirect%2Flab"
        page = person.client.get(address)
        assert page.status_code == 503
        assert "Your server was not started" in page.text
        assert "This server gives out no GPUs (GRADLAB_GPUS=none)." in page.text
        assert "You can start your server without that" in page.text
        assert not server.containers("server")
        xsrf = person.client.cookies.get("_xsrf", path="/hub/")
        started = person.client.post(f"{address}&_xsrf={xsrf}", follow_redirects=False)
        assert started.status_code == 302, started.text
        until(lambda: ready(person), what="a server without a GPU")
        give_up(person)
        person.start_server()
