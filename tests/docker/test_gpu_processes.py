"""Whose processes there are, with real containers of real engines: with the machine's own layout of cgroups, and with
version 2 alone, in which an engine of the test's own runs where the machine has another one.

Both engines make containers in the two kinds of cgroup namespaces, and the processes are looked at from two as well:
the machine's, as the GPU monitor does, and a container's own, from which all paths begin with "/..".
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from docker.models.containers import Container

from gradlab.gpu.owners import container_of
from gradlab.settings import ROOT
from tests.conftest import Require
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("networks")

NAME = f"gradlab-test-{uuid.uuid4().hex[:8]}"

# Prints by number what the owner of each process is.
READER = """
import json, sys
from gradlab.gpu.residents import Residents
from gradlab.roster import Roster, Server
known, pids = json.loads(sys.argv[1])
roster = Roster(tuple(Server(learner, container=container) for container, learner in known.items()))
found = Residents().owners(pids, roster).items()
print(json.dumps({pid: [one.kind, one.server and one.server.learner, one.container] for pid, one in found}))
"""

# As root of the machine's /sys/fs/cgroup: a group of its own below that of its container, in every hierarchy there is.
INNER_GROUP = r"""
for group in /cgroup/docker/$HOSTNAME* /cgroup/*/docker/$HOSTNAME* \
    /cgroup/system.slice/docker-$HOSTNAME*.scope /cgroup/*/system.slice/docker-$HOSTNAME*.scope; do
    [ -d "$group" ] && mkdir "$group/inner" && echo $$ >"$group/inner/cgroup.procs"
done
exec sleep 600
"""

# Controllers stay where they are; what is seen below /sys/fs/cgroup is version 2, and so that is what Docker takes.
ENGINE = """
umount --lazy /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit
if [ -d /run/containerd ]; then mount -t tmpfs none /run/containerd; fi
exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "unix://$1/sock" \
    --bridge none --iptables=false --ip6tables=false
"""


@dataclass
class Layout:
    """An engine, and what was started with it; ``view`` is in which cgroup namespace the reader is."""

    engine: docker.DockerClient
    driver: str
    started: list[Container] = field(default_factory=list)
    view: Callable[[], list[str]] = list

    def run(self, *command: str, **options: object) -> Container:
        found: Container = self.engine.containers.run(
            NAME, list(command or ("sleep", "600")), network_mode="none", detach=True, labels=[NAME], **options
        )
        self.started.append(found)
        found.reload()
        return found

    def owners(self, pids: list[int], known: dict[str, str]) -> dict[int, tuple[str, str | None, str]]:
        """``known`` are learners by their containers' ids."""
        argv = [*self.view(), sys.executable, "-c", READER, json.dumps([known, pids])]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return {int(pid): tuple(owner) for pid, owner in json.loads(done.stdout).items()}


def pid_of(container: Container) -> int:
    return int(container.attrs["State"]["Pid"])


def groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def tiny_image() -> bytes:
    """A shell, ``sleep`` and ``mkdir`` of this machine, with their libraries."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        libraries: set[str] = set()
        for name in ("sh", "sleep", "mkdir"):
            program = os.path.realpath(shutil.which(name) or name)
            tar.add(program, arcname=f"bin/{name}")
            listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            libraries |= set(re.findall(r"/\S+", listed))
        for library in sorted(libraries):
            tar.add(os.path.realpath(library), arcname=library.lstrip("/"))
    return data.getvalue()


@contextlib.contextmanager
def own_engine(require: Require) -> Iterator[docker.DockerClient]:
    """An engine to which this machine has cgroup version 2 and nothing else."""
    require("root")
    require("dockerd")
    with tempfile.TemporaryDirectory(prefix="gradlab-", ignore_cleanup_errors=True) as folder:
        # Without a bridge of its own it would remove the one of the machine's engine.
        argv = ["unshare", "--mount", "--net", "sh", "-c", ENGINE, "sh", folder]
        log = Path(folder, "log")
        with log.open("wb") as output, subprocess.Popen(argv, stdout=output, stderr=output) as process:
            try:
                until(lambda: process.poll() is not None or answers(folder), what="the engine's start")
                ended = process.poll() is not None
                require("cgroup2", f"no engine for it can be started: {log.read_text()[-500:]}" if ended else "")
                with contextlib.closing(docker.DockerClient(f"unix://{folder}/sock")) as client:
                    yield client
            finally:
                process.terminate()


def answers(folder: str) -> bool:
    with (
        contextlib.suppress(DockerException),
        contextlib.closing(docker.DockerClient(f"unix://{folder}/sock")) as client,
    ):
        return bool(client.ping())
    return False


@pytest.fixture(scope="module", params=["the machine's own", "version 2 alone"])
def layouts(request: pytest.FixtureRequest, engine: docker.DockerClient, require: Require) -> Iterator[Layout]:
    with contextlib.ExitStack() as stack:
        own = request.param == "the machine's own"
        if not own and engine.info()["CgroupVersion"] == "2":
            pytest.skip("the machine's own layout is version 2")
        client = engine if own else stack.enter_context(own_engine(require))
        client.api.import_image_from_data(tiny_image(), repository=NAME)
        try:
            yield Layout(client, client.info()["CgroupDriver"])
        finally:
            for container in client.containers.list(all=True, filters={"label": NAME}):
                container.remove(force=True)
            client.images.remove(NAME, force=True)


@pytest.fixture(params=["the machine's view", "a container's view"])
def layout(layouts: Layout, request: pytest.FixtureRequest, require: Require) -> Iterator[Layout]:
    """Each of the layouts, looked at from each of the cgroup namespaces."""
    found = Layout(layouts.engine, layouts.driver)
    if request.param == "a container's view":
        require("root")
        other = found.run(cgroupns="private")
        found.view = lambda: ["nsenter", "--cgroup", "--target", str(pid_of(other)), "--"]
    yield found
    for container in found.started:
        container.remove(force=True)


@pytest.mark.parametrize("namespace", ["host", "private"])
def test_processes_are_told_by_their_containers(layout: Layout, namespace: str) -> None:
    ada, ben, others = (layout.run(cgroupns=namespace) for _ in range(3))
    pids = [pid_of(one) for one in (ada, ben, others)]
    assert layout.owners(pids, {ada.id: "ada", ben.id: "ben"}) == {
        pids[0]: ("learner", "ada", ada.id),
        pids[1]: ("learner", "ben", ben.id),
        pids[2]: ("container", None, others.id),
    }


@pytest.mark.parametrize("namespace", ["host", "private"])
def test_what_is_started_in_a_container_later_is_its_own(layout: Layout, namespace: str) -> None:
    ada = layout.run(cgroupns=namespace)
    started = layout.engine.api.exec_create(ada.id, ["sh", "-c", "sleep 601 & sleep 602"])["Id"]
    layout.engine.api.exec_start(started, detach=True)

    def listed() -> dict[str, int]:
        found = ada.top()
        pid, command = found["Titles"].index("PID"), found["Titles"].index("CMD")
        return {row[command]: int(row[pid]) for row in found["Processes"]}

    processes = until(lambda: (found := listed()) and {"sleep 601", "sleep 602"} <= found.keys() and found)
    found = layout.owners(list(processes.values()), {ada.id: "ada"})
    assert found == dict.fromkeys(processes.values(), ("learner", "ada", ada.id))
    assert len(found) == 4


def test_a_group_that_a_container_makes_for_itself_is_still_the_containers(layout: Layout) -> None:
    """As systemd does inside of one."""
    volumes = {"/sys/fs/cgroup": {"bind": "/cgroup", "mode": "rw"}}
    ada = layout.run("sh", "-c", INNER_GROUP, cgroupns="host", volumes=volumes)
    pid = pid_of(ada)
    until(lambda: "/inner" in groups(pid) and Path(f"/proc/{pid}/comm").read_text() == "sleep\n", what="its move")
    assert layout.owners([pid], {ada.id: "ada"}) == {pid: ("learner", "ada", ada.id)}
    assert layout.owners([pid], {}) == {pid: ("container", None, ada.id)}


def test_of_containers_in_containers_the_learners_counts(layout: Layout) -> None:
    """As in Docker inside of Docker, whichever of them the hub's servers are."""
    if layout.driver == "systemd":
        inner = layout.run(cgroup_parent="gradlabtest.slice")
        assert "gradlabtest.slice" in groups(pid_of(inner))
    else:
        outer = layout.run()
        inner = layout.run(cgroup_parent=f"/docker/{outer.id}")
        assert f"/{outer.id}/{inner.id}" in groups(pid_of(inner))
        assert layout.owners([pid_of(inner)], {outer.id: "ada"}) == {pid_of(inner): ("learner", "ada", outer.id)}
    assert layout.owners([pid_of(inner)], {inner.id: "ada"}) == {pid_of(inner): ("learner", "ada", inner.id)}
    assert layout.owners([pid_of(inner)], {}) == {pid_of(inner): ("container", None, inner.id)}


def test_the_machines_own_processes_are_nobodys(layout: Layout) -> None:
    ada = layout.run()
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        pids = [sleeper.pid, os.getpid(), pid_of(ada)]
        found = layout.owners(pids, {ada.id: "ada"})
        sleeper.kill()
    assert found.pop(pids[2]) == ("learner", "ada", ada.id)
    # These tests may be in a container themselves.
    expected = {"machine"} if container_of(groups(os.getpid())) is None else {"machine", "container"}
    assert set(found) == set(pids[:2])
    assert {kind for kind, _, _ in found.values()} <= expected


def test_a_container_that_has_ended_has_no_processes(layout: Layout) -> None:
    ada = layout.run()
    pid = pid_of(ada)
    assert layout.owners([pid], {ada.id: "ada"})
    ada.kill()
    ada.wait()
    assert layout.owners([pid], {ada.id: "ada"}) == {}


def test_the_layouts_are_what_they_are_called(layouts: Layout, request: pytest.FixtureRequest) -> None:
    """Or the tests above would test one of them twice."""
    container = layouts.run()
    lines = [line for line in groups(pid_of(container)).splitlines() if container.id in line]
    hierarchies = {line.split(":")[1] for line in lines}
    container.remove(force=True)
    if layouts.engine.info()["CgroupVersion"] == "2":
        assert hierarchies == {""}
    else:
        assert {"memory", "cpu"} <= {name for names in hierarchies for name in names.split(",")}
