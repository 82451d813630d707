"""The course on disk: labs, their exercises, and the catalogue of interview questions.

A lab is two places with one name, ``NN_topic``:

``labs/NN_topic.py``
    the learner's notebook, percent format; its exercise cells carry ``exercise="name"`` metadata;
``checker/labs/NN_topic/``
    ``exercises.toml`` (points, questions, hints, the answer to give), ``checks.py`` (the hidden checker notebook),
    ``solution.py`` and ``mistakes/*.py``.

Everything here is read-only data: loading a course runs nothing of it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jupytext
import nbformat
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints, ValidationError

from gradlab.errors import CourseError

__all__ = ["Course", "Exercise", "Lab", "Mistake", "Question", "Topic", "write_templates"]

# A check that takes longer than its cell in the judge may (300 s) is our fault, not "timed out"; one cell is one check.
_MOST_SECONDS = 240.0

_STEM = re.compile(r"(?P<order>\d\d)_(?P<topic>[a-z0-9_]+)")
E = TypeVar("E", bound="_Entry")


Text = Annotated[str, StringConstraints(min_length=1)]
GpuNeed = Literal["no", "better", "needed"]


class _Entry(BaseModel):
    """One table of a TOML file; a key it does not have is refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Topic(_Entry):
    """One chapter of the curriculum."""

    slug: Text
    title: Text
    order: int
    summary: str = ""
    prerequisites: tuple[Text, ...] = ()
    gpu: GpuNeed


class Question(_Entry):
    """One interview question, the claim people repeat (``myth``) and the correct fact (``truth``)."""

    id: Text
    asks: Text
    topic: Text
    shows: str = ""
    gpu: GpuNeed
    myth: str = ""
    truth: str = ""
    sources: tuple[Text, ...] = ()


class Exercise(_Entry):
    """One task of a lab.

    ``defines`` are the top-level names an answer consists of (``name``, unless given), ``needs`` the exercises that
    must pass before this one is judged, ``seconds`` its wall-clock limit in the judge. ``answer`` and ``follow_up`` are
    shown only after a pass.
    """

    name: Text
    title: Text
    points: Annotated[StrictInt, Field(ge=1)] = 1
    questions: tuple[Text, ...] = ()
    defines: tuple[Text, ...] = Field(default_factory=lambda given: (given["name"],), min_length=1)
    needs: tuple[Text, ...] = ()
    gpu: StrictBool = False
    seconds: Annotated[float, Field(gt=0, le=_MOST_SECONDS)] = 10.0
    hints: tuple[Text, ...] = ()
    answer: Text
    follow_up: str = ""


@dataclass(frozen=True)
class Mistake:
    """A wrong answer people give: the exercise must end as ``outcome`` with ``says`` in what the learner reads."""

    name: str
    exercise: str
    outcome: str
    says: str
    source: str


@dataclass(frozen=True)
class Lab:
    """A lab as learners get it (``notebook``, .ipynb JSON text) and as the judge sees it (the rest).

    ``version`` is a digest of the learner's notebook: it changes exactly when what learners get changes.
    """

    slug: str
    stem: str
    order: int
    title: str
    summary: str
    gpu: GpuNeed
    prerequisites: tuple[str, ...]
    exercises: tuple[Exercise, ...]
    notebook: str
    version: str
    checks: Path
    solution: Path
    mistakes: tuple[Mistake, ...]

    @property
    def filename(self) -> str:
        """The name of the lab's notebook in a learner's home."""
        return f"{self.stem}.ipynb"

    @property
    def points(self) -> int:
        """The most points the lab gives."""
        return sum(exercise.points for exercise in self.exercises)

    def exercise(self, name: str) -> Exercise:
        """The exercise called ``name``; CourseError lists the lab's exercises where there is none."""
        for exercise in self.exercises:
            if exercise.name == name:
                return exercise
        names = ", ".join(exercise.name for exercise in self.exercises)
        raise CourseError(f"Lab {self.slug!r} has no exercise {name!r}. It has: {names}.")


def write_templates(labs: Sequence[Lab], folder: Path) -> None:
    """Write the notebooks as learners' servers find them, and ``labs.json``, which names them (labkit.delivery)."""
    folder.mkdir(parents=True, exist_ok=True)
    for lab in labs:
        (folder / lab.filename).write_text(lab.notebook, encoding="utf-8")
    index = [{"slug": lab.slug, "filename": lab.filename, "version": lab.version} for lab in labs]
    (folder / "labs.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Course:
    """All labs in curriculum order, the topics, and the catalogue of questions."""

    labs: tuple[Lab, ...]
    topics: tuple[Topic, ...]
    questions: tuple[Question, ...]

    @classmethod
    def load(cls, labs_dir: Path, checks_dir: Path) -> Course:
        """Read the whole course; CourseError names the first thing that is missing or contradicts itself."""
        topics, questions = _load_catalogue(labs_dir / "questions.toml")
        by_slug = {topic.slug: topic for topic in topics}
        known = frozenset(question.id for question in questions)
        paths = sorted(labs_dir.glob("[0-9][0-9]_*.py"))
        if not paths:
            raise CourseError(f"No lab in {labs_dir}: expected files like 04_tensors.py there.")
        labs = tuple(_load_lab(path, checks_dir / path.stem, by_slug, known) for path in paths)
        return cls(labs=labs, topics=topics, questions=questions)

    def lab(self, slug: str) -> Lab:
        """The lab called ``slug``; CourseError lists the labs there are."""
        for lab in self.labs:
            if lab.slug == slug:
                return lab
        raise CourseError(
            f"There is no lab {slug!r} on this server. It has: {', '.join(lab.slug for lab in self.labs)}."
        )

    def answering(self, question_id: str) -> tuple[tuple[Lab, Exercise], ...]:
        """The exercises that answer a question, in curriculum order."""
        return tuple((lab, ex) for lab in self.labs for ex in lab.exercises if question_id in ex.questions)


def _load_catalogue(path: Path) -> tuple[tuple[Topic, ...], tuple[Question, ...]]:
    data = _read_toml(path)
    topics = _entries(data, "topic", Topic, path)
    questions = _entries(data, "question", Question, path)
    slugs = {topic.slug for topic in topics}
    for question in questions:
        if question.topic not in slugs:
            raise CourseError(
                f"{path}: question {question.id} names topic {question.topic!r}, which is not in the file."
            )
    _refuse_duplicates((question.id for question in questions), "question id", path)
    return topics, questions


def _load_lab(path: Path, hidden: Path, topics: Mapping[str, Topic], question_ids: frozenset[str]) -> Lab:
    match = _STEM.fullmatch(path.stem)
    slug = match["topic"].replace("_", "-") if match else path.stem
    topic = topics.get(slug)
    if match is None or topic is None or topic.order != int(match["order"]):
        raise CourseError(
            f"{path.name} fits no topic of questions.toml: a lab is named NN_topic.py after a topic's order and slug, "
            "like 04_tensors.py."
        )
    for name in ("exercises.toml", "checks.py", "solution.py"):
        if not (hidden / name).is_file():
            raise CourseError(
                f"Lab {slug!r} has no checker: {hidden / name} is missing. Add it, or remove {path.name}."
            )
    exercises = _load_exercises(hidden / "exercises.toml", question_ids)
    notebook = _learner_notebook(path, slug, exercises)
    return Lab(
        slug=slug,
        stem=path.stem,
        order=topic.order,
        title=topic.title,
        summary=topic.summary,
        gpu=topic.gpu,
        prerequisites=topic.prerequisites,
        exercises=exercises,
        notebook=notebook,
        version=hashlib.sha256(notebook.encode()).hexdigest()[:12],
        checks=hidden / "checks.py",
        solution=hidden / "solution.py",
        mistakes=tuple(_load_mistake(p, exercises) for p in sorted((hidden / "mistakes").glob("*.py"))),
    )


def _load_exercises(path: Path, question_ids: frozenset[str]) -> tuple[Exercise, ...]:
    exercises = _entries(_read_toml(path), "exercise", Exercise, path)
    for exercise in exercises:
        unknown = set(exercise.questions) - question_ids
        if unknown:
            raise CourseError(f"{path}: exercise {exercise.name!r} answers {sorted(unknown)}, not in questions.toml.")
    if not exercises:
        raise CourseError(f"{path} lists no [[exercise]]: a lab has at least one.")
    names = [exercise.name for exercise in exercises]
    _refuse_duplicates(names, "exercise", path)
    for index, exercise in enumerate(exercises):
        later = set(exercise.needs) - set(names[:index])
        if later:
            raise CourseError(f"{path}: exercise {exercise.name!r} needs {sorted(later)}, which must come before it.")
    return exercises


def _learner_notebook(path: Path, slug: str, exercises: tuple[Exercise, ...]) -> str:
    """The learner's notebook as .ipynb JSON, the same bytes for the same source (ids, metadata and all)."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {
            "gradlab": {"lab": slug},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    stubs = []
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{slug}-{index:03d}"
        if "exercise" in cell.metadata:
            stubs.append(cell.metadata["exercise"])
    names = [exercise.name for exercise in exercises]
    if sorted(stubs) != sorted(names):
        raise CourseError(
            f'{path}: the cells marked exercise="…" are {sorted(stubs)}, but exercises.toml lists {sorted(names)}. '
            "Each exercise has exactly one stub cell."
        )
    text: str = nbformat.writes(notebook)
    return text


def _load_mistake(path: Path, exercises: tuple[Exercise, ...]) -> Mistake:
    source = path.read_text(encoding="utf-8")
    head = dict(re.findall(r"^# (exercise|outcome|says): (.+)$", source, flags=re.MULTILINE))
    if set(head) != {"exercise", "outcome", "says"}:
        raise CourseError(f"{path}: a mistake starts with three lines: '# exercise: …', '# outcome: …', '# says: …'.")
    if head["exercise"] not in {exercise.name for exercise in exercises}:
        raise CourseError(f"{path}: there is no exercise {head['exercise']!r} in this lab.")
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise CourseError(f"{path}: line {error.lineno} is not Python: {error.msg}.") from error
    return Mistake(name=path.stem, source=source, **head)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(f"{path} is missing.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is not valid TOML: {error}.") from error


def _entries(data: Mapping[str, Any], table: str, model: type[E], path: Path) -> tuple[E, ...]:
    """The file's ``[[table]]`` entries; CourseError names the first that is wrong, the key and the value."""
    rows = data.get(table, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CourseError(f"{path}: {table!r} must be a list of tables, each beginning with [[{table}]].")
    entries = []
    for number, row in enumerate(rows, start=1):
        try:
            entries.append(model.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            wrong = {
                "missing": f"has no {key!r}",
                "extra_forbidden": f"has a key {key!r}, which is none of {', '.join(model.model_fields)}",
            }.get(first["type"], f"has {key} = {first['input']!r}: {first['msg']}")
            name = row.get("name") or row.get("id") or row.get("slug") or f"number {number}"
            raise CourseError(f"{path}: {table} {name!r} {wrong}.") from None
    return tuple(entries)


def _refuse_duplicates(names: Iterable[str], what: str, path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CourseError(f"{path}: {what} {name!r} is there twice.")
        seen.add(name)
