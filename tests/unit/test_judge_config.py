"""How settings become a judge, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checker.engine import JudgeConfig
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.sandbox.docker import sweep
from gradlab.errors import SettingsError
from gradlab.judging import judge_config
from gradlab.settings import Settings

GPU = "GPU-9c7a2f3e-0000-4000-8000-000000000001"


def configured(tmp_path: Path, **settings: object) -> JudgeConfig:
    return judge_config(Settings.model_validate({"state_dir": tmp_path} | settings))


def test_checks_are_confined_as_learners_are_unless_told_otherwise(tmp_path: Path) -> None:
    assert configured(tmp_path).sandbox.method == detect()
    assert configured(tmp_path, sandbox="plain").sandbox.method == "plain"
    assert configured(tmp_path, sandbox="plain", check_sandbox="auto").sandbox.method == detect()


def test_containers_belong_to_an_installation_that_stays_the_same(tmp_path: Path) -> None:
    first, again, other = (
        configured(tmp_path / name, check_sandbox="docker", check_gpus=f" {GPU}, ", check_image="mine").sandbox
        for name in ("one", "one", "other")
    )
    assert (first.method, first.gpus, first.image) == ("docker", (GPU,), "mine")
    assert first.installation == again.installation != other.installation
    assert configured(tmp_path / "third").sandbox.installation == ""
    assert not (tmp_path / "third").exists()


def test_a_gpu_that_no_check_could_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        configured(tmp_path, sandbox="plain", check_gpus=GPU)
    assert str(refused.value) == (
        f"GRADLAB_CHECK_GPUS={GPU!r} has no effect with the sandbox 'plain': only a container can be given a GPU. "
        "Set GRADLAB_CHECK_SANDBOX=docker, or leave GRADLAB_CHECK_GPUS empty."
    )


def test_a_method_that_does_not_work_here_is_refused_with_the_setting_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checker.sandbox.confinement._failure", lambda method: "no such program")
    detect.cache_clear()
    try:
        for setting, variable in (("sandbox", "GRADLAB_SANDBOX"), ("check_sandbox", "GRADLAB_CHECK_SANDBOX")):
            with pytest.raises(SettingsError) as refused:
                configured(tmp_path, **{setting: "unshare"})
            assert str(refused.value) == (
                "The sandbox method 'unshare' does not work on this machine: no such program. Install bubblewrap, "
                f"allow unprivileged user namespaces, or set {variable}=auto."
            )
    finally:
        detect.cache_clear()


def test_no_containers_are_swept_that_are_of_no_installation() -> None:
    with pytest.raises(ValueError, match=r"^Containers are found by their installation: give SandboxConfig.installa"):
        sweep("")


def test_the_pool_is_as_large_as_the_machine_is_good_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 2 << 30

    monkeypatch.setattr("checker.engine.psutil.virtual_memory", lambda: Memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    assert JudgeConfig(pool=3).waiting == 3
    assert JudgeConfig(pool=0).waiting == 0
    assert JudgeConfig().waiting == 8  # a quarter of 2 GiB is room for eight of 64 MiB
    assert JudgeConfig(SandboxConfig(method="docker")).waiting == 1
    Memory.available = 64 << 30
    assert JudgeConfig().waiting == 32
    Memory.available = 0
    assert JudgeConfig().waiting == 1
