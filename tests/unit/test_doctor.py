"""The doctor's findings: each ailment is made for real, and the finding names it with its remedy."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pynvml
import pytest

from gradlab import doctor
from gradlab.credentials import Credentials
from gradlab.errors import SettingsError
from gradlab.gpu.nvml import read
from gradlab.settings import PREFIX, Settings
from tests.courses import CourseFolder, write_course
from tests.nvml import Card, Library, loaded


@pytest.fixture
def folder(tmp_path: Path) -> CourseFolder:
    return write_course(tmp_path / "course")


@pytest.fixture
def settings(tmp_path: Path, folder: CourseFolder) -> Settings:
    return Settings(state_dir=tmp_path / "state", labs_dir=folder.labs, checks_dir=folder.checks, check_pool=0)


def test_an_old_python_is_named_with_its_remedy() -> None:
    found = doctor.python((3, 10, 12))
    assert (found.status, found.remedy) == ("failed", "Install Python 3.11 or newer, delete .venv and run `make up`.")
    assert found.value.startswith("3.10.12 at ")
    assert doctor.python((3, 11, 0)).status == "ok"
    assert doctor.python((4, 0, 0)).status == "ok"


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        f"# a comment\ntyper=={metadata.version('typer')}\ntorch==2.13.0\nwindows-only==1 ; sys_platform == 'win32'\n"
    )
    found = doctor.packages(lock)
    assert (found.status, found.remedy) == ("ok", "")
    assert found.value.startswith("3 as locked, among them ")
    lock.write_text("typer==0.0.1\nno-such-package-at-all==1.0\n")
    found = doctor.packages(lock)
    assert found.status == "failed"
    assert found.value == f"typer is {metadata.version('typer')}, not ==0.0.1; no-such-package-at-all is missing"
    assert found.remedy.startswith("Delete .venv and run `make up`")
    found = doctor.packages(tmp_path / "nowhere.lock")
    assert found.status == "failed"
    assert "nowhere.lock cannot be read: No such file or directory" in found.value


def test_cuda_packages_in_the_servers_environment_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "nvidia_cublas_cu13-13.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cublas-cu13\nVersion: 13.1\n")
    monkeypatch.syspath_prepend(str(info.parent))
    lock = tmp_path / "requirements.lock"
    lock.write_text("")
    found = doctor.packages(lock)
    assert found.status == "warning"
    assert "1 CUDA packages, such as nvidia-cublas-cu13, are installed; the server never uses them" in found.value


def test_the_proxy_really_starts_or_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlab.hub import config

    if config.PROXY_SCRIPT.is_file():
        found = doctor.proxy()
        assert found.status == "ok"
        assert found.value.startswith("configurable-http-proxy ")
    monkeypatch.setattr(config, "PROXY_SCRIPT", tmp_path / "proxy.js")
    found = doctor.proxy()
    assert (found.status, found.value) == ("failed", f"{tmp_path / 'proxy.js'} is missing")
    assert found.remedy == "Delete node_modules and run `make up`."
    (tmp_path / "proxy.js").write_text("throw new Error('half an installation')")
    found = doctor.proxy()
    assert found.status == "failed"
    assert found.value.startswith("configurable-http-proxy does not start: ")
    assert found.remedy.startswith("Delete .venv and node_modules")


def test_a_port_in_use_names_its_holder_and_another_port(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        busy = settings.model_copy(update={"port": number})
        found = doctor.port(busy)
        assert found.status == "failed"
        assert found.value.startswith(f"port {number} of 127.0.0.1: Address already in use")
        assert f"by process {os.getpid()} " in found.value
        assert found.remedy == f"End that program, or choose another port: PORT={number + 1} make up."
        busy.state_dir.mkdir()
        with (busy.state_dir / "server.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = doctor.port(busy)
        assert (found.status, found.remedy) == ("ok", "")
        assert found.value == f"port {number} of 127.0.0.1 is in use; a server runs on {busy.state_dir}"
    assert doctor.port(busy) == doctor.Finding("port", "ok", f"port {number} of 127.0.0.1 is free")


def test_an_address_of_another_machine_is_not_usable(settings: Settings) -> None:
    found = doctor.port(settings.model_copy(update={"host": "192.0.2.1"}))
    assert found.status == "failed"
    assert "Cannot assign requested address" in found.value


@pytest.mark.parametrize(("check_sandbox", "image"), [("docker", "mine"), ("as learners", None)])
def test_docker_is_examined_for_what_checks_need_of_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, check_sandbox: str, image: str | None
) -> None:
    asked: dict[str, object] = {}

    def noted(name: str) -> Callable[..., doctor.Finding]:
        def look(*given: object) -> doctor.Finding:
            asked[name] = given
            return doctor.Finding(name, "ok", "")

        return look

    for name in ("docker", "sandbox", "real_check"):
        monkeypatch.setattr(doctor, name, noted(name))
    chosen = settings.model_copy(update={"check_sandbox": check_sandbox, "check_image": "mine"})
    assert list(doctor.examine(lambda: chosen))
    assert asked["docker"] == (image,)
    assert asked["sandbox"] == ("auto", "docker" if image else "auto")


def test_gpus_are_optional_but_an_ailing_one_is_named() -> None:
    with loaded(None):
        found = doctor.gpu(read)
    assert (found.status, found.value) == (
        "warning",
        "No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found.",
    )
    assert found.remedy.startswith("Everything runs on the CPU. To use a GPU, install NVIDIA's driver")
    with loaded(Library(Card())):
        assert doctor.gpu(read) == doctor.Finding("GPU", "ok", "driver 610.43: NVIDIA H200")
    with loaded(Library(Card(), Card(fails={"nvmlDeviceGetName": pynvml.NVML_ERROR_GPU_IS_LOST}))):
        found = doctor.gpu(read)
    assert (found.status, found.value) == ("warning", "driver 610.43: NVIDIA H200, GPU 1")
    assert found.remedy.startswith("GPU 1: This GPU has fallen off the bus.")


def test_a_full_disk_fails_before_it_loses_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {}
    for free in (DISK_FULL := 500 << 20, DISK_LOW := 2 << 30, 50 << 30):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, usage=usage: usage)
        states[free] = doctor.disk(tmp_path / "not" / "yet")
    assert [found.status for found in states.values()] == ["failed", "warning", "ok"]
    assert states[DISK_FULL].value == f"0.5 GiB free for {tmp_path / 'not' / 'yet'}"
    assert states[DISK_FULL].remedy.startswith("Free at least 1 GiB")
    assert states[DISK_LOW].remedy.startswith("Free some space")


def test_a_state_folder_that_cannot_be_written_is_found_by_writing(tmp_path: Path) -> None:
    assert doctor.state_folder(tmp_path).value == f"{tmp_path} is writable"
    assert doctor.state_folder(tmp_path / "a" / "b").value == f"{tmp_path / 'a' / 'b'} is not there yet; it can be made"
    assert list(tmp_path.iterdir()) == []
    found = doctor.state_folder(Path("/proc/gradlab"))  # a folder not even root can write to
    assert found.status == "failed"
    assert found.value.startswith("/proc cannot be written: ")
    assert "GRADLAB_STATE_DIR" in found.remedy


def test_the_passwords_are_read_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    assert doctor.credentials(path).status == "ok"
    assert not path.exists()
    made = Credentials.ensure(path)
    found = doctor.credentials(path)
    assert found.status == "ok"
    assert made.learner_password not in found.value
    path.chmod(0o644)
    assert "can be read by others. Run: chmod 600" in doctor.credentials(path).value
    path.write_text('{"learner_password": "half')
    found = doctor.credentials(path)
    assert found.status == "failed"
    assert "is half-written or damaged" in found.value
    assert found.remedy.startswith(f"Restore {path} from a backup")


def test_a_course_that_does_not_load_fails_the_real_check(settings: Settings, folder: CourseFolder) -> None:
    (folder.hidden / "solution.py").unlink()
    found = doctor.real_check(settings)
    assert found.status == "failed"
    assert "Lab 'tensors' has no checker" in found.value
    assert found.remedy.startswith("Correct the course in GRADLAB_LABS_DIR")


def test_wrong_settings_end_the_examination_with_their_name() -> None:
    def load() -> Settings:
        raise SettingsError("GRADLAB_PORT='many' is not usable: it is no number. Change it in .env.")

    findings = list(doctor.examine(load))
    assert findings[-1].name == "settings"
    assert findings[-1].status == "failed"
    assert "GRADLAB_PORT='many'" in findings[-1].value
    assert findings[-1].remedy


def test_an_examination_that_breaks_is_a_finding_and_the_others_go_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> doctor.Finding:
        raise ZeroDivisionError("a bug of ours")

    for name in ("sandbox", "real_check"):
        monkeypatch.setattr(doctor, name, broken)
    found = {finding.name: finding for finding in doctor.examine(lambda: settings)}
    assert found["sandbox"].value == "ZeroDivisionError: a bug of ours"
    assert found["sandbox"].status == "failed"
    assert found["disk"].status in ("ok", "warning")
    assert list(found)[-1] == "a real check"


def examined(settings: Settings) -> tuple[int, list[dict[str, str]]]:
    """What ``gradlab doctor --json`` says with these settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    chosen = {name: str(getattr(settings, name)) for name in ("state_dir", "labs_dir", "checks_dir", "check_pool")}
    environment = kept | {PREFIX + name.upper(): value for name, value in chosen.items()}
    words = [sys.executable, "-m", "gradlab.cli", "doctor", "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
    assert "Traceback" not in done.stderr
    data = json.loads(done.stdout)
    assert data["well"] == (done.returncode == 0)
    return done.returncode, data["lines"]


def test_the_whole_examination_ends_with_a_real_check(settings: Settings) -> None:
    _, lines = examined(settings)
    assert [line["name"] for line in lines] == [
        "Python",
        "packages",
        "proxy",
        "settings",
        "port",
        "sandbox",
        "Docker",
        "GPU",
        "disk",
        "state folder",
        "passwords",
        "a real check",
    ]
    assert all(bool(line["remedy"]) == (line["status"] != "ok") for line in lines)
    assert lines[-1]["status"] == "ok", lines[-1]
    assert lines[-1]["value"].startswith("tensors: 2 of 2 exercises passed in ")


def test_a_real_check_that_goes_wrong_fails_the_examination(settings: Settings, folder: CourseFolder) -> None:
    solution = folder.hidden / "solution.py"
    solution.write_text(solution.read_text().replace("x.ndim", "x.ndim + 1"))
    code, lines = examined(settings)
    assert code == 1
    assert lines[-1]["status"] == "failed"
    assert lines[-1]["value"].startswith("tensors/rank_of ended as 'failed': rank_of(")
    assert lines[-1]["remedy"] == "Run `gradlab labs verify tensors` for all of it."
