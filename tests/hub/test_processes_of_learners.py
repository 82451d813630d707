"""In a trial, the processes of learners' kernels are told by the servers that the hub writes down."""

from __future__ import annotations

import json
import os
import stat
from contextlib import closing

import pytest

from gradlab.gpu.residents import Residents
from gradlab.hub.processes import tree
from gradlab.roster import Roster, RosterFile, Server
from tests.conftest import Require
from tests.servers import Person, RunningServer
from tests.waiting import until


def told(server: RunningServer, *learners: str) -> Roster:
    """The roster in which these have servers."""
    read = RosterFile(server.settings.roster_file)

    def found() -> Roster | None:
        roster = read()
        return roster if {one.learner for one in roster.servers} >= set(learners) else None

    return until(found, 10, what="the servers' being told")


@pytest.fixture(scope="module")
def people(running_server: RunningServer) -> tuple[Person, Person]:
    found = running_server.log_in("owner-one"), running_server.log_in("owner-two")
    for person in found:
        person.start_server()
    return found


def test_a_kernels_processes_are_its_learners_and_the_servers_own_are_nobodys(
    running_server: RunningServer, people: tuple[Person, Person]
) -> None:
    code = "import subprocess; started = subprocess.Popen(['sleep', '613']); print('started')"
    first, second = people
    with closing(first.kernel()) as one, closing(second.kernel()) as two:
        assert one.run(code).strip() == two.run(code).strip() == "started"
        roster = told(running_server, "owner-one", "owner-two")
        servers = {server.learner: server for server in roster.servers}
        families = {name: _tree(servers[name]) for name in ("owner-one", "owner-two")}
        others = {process.pid for process in running_server.processes()} - set().union(*map(_tree, roster.servers))
        with closing(Residents()) as residents:
            for name, family in families.items():
                assert len(family) >= 3  # the server, the kernel, its child
                found = residents.owners(family, roster)
                assert {owner.server.learner if owner.server else owner.kind for owner in found.values()} == {name}
            assert others
            assert all(owner.server is None for owner in residents.owners(others, roster).values())


def _tree(server: Server) -> set[int]:
    return {process.pid for process in tree(server.pid)}


def test_what_a_learner_left_behind_is_told_by_the_user_id(
    running_server: RunningServer, people: tuple[Person, Person], require: Require
) -> None:
    require("root")
    server = next(one for one in told(running_server, "owner-one").servers if one.learner == "owner-one")
    assert server.uid
    orphan = os.posix_spawnp(
        "setpriv", ["setpriv", f"--reuid={server.uid}", "--clear-groups", "sleep", "614"], os.environ
    )
    try:
        with closing(Residents()) as residents:
            roster = told(running_server, "owner-one")
            until(lambda: _learner(residents, orphan, roster) == "owner-one", 10, what="the orphan's change of user")
    finally:
        os.kill(orphan, 9)
        os.waitpid(orphan, 0)


def _learner(residents: Residents, pid: int, roster: Roster) -> str:
    residents.close()  # a process is read once, and this one changes its user
    owner = residents.owners([pid], roster)[pid]
    return owner.server.learner if owner.server else owner.kind


def test_learners_cannot_read_who_else_is_there(running_server: RunningServer, people: tuple[Person, Person]) -> None:
    path = running_server.settings.roster_file
    told(running_server, "owner-one")
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with closing(people[0].kernel()) as kernel:
        assert kernel.run(f"import os; print(os.access({str(path)!r}, os.R_OK))").strip() == "False"


def test_a_server_that_is_stopped_is_told_no_more(running_server: RunningServer) -> None:
    person = running_server.log_in("owner-leaving")
    person.start_server()
    told(running_server, "owner-leaving")
    person.stop_server()
    read = RosterFile(running_server.settings.roster_file)
    until(lambda: "owner-leaving" not in {one.learner for one in read().servers}, 10, what="its end's being told")
    assert json.loads(running_server.settings.roster_file.read_text())["mode"] == "none"
