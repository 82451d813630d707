"""A small but complete course on disk, for tests that need one: one lab, ``tensors``, with two exercises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gradlab.course import Course

__all__ = ["CourseFolder", "write_course"]

QUESTIONS = """
[[topic]]
slug = "environment"
title = "What you are running"
order = 1
summary = "No lab yet, so nobody has to answer its question."
prerequisites = []
gpu = "no"

[[topic]]
slug = "tensors"
title = "Tensors"
order = 4
summary = "Rank and doubling."
prerequisites = ["environment"]
gpu = "no"

[[question]]
id = "q001"
asks = "What is PyTorch?"
topic = "environment"
shows = "Read the version."
gpu = "no"
myth = "It is a game."
truth = "It is a tensor library."

[[question]]
id = "q010"
asks = "What is the rank of a tensor?"
topic = "tensors"
shows = "Count dimensions."
gpu = "no"
myth = "The rank is the number of elements."
truth = "The rank is the number of dimensions."

[[question]]
id = "q011"
asks = "How do you double a tensor?"
topic = "tensors"
shows = "Multiply by two."
gpu = "no"
myth = "You need a loop."
truth = "Arithmetic is elementwise."
"""

NOTEBOOK = '''# %% [markdown]
# # Tensors
#
# Two questions about tensors.

# %%
import torch

# %% [markdown]
# ## What is the rank of a tensor?

# %% exercise="rank_of"
def rank_of(x: torch.Tensor) -> int:
    """The number of dimensions of x. Roughly 1 line."""
    raise NotImplementedError("Write rank_of.")

# %%
lab.check("rank_of")

# %% exercise="double"
def double(x: torch.Tensor) -> torch.Tensor:
    """Twice x, elementwise. Roughly 1 line."""
    raise NotImplementedError("Write double.")

# %%
lab.check("double")
'''

EXERCISES = """
[[exercise]]
name = "rank_of"
title = "Rank"
points = 2
questions = ["q010"]
defines = ["rank_of"]
hints = ["Count the dimensions.", "Tensors have .ndim."]
answer = "The rank is the number of dimensions."
follow_up = "What is the rank of a scalar?"

[[exercise]]
name = "double"
title = "Doubling"
points = 3
questions = ["q011"]
defines = ["double"]
needs = ["rank_of"]
hints = ["Arithmetic is elementwise.", "Multiply by 2."]
answer = "Arithmetic on tensors is elementwise."
"""

SOLUTION = """# %%
import torch

TWO = 2

# %% exercise="rank_of"
def rank_of(x: torch.Tensor) -> int:
    return x.ndim

# %% exercise="double"
def double(x: torch.Tensor) -> torch.Tensor:
    return TWO * x
"""

CHECKS = """# %% tags=["parameters"]
job = ""

# %%
from checker.spec import begin
check, student, draw = begin(job)

# %%
@check("rank_of")
def counts_dimensions():
    "A tensor is answered with its number of dimensions."
    for rank in range(1, 5):
        x = draw.tensor(*draw.shape(rank, low=2))
        student.rank_of(x).equals(rank, diagnose={"That is the number of elements.": x.numel()})

# %%
@check("double")
def doubles_every_element():
    "Every element is doubled."
    x = draw.tensor(3, 4, low=3.0, high=9.0)
    student.double(x).is_close(2 * x, diagnose={"That squares the elements.": x * x, "That halves them.": x / 2})
"""

MISTAKES = {
    "rank_elements": """# exercise: rank_of
# outcome: failed
# says: That is the number of elements.
def rank_of(x):
    return x.numel()
""",
    "rank_raises": """# exercise: rank_of
# outcome: error in your code
# says: ZeroDivisionError
def rank_of(x):
    return 1 // 0
""",
    "double_square": """# exercise: double
# outcome: failed
# says: That squares the elements.
def double(x):
    return x * x
""",
    "double_half": """# exercise: double
# outcome: failed
# says: That halves them.
def double(x):
    return x / 2
""",
}


@dataclass(frozen=True)
class CourseFolder:
    """The two folders of a course; change files in them, then ``load()``."""

    labs: Path
    checks: Path

    @property
    def hidden(self) -> Path:
        """The hidden half of the one lab, ``tensors``."""
        return self.checks / "04_tensors"

    def load(self) -> Course:
        return Course.load(self.labs, self.checks)


def write_course(folder: Path) -> CourseFolder:
    """Write the course under ``folder`` and say where its halves are."""
    course = CourseFolder(labs=folder / "labs", checks=folder / "checks")
    (course.hidden / "mistakes").mkdir(parents=True)
    course.labs.mkdir()
    (course.labs / "questions.toml").write_text(QUESTIONS)
    (course.labs / "04_tensors.py").write_text(NOTEBOOK)
    for name, text in (("exercises.toml", EXERCISES), ("checks.py", CHECKS), ("solution.py", SOLUTION)):
        (course.hidden / name).write_text(text)
    for name, text in MISTAKES.items():
        (course.hidden / "mistakes" / f"{name}.py").write_text(text)
    return course
