"""What the command line shows: pure functions from result data (what ``--json`` prints) to something Rich can print.

Learner code chooses some of the text, so nothing here is read as markup, and control characters are shown, not sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["doctor_view", "gpu_view", "labs_view", "line_view", "plain", "verdict_view"]

Data = Mapping[str, Any]

_MARKS = {
    "passed": ("✓", "green"),
    "ok": ("✓", "green"),
    "not attempted": ("·", "dim"),
    "skipped": ("-", "yellow"),
    "warning": ("!", "yellow"),
    "unseen": ("?", "cyan"),
}


def plain(text: str) -> str:
    """The text with every control character but newline and tab made visible: output may steer no terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def verdict_view(verdict: Data, titles: Mapping[str, str]) -> RenderableType:
    """A verdict as a person reads it: one line an exercise, and below it what to know about the failed ones."""
    parts: list[RenderableType] = []
    for result in verdict["results"]:
        name, outcome = result["exercise"], str(result["outcome"])
        line = Text.assemble(
            _mark(outcome), f" {name}", (f"  {titles.get(name, '')}", "dim"), "  ", (outcome, _colour(outcome))
        )
        line.append("  not scored" if _unscored(result) else f"  {result['points']}/{result['max_points']}")
        parts.append(line)
        if outcome != "passed" and result["message"]:
            parts.append(_below(result["message"]))
        if outcome != "passed" and result["output"]:
            parts.append(_below(f"It printed:\n{result['output'].rstrip()}", "dim"))
    scored = [result for result in verdict["results"] if not _unscored(result)]
    points, most = (sum(result[key] for result in scored) for key in ("points", "max_points"))
    words = f"{points} of {most} points" if scored else "not scored"
    parts.append(Text(f"{words} in {verdict['seconds']:.2f} s"))
    return Group(*parts)


def _unscored(result: Data) -> bool:
    return bool(result["outcome"] == "our fault")


def labs_view(report: Data) -> RenderableType:
    """The proofs of all labs as a table, then every failed proof and every problem with what to do."""
    table = Table("Lab", "Exercise", "Reference", "Blank", "Mistakes", "Questions")
    for lab in report["labs"]:
        for exercise in lab["exercises"]:
            table.add_row(
                lab["slug"],
                exercise["name"],
                *(_tally(exercise["proofs"], kind) for kind in ("reference", "blank", "mistake")),
                " ".join(exercise["questions"]),
            )
    parts: list[RenderableType] = [table]
    for lab in report["labs"]:
        parts += _complaints(lab)
    for lab in report["labs"]:
        word = Text("proven", "green") if lab["proven"] else Text("not proven", "red")
        parts.append(Text.assemble(f"{lab['slug']} ", word, f" in {lab['seconds']:.1f} s"))
    topics = {lab["slug"] for lab in report["labs"]}
    asked = [question for question in report["questions"] if question["topic"] in topics]
    answered = sum(bool(question["exercises"]) for question in asked)
    parts.append(Text(f"{answered} of {len(asked)} questions of these topics are answered by an exercise."))
    return Group(*parts)


def gpu_view(view: Data) -> RenderableType:
    """GPU by learner as a table, or the sentence that says why there is none."""
    if not view["available"]:
        return Text(plain(view["message"]))
    driver = f"Driver {view['driver_version'] or 'of unknown version'}"
    title = f"Simulated GPUs, {driver.lower()}" if view["simulated"] else driver
    table = Table("GPU", "Name", "Who", "Memory", "Use", "Temperature", "Power", title=title)
    for device in view["devices"]:
        _gpu_rows(table, device)
    below: list[RenderableType] = []
    for device in view["devices"]:
        problems = [f"{name.replace('_', ' ')}: {why}" for name, why in device["problems"].items()]
        below += [Text(f"GPU {device['index']}: {plain(device['error'])}", "red")] if device["error"] else []
        below += [Text(f"GPU {device['index']}, {plain(problem)}", "yellow") for problem in problems]
        below += [_event(device["index"], event) for event in device["events"]]
    below += [Text(plain(view["message"]), "yellow")] if view["message"] else []
    below += [_idle(one, view["devices"]) for one in view["idle"]]
    if view["slots"]:
        below.append(Text(f"{view['free']} of {view['slots']} places on GPUs are free, {len(view['queue'])} wait."))
    return Group(table, *below)


def _gpu_rows(table: Table, device: Data) -> None:
    """The GPU, and below it who is on it: learners, the machine's own processes, and what nobody accounts for."""
    table.add_row(
        str(device["index"]),
        plain(device["name"] or "-"),
        Text("all", "dim"),
        _memory(device["memory_used"], device["memory_total"]),
        _unit(device["utilisation"], " %"),
        _unit(device["temperature"], " °C"),
        _unit(device["power"], " W"),
    )
    for one in device["mig"] or ():
        words = Text(f"slice {plain(one['name'] or one['uuid'] or '')}", "dim")
        memory = _memory(one["memory_used"], one["memory_total"])
        table.add_row("", "", words, memory, _unit(one["utilisation"], " %"), "", "")
    for part in device["parts"]:
        who = " ".join(filter(None, [_whose(part), part["lab"] and f"({part['lab']})"]))
        table.add_row("", "", plain(who), _memory(part["memory"]), _unit(part["utilisation"], " %"), "", "")
    on = {(part["learner"], part["server"]) for part in device["parts"]}
    for holder in device["holders"]:
        if (holder["learner"], holder["server"]) not in on:
            table.add_row("", "", Text(f"{plain(_whose(holder))} holds it", "yellow"), "nothing", "", "", "")
    machine = device["machine"]
    if machine["processes"]:
        count = "1 process" if machine["processes"] == 1 else f"{machine['processes']} processes"
        words = Text(f"no learner ({count})", "dim")
        table.add_row("", "", words, _memory(machine["memory"]), _unit(machine["utilisation"], " %"), "", "")
    if device["unattributed"]:
        table.add_row("", "", Text("unattributed", "dim"), _memory(device["unattributed"]), "", "", "")


def _whose(one: Data) -> str:
    return f"{one['learner']}/{one['server']}" if one["server"] else str(one["learner"])


def _event(index: int, event: Data) -> Text:
    when = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    well = " The GPU itself is well." if event["application"] else ""
    return Text(f"GPU {index}, {when}, Xid {event['xid']}: {plain(event['meaning'])}{well}", "yellow")


def _idle(one: Data, devices: Iterable[Data]) -> Text:
    name = next((f"GPU {device['index']}" for device in devices if device["uuid"] == one["device"]), one["device"])
    return Text(f"{plain(_whose(one))} has not used {name} for {one['seconds'] / 60:.0f} min.", "yellow")


def _memory(used: int | None, total: int | None = None) -> str:
    if used is None:
        return "-"
    return f"{used / (1 << 30):.1f} GiB" if total is None else f"{used / (1 << 30):.1f} of {total / (1 << 30):.1f} GiB"


def line_view(line: Data) -> RenderableType:
    """One finding of the doctor, with the remedy below it."""
    first = Text.assemble(_mark(line["status"]), f" {line['name']}: ", plain(line["value"]))
    return Group(first, _below(line["remedy"])) if line["remedy"] else first


def doctor_view(lines: Iterable[Data]) -> RenderableType:
    """The doctor's last word."""
    states = [line["status"] for line in lines]
    failed, warnings = states.count("failed"), states.count("warning")
    if failed:
        return Text(f"{failed} failed, {warnings} warnings. Follow the remedies above, then run it again.", "red")
    unseen = states.count("unseen")
    elsewhere = f" {unseen} could not be seen from here; the commands above tell." if unseen else ""
    return Text((f"Nothing failed, {warnings} warnings." if warnings else "All is well.") + elsewhere, "green")


def _complaints(lab: Data) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for exercise in lab["exercises"]:
        for proof in exercise["proofs"]:
            if not proof["ok"]:
                what = {"reference": "the reference solution", "blank": "the blank notebook"}.get(
                    proof["kind"], f"mistake {proof['name']!r}"
                )
                head = f" {lab['slug']}/{exercise['name']}: {what} ended as {proof['outcome']!r}"
                head += f" where {proof['expected']!r} is right" if proof["outcome"] != proof["expected"] else ""
                parts.append(Text.assemble(_mark("failed"), f"{head} (seed {proof['seed']})."))
                parts += [_below(text) for text in (proof["message"], proof["remedy"]) if text]
    parts += [Text.assemble(_mark("failed"), f" {lab['slug']}: ", plain(problem)) for problem in lab["problems"]]
    return parts


def _tally(proofs: Iterable[Data], kind: str) -> Text:
    """``3/3``: how many proofs of this kind hold; what was skipped for want of a GPU is said."""
    found = [proof for proof in proofs if proof["kind"] == kind]
    good = sum(proof["ok"] for proof in found)
    skipped = sum(proof["outcome"] == "skipped" for proof in found)
    text = Text(f"{good}/{len(found)}", "green" if found and good == len(found) else "red")
    return text.append(f" ({skipped} skipped)", "yellow") if skipped else text


def _mark(state: str) -> tuple[str, str]:
    return _MARKS.get(state, ("✗", "red"))


def _colour(state: str) -> str:
    return _mark(state)[1]


def _unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:g}{unit}"


def _below(text: str, style: str = "") -> RenderableType:
    return Padding(Text(plain(text), style), (0, 0, 0, 4))
