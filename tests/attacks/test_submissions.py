"""Attacks by the notebook itself: too much to parse, no notebook at all, tampered with, or full of IPython.

Nothing of a notebook is run before its answers are cut out, so most of this needs no sandbox.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checker.engine import Assignment, NotebookError
from checker.extract import extract, read_notebook
from tests.attacks.campaign import Campaign
from tests.attacks.lab import RIGHT, attacked_lab, attacks_notebook, notebook

GOOD = "def energy_0(x):\n    return (x * x).sum()"
_HEAD = b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": '

# Rows 29 and 33: what is refused as a whole, and with which words.
REFUSED = {
    "deep JSON": (_HEAD + b"[" * 100_000, "is not valid JSON (RecursionError)"),
    "a number of 100 000 digits": (_HEAD + b"[" + b"9" * 100_000 + b"]}", "is not valid JSON (ValueError)"),
    "bytes that are no text": (b"\xff\xfe\xfd", "is not valid JSON (UnicodeDecodeError)"),
    "a pickle": (b"\x80\x04\x95\x0e\x00\x00\x00.", "is not valid JSON"),
    "a hundred thousand cells": (notebook(*["x"] * 100_000), "100000 cells, more than 2000"),
    "a list": (b"[]", "no notebook of format 4"),
    "cells that are none": (_HEAD + b'{"source": "x"}}', "no notebook of format 4"),
    "not a number": (_HEAD + b"[NaN, Infinity, -Infinity, null]}", "no exercise of this lab"),
    "the same key twice": (_HEAD + b'[], "cells": [1]}', "no exercise of this lab"),
}
# Rows 29 and 32: one odd cell, before and after a right answer, hurts nothing.
ODD = {
    "deep expression": "x = " + "(" * 100_000,
    "deep expression that closes": "x = " + "[" * 5_000 + "]" * 5_000,
    "deep unary": "x = " + "-" * 100_000 + "1",
    "deep lambda": "x = " + "lambda:" * 50_000 + "1",
    "long sum": "x = " + "1+" * 50_000 + "1",
    "long chain": "x = a" + ".b" * 50_000,
    "many calls": "x = a" + "()" * 50_000,
    "deep blocks": "".join(" " * depth + "if a:\n" for depth in range(99)) + " " * 100 + "pass",
    "a number of 100 000 digits": "x = " + "9" * 100_000,
    "NUL": "x = '\0'",
    "a lone surrogate": "x = '\ud800'",
    "line ends of all kinds": "x=1\r\ny=2\rz=3\x0cw=4\x0b\u2028v=5",
    "nothing but backslashes": "\\\n" * 50_000,
    "a shell": "%%bash\ntouch @EXPLODED@; echo LEAK",
    "shell and magic lines": "!touch @EXPLODED@\n%run evil.py\n%load_ext evil\n?energy_0",
    "IPython's own hooks": "get_ipython().system('touch @EXPLODED@')\nget_ipython().events.register('x', 1)",
    "a line of question marks": "a" * 200_000 + "???",
    "spaces without end": " " * 200_000 + "def (",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_notebook_is_refused_at_once(name: str) -> None:
    data, says = REFUSED[name]
    with pytest.raises(NotebookError) as refused:
        read_notebook(data, ["energy_0"])
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_cell_neither_hurts_an_answer_nor_holds_up_the_server(name: str, tmp_path: Path) -> None:
    template = read_notebook(attacked_lab(tmp_path, 1).template.encode(), ["energy_0"])
    exploded = tmp_path / "exploded"
    odd = ODD[name].replace("@EXPLODED@", str(exploded))
    for cells in ((odd, GOOD), (GOOD, odd)):
        started = time.process_time()
        program = extract(read_notebook(notebook(*cells), ["energy_0"]), "energy_0", ("energy_0",), template)
        assert (program.state, [s.source for s in program.segments]) == ("ready", [GOOD])
        assert time.process_time() - started < 5
    assert not exploded.exists()


def test_blank_lines_in_a_cell_that_is_no_python_take_no_time() -> None:
    started = time.process_time()
    read_notebook(notebook(GOOD, "\n" * 8_000 + "def ("), ["energy_0"])
    parsed = read_notebook(notebook(GOOD, "\n" * 8_000 + "def ("), ["energy_0"])
    extract(parsed, "energy_0", ("energy_0",), parsed)
    assert time.process_time() - started < 5


def tampered(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(notebook("import torch", RIGHT.replace("energy", "energy_0"), "energy_1 = 5"))
    change(document)
    return json.dumps(document).encode()


def _points(document: dict[str, Any]) -> None:
    document["metadata"] = {"gradlab": {"lab": "attacked", "points": 100}, "kernelspec": {"name": "evil"}}
    for cell in document["cells"]:
        cell["metadata"] = {"exercise": "energy_1", "points": 100, "tags": ["parameters", "injected-parameters"]}


def _injected(document: dict[str, Any]) -> None:
    evil = "job = '\"; raise SystemExit #'\nseed = 0\ncheck = student = draw = None"
    document["cells"].insert(0, {"cell_type": "code", "source": evil, "metadata": {"tags": ["parameters"]}})
    document["metadata"]["papermill"] = {"parameters": {"job": "/etc/passwd"}, "input_path": "/etc/passwd"}


def _own_tests(document: dict[str, Any]) -> None:
    own = "from checker.spec import begin\ncheck, student, draw = begin('x')\n@check('energy_1')\ndef passes(): pass"
    document["cells"].append({"cell_type": "code", "source": own, "metadata": {"deletable": False}})


def _copies(document: dict[str, Any]) -> None:
    document["cells"] = [{**cell, "id": "same"} for cell in document["cells"][::-1] * 3]


@pytest.mark.parametrize("change", [_points, _injected, _own_tests, _copies])
def test_tampering_with_cells_changes_no_point(
    change: Callable[[dict[str, Any]], None], campaign: Campaign, tmp_path: Path
) -> None:
    """Rows 32 and 33: answers are found by name; points, checks and parameters come from the course alone."""
    lab: Assignment = attacked_lab(tmp_path, 2, seconds=[30, 30])
    verdict = campaign.judge.check(lab, tampered(change), seed=3)
    assert [result.points for result in verdict.results] == [3, 0], verdict
    assert [result.max_points for result in verdict.results] == [3, 3]


def test_magics_and_shells_of_a_notebook_are_not_run(campaign: Campaign, tmp_path: Path) -> None:
    marks = f"!touch {campaign.exploded}\n%%bash\ntouch {campaign.exploded}\n"
    cells = json.loads(attacks_notebook([RIGHT]))
    cells["cells"].insert(0, {"cell_type": "code", "source": marks, "metadata": {}})
    cells["cells"].append({"cell_type": "code", "source": f"%%bash\ntouch {campaign.exploded}", "metadata": {}})
    lab = attacked_lab(tmp_path, 1, seconds=[30])
    assert campaign.judge.check(lab, json.dumps(cells).encode(), seed=3).passed
    assert not campaign.exploded.exists()
