"""Metrics: what is documented is what is exported, nothing is made up, and only who may read them does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gradlab.portal.metrics import CONTENT_TYPE, exposition
from gradlab.roster import Roster, Server, Waiter
from gradlab.settings import ROOT
from gradlab.store import GpuUsage
from tests.courses import write_course
from tests.gpuframes import GIB, device, frame, gpu_view, process, silent
from tests.portals import Running, running_portal

ADA = Server("ada", lab="tensors", container="a" * 64, device="GPU-0", held_since=100.0)
BOB = Server("bob", name="second", container="b" * 64)
ROSTER = Roster((ADA, BOB), (Waiter("eve", "", 940.0, 1),), mode="exclusive", slots=2, free=1)
EVENT = {"at": 900.0, "xid": 79, "meaning": "the GPU has fallen off the bus", "application": False}
USAGE = [
    GpuUsage("ada", "tensors", "2026-11-21", 30.0, 10.0, GIB),
    GpuUsage("ada", "tensors", "2026-11-22", 12.0, 5.0, GIB),
    GpuUsage("bob", "", "2026-11-22", 3.0, 0.0, GIB),
]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def full() -> dict[str, Any]:
    first = device("GPU-0", process(10, 3 * GIB, sm=30), process(20, GIB, sm=9), memory_used=6 * GIB, events=[EVENT])
    return gpu_view(frame(first, device("GPU-1", index=1)), ROSTER)


def exported(view: dict[str, Any], usage: list[GpuUsage] = USAGE) -> Samples:
    text = exposition(view, usage, now=1000.0).decode()
    families = text_string_to_metric_families(text)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def test_what_is_documented_is_what_is_exported() -> None:
    table = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(gradlab_\w+)` \| (\w+) \| [^|]+ \|([^|]*)\|", table, re.M)
    documented = {(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    families = text_string_to_metric_families(exposition(full(), USAGE, now=1000.0).decode())
    assert documented == {
        (one.name, family.type, frozenset(one.labels)) for family in families for one in family.samples
    }


def test_every_number_has_its_unit() -> None:
    samples = exported(full())
    assert value(samples, "gradlab_gpu_up") == 1.0
    assert value(samples, "gradlab_gpu_utilisation_ratio", gpu="0") == pytest.approx(0.42)
    assert value(samples, "gradlab_gpu_memory_unattributed_bytes", gpu="0") == 2 * GIB
    assert value(samples, "gradlab_gpu_last_xid_timestamp_seconds", gpu="0", xid="79") == 900.0
    ada = {"learner": "ada", "server": "", "lab": "tensors", "gpu": "0"}
    assert value(samples, "gradlab_learner_gpu_memory_bytes", **ada) == 3 * GIB
    assert value(samples, "gradlab_learner_gpu_utilisation_ratio", **ada) == pytest.approx(0.3)
    assert value(samples, "gradlab_learner_gpu_held_seconds_total", learner="ada", lab="tensors") == 42.0
    assert value(samples, "gradlab_learner_gpu_busy_seconds_total", learner="ada", lab="tensors") == 15.0
    assert value(samples, "gradlab_gpu_slots_free") == 1.0
    assert (value(samples, "gradlab_gpu_queue_length"), value(samples, "gradlab_gpu_idle_holders")) == (1.0, 0.0)
    assert value(samples, "gradlab_gpu_queue_longest_wait_seconds") == 60.0


def test_what_is_not_reported_is_absent_and_never_zero() -> None:
    blank = dict.fromkeys(("utilisation", "memory_used", "temperature", "power", "energy", "ecc", "events"))
    view = gpu_view(frame(device("GPU-0", process(10, None, sm=None), **blank)), ROSTER)
    names = {name for name, _ in exported(view)}
    assert "gradlab_gpu_memory_total_bytes" in names
    for name in ("utilisation_ratio", "memory_used_bytes", "memory_unattributed_bytes", "temperature_celsius"):
        assert f"gradlab_gpu_{name}" not in names
    assert not {name for name in names if name.startswith("gradlab_learner_gpu_") and "seconds" not in name}


def test_a_driver_that_is_silent_leaves_no_gpu_behind() -> None:
    samples = exported(gpu_view(silent(1000.0, device("GPU-0", process(10))), ROSTER))
    assert value(samples, "gradlab_gpu_up") == 0.0
    assert not [key for key in samples if "gpu" in dict(key[1])]
    assert value(samples, "gradlab_gpu_idle_holders") is None
    assert value(samples, "gradlab_gpu_queue_length") == 1.0  # what the hub says is known all the same
    assert value(samples, "gradlab_learner_gpu_held_seconds_total", learner="ada", lab="tensors") == 42.0


def test_a_gpu_that_is_lost_is_told_and_has_no_figures() -> None:
    lost = dict.fromkeys(("utilisation", "memory_used", "memory_total", "power"))
    one = device("GPU-1", index=1, state="lost", error="It is lost.", **lost)
    samples = exported(gpu_view(frame(device("GPU-0"), one), ROSTER))
    healthy = [value(samples, "gradlab_gpu_healthy", gpu=gpu) for gpu in ("0", "1")]
    assert healthy == [1.0, 0.0]
    assert value(samples, "gradlab_gpu_power_watts", gpu="1") is None


def test_slices_of_one_gpu_add_up_to_one_sample() -> None:
    on = [process(10, GIB, sm=None, instance=name) for name in ("MIG-1", "MIG-2")]
    parts = [
        {"uuid": name, "name": "1g", "memory_used": GIB, "memory_total": 16 * GIB, "utilisation": 20, "error": None}
        for name in ("MIG-1", "MIG-2")
    ]
    samples = exported(gpu_view(frame(device("GPU-0", *on, mig=parts, measured=False)), ROSTER))
    ada = {"learner": "ada", "server": "", "lab": "tensors", "gpu": "0"}
    assert value(samples, "gradlab_learner_gpu_memory_bytes", **ada) == 2 * GIB
    assert value(samples, "gradlab_learner_gpu_utilisation_ratio", **ada) == pytest.approx(0.4)


def test_names_with_quotes_and_newlines_are_escaped() -> None:
    server = Server('a"d\\a\n', container="a" * 64)
    samples = exported(gpu_view(frame(device("GPU-0", process(10))), Roster((server,))))
    assert {dict(labels)["learner"] for name, labels in samples if name == "gradlab_learner_gpu_memory_bytes"} == {
        'a"d\\a\n'
    }


def test_no_label_is_a_process() -> None:
    view = gpu_view(frame(device("GPU-0", process(10), process(4711))), ROSTER)
    assert "4711" not in exposition(view, USAGE, now=1000.0).decode()


# -- who may read them ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load()) as running:
        running.gpu.shown = full()
        row = {"learner": "ada", "lab": "", "day": "2026-11-22", "held": 7.0, "busy": 1.0, "peak": 1}
        running.store.keep_gpu_usage("run", [row])
        yield running


@pytest.mark.parametrize("word", ["token", "Bearer"])
def test_a_service_with_the_scope_reads_them(portal: Running, word: str) -> None:
    token = portal.hub.token("metrics", scopes=("read:metrics",), kind="service")
    with portal.client() as prometheus:
        answer = prometheus.get("metrics", headers={"Authorization": f"{word} {token}"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert 'gradlab_learner_gpu_held_seconds_total{lab="",learner="ada"} 7.0' in answer.text


def test_an_instructor_reads_them_and_a_learner_does_not(portal: Running) -> None:
    with portal.client("grace") as grace, portal.client("noor") as noor, portal.client() as nobody:
        assert grace.get("metrics").status_code == 200
        assert noor.get("metrics").status_code == 403
        assert nobody.get("metrics").status_code == 401


def test_a_service_without_the_scope_is_refused(portal: Running) -> None:
    token = portal.hub.token("other", scopes=("list:users",), kind="service")
    with portal.client() as other:
        answer = other.get("metrics", headers={"Authorization": f"token {token}"})
    assert answer.status_code == 403


def test_prometheus_asks_hub_and_portal_with_one_token() -> None:
    text = Path(ROOT / "deploy/prometheus/prometheus.yml").read_text()
    assert text.count("credentials_file: /tmp/token") == 2
    assert "metrics_path: /services/portal/metrics" in text
    assert 'targets: ["portal:8082"]' in text
