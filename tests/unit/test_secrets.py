"""`make secrets`, and what the services do with what it wrote or did not write."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gradlab.credentials import VARIABLES, Credentials
from gradlab.errors import SettingsError
from gradlab.settings import ROOT, SECRETS, Settings


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "secrets", tmp_path / "scripts")
    shutil.copy(ROOT / ".env.example", tmp_path)
    return tmp_path


def make(project: Path) -> str:
    done = subprocess.run([project / "scripts" / "secrets"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(project: Path) -> dict[str, str]:
    lines = (project / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_it_writes_what_every_service_needs(project: Path) -> None:
    said = make(project)
    found = written(project)
    assert (project / ".env").stat().st_mode & 0o777 == 0o600
    credentials = Credentials.from_env(*VARIABLES, environ=found)
    assert re.fullmatch(r"([a-z0-9]{4}-){2}[a-z0-9]{4}", credentials.learner_password)
    assert re.fullmatch(r"([a-z0-9]{4}-){4}[a-z0-9]{4}", credentials.instructor_password)
    assert found["GRADLAB_CLASS_CODE"] in said  # to be told to the class
    keys = [found[name] for name in found if re.fullmatch(r"[0-9a-f]{64}", found[name])]
    assert len(set(keys)) == len(keys) == 6
    assert not [key for key in keys if key in said]
    assert found["COMPOSE_PROJECT_NAME"] == "gradlab"
    assert found["DOCKER_GID"].isdigit() or not Path("/var/run/docker.sock").exists()


def test_the_file_is_still_one_that_settings_are_read_from(project: Path) -> None:
    make(project)
    settings = Settings.from_env({}, env_file=project / ".env")
    assert settings == Settings()
    assert set(VARIABLES.values()) | {"GRADLAB_POSTGRES_PASSWORD"} == SECRETS


def test_a_second_time_it_changes_nothing(project: Path) -> None:
    make(project)
    before = (project / ".env").read_text()
    assert "Nothing to add" in make(project)
    assert (project / ".env").read_text() == before


def test_what_is_there_stays_and_what_is_empty_is_filled(project: Path) -> None:
    (project / ".env").write_text("GRADLAB_PORT=9000\nGRADLAB_CLASS_CODE=our-own-code\nGRADLAB_COOKIE_KEY=\nLAST=line")
    make(project)
    found = written(project)
    assert (found["GRADLAB_PORT"], found["GRADLAB_CLASS_CODE"], found["LAST"]) == ("9000", "our-own-code", "line")
    assert len(found["GRADLAB_COOKIE_KEY"]) == 64
    assert (project / ".env").read_text().count("GRADLAB_COOKIE_KEY") == 1


def test_docker_is_looked_for_where_docker_host_says(project: Path, tmp_path: Path) -> None:
    socket = tmp_path / "docker.sock"
    socket.touch()
    environ = os.environ | {"DOCKER_HOST": f"unix://{socket}"}
    subprocess.run([project / "scripts" / "secrets"], check=True, env=environ, capture_output=True)
    found = written(project)
    assert (found["DOCKER_SOCKET"], found["DOCKER_GID"]) == (str(socket), str(socket.stat().st_gid))


def test_a_missing_secret_is_named_with_the_remedy() -> None:
    with pytest.raises(SettingsError, match=r"^GRADLAB_PORTAL_TOKEN is not set\. `make secrets` writes it to \.env"):
        Credentials.from_env("portal_token", environ={})


@pytest.mark.parametrize("value", ["short", "f" * 65, "z" * 64])
def test_a_key_of_another_length_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(SettingsError, match=r"64 hexadecimal digits.*Delete its line in \.env") as found:
        Credentials.from_env("cookie_key", environ={"GRADLAB_COOKIE_KEY": value})
    assert value not in str(found.value)


def test_a_service_gets_only_what_it_asks_for() -> None:
    environ = dict.fromkeys(VARIABLES.values(), "a" * 64)
    found = Credentials.from_env("portal_token", environ=environ)
    assert (found.portal_token, found.proxy_token, found.cookie_key) == ("a" * 64, "", "")
