"""The hidden checker notebook of a lab, as papermill gets it."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from checker.extract import syntax_tree

__all__ = ["checker_notebook"]


def checker_notebook(path: Path, asked: frozenset[str]) -> nbformat.NotebookNode:
    """The notebook without the checks of exercises nobody asked for, and with those of each other exercise in one cell,
    beside the helpers around them; the last code cell ends the last program.

    Whoever runs it works on a copy: it is kept, as long as the file stays the same.
    """
    return _read(path, path.stat().st_mtime_ns, asked)


@functools.lru_cache(maxsize=256)
def _read(path: Path, _changed: int, asked: frozenset[str]) -> nbformat.NotebookNode:
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.cells = _together(_needed(notebook.cells, asked))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.metadata.tags.append("skip-execution")  # what papermill writes below it is all there is to run
    # No cell of its own, which would cost a round trip.
    code[-1].source += "\n\nfrom checker.spec import end\n\nend()"
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
        cell.metadata.setdefault("tags", [])
    notebook.metadata["kernelspec"] = {"name": "judge", "display_name": "Gradlab judge", "language": "python"}
    return notebook


def _needed(cells: list[Any], asked: frozenset[str]) -> list[Any]:
    """All cells but those of other exercises' checks, with what they define for themselves.

    Such a check would not run (:meth:`checker.spec.Specification.check`), but each cell costs a round trip.
    """
    idle = {}
    for index, cell in enumerate(cells):
        names, exercises = _definitions(cell.source) if cell.cell_type == "code" else (set(), set())
        if exercises and not asked & exercises:
            idle[index] = names
    while True:
        words = {word for index, cell in enumerate(cells) if index not in idle for word in _words(cell)}
        used = [index for index, names in idle.items() if names & words]
        if not used:
            return [cell for index, cell in enumerate(cells) if index not in idle]
        for index in used:
            del idle[index]


def _together(cells: list[Any]) -> list[Any]:
    """Fewer cells that run the same: each costs a round trip.

    Checks of two exercises stay apart, so that each has a cell's time and outputs of its own.
    """
    kept: list[Any] = []
    exercises: set[str] | None = None  # of the cell that code can be added to, if there is one
    for cell in cells:
        found = _checked(cell)
        if exercises is None or found is None or len(exercises | found) > 1:
            kept.append(cell)
            exercises = found
        else:
            kept[-1].source += f"\n\n\n{cell.source}"
            exercises |= found
    return kept


def _checked(cell: Any) -> set[str] | None:
    """The exercises that a cell checks, whatever else it does; None if nothing can be put before or behind it."""
    if cell.cell_type != "code" or cell.metadata.get("tags"):
        return None
    try:
        nodes = list(ast.walk(syntax_tree(cell.source)))
    except SyntaxError:
        return None
    if any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in nodes):
        return None
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name("check"), args=[ast.Constant(exercise)]):
                found.add(str(exercise))
            case ast.Call(func=ast.Name("check")):
                return None
    return found


def _words(cell: Any) -> list[str]:
    return re.findall(r"\w+", cell.source) if cell.cell_type == "code" else []


def _definitions(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell defines and the exercises it checks; both empty if it does anything else."""
    names: set[str] = set()
    exercises: set[str] = set()
    try:
        statements = syntax_tree(source).body
    except SyntaxError:  # running it says what is wrong
        return set(), set()
    for statement in statements:
        match statement:
            case ast.FunctionDef(decorator_list=[]):
                names.add(statement.name)
            case ast.FunctionDef(decorator_list=[ast.Call(func=ast.Name("check"), args=[ast.Constant(exercise)])]):
                names.add(statement.name)
                exercises.add(str(exercise))
            case ast.Assign(targets=[ast.Name(name)], value=value) if not _calls(value):
                names.add(name)
            case _:
                return set(), set()
    return names, exercises


def _calls(value: ast.expr) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(value))
