"""Real processes on simulated GPUs: whose they are is found as with real ones, and none outlives who started it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from gradlab.demo.programs import Programs
from gradlab.gpu.residents import Residents
from gradlab.roster import Roster, Server
from tests.waiting import ended, until


@pytest.fixture
def programs() -> Iterator[Programs]:
    with closing(Programs()) as programs:
        yield programs


def test_whose_a_program_is_is_seen_in_proc(programs: Programs) -> None:
    programs.keep({"ada": [1, 2], "grace": [3], "alan": []})
    roster = Roster(tuple(Server(learner, pid=pid) for learner, pid in programs.servers.items()))
    with closing(Residents()) as residents:
        owners = residents.owners(programs.pids.values(), roster)
    found = {
        number: server.learner for number, pid in programs.pids.items() if (server := owners[pid].server) is not None
    }
    assert found == {1: "ada", 2: "ada", 3: "grace"}
    assert set(programs.servers) == {"ada", "grace", "alan"}


def test_what_is_not_wanted_any_more_ends_and_the_rest_stays(programs: Programs) -> None:
    programs.keep({"ada": [1, 2], "grace": [3]})
    before, servers = programs.pids, programs.servers
    programs.keep({"ada": [2, 4]})
    until(lambda: ended([before[1], before[3], servers["grace"]]), what="the end of two programs and a server")
    assert programs.servers == {"ada": servers["ada"]}
    assert set(programs.pids) == {2, 4}
    assert programs.pids[2] == before[2]
    assert not ended([before[2]])
    until(lambda: len(psutil.Process(servers["ada"]).children()) == 2, what="the collection of who has ended")


def test_a_server_that_somebody_killed_is_begun_anew(programs: Programs) -> None:
    programs.keep({"ada": [1]})
    first, program = programs.servers["ada"], programs.pids[1]
    psutil.Process(first).kill()
    until(lambda: ended([first, program]), what="the end of the server with its program")
    until(lambda: programs.keep({"ada": [1, 2]}) or len(programs.pids) == 2, what="a new server")
    assert programs.servers["ada"] != first
    assert not ended(programs.pids.values())


def test_they_end_when_closed() -> None:
    programs = Programs()
    programs.keep({"ada": [1, 2], "grace": [3]})
    everything = [psutil.Process(pid) for pid in (*programs.servers.values(), *programs.pids.values())]
    programs.close()
    until(lambda: ended(everything), what="the end of them all")
    assert programs.servers == programs.pids == {}


def test_they_end_with_who_started_them_however_that_ends() -> None:
    script = (
        "import time; from gradlab.demo.programs import Programs; programs = Programs(); "
        "programs.keep({'ada': [1, 2]}); print(*programs.pids.values(), *programs.servers.values(), flush=True); "
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        process.kill()
    until(lambda: ended(pids), what="the end of all of them")
