"""The dashboard for Grafana: what it asks for is what the portal tells, and any Grafana can show it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gradlab.settings import ROOT

BOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "gpus.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {one["name"]: one for one in BOARD["templating"]["list"]}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What PromQL and Grafana have; Prometheus itself adds `job` and `instance` to everything.
WORDS = {"sum", "count", "by", "increase", "time", "or", "learner", "gpu", "simulated"}


def documented() -> dict[str, set[str]]:
    """The metrics of docs/metrics.md, with their labels."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(gradlab_\w+)` \|[^|]*\|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    assert rows
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_grafana_knows_the_format_and_the_board_has_an_address_of_its_own() -> None:
    assert BOARD["schemaVersion"] >= 39
    assert BOARD["uid"] == "gradlab-gpus"
    assert "id" not in BOARD  # an import gives it one


def test_every_panel_is_one_of_its_own_and_says_what_it_shows() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers)
    assert all(panel["title"] and panel["targets"] for panel in PANELS)
    for panel in PANELS:
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names), panel["title"]


def test_every_metric_it_asks_for_is_documented_and_has_the_labels_it_is_asked_by() -> None:
    metrics = documented()
    queries = [*EXPRESSIONS, *(one["definition"] for one in VARIABLES.values() if one["type"] == "query")]
    for query in queries:
        asked = set(re.findall(r"gradlab_\w+", query))
        assert asked, query
        assert asked <= metrics.keys(), query
        for name, labels in re.findall(r"(gradlab_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r'(\w+)=~?"', labels)) <= metrics[name], query
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            assert all(set(grouped.split(", ")) <= metrics[name] for name in asked), query


def test_what_is_written_beside_a_line_is_a_label_of_it() -> None:
    metrics = documented()
    for panel in PANELS:
        for target in panel["targets"]:
            [*names] = re.findall(r"gradlab_\w+", target["expr"])
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            labels = set.union(*(set(one.split(", ")) for one in kept)) if kept else metrics[names[0]]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_is_whole(expression: str) -> None:
    depth = 0
    for one in re.sub(r'"[^"]*"', "", expression):
        depth += (one in "([{") - (one in ")]}")
        assert depth >= 0
    assert depth == 0
    bare = re.sub(r'"[^"]*"|gradlab_\w+|\$__range', "", expression)
    assert set(re.findall(r"[A-Za-z_]\w*", bare)) <= WORDS
    assert set(re.findall(r"\$(\w+)", expression)) <= VARIABLES.keys() | {"__range"}


def sources(thing: Any) -> Iterator[Any]:
    """Everything that is called a datasource, at any depth."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key == "datasource":
                yield value
            yield from sources(value)
    elif isinstance(thing, list):
        for one in thing:
            yield from sources(one)


def test_whoever_imports_it_chooses_the_prometheus_for_all_of_it() -> None:
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    found = list(sources(BOARD))
    assert all(one == SOURCE for one in found)
    targets = sum(len(panel["targets"]) for panel in PANELS)
    assert len(found) == len(PANELS) + targets + len(VARIABLES) - 1


def test_no_panel_lies_on_another_or_beside_the_page() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        assert x >= 0
        assert x + w <= 24, panel["title"]
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert len(cells) == w * h > 0
        assert not cells & taken, panel["title"]
        taken |= cells


def test_what_is_missing_is_not_drawn() -> None:
    """Neither joined by a line nor taken for zero: a GPU that could not be read was not idle."""
    for panel in PANELS:
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False, panel["title"]


@pytest.mark.parametrize(
    "metric",
    [
        "gradlab_gpu_utilisation_ratio",
        "gradlab_gpu_memory_used_bytes",
        "gradlab_learner_gpu_memory_bytes",
        "gradlab_learner_gpu_utilisation_ratio",
        "gradlab_learner_gpu_held_seconds_total",
        "gradlab_learner_gpu_busy_seconds_total",
        "gradlab_gpu_queue_length",
        "gradlab_gpu_queue_longest_wait_seconds",
        "gradlab_gpu_slots_free",
        "gradlab_gpu_idle_holders",
        "gradlab_gpu_temperature_celsius",
        "gradlab_gpu_power_watts",
        "gradlab_gpu_up",
        "gradlab_gpu_ecc_uncorrected_total",
        "gradlab_gpu_last_xid_timestamp_seconds",
    ],
)
def test_it_shows_what_an_operator_asks_about(metric: str) -> None:
    assert any(re.search(rf"\b{metric}\b", expression) for expression in EXPRESSIONS)
