"""A demonstration's settings, its rosters, how fast it is, and what it says when there is no compiler."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.demo.files import Rosters
from gradlab.demo.learners import Rate
from gradlab.demo.run import BANNER, demo, demo_settings
from gradlab.errors import ServerError
from gradlab.roster import Roster, Server, Waiter, write
from gradlab.settings import ROOT, Settings


def test_its_state_is_in_a_folder_of_its_own() -> None:
    own = demo_settings(Settings())
    assert own.state_dir == ROOT / "var" / "demo"
    assert own.banner == BANNER
    for place in (own.store_url, own.hub_store_url):
        assert place.startswith(f"sqlite:///{ROOT / 'var' / 'demo'}/")


def test_nothing_of_a_server_with_peoples_work_is_taken_over(tmp_path: Path) -> None:
    environ = {
        "GRADLAB_STATE_DIR": str(tmp_path),
        "GRADLAB_PORT": "8123",
        "GRADLAB_SPAWNER": "docker",
        "GRADLAB_DATABASE_URL": "postgresql+psycopg://gradlab@postgres/gradlab",
        "GRADLAB_HUB_DATABASE_URL": "postgresql+psycopg://gradlab@postgres/jupyterhub",
        "GRADLAB_PROFILES": "postgres",
        "GRADLAB_PUBLIC_ADDRESS": "https://lab.example.org",
        "GRADLAB_SUBDOMAINS": "yes",
        "GRADLAB_TLS_DIR": str(tmp_path / "tls"),
        "GRADLAB_LOGIN": "oidc",
        "GRADLAB_GPUS": "exclusive",
        "GRADLAB_CONFIG_DIR": str(tmp_path / "config.d"),
        "GRADLAB_CHECK_SANDBOX": "docker",
        "GRADLAB_CHECK_GPUS": "GPU-1",
        "GRADLAB_LABS_DIR": str(tmp_path / "labs"),
    }
    own = demo_settings(Settings.from_env(environ, env_file=None))
    plain = demo_settings(Settings(state_dir=tmp_path, port=8123, labs_dir=tmp_path / "labs"))
    assert own == plain
    assert (own.spawner, own.login, own.gpus, own.port) == ("process", "passwords", "none", 8123)
    assert own.labs_dir == tmp_path / "labs"


def test_without_a_compiler_it_ends_before_it_begins_and_says_the_remedy(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    env |= {"GRADLAB_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "gradlab.cli", "demo"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "The simulated NVIDIA driver cannot be compiled: there is no cc. Install a C compiler" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "state").exists()


def test_beside_a_server_on_the_same_port_it_says_how_to_start_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} .* PORT={port + 1} make demo"):
            demo(Settings(state_dir=tmp_path / "state", port=port), learners=1, pace=1.0)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("wrong", [["--learners", "0"], ["--learners", "many"], ["--pace", "0"]])
def test_what_makes_no_sense_is_refused(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "gradlab.cli", "demo", *wrong]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


def test_servers_that_people_started_are_known_beside_the_simulated_ones(tmp_path: Path) -> None:
    hub, simulation = tmp_path / "hub.json", tmp_path / "simulation.json"
    rosters = Rosters(hub, simulation)
    assert rosters() == Roster()
    ada, grace, mira = Server("ada", pid=1, device="GPU-0"), Server("grace", pid=2), Server("mira", pid=3)
    line = (Waiter("alan", "", 5.0, 1),)
    write(simulation, Roster((ada,), line, mode="exclusive", slots=10, free=0))
    assert rosters() == Roster((ada,), line, mode="exclusive", slots=10, free=0)
    write(hub, Roster((mira, grace, Server("ada", pid=4)), mode="none"))
    assert rosters() == Roster((ada, mira, grace), line, mode="exclusive", slots=10, free=0)
    assert rosters() is rosters()
    hub.unlink()
    assert rosters().servers == (ada,)


@given(st.integers(1, 200), st.floats(0.1, 10), st.lists(st.floats(0, 100), max_size=50))
def test_learners_slow_down_while_verdicts_are_late_and_never_stop(
    learners: int, pace: float, seconds: list[float]
) -> None:
    rate = Rate(learners, pace)
    least = rate.spacing
    for taken in seconds:
        before = rate.spacing
        rate.took(taken)
        assert rate.spacing >= before if taken > 3 else rate.spacing <= before
        assert least <= rate.spacing <= max(least, 30)


def test_all_learners_together_hand_in_something_every_second_and_a_half() -> None:
    rate, dice = Rate(40, 1.0), random.Random(1)
    thoughts = [rate.thought(dice) for _ in range(4000)]
    assert sum(thoughts) / len(thoughts) / 40 == pytest.approx(1.5, rel=0.1)
    faster = Rate(40, 3.0)
    assert sum(faster.thought(dice) for _ in range(4000)) / 4000 / 40 == pytest.approx(0.5, rel=0.1)
