"""`make backup`, `make restore` and `make down` of a hosted server: what they keep, and what they refuse to touch."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import Require
from tests.hosted import Hosted, hosted
from tests.operating import another, backup, equip, script, write_env
from tests.servers import Person

pytestmark = pytest.mark.xdist_group("networks")

# A learner's work: files of every kind, and a verdict.
WORK = """
import json, os
open("work.txt", "w").write("kept")
os.chmod("work.txt", 0o640)
os.link("work.txt", "the same.txt")
os.symlink("/etc/passwd", "elsewhere")
os.makedirs("closed/inner"); open("closed/inner/ä\\udcff", "w").close(); os.chmod("closed", 0o500)
with open("sparse", "wb") as file:
    file.truncate(5 << 30)
from labkit.client import Portal
portal = Portal.from_environment()
number = portal.submit("tensors", open("04_tensors.ipynb", "rb").read(), None)
while (found := portal.submission(number, 20))["state"] == "accepted":
    pass
print(json.dumps([number, found["verdict"]]))
"""

LOOK = """
import json, os
def of(path):
    found = os.lstat(path)
    return [oct(found.st_mode), found.st_uid, found.st_gid, found.st_nlink, found.st_size, found.st_blocks > 100000,
            int(found.st_mtime) // 10]
names = ["work.txt", "the same.txt", "closed", "elsewhere", "sparse"]
print(json.dumps([{name: of(name) for name in names}, os.readlink("elsewhere"), os.listdir("closed/inner"),
                  open("work.txt").read()]))
"""


@dataclass
class Kept:
    """A server that is up, and what is to be found again."""

    server: Hosted
    number: int
    verdict: Any
    files: Any

    @property
    def folder(self) -> Path:
        return self.server.folder


def look(person: Person) -> Any:
    with closing(person.kernel()) as kernel:
        return kernel.json(LOOK)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[Kept]:
    require("images")
    with hosted(tmp_path_factory.mktemp("backup") / "source") as server:
        equip(server.folder)
        (server.folder / "tls").mkdir()
        (server.folder / "tls" / "chain.pem").write_text("not a certificate")
        (server.folder / "tls" / "chain.pem").chmod(0o640)
        server.up()
        ada = server.log_in("ada")
        ada.start_server()
        with closing(ada.kernel()) as kernel:
            number, verdict = kernel.json(WORK)
        yield Kept(server, number, verdict, look(ada))


@pytest.fixture(scope="module")
def file(kept: Kept) -> Path:
    """A backup of it, made while it runs."""
    return backup(kept.folder)


def state(engine: docker.DockerClient, kept: Kept) -> Any:
    """What a refused command leaves as it is."""
    volumes = engine.volumes.list(filters={"name": kept.server.name})
    return sorted(one.name for one in volumes), (kept.folder / ".env").read_text()


# -- backup ------------------------------------------------------------------------------------------------------------


def test_a_backup_is_one_file_for_its_owner_alone(kept: Kept, file: Path) -> None:
    assert file.name.startswith("gradlab-2")
    assert file.suffix == ".tar"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert file.stat().st_size < 50 << 20, "the hole of a sparse file is stored"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_tar_reads_it_too(file: Path) -> None:
    listed = subprocess.run(["tar", "tf", file], capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed[0] == "manifest"
    assert {"project/.env", "project/config.d/quick.py", "project/tls/chain.pem"} < set(listed)
    assert {"databases/gradlab.sqlite", "databases/jupyterhub.sqlite", "homes/ada/work.txt"} < set(listed)
    assert not [name for name in listed if name.startswith("state/logs") or name.startswith("state/gradlab")]
    with tarfile.open(file) as archive:
        member = archive.extractfile("manifest")
        assert member is not None
        said = member.read().decode()
    assert said.startswith("Gradlab backup, format 1\ndate: 2")
    assert "\nversion: 0." in said
    assert f"size: {file.stat().st_size:015d}\n" in said


def test_the_server_goes_on_and_nothing_of_the_backup_is_left(kept: Kept, file: Path) -> None:
    assert kept.server.server("ada").status == "running"
    assert kept.server.containers("backup") == []


# -- down --------------------------------------------------------------------------------------------------------------


def test_a_server_that_runs_is_not_overwritten(kept: Kept, file: Path, engine: docker.DockerClient) -> None:
    before = state(engine, kept)
    done = script(kept.folder, "restore", "--force", file)
    assert done.returncode == 1
    assert f"{kept.server.name} runs: " in done.stdout
    assert f"{kept.server.name}-server-ada" in done.stdout
    assert "Nothing was changed. Stop everything, learners' servers too: make down" in done.stdout
    assert state(engine, kept) == before


def test_down_ends_learners_servers_too_and_keeps_volumes(kept: Kept, file: Path, engine: docker.DockerClient) -> None:
    before = state(engine, kept)
    done = script(kept.folder, "down")
    assert done.returncode == 0, done.stdout
    assert f"{kept.server.name}-server-ada" in done.stdout
    label = {"label": f"gradlab.installation={kept.server.name}"}
    assert engine.containers.list(all=True, filters=label) == []
    assert [network.name for network in engine.networks.list() if kept.server.name in network.name] == []
    assert state(engine, kept) == before
    again = script(kept.folder, "down")
    assert (again.returncode, f"{kept.server.name} is down." in again.stdout) == (0, True), again.stdout


# -- restore -----------------------------------------------------------------------------------------------------------


def test_everything_is_there_again_under_another_name(
    kept: Kept, file: Path, engine: docker.DockerClient, tmp_path: Path
) -> None:
    saved = tmp_path / "elsewhere.tar"
    shutil.copy(file, saved)
    kept.server.destroy()
    with another(kept.server, tmp_path / "there") as restored:
        write_env(restored.folder, COMPOSE_PROJECT_NAME=restored.name)
        done = script(restored.folder, "restore", saved)
        assert done.returncode == 0, done.stdout
        assert f"the databases and 1 homes of {kept.server.name} are those of {restored.name}" in done.stdout
        assert "Start it: docker compose up -d" in done.stdout
        assert engine.containers.list(all=True, filters={"label": f"gradlab.installation={restored.name}"}) == []
        env = (restored.folder / ".env").read_text()
        assert f"COMPOSE_PROJECT_NAME={restored.name}\n" in env
        assert f"GRADLAB_COOKIE_KEY={kept.server.env['GRADLAB_COOKIE_KEY']}\n" in env
        assert (restored.folder / ".env").stat().st_mode & 0o777 == 0o600
        assert (restored.folder / "config.d" / "quick.py").exists()
        assert (restored.folder / "tls" / "chain.pem").stat().st_mode & 0o777 == 0o640
        restored.up()
        ada = restored.log_in("ada")  # with her password, and without signing up
        assert ada.api("GET", "/hub/api/users/ada").json()["servers"] == {}
        ada.start_server()
        assert look(ada) == kept.files
        found = ada.api("GET", f"/services/portal/api/submissions/{kept.number}").json()
        assert (found["verdict"], found["verdict"]["lab"]) == (kept.verdict, "tensors")
