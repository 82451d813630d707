"""What `make backup` and `make restore` refuse, and what they leave: on volumes made by hand, without a server."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import Require
from tests.operating import backup, equip, script, write_env

pytestmark = pytest.mark.xdist_group("networks")

# Two databases, one of them with a server that ran, and what is not to be copied.
STATE = """
set -e
cd /there
chown gradlab:gradlab . && chmod 711 .
mkdir logs && touch logs/hub.log gpu-queue.json
python - <<PYTHON
import sqlite3
for name, statement in (
    ("jupyterhub", "CREATE TABLE spawners AS SELECT 1 AS id, 7 AS server_id, 'of another machine' AS state"),
    ("gradlab", "CREATE TABLE learner AS SELECT 'ada' AS name"),
):
    connection = sqlite3.connect(name + ".sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(statement)
    connection.commit()
PYTHON
chown gradlab:gradlab *.sqlite && chmod 600 *.sqlite
"""
HOME = "cd /there && chown 1000:1000 . && echo kept >work.txt && chown 1000:1000 work.txt"
# What stands in the hub's database, and in the store's.
READ = """
import sqlite3
print(*sqlite3.connect("/there/jupyterhub.sqlite").execute("SELECT * FROM spawners"),
      *sqlite3.connect("/there/gradlab.sqlite").execute("SELECT * FROM learner"))
"""


@dataclass(frozen=True)
class Place:
    """A folder and a name, with volumes or without."""

    name: str
    folder: Path
    engine: docker.DockerClient

    @property
    def state(self) -> Any:
        """What a refused command leaves as it is."""
        names = [one.name for one in self.volumes()]
        mounts = [f"{name}:/there/{name}" for name in names]
        output = self.engine.containers.run(
            "gradlab-hub", "ls -lAR --full-time /there", user="0", remove=True, network_mode="none", volumes=mounts
        )
        containers = self.engine.containers.list(all=True, filters={"name": self.name})
        return names, output, containers, (self.folder / ".env").read_text(), [*self.folder.glob("backups/*")]

    def volumes(self) -> Any:
        return sorted(self.engine.volumes.list(filters={"name": self.name}), key=lambda one: str(one.name))

    def remove(self) -> None:
        for container in self.engine.containers.list(all=True, filters={"name": self.name}):
            container.remove(force=True)
        for network in self.engine.networks.list(names=[self.name]):
            network.remove()
        for volume in self.volumes():
            volume.remove(force=True)


def inside(engine: docker.DockerClient, volume: str, command: str) -> str:
    """Run a command where the volume is /there."""
    output = engine.containers.run(
        "gradlab-hub", ["sh", "-c", command], user="0", remove=True, network_mode="none", volumes=[f"{volume}:/there"]
    )
    return str(output.decode().strip())


@pytest.fixture(scope="module")
def make(engine: docker.DockerClient, require: Require, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Makes places; they are removed afterwards."""
    require("images")
    made = []

    def make() -> Place:
        place = Place(f"gradlab-test-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("place"), engine)
        made.append(place)
        equip(place.folder)
        write_env(place.folder, COMPOSE_PROJECT_NAME=place.name)
        return place

    yield make
    for place in made:
        place.remove()


@pytest.fixture(scope="module")
def place(make: Any) -> Place:
    place: Place = make()
    assert script(place.folder, "secrets").returncode == 0
    inside(place.engine, f"{place.name}_state", STATE)
    inside(place.engine, f"{place.name}-home-ada", HOME)
    (place.folder / "tls").mkdir()
    (place.folder / "tls" / "chain.pem").write_text("not a certificate")
    return place


@pytest.fixture(scope="module")
def file(place: Place) -> Path:
    return backup(place.folder)


def refused(place: Place, *arguments: str | Path, **environ: str) -> str:
    """What a command says that changes nothing."""
    before = place.state
    said = failed(place, *arguments, **environ)
    assert place.state == before
    return said


def failed(place: Place, *arguments: str | Path, **environ: str) -> str:
    done = script(place.folder, *map(str, arguments), **environ)
    assert done.returncode == 1, done.stdout
    assert "ended early" not in done.stdout
    return done.stdout


def stubbed(place: Place, name: str, body: str) -> str:
    """A PATH on which this command is another one."""
    file = place.folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    for other in file.parent.iterdir():
        other.unlink()
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return f"{file.parent}:/usr/local/bin:/usr/bin:/bin"


# -- backup ------------------------------------------------------------------------------------------------------------


def test_a_backup_that_fails_leaves_no_file(place: Place, file: Path) -> None:
    # As if the disk were full.
    path = stubbed(place, "tee", "head --bytes 700\necho 'tee: No space left on device' >&2\nexit 1")
    said = failed(place, "backup", PATH=path)
    assert [*(place.folder / "backups").iterdir()] == [file]
    assert place.engine.containers.list(all=True, filters={"name": place.name}) == []
    assert "tee: No space left on device" in said
    assert "The part project could not be read or written to its end" in said
    assert "There is no backup." in said


def test_two_backups_at_once_are_refused(place: Place, file: Path) -> None:
    other = place.engine.containers.create("gradlab-hub", name=f"{place.name}-backup")
    try:
        said = refused(place, "backup")
        done = script(place.folder, "restore", file)
    finally:
        other.remove()
    assert f"another backup runs, or was killed: docker rm -f {place.name}-backup" in said
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (None, "There is no .env here. Run this in the folder from which the server was started."),
        ("GRADLAB_PORT=1", ".env does not say COMPOSE_PROJECT_NAME, the installation's name. Run: make secrets"),
        ("COMPOSE_PROJECT_NAME=gradlab-test-x.y", "COMPOSE_PROJECT_NAME=gradlab-test-x.y cannot be an installation's"),
        (
            "COMPOSE_PROJECT_NAME=gradlab-test-nobody",
            "There is no volume gradlab-test-nobody_state, so gradlab-test-nobody has never run here.",
        ),
    ],
)
def test_a_backup_of_nothing_says_what_is_missing(tmp_path: Path, make: Any, env: str | None, says: str) -> None:
    equip(tmp_path)
    if env:
        (tmp_path / ".env").write_text(f"{env}\n")
    done = script(tmp_path, "backup")
    assert done.returncode == 1
    assert says in done.stdout
    assert not [*tmp_path.glob("backups/*")]


def test_postgres_that_does_not_run_cannot_be_backed_up(place: Place) -> None:
    said = failed(place, "backup", COMPOSE_PROFILES="postgres")
    assert "PostgreSQL does not run, so its databases cannot be read. Start it: docker compose up -d postgres" in said


def test_databases_that_are_elsewhere_are_named_and_their_passwords_are_not(place: Place) -> None:
    done = script(place.folder, "backup", GRADLAB_DATABASE_URL="postgresql+psycopg://gradlab:hidden@db.example/x")
    assert done.returncode == 0, done.stdout
    (place.folder / done.stdout.partition(": ")[0]).unlink()
    assert "Not in it: what GRADLAB_DATABASE_URL in .env names. Back that up where it is." in done.stdout
    assert "hidden" not in done.stdout


# -- what is missing on the machine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["backup", "restore", "down"])
def test_without_docker_or_the_image_the_remedy_is_said(place: Place, file: Path, command: str) -> None:
    arguments = [command, str(file)] if command == "restore" else [command]
    said = failed(place, *arguments, PATH=stubbed(place, "docker", "exit 1"))
    assert "Docker does not answer. Start it (sudo systemctl start docker), or set DOCKER_HOST" in said
    if command != "down":
        path = stubbed(place, "docker", '[ "$1" = version ]')
        assert "The image gradlab-hub is not on this machine" in failed(place, *arguments, PATH=path)


def test_down_says_what_is_missing(place: Place, tmp_path: Path) -> None:
    equip(tmp_path)
    assert "There is no .env here, so nothing has been started from this folder." in script(tmp_path, "down").stdout
    (tmp_path / ".env").write_text("GRADLAB_PORT=1\n")
    assert ".env does not say COMPOSE_PROJECT_NAME" in script(tmp_path, "down").stdout
    docker = '[ "$1" != compose ] && exec /usr/bin/env -S PATH=/usr/local/bin:/usr/bin:/bin docker "$@"'
    path = stubbed(place, "docker", docker).partition(":")[0]
    for name in ("dirname", "sed", "tail", "bash", "env"):
        (Path(path) / name).symlink_to(f"/usr/bin/{name}")
    said = failed(place, "down", PATH=path)
    assert "Neither `docker compose` nor docker-compose is installed. Install one: sudo apt install" in said


# -- restore -----------------------------------------------------------------------------------------------------------


def test_what_would_be_lost_is_named(make: Any, place: Place, file: Path) -> None:
    there: Place = make()
    inside(place.engine, f"{there.name}_state", "touch /there/older")
    inside(place.engine, f"{there.name}-home-ada", "touch /there/older")
    write_env(there.folder, COMPOSE_PROJECT_NAME=there.name, GRADLAB_COOKIE_KEY="0" * 64, OF_MINE="'1'")
    (there.folder / "tls").mkdir()
    (there.folder / "tls" / "chain.pem").write_text("newer")
    said = refused(there, "restore", file)
    assert f"all that is in the volumes {there.name}_state {there.name}-home-ada\n" in said
    assert "what .env says of GRADLAB_COOKIE_KEY OF_MINE\n" in said
    assert "what is in tls/chain.pem\n" in said
    assert f"Overwrite it: FORCE=1 make restore FILE={file}" in said
    assert "0" * 64 not in said


def test_a_backup_goes_over_what_is_there_only_with_force(make: Any, place: Place, file: Path) -> None:
    there: Place = make()
    engine = there.engine
    write_env(there.folder, GRADLAB_PORT="1")
    for volume in (f"{there.name}_state", f"{there.name}-home-ada", f"{there.name}-home-bob"):
        inside(engine, volume, "touch /there/older")
    failed(there, "restore", file)
    done = script(there.folder, "restore", "--force", file)
    assert done.returncode == 0, done.stdout
    assert f"the databases and 1 homes of {place.name} are those of {there.name}." in done.stdout
    assert "whoever gets the name gets the home: bob" in done.stdout
    assert f"If {place.name} is to run on this machine as well, give {there.name} another GRADLAB_PORT" in done.stdout
    assert (
        inside(engine, f"{there.name}-home-ada", "cd /there; stat -c '%n %u %a' . *") == ". 1000 755\nwork.txt 1000 644"
    )
    assert inside(engine, f"{there.name}-home-bob", "ls /there") == "older"
    state = inside(engine, f"{there.name}_state", "cd /there; stat -c '%n %U %a' . *")
    assert state.splitlines() == [
        ". gradlab 711",
        "gpu-queue.json root 644",
        "gradlab.sqlite gradlab 600",
        "jupyterhub.sqlite gradlab 600",
    ]
    # What the hub knew of running servers would lead it to containers of the other installation.
    read = engine.containers.run(
        "gradlab-hub", ["python", "-c", READ], remove=True, network_mode="none", volumes=[f"{there.name}_state:/there"]
    )
    assert read.decode().strip() == "(1, None, '{}') ('ada',)"
    (before,) = there.folder.glob("backups/env-before-*")
    assert "GRADLAB_PORT=1\n" in before.read_text()
    assert before.stat().st_mode & 0o777 == 0o600


def test_without_a_name_of_its_own_it_is_the_backups(make: Any, place: Place, file: Path) -> None:
    there: Place = make()
    (there.folder / ".env").unlink()
    done = script(there.folder, "restore", file)
    assert done.returncode == 1
    assert f"all that is in the volumes {place.name}_state {place.name}-home-ada\n" in done.stdout
    done = script(there.folder, "restore", file, COMPOSE_PROJECT_NAME=there.name)
    assert done.returncode == 0, done.stdout
    env = (there.folder / ".env").read_text()
    assert f"COMPOSE_PROJECT_NAME={there.name}\n" in env
    assert "\nDOCKER_SOCKET=" in env
    assert (there.folder / ".env").stat().st_mode & 0o777 == 0o600
    assert (there.folder / "config.d").stat().st_mode & 0o777 == 0o755


def damaged(file: Path, how: str) -> bytes:
    data = file.read_bytes()
    where = {"home": data.index(b"homes/ada/work.txt") + 512, "manifest": 700}
    if how in where:
        return data[: where[how]] + bytes([data[where[how]] ^ 1]) + data[where[how] + 1 :]
    return {"cut": data[:-5000], "longer": data + b"x", "begun": data[:600], "empty": b"", "other": b"notes" * 500}[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("cut", "is damaged: it was cut short or added to: it has "),
        ("longer", "is damaged: it was cut short or added to: it has "),
        ("manifest", "is damaged: its manifest has changed since it was written. Nothing was changed."),
        ("home", "is damaged: the part homes/ada has changed since it was written. Nothing was changed."),
        ("begun", "is no backup of Gradlab: it does not begin with a whole manifest."),
        ("empty", "is no backup of Gradlab: it does not begin with a whole manifest."),
        ("other", "is no backup of Gradlab: it does not begin with a whole manifest."),
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_touched(place: Place, file: Path, how: str, says: str) -> None:
    copy = place.folder / "copy.tar"
    copy.write_bytes(damaged(file, how))
    assert says in refused(place, "restore", "--force", copy)


def test_a_file_of_a_newer_gradlab_is_refused(place: Place, file: Path) -> None:
    text = b"Gradlab backup, format 2\nwho knows\n"
    with tarfile.open(place.folder / "newer.tar", "w") as archive:
        member = tarfile.TarInfo("manifest")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    said = failed(place, "restore", "newer.tar")
    assert 'newer.tar is of a newer Gradlab ("Gradlab backup, format 2"; this one reads "Gradlab backup, f' in said


def test_a_file_that_is_not_there_or_not_named(place: Place, file: Path) -> None:
    said = failed(place, "restore")
    assert "Name the backup: make restore FILE=backups/" in said
    assert f"There are: backups/{file.name}" in said
    assert "There is no file backups/none.tar. There are: backups/" in failed(place, "restore", "backups/none.tar")


def test_what_cannot_be_written_is_said_and_how_to_go_on(make: Any, place: Place, file: Path) -> None:
    there: Place = make()
    real = 'exec /usr/bin/env PATH=/usr/local/bin:/usr/bin:/bin docker "$@"'
    count = there.folder / "count"
    body = f'case "$*" in *"tar --extract"*) echo >>{count}; [ "$(wc -l <{count})" -lt 4 ] || exit 2;; esac\n{real}'
    said = failed(there, "restore", file, PATH=stubbed(there, "docker", body))
    assert "The part homes/ada could not be written; what is said above may tell why." in said
    assert f"once there is a remedy: FORCE=1 make restore FILE={file}" in said
    assert (there.folder / ".env").read_text() == f"COMPOSE_PROJECT_NAME={there.name}\n"
    assert there.engine.containers.list(all=True, filters={"name": there.name}) == []


def test_a_postgres_that_does_not_start_is_said_and_how_to_go_on(make: Any, file: Path) -> None:
    there: Place = make()
    body = 'case "$*" in *" up "*) echo "no such image" >&2; exit 1;; esac\nexec /usr/bin/docker-compose "$@"'
    path = stubbed(there, "docker-compose", body)
    said = failed(there, "restore", file, PATH=path, COMPOSE_PROFILES="postgres")
    assert "no such image" in said
    assert "PostgreSQL's databases could not be put back; why is above. Homes and .env are restored." in said
    assert f"make down, and FORCE=1 make restore FILE={file}" in said
