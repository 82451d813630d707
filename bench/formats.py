"""One lab, written once, in the formats of all the tools that are compared.

Each file of ``bench/labs`` is an exercise: the question, the stub, a right and a wrong answer, and the tests, which are
functions of the learner's function. The tests go into every format letter for letter; only what calls them differs.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

__all__ = [
    "LAB",
    "STEM",
    "Exercise",
    "Test",
    "answers",
    "exercises",
    "learner",
    "nbgrader",
    "otter",
    "papermill",
    "write_course",
]

LABS = Path(__file__).with_name("labs")
# In the order in which they stand in the notebook.
NAMES = ("softmax", "convolution", "gradient_step", "lstm")
LAB = "bench"
STEM = "01_bench"
POINTS = 1
_IMPORT = "import torch"


@dataclass(frozen=True)
class Test:
    """A function that takes the learner's function and asserts; its docstring is what it promises."""

    name: str
    title: str
    source: str


@dataclass(frozen=True)
class Exercise:
    """One exercise; ``function`` is the name that the learner defines."""

    function: str
    question: str
    stub: str
    solution: str
    mistake: str
    tests: tuple[Test, ...]

    @property
    def title(self) -> str:
        return self.question.splitlines()[0].lstrip("# ")


def exercises(folder: Path = LABS) -> tuple[Exercise, ...]:
    """The four exercises in order. ValueError names the file and the part that is missing or there twice."""
    return tuple(_exercise(folder / f"{name}.py") for name in NAMES)


def answers(lab: Sequence[Exercise], wrong: str | None = None) -> dict[str, str]:
    """The right answer to each exercise by the function's name; a mistake for ``wrong``. KeyError if there is none."""
    found = {exercise.function: exercise.solution for exercise in lab}
    if wrong is not None:
        found[wrong] = {exercise.function: exercise.mistake for exercise in lab}[wrong]
    return found


def learner(lab: Sequence[Exercise], given: Mapping[str, str]) -> NotebookNode:
    """The learner's notebook with these answers, without anything that a tool adds."""
    cells = [_code(_IMPORT)]
    for exercise in lab:
        cells += [_text(exercise.question), _code(given[exercise.function])]
    return _notebook(cells)


def papermill(lab: Sequence[Exercise], given: Mapping[str, str]) -> NotebookNode:
    """The learner's notebook with the tests as cells at its end."""
    notebook = learner(lab, given)
    notebook.cells += [_code(_called(exercise, test)) for exercise in lab for test in exercise.tests]
    return _numbered(notebook)


def nbgrader(lab: Sequence[Exercise]) -> NotebookNode:
    """The instructor's version, from which ``nbgrader generate_assignment`` makes the learner's."""
    cells = [_code(_IMPORT)]
    for exercise in lab:
        solution = f"### BEGIN SOLUTION\n{exercise.solution}\n### END SOLUTION"
        tests = "\n\n".join(_called(exercise, test) for test in exercise.tests)
        hidden = f"### BEGIN HIDDEN TESTS\n{tests}\n### END HIDDEN TESTS"
        cells += [
            _text(exercise.question),
            _code(solution, nbgrader=_mark(exercise.function, solution=True)),
            _code(hidden, nbgrader=_mark(f"test_{exercise.function}", grade=True, locked=True, points=POINTS)),
        ]
    return _notebook(cells)


def otter(lab: Sequence[Exercise]) -> NotebookNode:
    """The instructor's version, from which ``otter assign`` makes the autograder's archive."""
    settings = "requirements: null\ninit_cell: false\ncheck_all_cell: false\nexport_cell: false"
    tests_ok = "tests:\n  ok_format: false"
    cells = [_raw(f"# ASSIGNMENT CONFIG\n{settings}\n{tests_ok}"), _code(_IMPORT)]
    for exercise in lab:
        cells += [
            _raw(f"# BEGIN QUESTION\nname: {exercise.function}\npoints: {POINTS}"),
            _text(exercise.question),
            _raw("# BEGIN SOLUTION"),
            _code(f"# BEGIN SOLUTION\n{exercise.solution}\n# END SOLUTION"),
            _raw("# END SOLUTION"),
            _raw("# BEGIN TESTS"),
            *(_code(f"{_OTTER_HIDDEN}\n{test.source}\n\n{_call(exercise, test)}  # IGNORE") for test in exercise.tests),
            _raw("# END TESTS"),
            _raw("# END QUESTION"),
        ]
    return _notebook(cells)


def write_course(folder: Path, lab: Sequence[Exercise]) -> tuple[Path, Path]:
    """Write the lab as a course of Gradlab under ``folder``; its folders of labs and of checks."""
    labs, checks = folder / "labs", folder / "checks"
    hidden = checks / STEM
    labs.mkdir(parents=True)
    hidden.mkdir(parents=True)
    (labs / "questions.toml").write_text(_catalogue(lab), encoding="utf-8")
    (labs / f"{STEM}.py").write_text(_gradlab_notebook(lab), encoding="utf-8")
    (hidden / "exercises.toml").write_text(_exercise_list(lab), encoding="utf-8")
    (hidden / "checks.py").write_text(_gradlab_checks(lab), encoding="utf-8")
    (hidden / "solution.py").write_text(_gradlab_solution(lab), encoding="utf-8")
    return labs, checks


# -- reading -----------------------------------------------------------------------------------------------------------


def _exercise(path: Path) -> Exercise:
    parts: dict[str, list[str]] = {"question": [], "stub": [], "solution": [], "mistake": [], "test": []}
    for cell in jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells:
        part = "question" if cell.cell_type == "markdown" else cell.metadata.get("part")
        if part not in parts:
            raise ValueError(f"{path.name}: a cell has part={part!r}; a part is one of {', '.join(parts)}.")
        parts[part].append(cell.source)
    for part, sources in parts.items():
        if not sources or (part != "test" and len(sources) > 1):
            raise ValueError(f"{path.name} has {len(sources)} cells with part={part!r}; it takes one (tests: or more).")
    return Exercise(
        function=_function(parts["stub"][0]).name,
        question=parts["question"][0],
        stub=parts["stub"][0],
        solution=parts["solution"][0],
        mistake=parts["mistake"][0],
        tests=tuple(_test(source) for source in parts["test"]),
    )


def _test(source: str) -> Test:
    function = _function(source)
    return Test(function.name, ast.get_docstring(function) or function.name, source)


def _function(source: str) -> ast.FunctionDef:
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))


# -- what calls the tests ----------------------------------------------------------------------------------------------


def _call(exercise: Exercise, test: Test) -> str:
    return f"{test.name}({exercise.function})"


def _called(exercise: Exercise, test: Test) -> str:
    return f"{test.source}\n\n\n{_call(exercise, test)}"


_OTTER_HIDDEN = '""" # BEGIN TEST CONFIG\nhidden: true\n""" # END TEST CONFIG'

# A test asserts, as everywhere else; what it calls runs in the sandbox.
_GRADLAB_FIRST = """# %% tags=["parameters"]
job = ""

# %%
from checker.spec import Failure, begin

check, student, draw = begin(job)


def judge(test, name):
    try:
        test(lambda *args: student.call(name, *args).value)
    except AssertionError as error:
        raise Failure(str(error)) from None
"""


def _gradlab_checks(lab: Sequence[Exercise]) -> str:
    cells = [_GRADLAB_FIRST]
    for exercise in lab:
        for test in exercise.tests:
            check = f'@check("{exercise.function}")\ndef _():\n    """{test.title}"""\n'
            cells.append(f'# %%\n{test.source}\n\n\n{check}    judge({test.name}, "{exercise.function}")\n')
    return "\n".join(cells)


# -- the other files of Gradlab's format -------------------------------------------------------------------------------


def _catalogue(lab: Sequence[Exercise]) -> str:
    topic = f'[[topic]]\nslug = "{LAB}"\ntitle = "Benchmark"\norder = 1\nsummary = "The lab of the benchmark."\n'
    questions = [
        f'[[question]]\nid = "q{number:03}"\nasks = "{exercise.title}?"\ntopic = "{LAB}"\nshows = "Code."\n'
        'gpu = "no"\nmyth = "It is hard."\ntruth = "It is short."\n'
        for number, exercise in enumerate(lab, start=1)
    ]
    return "\n".join([f'{topic}prerequisites = []\ngpu = "no"\n', *questions])


def _exercise_list(lab: Sequence[Exercise]) -> str:
    return "\n".join(
        f'[[exercise]]\nname = "{exercise.function}"\ntitle = "{exercise.title}"\npoints = {POINTS}\n'
        f'questions = ["q{number:03}"]\ndefines = ["{exercise.function}"]\nhints = ["Read the question."]\n'
        'answer = "The solution."\n'
        for number, exercise in enumerate(lab, start=1)
    )


def _gradlab_notebook(lab: Sequence[Exercise]) -> str:
    cells = [f"# %%\n{_IMPORT}\n"]
    for exercise in lab:
        question = textwrap.indent(exercise.question, "# ", lambda _: True)
        cells += [f"# %% [markdown]\n{question}\n", f'# %% exercise="{exercise.function}"\n{exercise.stub}\n']
    return "\n".join(cells)


def _gradlab_solution(lab: Sequence[Exercise]) -> str:
    cells = [f'# %% exercise="{exercise.function}"\n{exercise.solution}\n' for exercise in lab]
    return "\n".join([f"# %%\n{_IMPORT}\n", *cells])


# -- cells -------------------------------------------------------------------------------------------------------------


def _mark(
    name: str, *, grade: bool = False, solution: bool = False, locked: bool = False, points: int | None = None
) -> dict[str, object]:
    kind = {"schema_version": 3, "grade_id": name, "grade": grade, "solution": solution, "locked": locked}
    return kind | {"task": False} | ({} if points is None else {"points": points})


def _code(source: str, **metadata: object) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def _text(source: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source)


def _raw(source: str) -> NotebookNode:
    return nbformat.v4.new_raw_cell(source)


def _notebook(cells: list[NotebookNode]) -> NotebookNode:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return _numbered(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}))


def _numbered(notebook: NotebookNode) -> NotebookNode:
    """The same ids for the same cells, so that two runs work on the same bytes."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
    return notebook
