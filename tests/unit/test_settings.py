"""Settings: where they come from, what a wrong one says, and that .env.example lists them all."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from gradlab.errors import SettingsError
from gradlab.settings import ROOT, Settings


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# mine\nGRADLAB_PORT=8100\nGRADLAB_HOST='0.0.0.0'\nOTHER=ignored\n")
    settings = Settings.from_env({"GRADLAB_PORT": "8200"}, env_file=file)
    assert (settings.port, settings.host, settings.check_pool) == (8200, "0.0.0.0", None)


def test_an_empty_value_means_the_default(tmp_path: Path) -> None:
    assert Settings.from_env({"GRADLAB_PORT": "", "GRADLAB_STATE_DIR": ""}, env_file=None) == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GRADLAB_PORT", "eighty", "GRADLAB_PORT='eighty' is not usable: Input should be a valid integer"),
        ("GRADLAB_PORT", "70000", "GRADLAB_PORT='70000' is not usable: Input should be less than or equal to 65535"),
        ("GRADLAB_SANDBOX", "docker", "GRADLAB_SANDBOX='docker' is not usable: Input should be 'auto'"),
        ("GRADLAB_CHECK_WORKERS", "0", "greater than or equal to 1"),
        ("GRADLAB_PROT", "8001", "There is no setting GRADLAB_PROT (its value is '8001'). Did you mean GRADLAB_PORT?"),
        ("GRADLAB_XYZZY", "1", "See .env.example for all settings."),
    ],
)
def test_a_wrong_setting_names_itself_its_value_and_the_remedy(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: value}, env_file=None)
    assert says in str(caught.value)


GPUS = (
    "GPU-9c7a2f3e-0000-4000-8000-000000000001",
    "MIG-C6D4F1EF-42E4-5DE3-91C7-45D71C87EB3F",
    "MIG-GPU-9c7a2f3e-0000-4000-8000-000000000001/1/0",
)


def test_gpus_are_named_by_uuid() -> None:
    assert Settings.from_env({"GRADLAB_CHECK_GPUS": f" {', '.join(GPUS)},"}, env_file=None).check_gpus == ",".join(GPUS)
    assert Settings.from_env({"GRADLAB_CHECK_GPUS": " , "}, env_file=None) == Settings()


@pytest.mark.parametrize(
    "wrong", ["all", "0", "GPU-", "GPU-xyz", "GPU-1--2", "MIG-1g.10gb", "MIG-GPU-1a", f"{GPUS[0]}/1/0"]
)
def test_what_is_no_uuid_of_a_gpu_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"GRADLAB_CHECK_GPUS": f"{GPUS[0]}, {wrong}"}, env_file=None)
    assert str(caught.value) == (
        f"GRADLAB_CHECK_GPUS='{GPUS[0]}, {wrong}' is not usable: '{wrong}' is no UUID of a GPU (GPU-…) or MIG instance "
        "(MIG-…); `nvidia-smi -L` prints them, on the machine where Docker is. Change it in the environment or in .env."
    )


def test_checks_that_have_gpus_run_one_at_a_time() -> None:
    def workers(**environ: str) -> int:
        return Settings.from_env({f"GRADLAB_{name}": value for name, value in environ.items()}, None).check_workers

    assert (workers(), workers(CHECK_WORKERS="3"), workers(CHECK_GPUS=",")) == (2, 3, 2)
    assert workers(CHECK_GPUS=GPUS[0]) == workers(CHECK_GPUS=GPUS[0], CHECK_WORKERS="") == 1
    assert workers(CHECK_GPUS=GPUS[0], CHECK_WORKERS="1") == 1
    with pytest.raises(SettingsError) as caught:
        workers(CHECK_GPUS=GPUS[0], CHECK_WORKERS="2")
    assert str(caught.value) == (
        "GRADLAB_CHECK_WORKERS='2' is not usable: with GRADLAB_CHECK_GPUS it must be 1 (or left empty), because every "
        "check gets all of those GPUs and two learners' checks would share them. "
        "Change it in the environment or in .env."
    )


def test_checks_are_confined_as_learners_are_or_otherwise() -> None:
    assert Settings(sandbox="unshare").confined_checks == "unshare"
    assert Settings(sandbox="unshare", check_sandbox="docker").confined_checks == "docker"


@pytest.mark.parametrize("line", ["GRADLAB_PORT", "GRADLAB_HOST='127.0.0.1", "=3"])
def test_a_half_written_file_names_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"GRADLAB_LOG_LEVEL=INFO\n{line}\n")
    with pytest.raises(SettingsError, match="line 2") as caught:
        Settings.from_env({}, env_file=file)
    assert str(file) in str(caught.value)
    assert "Finish the line or delete it" in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes("# für alle\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"\.env cannot be read: 'utf-8' codec .* Save it as UTF-8"):
        Settings.from_env({}, env_file=file)


def test_env_example_lists_every_setting_in_order_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    listed = dict(re.findall(r"^(GRADLAB_\w+)=(.*)$", text, flags=re.MULTILINE))
    assert [name.removeprefix("GRADLAB_").lower() for name in listed] == list(Settings.model_fields)
    assert Settings.from_env(listed, env_file=None) == Settings()
    for name, field in Settings.model_fields.items():
        written = listed[f"GRADLAB_{name.upper()}"]
        assert written == "" or str(field.default).lower() == written.lower(), name


def test_every_setting_of_env_example_is_explained_above_it() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    bare = [line for above, line in pairwise(lines) if line.startswith("GRADLAB_") and not above.startswith("# ")]
    assert bare == []


def test_paths_and_urls_follow_the_state_folder(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert settings.store_url == f"sqlite:///{tmp_path / 'gradlab.sqlite'}"
    assert settings.homes_dir == tmp_path / "homes"
    assert settings.credentials_file == tmp_path / "credentials.json"
    assert Settings(database_url="postgresql://db/x").store_url == "postgresql://db/x"
    assert settings.hub_store_url == f"sqlite:///{tmp_path / 'jupyterhub.sqlite'}"


def test_the_profile_postgres_gives_hub_and_store_a_database_each_without_its_password() -> None:
    settings = Settings(profiles="metrics,postgres")
    assert settings.store_url == "postgresql+psycopg://gradlab@postgres/gradlab"
    assert settings.hub_store_url == "postgresql+psycopg://gradlab@postgres/jupyterhub"
    assert Settings(profiles="metrics").store_url.startswith("sqlite:///")
    elsewhere = Settings(profiles="postgres", database_url="sqlite:///a", hub_database_url="sqlite:///b")
    assert (elsewhere.store_url, elsewhere.hub_store_url) == ("sqlite:///a", "sqlite:///b")
