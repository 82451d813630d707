"""What the command line shows: pure functions from result data (what ``--json`` prints) to something Rich can print.

Learner code chooses some of the text, so nothing here is read as markup, and control characters are shown, not sent.
"""

from __future__ import annotations

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


def gpu_view(reading: Data) -> RenderableType:
    """A GPU reading as a table, or the sentence that says why there is none."""
    if not reading["available"]:
        return Text(reading["message"])
    table = Table("GPU", "Name", "Memory", "Use", "Temperature", "Power", title=f"Driver {reading['driver_version']}")
    for device in reading["devices"]:
        used, total = device["memory_used"], device["memory_total"]
        memory = "-" if used is None or total is None else f"{used / (1 << 30):.1f} of {total / (1 << 30):.1f} GiB"
        table.add_row(
            str(device["index"]),
            device["name"] or "-",
            memory,
            _unit(device["utilisation"], " %"),
            _unit(device["temperature"], " °C"),
            _unit(device["power"], " W"),
        )
    errors = [Text(f"GPU {d['index']}: {d['error']}", "red") for d in reading["devices"] if d["error"]]
    messages = [Text(reading["message"], "yellow")] if reading["message"] else []
    return Group(table, *errors, *messages)


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
