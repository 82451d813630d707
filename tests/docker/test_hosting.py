"""A class hosted with docker-compose.yml: what learners, and whoever wants to harm one, meet."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from gradlab.settings import ROOT
from tests.conftest import Require
from tests.hosted import Hosted, hosted
from tests.servers import Kernel, KernelDied, Person
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("networks")

# As a learner does it, but for the code, which the notebook of the real course has a stub of.
SOLVE = """
import json, labkit
path = "04_tensors.ipynb"
notebook = json.load(open(path))
for cell in notebook["cells"]:
    source = "".join(cell["source"])
    if "def rank_of" in source:
        cell["source"] = "import torch\\ndef rank_of(x):\\n    return x.ndim\\n"
json.dump(notebook, open(path, "w"))
"""

CHECK = """
import json
from labkit.client import Portal
portal = Portal.from_environment()
number = portal.submit("tensors", open("04_tensors.ipynb", "rb").read(), None)
while (found := portal.submission(number, 20))["state"] == "accepted":
    pass
print(json.dumps({result["exercise"]: result["outcome"] for result in found["verdict"]["results"]}))
"""

# Whether something answers at an address, from inside.
REACH = """
import json, socket
from concurrent.futures import ThreadPoolExecutor
def reach(place):
    try:
        with socket.create_connection(place, 3):
            return "open"
    except OSError as error:
        return type(error).__name__
places = {places!r}
with ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps(dict(zip(places, pool.map(reach, places.values())))))
"""


def run(code: str) -> Callable[[Person], str]:
    """What runs this in a new kernel of somebody's server."""

    def running(person: Person) -> str:
        with closing(person.kernel()) as kernel:
            return kernel.run(code)

    return running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[Hosted]:
    require("images")
    with hosted(tmp_path_factory.mktemp("hosted")) as server:
        server.up()
        yield server


@pytest.fixture(scope="module")
def ada(server: Hosted) -> Person:
    """A learner whose server runs."""
    person = server.log_in("ada")
    person.start_server()
    return person


@pytest.fixture(scope="module")
def kernel(ada: Person) -> Iterator[Kernel]:
    kernel = ada.kernel()
    yield kernel
    kernel.close()


def test_a_learner_works_in_a_container_of_their_own(server: Hosted, kernel: Kernel) -> None:
    assert kernel.run("import torch; print(int(torch.ones(2, 3).sum()))") == "6\n"
    assert kernel.json("import json, os; print(json.dumps([os.getuid(), os.getcwd(), os.environ['USER']]))") == [
        1000,
        "/home/lab",
        "ada",
    ]
    labels = server.server("ada").labels
    assert (labels["gradlab.user"], labels["gradlab.role"], labels.get("gradlab.gpu")) == ("ada", "server", None)
    assert "NVIDIA_VISIBLE_DEVICES=void" in server.server("ada").attrs["Config"]["Env"]


def test_the_labs_lie_in_the_home_and_the_portal_knows_where(ada: Person, kernel: Kernel) -> None:
    names = sorted(path.stem + ".ipynb" for path in (ROOT / "labs").glob("[0-9][0-9]_*.py"))
    assert (
        kernel.json("import json, os; print(json.dumps(sorted(n for n in os.listdir() if n.endswith('.ipynb'))))")
        == names
    )
    page = ada.api("GET", "/services/portal/").text
    assert "next=%2Fhub%2Fuser-redirect%2Flab%2Ftree%2F04_tensors.ipynb" in page


def test_a_check_is_judged_in_a_container_by_a_judge_without_network(server: Hosted, kernel: Kernel) -> None:
    kernel.run(SOLVE)
    verdict = kernel.json(CHECK)
    assert verdict.pop("rank_of") == "passed"
    assert set(verdict.values()) == {"not attempted"}, verdict
    assert server.containers("check"), "judged somewhere else"
    assert server.service("checker").attrs["HostConfig"]["NetworkMode"] == "none"
    mounts = {mount["Destination"] for mount in server.service("portal").attrs["Mounts"]}
    assert "/var/run/docker.sock" not in mounts


def test_the_doctor_finds_nothing_wrong_and_has_an_answer_judged(server: Hosted) -> None:
    """It has the reference solution of a lab judged, in a container as learners' answers are."""
    told = server.service("hub").exec_run(["gradlab", "doctor", "--json"], demux=True).output[0]
    lines = json.loads(told)["lines"]
    assert [line for line in lines if line["status"] == "failed"] == []
    assert [line["status"] for line in lines if line["name"] == "a real check"] == ["ok"]


def test_the_kernel_was_forked_from_one_that_has_torch(kernel: Kernel) -> None:
    """It did not start by its command line: that would not have torch loaded before the first cell."""
    fresh = kernel.run("import os, psutil; print('labkit.nursery' in ' '.join(psutil.Process(os.getppid()).cmdline()))")
    assert fresh == "True\n"


def test_nothing_but_hub_proxy_and_portal_can_be_reached(server: Hosted, kernel: Kernel) -> None:
    neighbour = server.log_in("neighbour")
    neighbour.start_server()
    (network,) = server.server("neighbour").attrs["NetworkSettings"]["Networks"].values()
    checker = server.service("checker")
    gateway = kernel.run("import socket; print('.'.join(socket.gethostbyname('hub').split('.')[:3]))").strip()
    places = {
        "hub": ("hub", 8081),
        "proxy": ("proxy", 8000),
        "portal": ("portal", 8082),
        "neighbour": (network["IPAddress"], 8888),
        "neighbour by name": (server.server("neighbour").name, 8888),
        "checker by name": ("checker", 80),
        "checker": (checker.name, 80),
        "database": ("postgres", 5432),
        "metadata": ("169.254.169.254", 80),
        "internet": ("1.1.1.1", 53),
        "proxy's API": ("proxy", 8001),
        "host": ("172.17.0.1", 22),
        "host's published port": ("172.17.0.1", server.port),
        **{f"gateway {last}": (f"{gateway}.{last}", server.port) for last in (1, 17, 33, 49)},
    }
    found = kernel.json(REACH.format(places=places))
    assert {name for name, how in found.items() if how == "open"} == {"hub", "proxy", "portal"}
    inside = "import json, os; print(json.dumps([os.path.exists(p) for p in ('/var/run/docker.sock', '/run/gradlab')]))"
    assert kernel.json(inside) == [False, False]


def test_nothing_but_the_home_and_scratch_can_be_written(kernel: Kernel) -> None:
    code = """
import json, os
found = []
for folder in ["/", "/opt/lab", "/opt/lab/labs", "/etc", "/usr", "/home", "/home/lab", "/tmp", "/dev/shm", "/var/tmp"]:
    try:
        open(folder + "/probe", "w").close()
        found.append(folder)
    except OSError:
        pass
print(json.dumps(found))
"""
    assert kernel.json(code) == ["/home/lab", "/tmp", "/dev/shm"]
    rights = kernel.run("print(open('/proc/self/status').read())")
    assert "CapEff:\t0000000000000000" in rights
    assert "NoNewPrivs:\t1" in rights


def test_a_large_allocation_ends_by_the_limit_and_only_there(server: Hosted, ada: Person) -> None:
    hungry = ada.kernel()
    neighbour = server.log_in("bystander")
    neighbour.start_server()
    beside = neighbour.kernel()
    beside.run("kept = 42")
    with pytest.raises(KernelDied), closing(hungry):
        hungry.run("x = bytearray(10 << 30); x[::4096] = b'1' * len(x[::4096])")
    assert beside.run("print(kept)") == "42\n"
    beside.close()
    assert ada.api("GET", "/user/ada/api/status").status_code == 200
    assert server.server("bystander").status == "running"


def test_five_learners_start_at_once(server: Hosted) -> None:
    people = [server.log_in(f"crowd-{number}") for number in range(5)]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(Person.start_server, people))
        answers = list(pool.map(run("import torch; print(torch.ones(3).sum())"), people))
    assert answers == ["tensor(3.)\n"] * 5
    networks = [next(iter(server.server(f"crowd-{n}").attrs["NetworkSettings"]["Networks"])) for n in range(5)]
    assert len(set(networks)) == 5
    for person in people:
        person.stop_server()


def test_a_learner_whose_container_was_killed_reads_why_and_starts_again(server: Hosted) -> None:
    person = server.log_in("unlucky")
    person.start_server()
    container = server.server("unlucky")
    began = time.monotonic()
    container.kill()
    until(lambda: not person.api("GET", "/hub/api/users/unlucky").json()["servers"], what="the hub's notice")
    assert time.monotonic() - began < 10, "found by polling, not by Docker's event"
    page = person.client.get("/user/unlucky/lab")
    assert page.status_code == 424
    assert "Your server ended. It was killed from outside" in page.text
    log = server.service("hub").exec_run(["sh", "-c", f"cat /var/lib/gradlab/logs/servers/{container.name}.log"])
    assert b"It was killed from outside" in log.output
    assert b"JupyterHub" in log.output or b"Jupyter Server" in log.output
    person.start_server()
    assert "Your server ended" not in person.client.get("/user/unlucky/lab").text
    person.stop_server()


def test_a_killed_hub_finds_the_servers_again(server: Hosted, ada: Person, kernel: Kernel) -> None:
    kernel.run("kept = 1")
    other = server.log_in("other")
    other.start_server()
    before = {name: server.server(name).id for name in ("ada", "other")}
    server.service("hub").kill()
    server.compose("up", "--detach", "--no-build", "hub")
    server.wait_ready()
    until(lambda: ada.api("GET", "/hub/api/users/ada").json().get("servers"), what="ada's server in the hub's list")
    assert {name: server.server(name).id for name in before} == before
    assert kernel.run("print(kept)") == "1\n"
    assert other.api("GET", "/user/other/api/status").status_code == 200
    other.stop_server()


def test_everything_is_still_there_after_down_and_up(server: Hosted, ada: Person) -> None:
    run("open('work.txt', 'w').write('kept')")(ada)
    run(SOLVE)(ada)
    assert '"rank_of": "passed"' in run(CHECK)(ada)
    server.compose("down", "--timeout", "5")
    server.up()
    person = server.log_in("ada")
    # Her server ran all the time: `down` leaves learners alone, and the new hub and proxy have found it.
    until(lambda: person.api("GET", "/user/ada/api/status").status_code == 200, what="the way to the running server")
    assert run("print(open('work.txt').read())")(person) == "kept\n"
    attempts = person.api("GET", "/services/portal/api/labs").json()
    assert sum(lab["points"] for lab in attempts) > 0, json.dumps(attempts)


def test_a_start_is_asked_for_with_a_lab_and_a_gpu_and_nothing_else(server: Hosted) -> None:
    person = server.log_in("wishful")
    for options, says in [
        ({"image": "gradlab-checker"}, "Specifying image to launch is not allowed"),
        ({"lab": "{username} x"}, "lab='{username} x' names no lab. Lab names are short and of a-z, 0-9 and hyphens"),
        ({"lab": "x" * 65}, "names no lab"),
        ({"gpu": "yes"}, "gpu='yes' is neither true nor false."),
    ]:
        answer = person.api("POST", "/hub/api/users/wishful/server", json=options)
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["message"]
    person.start_server({"lab": "tensors"})
    assert server.server("wishful").labels["gradlab.lab"] == "tensors"
    person.stop_server()


def test_work_survives_another_image(server: Hosted) -> None:
    person = server.log_in("upgraded")
    person.start_server()
    run("open('work.txt', 'w').write('kept')")(person)
    first = server.server("upgraded").image.id
    person.stop_server()
    newer = server.engine.images.build(
        fileobj=io.BytesIO(b"FROM gradlab-lab\nLABEL newer=yes\n"), tag=f"{server.name}-newer", rm=True
    )[0]
    (server.folder / ".env").write_text(
        (server.folder / ".env").read_text() + f"GRADLAB_LEARNER_IMAGE={server.name}-newer\n"
    )
    server.compose("up", "--detach", "--no-build")
    server.wait_ready()
    person = server.log_in("upgraded")
    person.start_server()
    assert server.server("upgraded").image.id == newer.id != first
    assert run("print(open('work.txt').read())")(person) == "kept\n"
    person.stop_server()

    def refused(dockerfile: bytes) -> str:
        server.engine.images.remove(f"{server.name}-newer", force=True)
        if dockerfile:
            server.engine.images.build(fileobj=io.BytesIO(dockerfile), tag=f"{server.name}-newer", rm=True)
        answer = person.api("POST", "/hub/api/users/upgraded/server")
        return str(answer.json()["message"])

    assert "Docker could not start your server: " in refused(b"FROM scratch\nLABEL empty=yes\n")
    assert (
        f"The image {server.name}-newer of learners' servers is not on this machine. "
        "Your instructor can make it: make images." in refused(b"")
    )
