"""Whose process it is, by the text of its /proc/PID/cgroup: real shapes, and anything around an id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.gpu.owners import container_of, group_of

OUTER, INNER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.mark.parametrize(
    "text",
    [
        f"12:memory:/docker/{INNER}\n3:cpu,cpuacct:/docker/{INNER}\n",
        f"12:memory:/system.slice/docker-{INNER}.scope\n",
        f"0::/system.slice/docker-{INNER}.scope\n",
        f"0::/docker/{INNER}\n",
        f"0::/bert0.slice/docker-{INNER}.scope\n",
        f"0::/../docker-{INNER}.scope\n",
        f"0::/../../system.slice/docker-{INNER}.scope\n",
        f"0::/machine.slice/libpod-{INNER}.scope/container\n",
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{INNER}.scope\n",
        f"9:name=systemd:/docker/{INNER}\n4:memory:/docker/{INNER}\n0::/\n",
        f"0::/docker/{OUTER}/docker/{INNER}\n",
        f"0::/system.slice/docker-{OUTER}.scope/kubelet/kubepods/besteffort/pod7/{INNER}\n",
        f"9:name=systemd:/docker/{OUTER}/docker/{INNER}\n4:memory:/docker/{OUTER}\n0::/\n",
    ],
)
def test_the_innermost_container_is_found_in_every_shape(text: str) -> None:
    assert container_of(text) == INNER


@pytest.mark.parametrize(
    "text",
    ["", "0::/\n", "0::/user.slice/user-1000.slice/session-2.scope\n", "nonsense\n", f"0::/docker/{INNER}0\n", "0::"],
)
def test_a_process_of_the_machine_is_in_no_container(text: str) -> None:
    assert container_of(text) is None


ids = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.text("ghijkxyz.-_", max_size=12)


@given(st.lists(ids, min_size=1, max_size=4), names, st.sampled_from(["0::", "7:memory:", "1:cpu,cpuacct:"]))
def test_whatever_is_around_it_the_last_id_of_the_path_is_taken(found: list[str], name: str, front: str) -> None:
    path = "".join(f"/{name}-{container}.{name}" for container in found)
    assert container_of(f"{front}{path}/{name}\n") == found[-1]
    assert container_of(f"5:pids:/\n{front}{path}\n") == found[-1]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        (f"0::/system.slice/docker-{INNER}.scope\n", f"/system.slice/docker-{INNER}.scope"),
        (f"0::/docker/{INNER}/init.scope\n", f"/docker/{INNER}"),
        (f"0::/docker/{OUTER}/docker/{INNER}\n", f"/docker/{OUTER}/docker/{INNER}"),
        (f"0::/../docker-{INNER}.scope\n", f"/../docker-{INNER}.scope"),
        (f"0::/docker/{OUTER}\n", None),
        (f"0::/docker/{INNER}/docker/{OUTER}\n", None),
        (f"4:memory:/docker/{INNER}\n0::/\n", None),
        ("", None),
    ],
)
def test_a_group_is_named_only_for_the_containers_own_process(text: str, group: str | None) -> None:
    assert group_of(text, INNER) == group
