"""The doctor of a hosted server as a whole: Docker on paper; monitor, judge and databases for real, at sockets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from checker.engine import Assignment
from checker.results import Outcome, Result, Verdict
from gradlab import doctor
from gradlab.course import Course
from gradlab.doctor import hosting
from gradlab.doctor.databases import hub_migrations
from gradlab.doctor.finding import Finding
from gradlab.doctor.hosting import Place
from gradlab.errors import CourseError
from gradlab.gpu.monitor import Monitor
from gradlab.gpu.nvml import Nvml
from gradlab.gpu.residents import Residents
from gradlab.gpu.web import create_monitor_app
from gradlab.judge_service import create_judge_app
from gradlab.settings import ROOT, Settings
from gradlab.store.database import open_database
from tests.courses import CourseFolder, write_course
from tests.handlers import JsonHandler, serving
from tests.monitors import InThread, Machine
from tests.monitors import serving as serving_at
from tests.nvml import Card, Library, loaded
from tests.waiting import until

NAMES = [
    "settings",
    "login",
    "secrets",
    ".env",
    "Docker",
    "control groups",
    "limits",
    "images",
    "addresses",
    "routes",
    "proxy",
    "hub",
    "portal",
    "checker",
    "gpu-monitor",
    "TLS",
    "GPU monitor",
    "GPU mode",
    "GPUs in containers",
    "default runtime",
    "container toolkit",
    "learners' servers",
    "leftovers",
    "disk",
    "Docker's disk",
    "homes",
    "database",
    "hub's database",
    "a real check",
]
SECRETS = {f"GRADLAB_{name}": "ab" * 32 for name in ("PORTAL_TOKEN", "PROXY_TOKEN", "COOKIE_KEY", "HUB_COOKIE_KEY")}
SECRETS |= {"GRADLAB_METRICS_TOKEN": "cd" * 32}
SECRETS |= {"GRADLAB_CLASS_CODE": "bcdf-ghjk-mnpq", "GRADLAB_INSTRUCTOR_CODE": "rstv-wxz2-3456"}


class Engine(JsonHandler):
    """Docker's API, as far as the doctor asks, of a machine on which all is well. Answers are kept by path."""

    answers: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        path = path.removeprefix("/v1.50")
        if path in self.answers:
            self.answer(200, self.answers[path])
        else:
            self.answer(404, {"message": f"no such thing: {path}"})


def well(uuid: str) -> dict[str, Any]:
    roles = ("proxy", "hub", "portal", "checker", "gpu-monitor")
    image = {"Id": "sha256:1"}
    answers: dict[str, Any] = {
        "/version": {"Version": "29.1.0", "ApiVersion": "1.50"},
        "/info": {
            "Driver": "overlay2",
            "CgroupDriver": "systemd",
            "CgroupVersion": "2",
            "MemoryLimit": True,
            "PidsLimit": True,
            "CpuCfsQuota": True,
            "SwapLimit": True,
            "DefaultRuntime": "runc",
            "Runtimes": {"runc": {}, "nvidia": {}},
            "CDISpecDirs": ["/etc/cdi"],
            "DiscoveredDevices": [{"Source": "cdi", "ID": f"nvidia.com/gpu={uuid}"}],
            "DockerRootDir": "/nowhere/at/all",
        },
        "/networks": [],
        "/containers/json": [
            {"Id": role, "Names": [f"/{role}"], "State": "running", "Labels": {"gradlab.role": role}} for role in roles
        ],
        "/system/df": {"LayersSize": 0, "Volumes": [], "Containers": [], "BuildCache": []},
    }
    for role in roles:
        answers[f"/containers/{role}/json"] = {
            "Id": role,
            "Image": "sha256:1",
            "RestartCount": 0,
            "HostConfig": {"Runtime": "nvidia", "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1"}]}},
            "State": {"Running": True, "Restarting": False, "Health": {"Status": "healthy"}},
        }
    for name in ("gradlab-hub", "gradlab-checker", "gradlab-lab"):
        answers[f"/images/{name}/json"] = image
    return answers


class Judge:
    """Says of every exercise what it is told to."""

    def __init__(self) -> None:
        self.outcome = Outcome.PASSED

    def check(self, assigned: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict:
        assert b"x.ndim" in notebook
        results = tuple(Result(task.name, self.outcome, 1, 1, "so it is") for task in assigned.tasks)
        return Verdict(assigned.slug, results, seed, 0.25)


@pytest.fixture
def folder(tmp_path: Path) -> CourseFolder:
    return write_course(tmp_path / "course")


@pytest.fixture
def settings(tmp_path: Path, folder: CourseFolder) -> Settings:
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    return Settings(
        spawner="docker",
        installation="gradlab",
        state_dir=tmp_path / "state",
        run_dir=tmp_path / "run",
        labs_dir=folder.labs,
        checks_dir=folder.checks,
        gpus="exclusive",
    )


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def place(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Judge) -> Iterator[Place]:
    """In the hub's container of a server with which all is well."""
    open_database(settings.store_url).dispose()
    head = ScriptDirectory(str(hub_migrations())).get_current_head()
    hubs = create_engine(settings.hub_store_url)
    with hubs.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": head})
    hubs.dispose()
    course = Course.load(settings.labs_dir, settings.checks_dir)
    with ExitStack() as stack:
        stack.enter_context(loaded(Library(Card(used=0))))
        nvml = Nvml(cgroups=tmp_path)
        Engine.answers = well(nvml.frame()["devices"][0]["uuid"])
        machine = Machine(tmp_path / "machine")
        monitor = Monitor(lambda hear: InThread(nvml, hear), host=machine.host, residents=Residents(machine.proc))
        monitor.start()
        stack.callback(monitor.close)
        until(lambda: monitor.activity().get("ok"), what="the first sample")
        stack.enter_context(serving_at(create_monitor_app(monitor), settings.gpu_socket))
        stack.enter_context(serving_at(create_judge_app(course, judge), settings.run_dir / "judge.sock"))
        port = stack.enter_context(serving(Engine))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        monkeypatch.setattr(hosting, "_toolkit_version", lambda: "version 1.20.0")
        yield Place(True, tmp_path, SECRETS)


def examined(settings: Settings, place: Place) -> dict[str, Finding]:
    return {found.name: found for found in hosting.examine(settings, place)}


def test_a_server_with_which_all_is_well(settings: Settings, place: Place) -> None:
    found = examined(settings, place)
    assert list(found) == NAMES
    unseen = {name for name, one in found.items() if one.status == "unseen"}
    assert unseen == {".env", "routes"}
    assert {name for name, one in found.items() if one.status not in ("ok", "unseen")} <= {"disk"}
    assert all(bool(one.remedy) == (one.status != "ok") for one in found.values())
    assert found["settings"].value.endswith("read, of the installation gradlab")
    assert found["GPU monitor"].value == "driver 610.43: NVIDIA H200"
    assert found["routes"].value == "what else this machine reaches in 10.213.0.0/16 is not visible from here"
    assert found["routes"].remedy.startswith("Run on the host: ip route ")
    assert found["a real check"].value == "tensors: 2 of 2 exercises passed in 0.2 s by the judge's service"


def test_on_the_machine_itself_other_things_are_seen(
    settings: Settings, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").touch(mode=0o600)
    written = {"COMPOSE_PROJECT_NAME": "course", "COMPOSE_PROFILES": "postgres"}
    outside = Place(False, tmp_path, SECRETS | written)
    found = examined(settings.model_copy(update={"installation": ""}), outside)
    assert found["settings"].value.endswith("of the installation course")
    assert found[".env"].status == "ok"
    assert found["routes"].status in ("ok", "failed")
    assert found["postgres"].value == "is not there"
    for name in ("GPU monitor", "database", "a real check", "disk"):
        assert found[name].status == "unseen", found[name]
    assert found["a real check"] == Finding(
        "a real check",
        "unseen",
        "the judge's socket, in a volume, is not visible from here",
        "Run on the host: docker compose exec hub gradlab doctor",
    )
    assert found["GPU monitor"].value == "what it answers is not visible from here"
    assert found["database"].value == "the databases, in a volume, are not visible from here"
    assert found["disk"].value == "how much is free at /nowhere/at/all is not visible from here"


def test_without_docker_the_rest_is_examined_all_the_same(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'docker.sock'}")
    found = examined(settings, place)
    assert list(found) == [
        "settings",
        "login",
        "secrets",
        ".env",
        "Docker",
        "database",
        "hub's database",
        "a real check",
    ]
    assert found["Docker"].status == "failed"
    assert found["Docker"].value.startswith(f"does not answer at unix://{tmp_path / 'docker.sock'}: ")
    assert "DOCKER_GID in .env has to be the group of its socket" in found["Docker"].remedy


def test_images_and_services_that_are_missing(settings: Settings, place: Place) -> None:
    del Engine.answers["/images/gradlab-lab/json"]
    Engine.answers["/containers/json"] = Engine.answers["/containers/json"][1:]
    found = examined(settings, place)
    assert (found["images"].status, found["images"].value) == ("failed", "not on this machine: gradlab-lab")
    assert found["images"].remedy.startswith("Run `make images` on the host")
    assert found["proxy"] == Finding("proxy", "failed", "is not there", "Start it: docker compose up -d")
    assert (found["TLS"].status, found["TLS"].value) == (
        "unseen",
        "without the proxy's container its certificate is not visible from here",
    )


def test_a_judge_that_judges_wrongly_or_not_at_all(
    settings: Settings, place: Place, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.outcome = Outcome.FAILED
    found = hosting.ask_judge(settings)
    assert (found.status, found.value) == ("failed", "tensors/rank_of ended as 'failed': so it is")
    assert found.remedy == "Run `gradlab labs verify tensors` for all of it."
    gone = settings.model_copy(update={"run_dir": settings.state_dir})
    monkeypatch.setattr("gradlab.doctor.judging._PATIENCE_SECONDS", 0.1)
    found = hosting.ask_judge(gone)
    assert found.status == "failed"
    assert found.value.startswith(f"The judge does not answer at {settings.state_dir / 'judge.sock'} (")
    assert found.remedy == "See: docker compose logs checker"


def test_a_course_that_cannot_be_loaded_is_no_fault_of_the_judge(settings: Settings, folder: CourseFolder) -> None:
    (folder.hidden / "solution.py").unlink()
    found = hosting.ask_judge(settings)
    assert found.status == "failed"
    assert "Lab 'tensors' has no checker" in found.value
    assert found.remedy == "Correct the course, then: make images && docker compose up -d"
    with pytest.raises(CourseError):
        Course.load(folder.labs, folder.checks)


def test_the_doctor_takes_the_settings_word_for_what_it_is_to_look_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(hosting, "examine", lambda *given: looked.append(given) or [])
    assert list(doctor.examine(lambda: settings)) == []
    ((asked, place),) = looked
    assert (asked, place.inside) == (settings, True)
    assert not Place.here(settings.model_copy(update={"run_dir": Path("/nowhere")})).inside


def test_a_finding_that_breaks_is_one(settings: Settings, place: Place) -> None:
    Engine.answers["/info"] = {key: value for key, value in Engine.answers["/info"].items() if key != "Driver"}
    found = examined(settings, place)
    assert (found["Docker"].status, found["Docker"].value) == ("failed", "KeyError: 'Driver'")
    assert found["Docker"].remedy == "Run `gradlab doctor` again; if it stays so, report this line."
    assert list(found) == NAMES


def test_the_operators_guide_quotes_lines_that_the_doctor_has() -> None:
    guide = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^ +[✓✗!?] ([^:]+): (.+)$", guide, flags=re.MULTILINE)
    assert len(quoted) > 20
    assert {name for name, _ in quoted} <= set(NAMES)
    files = [*(ROOT / "gradlab").rglob("*.py"), *Path(__file__).parent.glob("test_doctor_*.py")]
    words = " ".join(path.read_text(encoding="utf-8") for path in files)
    plain = re.sub(r"\"\s+f?\"", "", words)
    for name, value in quoted:
        # What is not a name, a number or left out stands in the source or is what a test reads.
        pieces = [
            piece for piece in re.split(r"[…0-9;:(),=]|/\S*|\b(?:exclusive|github|tun0|web|ada|hub)\b", value) if piece
        ]
        longest = max(pieces, key=len).strip()
        assert longest in plain, f"{name}: {longest!r}"
