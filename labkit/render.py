"""Verdicts and hints as HTML and as plain text: pure functions of plain data.

Everything in a verdict may have been chosen by someone's code: it is escaped, stripped of terminal codes and cut to a
length that keeps a notebook usable. The HTML uses no script and no class; its colours are JupyterLab's own variables,
so it follows the theme, with fallbacks for pages without them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "BAD",
    "GOOD",
    "LINE",
    "QUIET",
    "WARN",
    "block",
    "clean",
    "escape",
    "hint_html",
    "hint_text",
    "note_html",
    "prose",
    "quiet",
    "verdict_html",
    "verdict_text",
]

MAX_LINES = 40
MAX_CHARACTERS = 6000

GOOD = "var(--jp-success-color1, #2e7d32)"
BAD = "var(--jp-error-color1, #c62828)"
WARN = "var(--jp-warn-color1, #b26a00)"
QUIET = "var(--jp-ui-font-color2, #757575)"
LINE = "var(--jp-border-color2, #d0d0d0)"
_FONT = "font-family: var(--jp-ui-font-family, sans-serif); font-size: var(--jp-content-font-size1, 14px)"
_CODE = "font-family: var(--jp-code-font-family, monospace); font-size: var(--jp-code-font-size, 13px)"

# Outcome → its sign, its colour, and what it means where the verdict itself does not say.
_OUTCOMES: dict[str, tuple[str, str, str]] = {
    "passed": ("✓", GOOD, ""),
    "failed": ("✗", BAD, ""),
    "not attempted": ("○", QUIET, "There is no answer yet: the stub is as it came."),
    "skipped": ("↷", QUIET, "It was not judged."),
    "error in your code": ("!", BAD, ""),
    "timed out": ("◷", WARN, "It took longer than the time limit."),
    "out of memory": ("▲", WARN, "It needed more memory than the limit."),
    "killed": ("■", WARN, "It was ended from outside."),
    "our fault": ("?", WARN, "The judge itself failed. You lose no points; check again, and tell your instructor."),
}
_UNKNOWN = ("·", QUIET, "")

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Control characters, and those that reorder or hide text.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def clean(text: str) -> str:
    """Text without terminal codes and invisible characters, cut to MAX_LINES and MAX_CHARACTERS, and saying so."""
    text = _HIDDEN.sub("", _TERMINAL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    cut = text[:MAX_CHARACTERS]
    lines = cut.splitlines()
    kept = "\n".join(lines[:MAX_LINES])
    if len(kept) < len(text.rstrip("\n")):
        kept += f"\n… {len(text) - len(kept)} more characters left out"
    return kept


def verdict_html(
    verdict: Mapping[str, Any], answers: Mapping[str, Mapping[str, str]] | None = None, remarks: Sequence[str] = ()
) -> str:
    """The verdict of one check as a block of HTML; ``answers`` are the interview answers of exercises that passed."""
    results = verdict["results"]
    single = len(results) == 1
    parts = [_heading(verdict)] if not single else []
    parts += [_exercise_html(result, (answers or {}).get(result["exercise"]), open_=single) for result in results]
    parts += [quiet(remark) for remark in (*remarks, f"Judged in {verdict['seconds']:.2f} s.")]
    return block("".join(parts), _tone(results))


def verdict_text(
    verdict: Mapping[str, Any], answers: Mapping[str, Mapping[str, str]] | None = None, remarks: Sequence[str] = ()
) -> str:
    """The same for terminals and for reading a notebook's source."""
    lines = []
    if len(verdict["results"]) != 1:
        lines.append(_summary(verdict))
    for result in verdict["results"]:
        lines += _exercise_text(result, (answers or {}).get(result["exercise"]))
    return "\n".join([*lines, *(clean(remark) for remark in remarks), f"Judged in {verdict['seconds']:.2f} s."])


def hint_html(exercise: str, number: int, of: int, hint: str) -> str:
    """One hint, which one it is, and how to get the next."""
    head = f"<b>{escape(exercise)}</b> · hint {number} of {of}"
    more = _next_hint(exercise, number, of)
    return block(f'<div>{head}</div><div style="margin: 4px 0">{prose(hint)}</div>{quiet(more)}')


def hint_text(exercise: str, number: int, of: int, hint: str) -> str:
    return f"{clean(exercise)} · hint {number} of {of}\n{clean(hint)}\n{_next_hint(exercise, number, of)}"


def note_html(sentence: str) -> str:
    """A quiet line, for progress."""
    return block(quiet(sentence))


# -- parts -------------------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Cleaned text as HTML."""
    return html.escape(clean(text))


def prose(text: str) -> str:
    """Escaped text with paragraphs, line ends and `code` kept."""
    escaped = escape(text.strip())
    coded = re.sub(r"`([^`\n]+)`", rf'<code style="{_CODE}">\1</code>', escaped)
    return "<br><br>".join(part.replace("\n", "<br>") for part in re.split(r"\n\s*\n", coded))


def _preformatted(text: str) -> str:
    style = f"{_CODE}; white-space: pre-wrap; overflow-wrap: anywhere; margin: 2px 0 0"
    return f'<pre style="{style}">{escape(text)}</pre>'


def block(content: str, tone: str = LINE) -> str:
    """One output: HTML in the page's fonts, with an edge of the colour ``tone``."""
    style = f"{_FONT}; line-height: 1.45; color: var(--jp-content-font-color1, inherit); max-width: 60em"
    edge = f"border-left: 3px solid {tone}; padding: 2px 0 2px 12px; margin: 2px 0"
    return f'<div style="{style}; {edge}">{content}</div>'


def quiet(sentence: str) -> str:
    """A line that is beside the point."""
    return f'<div style="color: {QUIET}">{prose(sentence)}</div>'


def _under(text: str) -> str:
    return f'<div style="margin-left: 1.3em; overflow-wrap: anywhere">{prose(text)}</div>' if text else ""


def _tone(results: Iterable[Mapping[str, Any]]) -> str:
    outcomes = {result["outcome"] for result in results}
    if outcomes == {"passed"}:
        return GOOD
    return BAD if outcomes & {"failed", "error in your code"} else QUIET


def _points(points: int, of: int) -> str:
    return f"{points} of {of} {'point' if of == 1 else 'points'}"


def _scored(*results: Mapping[str, Any]) -> str:
    """The points of these results; what is our fault scores nothing, which is not zero."""
    counted = [result for result in results if result["outcome"] != "our fault"]
    if not counted:
        return "not scored"
    return _points(sum(result["points"] for result in counted), sum(result["max_points"] for result in counted))


def _summary(verdict: Mapping[str, Any]) -> str:
    results = verdict["results"]
    passed = sum(result["outcome"] == "passed" for result in results)
    faults = sum(result["outcome"] == "our fault" for result in results)
    beside = f", {faults} not scored" if 0 < faults < len(results) else ""
    return f"{clean(str(verdict['lab']))}: {passed} of {len(results)} exercises passed, {_scored(*results)}{beside}"


def _heading(verdict: Mapping[str, Any]) -> str:
    return f'<div style="margin-bottom: 4px"><b>{escape(_summary(verdict))}</b></div>'


def _exercise_html(result: Mapping[str, Any], answer: Mapping[str, str] | None, *, open_: bool) -> str:
    sign, colour, meaning = _OUTCOMES.get(result["outcome"], _UNKNOWN)
    head = (
        f'<span style="color: {colour}; font-weight: bold">{sign} {escape(result["outcome"])}</span>'
        f" · <b>{escape(result['exercise'])}</b>"
        f' <span style="color: {QUIET}">· {_scored(result)}</span>'
    )
    # In a list "not attempted" needs no more words.
    told = _own_message(result) or ("" if result["outcome"] == "not attempted" and not open_ else meaning)
    body = _message_html(told)
    body += "".join(_check_html(line) for line in result["checks"])
    if result["output"].strip():
        body += quiet("Your code printed:") + _preformatted(result["output"])
    if answer is not None:
        body += _answer_html(answer)
    if not body:
        return f"<div>{head}</div>"
    inner = f'<div style="margin: 2px 0 6px 1.2em">{body}</div>'
    if open_:
        return f"<div>{head}</div>{inner}"
    unfolded = " open" if result["outcome"] not in ("passed", "not attempted", "skipped") else ""
    return f'<details{unfolded}><summary style="cursor: pointer">{head}</summary>{inner}</details>'


def _own_message(result: Mapping[str, Any]) -> str:
    """What is said about the exercise as a whole: not what one of its checks says again."""
    message: str = result["message"]
    return "" if message in {check["message"] for check in result["checks"]} else message


def _message_html(message: str) -> str:
    return f'<div style="overflow-wrap: anywhere">{prose(message)}</div>' if message else ""


def _check_html(line: Mapping[str, Any]) -> str:
    sign, colour, _ = _OUTCOMES.get(line["outcome"], _UNKNOWN)
    words = "" if line["outcome"] in ("passed", "failed") else f" ({escape(line['outcome'])})"
    mark = f'<span style="color: {colour}" title="{escape(line["outcome"])}">{sign}</span>'
    return f"<div>{mark} {prose(line['title'])}{words}</div>{_under(line['message'])}"


def _answer_html(answer: Mapping[str, str]) -> str:
    follow_up = answer.get("follow_up", "")
    style = f"margin-top: 6px; padding-top: 6px; border-top: 1px solid {LINE}"
    asks = f'<div style="margin-top: 4px"><b>They may go on:</b> {prose(follow_up)}</div>' if follow_up else ""
    return f'<div style="{style}"><b>In the interview:</b> {prose(answer["answer"])}{asks}</div>'


def _exercise_text(result: Mapping[str, Any], answer: Mapping[str, str] | None) -> list[str]:
    sign, _, meaning = _OUTCOMES.get(result["outcome"], _UNKNOWN)
    lines = [f"{sign} {clean(result['outcome'])} · {clean(result['exercise'])} · {_scored(result)}"]
    lines += _indented(_own_message(result) or meaning, 2)
    for check in result["checks"]:
        lines += _indented(f"{_OUTCOMES.get(check['outcome'], _UNKNOWN)[0]} {check['title']}", 2)
        lines += _indented(check["message"], 4)
    if result["output"].strip():
        lines += ["  Your code printed:", *_indented(result["output"], 4)]
    if answer is not None:
        lines += _indented(f"In the interview: {answer['answer']}", 2)
        if answer.get("follow_up"):
            lines += _indented(f"They may go on: {answer['follow_up']}", 2)
    return lines


def _indented(text: str, width: int) -> list[str]:
    return [" " * width + line for line in clean(text.strip("\n")).splitlines()] if text else []


def _next_hint(exercise: str, number: int, of: int) -> str:
    if number >= of:
        return "That was the last one."
    return f'Run lab.hint("{clean(exercise)}") again for the next.'
