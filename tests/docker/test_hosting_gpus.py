"""GPUs of a hosted class: who gets one, who waits how, and what Docker is asked for.

There is no GPU here. The monitor reads a simulated driver below NVIDIA's real binding, and what Docker is asked for is
kept on the wire (tests/dockerwire.py) instead of granted.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Require
from tests.dockerwire import Wire, listening
from tests.hosted import Hosted, docker_socket, hosted
from tests.servers import Person
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("networks")

GPU = "GPU-11111111-2222-3333-4444-555555555555"
DRIVER = {
    "driver_version": "615.71.09",
    "devices": [{"name": "NVIDIA L40S", "uuid": GPU, "memory": {"total": 48 << 30, "reserved": 0, "used": 0}}],
}
MONITOR = """
import json, sys
from labkit import nvsim
nvsim.install(json.loads(sys.argv.pop()))
sys.argv = ["gradlab", "gpu-monitor"]
from gradlab.cli import main
main()
"""


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[Wire]:
    require("images")
    folder = tmp_path_factory.mktemp("wire")
    with listening(folder / "docker.sock", docker_socket()) as wire:
        yield wire


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("gpus")
    override = {
        "services": {
            "hub": {"volumes": [f"{wire.path}:/var/run/docker.sock"]},
            "gpu-monitor": {"command": ["python", "-c", MONITOR.replace("$", "$$"), json.dumps(DRIVER)]},
        }
    }
    with hosted(folder / "project", gpus="exclusive") as server:
        path = folder / "override.yml"  # JSON is YAML
        path.write_text(json.dumps(override))
        server.overrides.append(path)
        server.up()
        yield server


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
