"""What of a server's GPUs can be given out, why nothing can, and what Docker is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import docker.types
import pytest

from gradlab.gpu_mode import Mode, parse_mode
from gradlab.hub.gpus import LABEL, Slot, access, share_statement, slots_of, why_empty
from tests.gpus import EXCLUSIVE, GIB, MIG, gpu, shared

NONE = Mode("none")


def ids(slots: Sequence[Slot]) -> list[str]:
    return [slot.id for slot in slots]


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("none", NONE),
        ("exclusive", EXCLUSIVE),
        ("mig", MIG),
        ("shared:2", shared(2)),
        ("shared:32", shared(32)),
        (" Shared:04 ", shared(4)),
    ],
)
def test_a_mode_is_read_from_a_settings_text(text: str, mode: Mode) -> None:
    assert parse_mode(text) == mode
    assert parse_mode(str(mode)) == mode


@pytest.mark.parametrize(
    "text", ["", "all", "shared", "shared:", "shared:1", "shared:33", "shared:-2", "shared:٤", "4"]
)
def test_any_other_text_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        parse_mode(text)
    assert str(caught.value) == (
        "it must be none, exclusive (a GPU for each learner), shared:N (N learners on each GPU, from 2 to 32) or mig "
        "(a MIG instance for each learner)"
    )


def test_exclusive_slots_are_the_healthy_whole_gpus() -> None:
    devices = [gpu("a"), gpu("b", error="It is lost."), gpu("c", mig=["x"]), gpu("d"), gpu("e") | {"uuid": None}]
    assert slots_of(EXCLUSIVE, devices) == (Slot("GPU-a", memory=140 * GIB), Slot("GPU-d", memory=140 * GIB))


def test_shares_of_different_gpus_alternate_and_divide_the_memory() -> None:
    devices = [gpu("a"), gpu("b") | {"memory_total": None}, gpu("c", mig=[])]
    slots = slots_of(shared(3), devices)
    assert ids(slots) == [f"GPU-{name}/{share}of3" for share in (1, 2, 3) for name in "ab"]
    assert {slot.memory for slot in slots if slot.device == "GPU-a"} == {140 * GIB // 3}
    assert [slot.limited for slot in slots[:2]] == [True, False]  # of b nobody knows the memory


def test_mig_slots_are_the_instances_of_healthy_gpus() -> None:
    devices = [gpu("a", mig=["x", "y"]), gpu("b", error="It is lost.", mig=["z"]), gpu("c")]
    slots = slots_of(MIG, devices)
    assert slots == (Slot("MIG-x", memory=10 * GIB), Slot("MIG-y", memory=10 * GIB))
    assert not any(slot.limited for slot in slots)


def test_a_monitor_that_knows_nothing_of_mig_reports_whole_gpus() -> None:
    device = gpu("a")
    del device["mig"]
    assert ids(slots_of(EXCLUSIVE, [device])) == ["GPU-a/1of1"]
    assert slots_of(MIG, [device]) == ()


@pytest.mark.parametrize("slot", [Slot("GPU-1a2b"), Slot("GPU-1a2b", 3, 4), Slot("MIG-GPU-1a2b/1/0"), Slot("MIG-x")])
def test_a_slots_id_can_be_read_back(slot: Slot) -> None:
    assert Slot.parse(slot.id) == slot


@pytest.mark.parametrize("text", ["", "GPU-1a2b", "GPU-1a2b/0", "GPU-1a2b/0of4", "GPU-1a2b/5of4", "/1of1"])
def test_what_is_no_slots_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no id") as caught:
        Slot.parse(text)
    assert str(caught.value) == f"{text!r} is no id of a GPU slot, which is UUID/SHAREofSHARES such as GPU-1a2b/1of4"


WITHOUT = "You can work without a GPU; exercises that need one are skipped."


@pytest.mark.parametrize(
    ("mode", "devices", "message", "why"),
    [
        (
            NONE,
            [gpu("a")],
            "",
            f"This server gives out no GPUs (GRADLAB_GPUS=none). {WITHOUT} "
            "To change that, the operator sets GRADLAB_GPUS to exclusive, shared:N or mig.",
        ),
        (
            EXCLUSIVE,
            [],
            "The NVIDIA driver is loaded but shows no GPU. Check `nvidia-smi -L`.",
            "This server has no GPU. Its GPU monitor says: The NVIDIA driver is loaded but shows no GPU. "
            f"Check `nvidia-smi -L`. {WITHOUT}",
        ),
        (
            EXCLUSIVE,
            [],
            "",
            f"This server has no GPU: its GPU monitor lists none and gives no reason. {WITHOUT} "
            "The operator finds out more with `gradlab gpu`.",
        ),
        (
            shared(4),
            [gpu("a", error="This GPU has fallen off the bus. Restart the machine.")],
            "",
            "This server's GPU cannot be given out with GRADLAB_GPUS=shared:4. NVIDIA H200 (GPU-a): This GPU has "
            f"fallen off the bus. Restart the machine. {WITHOUT}",
        ),
        (
            EXCLUSIVE,
            [gpu("a", mig=["x"]), gpu("b", error="It needs a reset.") | {"name": None}],
            "",
            "None of this server's 2 GPUs can be given out with GRADLAB_GPUS=exclusive. NVIDIA H200 (GPU-a): It is in "
            "MIG mode. Set GRADLAB_GPUS=mig, or turn MIG mode off (`nvidia-smi -i GPU-a -mig 0`). GPU (GPU-b): It "
            f"needs a reset. {WITHOUT}",
        ),
        (
            MIG,
            [gpu("a"), gpu("b", mig=[])],
            "",
            "None of this server's 2 GPUs can be given out with GRADLAB_GPUS=mig. NVIDIA H200 (GPU-a): It is not in "
            "MIG mode. Turn MIG mode on (`nvidia-smi -i GPU-a -mig 1`) and make instances, or set "
            "GRADLAB_GPUS=exclusive. NVIDIA H200 (GPU-b): It is in MIG mode and has no instances. `nvidia-smi mig "
            f"-lgip` lists the sizes, `-cgi SIZE -C` makes one. {WITHOUT}",
        ),
        (
            EXCLUSIVE,
            [gpu("a") | {"uuid": None}],
            "",
            "This server's GPU cannot be given out with GRADLAB_GPUS=exclusive. NVIDIA H200 (no UUID): It reports no "
            f"UUID, and a container is given a GPU by its UUID. Run `nvidia-smi -L`. {WITHOUT}",
        ),
        (EXCLUSIVE, [gpu("a"), gpu("b", error="It is lost.")], "", ""),
    ],
)
def test_a_server_without_slots_says_why(mode: Mode, devices: list[dict[str, Any]], message: str, why: str) -> None:
    assert why_empty(mode, devices, message) == why


def test_docker_is_asked_for_the_slots_uuid() -> None:
    slot = Slot("GPU-a", memory=140 * GIB)
    by_runtime = access(slot, cdi=False)
    assert by_runtime.device_requests == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-a"], "Capabilities": [["gpu", "utility", "compute"]]}
    ]
    assert by_runtime.labels == {LABEL: "GPU-a/1of1"} == {"gradlab.gpu": "GPU-a/1of1"}
    assert by_runtime.environment == {"NVIDIA_VISIBLE_DEVICES": "GPU-a"}
    by_cdi = access(slot, cdi=True)
    assert by_cdi.device_requests == [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a"]}]
    assert (by_cdi.environment, by_cdi.labels) == ({"NVIDIA_VISIBLE_DEVICES": "void"}, by_runtime.labels)


@pytest.mark.parametrize("cdi", [False, True])
def test_dockers_own_library_takes_the_request_and_counts_nothing(cdi: bool) -> None:
    [request] = access(Slot("MIG-x"), cdi=cdi).device_requests
    assert docker.types.DeviceRequest(**request)["Count"] == 0


@pytest.mark.parametrize("cdi", [False, True])
def test_without_a_slot_every_gpu_is_kept_away(cdi: bool) -> None:
    nothing = access(None, cdi=cdi)
    assert (nothing.device_requests, nothing.labels) == ([], {})
    assert nothing.environment == {"NVIDIA_VISIBLE_DEVICES": "void"}


def test_neighbours_on_a_gpu_get_defaults_that_let_each_other_live() -> None:
    slot = Slot("GPU-a", 1, 7, 20 * GIB)
    polite = {
        "NVIDIA_VISIBLE_DEVICES": "void",  # with CDI
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    assert access(slot, cdi=True).environment == polite | {"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.1428"}
    # The container takes an enforced limit for the whole GPU: a fraction of that would count twice.
    assert access(slot, cdi=True, enforced=True).environment == polite


@pytest.mark.parametrize("shares", range(2, 33))
def test_the_fractions_of_all_neighbours_fit_on_the_gpu(shares: int) -> None:
    settings = access(Slot("GPU-a", 1, shares), cdi=True).environment["PYTORCH_ALLOC_CONF"]
    assert 0.99 < float(settings.rpartition(":")[2]) * shares <= 1


def test_it_is_said_plainly_that_a_share_of_memory_is_not_enforced() -> None:
    assert share_statement(Slot("GPU-a", 1, 4, 35 * GIB)) == (
        "Up to 4 learners share this GPU. Your share of its memory is 35.0 GiB, but the hardware does not enforce it: "
        "whoever asks first gets the memory, and the others' programs then fail for want of it. PyTorch keeps each of "
        "your processes to the share as long as you leave its defaults; other programs need not, and several processes "
        "together can exceed it."
    )
    assert share_statement(Slot("GPU-a", 2, 2)).startswith(
        "Up to 2 learners share this GPU. Your share of its memory is 1/2, but"
    )
    assert share_statement(Slot("GPU-a", memory=140 * GIB)) == share_statement(Slot("MIG-x")) == ""
