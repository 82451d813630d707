"""What Docker is asked for when a learner's server starts, and what is said when it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlab.hub.containers import Grant, create_options, host_options, labels, volumes
from gradlab.hub.endings import Endings, reason
from gradlab.settings import Settings

SETTINGS = Settings(spawner="docker", learner_memory_mb=2048, learner_processes=99, learner_shm_mb=512)


def test_a_container_gets_no_right_and_nothing_without_a_bound() -> None:
    found = host_options(SETTINGS, Grant())
    assert (found["cap_drop"], found["security_opt"], found["privileged"]) == (["ALL"], ["no-new-privileges"], False)
    assert (found["read_only"], found["init"], found["ipc_mode"]) == (True, True, "private")
    assert found["memswap_limit"] == 2048 << 20  # no swap beside the memory
    assert (found["pids_limit"], found["shm_size"]) == (99, 512 << 20)
    assert found["tmpfs"] == {"/tmp": "size=1024m,mode=1777,nosuid,nodev,exec"}
    assert found["log_config"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert found["auto_remove"] is False  # its log would go too
    assert found["device_requests"] is None


def test_names_are_not_looked_up_outside_unless_the_internet_is_open() -> None:
    assert host_options(SETTINGS, Grant())["dns"] == ["192.0.2.1"]
    assert host_options(SETTINGS.model_copy(update={"learner_internet": True}), Grant())["dns"] is None


def test_a_container_says_whose_it_is_and_what_for() -> None:
    marks = labels("class", "ada", "", "tensors", Grant(labels={"gradlab.gpu": "GPU-1/1of1"}))
    assert marks == {
        "gradlab.role": "server",
        "gradlab.installation": "class",
        "gradlab.user": "ada",
        "gradlab.server": "",
        "gradlab.lab": "tensors",
        "gradlab.gpu": "GPU-1/1of1",
    }
    options = create_options(marks)
    assert options["labels"] is marks
    assert (options["user"], options["hostname"]) == ("lab", "lab")
    assert volumes("class") == {"class-home-{username}": "/home/lab"}


def test_without_a_gpu_every_device_is_kept_away() -> None:
    assert Grant().environment == {"NVIDIA_VISIBLE_DEVICES": "void"}
    with_gpu = Grant(device_requests=({"Driver": "nvidia", "DeviceIDs": ["GPU-1"]},), environment={})
    assert host_options(SETTINGS, with_gpu)["device_requests"] == [{"Driver": "nvidia", "DeviceIDs": ["GPU-1"]}]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "It used more than the 2048 MiB of memory it may have, and was ended."),
        (
            {"ExitCode": 137, "OOMKilled": False},
            "It was killed from outside: by an administrator, or because the machine ran out of memory.",
        ),
        ({"ExitCode": 0}, "It was shut down, from its own menu or by an administrator."),
        ({"ExitCode": 143, "OOMKilled": False}, "It was shut down, from its own menu or by an administrator."),
        (
            {"ExitCode": 3},
            "It ended by itself, with exit status 3; your instructor finds its last output in the server's logs.",
        ),
        ({"ExitCode": 128, "Error": "no such device"}, "Docker could not run it: no such device."),
    ],
)
def test_an_ending_has_its_reason(state: dict[str, object], says: str) -> None:
    assert reason(state, 2048) == says


def test_the_last_output_is_kept_and_cannot_grow_without_bound(tmp_path: Path) -> None:
    endings = Endings(tmp_path / "servers")
    path = endings.write("class-server-ada", "It was killed.", b"first words\n\n")
    assert path == tmp_path / "servers" / "class-server-ada.log"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("== 20")
    assert lines[0].endswith("It was killed.")
    assert lines[1:] == ["first words"]
    endings.write("class-server-ada", "Again.", b"x" * (3 << 20))
    assert path.stat().st_size < (1 << 20) + 4096
    endings.write("class-server-ada", "And again.", b"last words")
    assert path.read_text().splitlines()[-1] == "last words"
    assert len(path.read_text()) < 4096
    assert path.with_name("class-server-ada.log.1").exists()


def test_a_reason_is_remembered_until_the_server_starts_again(tmp_path: Path) -> None:
    endings = Endings(tmp_path)
    assert endings.of("ada") == ""
    endings.remember("ada", "", "It was killed.")
    assert (endings.of("ada"), endings.of("ben")) == ("It was killed.", "")
    endings.forget("ada", "")
    assert endings.of("ada") == ""
