"""Whose process it is, by the text of its /proc/PID/cgroup: real shapes, and anything around an id. In a trial, by
its ancestors and its user id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.gpu.owners import Identity, Owner, container_of, group_of, owner_of
from gradlab.roster import Roster, Server

OUTER, INNER = "0123456789abcdef" * 4, "fedcba9876543210" * 4

# Of a process in the container INNER, in various engines, versions of cgroups, and views of them.
SHAPES = [
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
    f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{INNER}.scope/container\n",
    f"12:cpu,cpuacct:/kubepods/burstable/pod0f3b8a61-5c9e-4a0e-9a52-0c8f5f1f7a11/{INNER}\n",
    f"0::/kubepods.slice/kubepods-pod0f3b8a61_5c9e_4a0e_9a52_0c8f5f1f7a11.slice/crio-{INNER}.scope\n",
    f"0::/docker/{INNER} (deleted)\n",
]


@pytest.mark.parametrize("text", SHAPES)
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


def learner(name: str, container: str) -> Server:
    return Server(name, lab="tensors", container=container, device="GPU-1")


def owner(text: str, *servers: Server) -> Owner:
    return owner_of(Identity(4711, 100, text, 1000, (4000, 1)), Roster(servers))


@pytest.mark.parametrize("text", SHAPES)
def test_in_every_shape_a_learners_process_is_the_learners(text: str) -> None:
    ada = learner("ada", INNER)
    assert owner(text, learner("ben", "b" * 64), ada) == Owner("learner", ada, INNER)
    assert owner(text, learner("ben", "b" * 64)) == Owner("container", None, INNER)
    assert owner(text) == Owner("container", None, INNER)


@pytest.mark.parametrize(
    ("text", "known", "whose"),
    [
        # A learner's own containers are the learner's, and Gradlab may itself run in a container.
        (f"0::/docker/{OUTER}/docker/{INNER}\n", OUTER, OUTER),
        (f"0::/docker/{OUTER}/docker/{INNER}\n", INNER, INNER),
        (f"0::/docker/{OUTER}/docker/{INNER}/docker/{'c' * 64}\n", INNER, INNER),
        (f"0::/../../docker-{OUTER}.scope/docker/{INNER}\n", OUTER, OUTER),
        # What hierarchies say together: one of them knows the inner one, the other one the learner's alone.
        (f"9:name=systemd:/docker/{OUTER}/docker/{INNER}\n4:memory:/docker/{OUTER}\n0::/\n", OUTER, OUTER),
        (f"9:name=systemd:/docker/{'c' * 64}\n4:memory:/docker/{OUTER}\n", OUTER, OUTER),
    ],
)
def test_containers_that_are_nobodys_are_skipped(text: str, known: str, whose: str) -> None:
    ada = learner("ada", known)
    assert owner(text, ada) == Owner("learner", ada, whose)


def test_of_two_learners_containers_the_inner_one_counts() -> None:
    ada, ben = learner("ada", OUTER), learner("ben", INNER)
    for text in (
        f"0::/docker/{OUTER}/docker/{INNER}\n",
        f"9:name=systemd:/docker/{OUTER}/docker/{INNER}\n4:memory:/docker/{OUTER}\n0::/\n",
        f"4:memory:/docker/{OUTER}\n9:name=systemd:/docker/{OUTER}/docker/{INNER}\n0::/\n",
    ):
        assert owner(text, ada, ben) == Owner("learner", ben, INNER)


@pytest.mark.parametrize("text", ["", "0::/\n", "0::/user.slice/user-1000.slice/session-2.scope\n", "nonsense"])
def test_what_is_in_no_container_is_the_machines(text: str) -> None:
    assert owner(text, learner("ada", INNER)) == Owner("machine")


def place(container: str, style: str) -> str:
    return style.format(container)


styles = st.sampled_from(
    [
        "/docker/{}",
        "/system.slice/docker-{}.scope",
        "/kubepods/burstable/pod7/{}",
        "/kubepods.slice/kubepods-pod7_1.slice/cri-containerd-{}.scope",
        "/machine.slice/libpod-{}.scope/container",
        "/bert0.slice/docker-{}.scope/init.scope",
    ]
)


@given(
    st.lists(st.tuples(ids, styles, st.booleans()), max_size=4, unique_by=lambda one: one[0]),
    st.sampled_from(["", "/..", "/../.."]),
    st.permutations(["0::", "1:name=systemd:", "4:memory:", "7:cpu,cpuacct:"]),
    st.data(),
)
def test_however_deep_it_is_the_innermost_learners_container_owns_it(
    nest: list[tuple[str, str, bool]], above: str, fronts: list[str], data: st.DataObject
) -> None:
    """The first hierarchy has all of the containers, as the deepest has; the others have some of the outer ones."""
    depths = [len(nest), *(data.draw(st.integers(0, len(nest))) for _ in fronts[1:])]
    paths = [above + "".join(place(one, style) for one, style, _ in nest[:depth]) or "/" for depth in depths]
    text = "".join(f"{front}{path}\n" for front, path in zip(fronts, paths, strict=True))
    servers = [learner(f"learner-{one[:8]}", one) for one, _, known in nest if known]
    if servers:
        expected = Owner("learner", servers[-1], servers[-1].container)
    else:
        expected = Owner("container", None, nest[-1][0]) if nest else Owner("machine")
    assert owner(text, *servers) == expected


# -- a trial, where servers are processes ------------------------------------------------------------------------------

IN_NONE = "0::/user.slice/user-1000.slice/session-2.scope\n"


def test_in_a_trial_it_is_the_learners_whose_server_is_the_nearest_ancestor() -> None:
    ada, ben = Server("ada", pid=100), Server("ben", pid=200)
    roster = Roster((ada, ben))
    assert owner_of(Identity(100, 1, IN_NONE, 0, (50, 1)), roster) == Owner("learner", ada)
    assert owner_of(Identity(130, 1, IN_NONE, 0, (120, 110, 100, 50, 1)), roster) == Owner("learner", ada)
    assert owner_of(Identity(230, 1, IN_NONE, 0, (200, 100, 1)), roster) == Owner("learner", ben)
    assert owner_of(Identity(330, 1, IN_NONE, 0, (50, 1)), roster) == Owner("machine")


def test_in_a_trial_inside_a_container_ancestors_count_too() -> None:
    ada = Server("ada", pid=100, uid=100_001)
    text = f"0::/docker/{OUTER}\n"
    assert owner_of(Identity(130, 1, text, 5, (100, 1)), Roster((ada,))) == Owner("learner", ada)
    assert owner_of(Identity(130, 1, text, 100_001, (1,)), Roster((ada,))) == Owner("learner", ada)
    assert owner_of(Identity(130, 1, text, 5, (1,)), Roster((ada,))) == Owner("container", None, OUTER)


@pytest.mark.parametrize(
    ("uid", "uids", "whose"),
    [
        (100_001, (100_001, 100_002), "ada"),
        (100_002, (100_001, 100_002), "ben"),
        (100_003, (100_001, 100_002), ""),
        (100_001, (100_001, 100_001), ""),  # both have it
        (0, (0, 100_002), ""),
        (None, (None, 100_002), ""),
        (1000, (None, None), ""),
    ],
)
def test_an_orphan_is_the_learners_who_alone_has_its_user_id(
    uid: int | None, uids: tuple[int | None, int | None], whose: str
) -> None:
    servers = tuple(
        Server(name, pid=pid, uid=one) for name, pid, one in zip(("ada", "ben"), (100, 200), uids, strict=True)
    )
    found = owner_of(Identity(330, 1, IN_NONE, uid, (1,)), Roster(servers))
    assert (found.server.learner if found.server else "") == whose
    assert found.kind == ("learner" if whose else "machine")


def test_descent_counts_more_than_a_user_id() -> None:
    """Of a learner who runs another's program with a user id that has changed hands."""
    ada, ben = Server("ada", pid=100, uid=100_001), Server("ben", pid=200, uid=100_002)
    assert owner_of(Identity(130, 1, IN_NONE, 100_002, (100, 1)), Roster((ada, ben))) == Owner("learner", ada)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.sets(st.integers(1, 30)), st.data())
def test_in_any_tree_of_processes_the_nearest_server_above_owns(
    parents: list[int], firsts: set[int], data: st.DataObject
) -> None:
    """``parents[n]`` leads to the parent of process n + 1; process 1 is everybody's ancestor."""
    parent = {pid: max(1, min(chosen, pid - 1)) for pid, chosen in enumerate(parents, start=2)}
    pid = data.draw(st.sampled_from(sorted(parent)))
    ancestors, at = [], pid
    while at != 1:
        at = parent[at]
        ancestors.append(at)
    nearest = next((one for one in (pid, *ancestors) if one in firsts), None)
    roster = Roster(tuple(Server(f"learner-{first}", pid=first) for first in sorted(firsts)))
    found = owner_of(Identity(pid, 1, IN_NONE, None, tuple(ancestors)), roster)
    assert found == (
        Owner("machine") if nearest is None else Owner("learner", Server(f"learner-{nearest}", pid=nearest))
    )
