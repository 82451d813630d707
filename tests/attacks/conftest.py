"""One judge for all attacks of a test process; each attack is an exercise of its own, ``energy_N``."""

import json

import pytest

from checker.engine import Assignment, Judge, JudgeConfig, Task
from checker.sandbox.confinement import detect

HEAD = """
# %% tags=["parameters"]
job = ""

# %%
from checker.spec import begin

check, student, draw = begin(job)
SECRET_OF_THE_CHECKER = "hidden-reference"
"""
ENERGY = '''
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
'''
RIGHT = "def energy(x):\n    return (x * x).sum()"


def notebook(*cells):
    rows = [{"cell_type": "code", "source": cell, "metadata": {}, "id": f"c{i}"} for i, cell in enumerate(cells)]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": rows}).encode()


def attacked_lab(folder, count):
    """An assignment of ``count`` exercises named energy_0, energy_1, …, all with the same two checks."""
    names = [f"energy_{i}" for i in range(count)]
    folder.mkdir(exist_ok=True)
    checks = folder / "checks.py"
    checks.write_text(HEAD + "".join(ENERGY.replace("NAME", name) for name in names))
    stubs = [f"def {name}(x):\n    raise NotImplementedError" for name in names]
    tasks = tuple(Task(name, 3, (name,), seconds=2) for name in names)
    return Assignment("attacked", tasks, notebook("import torch", *stubs).decode(), checks)


def attacks_notebook(sources):
    """The learner's notebook in which exercise N is the Nth source, its ``energy`` renamed."""
    return notebook("import torch", *(source.replace("energy", f"energy_{i}") for i, source in enumerate(sources)))


@pytest.fixture(scope="session")
def judge():
    judge = Judge(JudgeConfig(sandbox=detect("auto"), pool=1, memory_mb=1024, processes=24, scratch_mb=8, output_kb=64))
    judge.warm()
    yield judge
    judge.close()


@pytest.fixture(scope="session")
def verdicts(judge, tmp_path_factory):
    """Judge many attacks in one notebook; between two of them stands a right answer, which must pass every time."""

    def run(sources):
        pairs = [text for source in sources for text in (source, RIGHT)]
        lab = attacked_lab(tmp_path_factory.mktemp("lab") / "x", len(pairs))
        verdict = judge.check(lab, attacks_notebook(pairs), seed=11)
        for index in range(1, len(pairs), 2):
            assert verdict.results[index].outcome == "passed", (sources[index // 2], verdict.results[index])
        return verdict.results[0::2]

    return run
