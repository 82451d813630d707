"""Reading the course: what is right is read whole, what is wrong is named with its file and remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from checker import engine
from gradlab.course import Course
from gradlab.errors import CourseError
from gradlab.settings import ROOT
from tests.courses import CourseFolder, write_course


@pytest.fixture
def folder(tmp_path: Path) -> CourseFolder:
    return write_course(tmp_path)


def test_a_course_is_read_whole(folder: CourseFolder) -> None:
    course = folder.load()
    assert [topic.slug for topic in course.topics] == ["environment", "tensors"]
    assert [question.id for question in course.questions] == ["q001", "q010", "q011"]
    (lab,) = course.labs
    assert (lab.slug, lab.stem, lab.order, lab.title, lab.gpu) == ("tensors", "04_tensors", 4, "Tensors", "no")
    assert (lab.filename, lab.points, lab.prerequisites) == ("04_tensors.ipynb", 5, ("environment",))
    rank, double = lab.exercises
    assert (rank.name, rank.title, rank.points, rank.defines, rank.needs) == ("rank_of", "Rank", 2, ("rank_of",), ())
    assert rank.hints == ("Count the dimensions.", "Tensors have .ndim.")
    assert (rank.answer, rank.follow_up) == ("The rank is the number of dimensions.", "What is the rank of a scalar?")
    assert (double.needs, double.gpu, double.seconds, double.follow_up) == (("rank_of",), False, 10.0, "")
    assert [(m.name, m.exercise, m.outcome) for m in lab.mistakes] == [
        ("double_half", "double", "failed"),
        ("double_square", "double", "failed"),
        ("rank_elements", "rank_of", "failed"),
        ("rank_raises", "rank_of", "error in your code"),
    ]
    assert lab.mistakes[0].says == "That halves them."
    assert lab.checks.is_file()
    assert lab.solution.is_file()


def test_lookups_answer_or_list_what_there_is(folder: CourseFolder) -> None:
    course = folder.load()
    lab = course.lab("tensors")
    assert lab.exercise("double").title == "Doubling"
    assert [(found.slug, exercise.name) for found, exercise in course.answering("q010")] == [("tensors", "rank_of")]
    assert course.answering("q001") == ()
    with pytest.raises(CourseError, match=r"There is no lab 'chess' on this server\. It has: tensors\."):
        course.lab("chess")
    with pytest.raises(CourseError, match=r"Lab 'tensors' has no exercise 'mate'\. It has: rank_of, double\."):
        lab.exercise("mate")


def test_the_learners_notebook_is_valid_marked_and_always_the_same(folder: CourseFolder) -> None:
    lab = folder.load().labs[0]
    notebook = nbformat.reads(lab.notebook, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.gradlab == {"lab": "tensors"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert [cell.metadata.exercise for cell in notebook.cells if "exercise" in cell.metadata] == ["rank_of", "double"]
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code")
    assert folder.load().labs[0].notebook == lab.notebook
    assert folder.load().labs[0].version == lab.version


def test_nothing_hidden_is_in_the_learners_notebook(folder: CourseFolder) -> None:
    lab = folder.load().labs[0]
    for hidden in (
        "x.ndim",
        "TWO * x",
        "number of elements",
        "diagnose",
        *(lab.exercises[0].hints),
        lab.exercises[0].answer,
    ):
        assert hidden not in lab.notebook


def test_the_version_follows_what_learners_get_and_nothing_else(folder: CourseFolder) -> None:
    before = folder.load().labs[0].version
    (folder.hidden / "checks.py").write_text("# %%\nchanged = True\n")
    assert folder.load().labs[0].version == before
    path = folder.labs / "04_tensors.py"
    path.write_text(path.read_text().replace("Two questions", "Three questions"))
    assert folder.load().labs[0].version != before
    assert re.fullmatch(r"[0-9a-f]{12}", before)


def test_loading_a_course_runs_nothing_of_it(folder: CourseFolder, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for path in (
        folder.hidden / "checks.py",
        folder.hidden / "solution.py",
        *(folder.hidden / "mistakes").glob("*.py"),
    ):
        path.write_text(path.read_text() + trap)
    path = folder.labs / "04_tensors.py"
    path.write_text(f"# %%\n{trap}\n{path.read_text()}")
    folder.load()
    assert not (tmp_path / "ran").exists()


Change = Callable[[CourseFolder], object]


def replaced(file: str, old: str, new: str) -> Change:
    def change(folder: CourseFolder) -> None:
        path = (folder.labs if file in ("questions.toml", "04_tensors.py") else folder.hidden) / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "no questions file": (lambda c: (c.labs / "questions.toml").unlink(), r"questions\.toml is missing\."),
    "no TOML": (replaced("questions.toml", "[[topic]]", "[[topic"), r"questions\.toml is not valid TOML"),
    "no UTF-8": (lambda c: (c.labs / "questions.toml").write_bytes(b"\xff"), r"questions\.toml is not valid TOML"),
    "unknown topic": (
        replaced("questions.toml", 'topic = "tensors"', 'topic = "chess"'),
        r"question q010 names topic 'chess', which is not in the file",
    ),
    "question twice": (replaced("questions.toml", 'id = "q011"', 'id = "q010"'), r"question id 'q010' is there twice"),
    "odd gpu": (
        replaced("questions.toml", 'gpu = "no"', 'gpu = "maybe"'),
        r"has gpu = 'maybe': Input should be 'no', 'better' or 'needed'\.",
    ),
    "empty text": (
        replaced("questions.toml", 'title = "Tensors"', 'title = " "'),
        r"topic 'tensors' has title = ' ': String should have at least 1 character\.",
    ),
    "no labs": (
        lambda c: (c.labs / "04_tensors.py").unlink(),
        r"No lab in .*: expected files like 04_tensors\.py there",
    ),
    "lab of no topic": (
        lambda c: (c.labs / "04_tensors.py").rename(c.labs / "05_chess.py"),
        r"05_chess\.py fits no topic of questions\.toml: a lab is named NN_topic\.py",
    ),
    "lab with the wrong number": (
        lambda c: (c.labs / "04_tensors.py").rename(c.labs / "05_tensors.py"),
        r"05_tensors\.py fits no topic",
    ),
    "no checks": (
        lambda c: (c.hidden / "checks.py").unlink(),
        r"Lab 'tensors' has no checker: .*checks\.py is missing\. Add it, or remove 04_tensors\.py\.",
    ),
    "no solution": (lambda c: (c.hidden / "solution.py").unlink(), r"solution\.py is missing\. Add it"),
    "no exercises file": (lambda c: (c.hidden / "exercises.toml").unlink(), r"exercises\.toml is missing"),
    "no exercises": (
        lambda c: (c.hidden / "exercises.toml").write_text(""),
        r"lists no \[\[exercise\]\]: a lab has at least one",
    ),
    "exercise twice": (
        replaced("exercises.toml", 'name = "double"', 'name = "rank_of"'),
        r"exercise 'rank_of' is there",
    ),
    "unknown question": (
        replaced("exercises.toml", '["q010"]', '["q999"]'),
        r"exercise 'rank_of' answers \['q999'\], not in questions\.toml",
    ),
    "needs a later one": (
        replaced("exercises.toml", 'needs = ["rank_of"]', 'needs = ["double"]'),
        r"exercise 'double' needs \['double'\], which must come before it",
    ),
    "no answer": (
        replaced("exercises.toml", 'answer = "Arithmetic on tensors is elementwise."', ""),
        r"exercise 'double' has no 'answer'\.",
    ),
    "misspelt key": (
        replaced("exercises.toml", "needs = ", "need = "),
        r"exercise 'double' has a key 'need', which is none of name, title, points, .*needs",
    ),
    "text for a list": (
        replaced("exercises.toml", 'needs = ["rank_of"]', 'needs = "rank_of"'),
        r"exercise 'double' has needs = 'rank_of': Input should be a valid tuple\.",
    ),
    "text for a number": (
        replaced("exercises.toml", "points = 3", 'points = "three"'),
        r"exercise 'double' has points = 'three': Input should be a valid integer\.",
    ),
    "points below one": (
        replaced("exercises.toml", "points = 3", "points = -3"),
        r"exercise 'double' has points = -3: Input should be greater than or equal to 1\.",
    ),
    "longer than its cell in the judge may take": (
        replaced("exercises.toml", "points = 3", "points = 3\nseconds = 300"),
        r"exercise 'double' has seconds = 300: Input should be less than or equal to 240\.",
    ),
    "no time at all": (
        replaced("exercises.toml", "points = 3", "points = 3\nseconds = 0"),
        r"exercise 'double' has seconds = 0: Input should be greater than 0\.",
    ),
    "no tables": (
        lambda c: (c.hidden / "exercises.toml").write_text('exercise = "rank_of"'),
        r"exercises\.toml: 'exercise' must be a list of tables, each beginning with \[\[exercise\]\]\.",
    ),
    "no stub": (
        replaced("04_tensors.py", '# %% exercise="double"', "# %%"),
        r'the cells marked exercise="…" are \[\'rank_of\'\], but exercises\.toml lists \[\'double\', \'rank_of\'\]',
    ),
    "mistake without a head": (
        replaced("mistakes/double_half.py", "# says: ", "# means: "),
        r"double_half\.py: a mistake starts with three lines",
    ),
    "mistake of no exercise": (
        replaced("mistakes/double_half.py", "exercise: double", "exercise: halve"),
        r"there is no exercise 'halve' in this lab",
    ),
    "mistake that is no Python": (
        replaced("mistakes/double_half.py", "return x / 2", "return x /"),
        r"double_half\.py: line 5 is not Python: ",
    ),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(folder: CourseFolder, change: Change, says: str) -> None:
    change(folder)
    with pytest.raises(CourseError, match=says):
        folder.load()


def test_the_most_seconds_of_an_exercise_are_allowed_and_end_well_before_its_cell_does(folder: CourseFolder) -> None:
    replaced("exercises.toml", "points = 3", "points = 3\nseconds = 240")(folder)
    (_, double) = folder.load().labs[0].exercises
    assert double.seconds == 240 <= engine._CELL_SECONDS - 60


def test_an_exercise_with_two_stub_cells_is_refused(folder: CourseFolder) -> None:
    path = folder.labs / "04_tensors.py"
    path.write_text(path.read_text() + '\n# %% exercise="double"\nx = 1\n')
    with pytest.raises(CourseError, match=r"exactly one stub cell"):
        folder.load()


def test_the_catalogue_of_this_course_is_sound() -> None:
    course = Course.load(ROOT / "labs", ROOT / "checker" / "labs")
    assert len(course.questions) > 100
    assert {question.topic for question in course.questions} == {topic.slug for topic in course.topics}
    orders = [topic.order for topic in course.topics]
    assert orders == sorted(set(orders))
    for lab in course.labs:
        assert json.loads(lab.notebook)["nbformat"] == 4
