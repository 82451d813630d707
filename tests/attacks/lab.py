"""The lab that is attacked: exercises ``energy_0``, ``energy_1``, … with hidden checks, and notebooks for it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

from checker.engine import Assignment, Task
from checker.extract import Segment, extract, read_notebook

__all__ = ["MARKER", "RIGHT", "attacked_lab", "attacks_notebook", "notebook", "strays"]

MARKER = "hidden-reference"
HEAD = f"""
# %% tags=["parameters"]
job = ""

# %%
from checker.spec import Failure, begin

check, student, draw = begin(job)
SECRET_OF_THE_CHECKER = "{MARKER}"
"""
CHECKS = {
    "energy": '''
# %%
@check("NAME")
def sums_squares():
    """The sum of the squares of all elements."""
    for rank in range(1, 4):
        x = draw.tensor(*draw.shape(rank, low=2))
        student.NAME(x).is_close((x * x).sum())

# %%
@check("NAME")
def leaves_its_argument_alone():
    """The argument is left as it was."""
    x = draw.tensor(3, 4)
    student.NAME(x).left_alone(x)
''',
    "layer": '''
# %%
@check("NAME")
def maps():
    """The layer computes an affine map with the parameters it has."""
    layer = student.make("NAME", 3, 2)
    if {name: fact.shape for name, fact in layer.parameters().items()} != {"weight": (2, 3), "bias": (2,)}:
        raise Failure("The layer has other parameters than weight and bias.")
    values, x = layer.draw_parameters(draw), draw.tensor(4, 3)
    if layer.state_dict().keys() != values.keys():
        raise Failure("The layer's state has other names than its parameters.")
    layer.weight.get().is_close(values["weight"])
    layer(x).is_close(x @ values["weight"].T + values["bias"])
''',
}
RIGHT = "def energy(x):\n    return (x * x).sum()"


def notebook(*cells: str) -> bytes:
    rows = [{"cell_type": "code", "source": cell, "metadata": {}, "id": f"c{i}"} for i, cell in enumerate(cells)]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": rows}).encode()


def attacked_lab(
    folder: Path, count: int, *, seconds: Sequence[float] = (), kinds: Sequence[str] = (), needs: str = ""
) -> Assignment:
    """An assignment of ``count`` exercises: by default all of the kind "energy", and with 30 s each.

    ``needs`` is the exercise that the last one builds on.
    """
    names = [f"energy_{i}" for i in range(count)]
    folder.mkdir(exist_ok=True)
    checks = folder / "checks.py"
    texts = [CHECKS[kind].replace("NAME", name) for name, kind in zip(names, kinds or ["energy"] * count, strict=True)]
    checks.write_text(HEAD + "".join(texts))
    stubs = [f"def {name}(x):\n    raise NotImplementedError" for name in names]
    tasks = [
        Task(name, 3, (name,), seconds=limit, needs=(needs,) if needs and name == names[-1] else ())
        for name, limit in zip(names, seconds or [30.0] * count, strict=True)
    ]
    return Assignment("attacked", tuple(tasks), notebook("import torch", *stubs).decode(), checks)


def attacks_notebook(sources: Sequence[str]) -> bytes:
    """The learner's notebook in which exercise N is the Nth source.

    Its ``energy`` is renamed, and so are the names that begin with ``my_``: sources share a notebook, and the last
    definition of a name counts for all of them.
    """
    head = "import torch\nfrom torch import nn"
    return notebook(head, *(_numbered(source, number) for number, source in enumerate(sources)))


def strays(sources: Sequence[str], number: int) -> tuple[list[str], list[str]]:
    """What of the Nth source is not run for its exercise, and what of the others is; both should be empty.

    Only what ``energy`` depends on is run. Imports of the others do no harm.
    """
    cell = number + 2
    name = f"energy_{number}"
    parsed = read_notebook(attacks_notebook(sources), [name])
    run = extract(parsed, name, (name,), read_notebook(notebook(f"{name} = None"), [name])).segments
    own = [statement.segment for statement in parsed.statements if statement.segment.cell == cell]
    foreign = [segment for segment in run if segment.cell not in (1, cell) and not _imports(segment)]
    return [segment.source for segment in own if segment not in run], [segment.source for segment in foreign]


def _numbered(source: str, number: int) -> str:
    return re.sub(r"\bmy_", f"my_{number}_", source.replace("energy", f"energy_{number}"))


def _imports(segment: Segment) -> bool:
    return isinstance(ast.parse(segment.source).body[0], ast.Import | ast.ImportFrom)
