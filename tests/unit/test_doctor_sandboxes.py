"""The doctor's findings on what confines learner code: sandboxes and Docker, each ailing for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checker.sandbox.confinement import describe
from gradlab import doctor
from tests.handlers import JsonHandler, serving


def tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called ``name`` that comes first on PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def run_apart(path: str, what: str) -> dict[str, str]:
    """One finding from a process of its own, because ``detect`` remembers what works."""
    script = (
        "import json; from dataclasses import asdict; from gradlab import doctor;"
        f"print(json.dumps(asdict(doctor.{what})))"
    )
    environment = os.environ | {"PATH": path}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    data: dict[str, str] = json.loads(done.stdout)
    return data


def test_a_bwrap_that_does_not_work_is_not_taken_for_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", "bwrap", "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", monkeypatch)
    found = run_apart(os.environ["PATH"], "sandbox('auto', 'auto')")
    assert found["status"] == "warning"
    assert "used instead of bubblewrap: " in found["value"]
    assert "setting up uid map: Permission denied" in found["value"]
    assert "bwrap is there but does not work: allow unprivileged user namespaces" in found["remedy"]
    found = run_apart(os.environ["PATH"], "sandbox('bubblewrap', 'bubblewrap')")
    assert found["status"] == "failed"
    assert "setting up uid map: Permission denied" in found["value"]
    assert found["remedy"].startswith("Install bubblewrap, allow unprivileged user namespaces")
    found = run_apart(os.environ["PATH"], "sandbox('plain', 'bubblewrap')")
    assert found["status"] == "failed"
    assert found["value"].startswith("limits only")
    assert "; checks: The sandbox method 'bubblewrap' does not work on this machine: " in found["value"]
    assert found["remedy"].endswith("or set GRADLAB_CHECK_SANDBOX=auto.")


def test_the_sandbox_that_is_used_is_described() -> None:
    found = doctor.sandbox("auto", "auto")
    assert found.status in ("ok", "warning")
    if shutil.which("bwrap") is None:
        assert found.remedy == "Install bubblewrap (apt install bubblewrap)."


def test_the_sandbox_of_checks_is_described_where_it_is_another() -> None:
    learners = doctor.sandbox("auto", "auto")
    found = doctor.sandbox("auto", "plain")
    assert (found.status, found.value) == ("warning", f"{learners.value}; checks: {describe('plain')}")
    assert found.remedy.endswith("set it to docker: this one hides neither files nor the network.")
    found = doctor.sandbox("auto", "docker")
    assert (found.status, found.value) == (learners.status, f"{learners.value}; checks: in containers")
    found = doctor.sandbox("plain", "auto")
    assert found.value == f"{describe('plain')}; checks: {learners.value}"
    assert found.status == learners.status


def test_docker_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        found = doctor.docker(None)
    assert (found.status, found.value) == ("warning", "not installed; only hosting with containers needs it")
    tool(tmp_path / "bin", "docker", "echo 'permission denied: docker.sock' >&2; exit 1", monkeypatch)
    found = doctor.docker(None)
    assert (found.status, found.value) == ("warning", "installed but not usable: permission denied: docker.sock")
    assert found.remedy.startswith("Start it (systemctl start docker)")
    tool(tmp_path / "bin", "docker", "echo 29.1.0", monkeypatch)
    assert doctor.docker(None) == doctor.Finding("Docker", "ok", "engine 29.1.0")


class Engine(JsonHandler):
    """As much of Docker's API as the doctor asks for: its version, and one image, ``gradlab-lab``."""

    def do_GET(self) -> None:
        path = self.path.removeprefix("/v1.44")
        if path == "/version":
            self.answer(200, {"Version": "29.1.0", "ApiVersion": "1.44", "MinAPIVersion": "1.24"})
        elif path == "/images/gradlab-lab/json":
            self.answer(200, {"Id": "sha256:1"})
        else:
            self.answer(404, {"message": f"No such image: {path}"})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Docker host, which DOCKER_HOST names; there is no command ``docker``."""
    with serving(Engine) as port:
        address = f"tcp://127.0.0.1:{port}"
        monkeypatch.setenv("DOCKER_HOST", address)
        monkeypatch.setenv("PATH", "/nowhere")
        yield address


def test_where_checks_run_in_containers_docker_must_answer_and_have_the_image(engine: str) -> None:
    found = doctor.docker("gradlab-lab")
    assert found == doctor.Finding(
        "Docker", "ok", f"engine 29.1.0 at {engine}, with the image 'gradlab-lab' for checks"
    )
    found = doctor.docker("other")
    assert found.status == "failed"
    assert found.value == (
        f"engine 29.1.0 at {engine} has no image 'other', which checks run in (GRADLAB_CHECK_SANDBOX=docker)"
    )
    assert found.remedy == "Build it there (`make images` makes gradlab-lab), or name another in GRADLAB_CHECK_IMAGE."


def test_where_checks_run_in_containers_a_docker_that_does_not_answer_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'docker.sock'}")
    found = doctor.docker("gradlab-lab")
    assert found.status == "failed"
    assert found.value.startswith(
        "checks run in containers (GRADLAB_CHECK_SANDBOX=docker), but Docker at "
        f"unix://{tmp_path / 'docker.sock'} is not usable: "
    )
    assert found.remedy == (
        "Start it (systemctl start docker), let this user use it (group docker), name another in DOCKER_HOST, or "
        "leave GRADLAB_CHECK_SANDBOX empty."
    )
