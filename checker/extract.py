"""Answers are found by name: the smallest set of top-level statements that defines an exercise's names and all they
use.

The notebook is parsed, never run. Deleted, renamed, duplicated, reordered or untagged cells, and long training cells
elsewhere in the notebook, do not matter: the last definition of a name counts, as it would after "run all".
"""

from __future__ import annotations

import ast
import copy
import json
import re
import symtable
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Notebook", "NotebookError", "Program", "Segment", "extract", "read_notebook", "syntax_tree"]

MAX_CELLS = 2_000
MAX_STATEMENTS = 10_000
MAX_SOURCE = 2 << 20
# Cell magics whose body is ordinary Python; any other (%%bash, %%html, …) makes the cell no Python at all.
_PYTHON_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")
# Python 3.11 counts how deep it is in one place for all threads, so two that parse at once can fail with SystemError.
_ONE_PARSES = threading.Lock()


class NotebookError(ValueError):
    """A notebook that cannot be judged at all; the text is for the learner."""


@dataclass(frozen=True)
class Segment:
    """One top-level statement: its source, the cell (counted from 1, as code cells and text cells appear) and line."""

    source: str
    cell: int
    line: int


@dataclass(frozen=True)
class Statement:
    """A parsed top-level statement: what it binds, changes and uses; ``fresh`` is bound without regard to before.

    ``assigns`` is the part of ``changes`` made by assignment (``x.a = …``, ``x[0] = …``), not by a method call.
    """

    segment: Segment
    node: ast.stmt
    binds: frozenset[str]
    changes: frozenset[str]
    assigns: frozenset[str]
    uses: frozenset[str]
    fresh: frozenset[str]


@dataclass(frozen=True)
class Broken:
    """A code cell that is no Python: where, why, and its text."""

    cell: int
    line: int
    reason: str
    source: str
    exercise: str | None


@dataclass(frozen=True)
class Notebook:
    """A learner's notebook, parsed: statements in document order, and the cells that could not be parsed."""

    statements: tuple[Statement, ...]
    broken: tuple[Broken, ...]
    exercises: frozenset[str]


@dataclass(frozen=True)
class Program:
    """What is run for one exercise, or why nothing is."""

    state: Literal["ready", "not attempted", "error"]
    segments: tuple[Segment, ...] = ()
    message: str = ""
    future: tuple[str, ...] = ()


def read_notebook(data: bytes, wanted: Iterable[str]) -> Notebook:
    """Parse a notebook; NotebookError if it is none, or defines none of the ``wanted`` names."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotebookError(
            f"The notebook is not valid JSON ({_brief(error)}). Save it again in JupyterLab, or take a fresh copy."
        ) from None
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list) or document.get("nbformat") != 4:
        raise NotebookError(
            "The file is JSON but no notebook of format 4: it has no list of cells. Save it from JupyterLab as .ipynb."
        )
    if len(cells) > MAX_CELLS:
        raise NotebookError(
            f"The notebook has {len(cells)} cells, more than {MAX_CELLS}. Remove the ones you do not need."
        )
    notebook = _parse(cells)
    if len(notebook.statements) > MAX_STATEMENTS:
        raise NotebookError(
            f"The notebook has {len(notebook.statements)} statements outside functions, more than {MAX_STATEMENTS}. "
            "Remove the cells you do not need."
        )
    names = frozenset(wanted)
    bound = {name for statement in notebook.statements for name in statement.binds}
    if not names & bound and not names & notebook.exercises and not _named_in_broken(notebook, names):
        raise NotebookError(
            f"The notebook has no exercise of this lab in it: none of {', '.join(sorted(names))} is defined. "
            "Is it the right notebook? Your server puts a fresh copy into your home at its next start."
        )
    return notebook


def extract(notebook: Notebook, exercise: str, defines: Sequence[str], template: Notebook) -> Program:
    """The program of one exercise. ``template`` is the blank notebook: what equals its stub is not attempted."""
    last = {name: _last_binder(notebook, name) for name in defines}
    broken = _newest_broken(notebook, exercise, defines)
    newest = max((index for index in last.values() if index is not None), default=None)
    if broken is not None and (newest is None or notebook.statements[newest].segment.cell < broken.cell):
        return Program("error", message=f"SyntaxError in cell {broken.cell}, line {broken.line}: {broken.reason}")
    if newest is None:
        names = " and ".join(defines)
        return Program("not attempted", message=f"{names} is not defined anywhere in the notebook.")
    if all(_same_as_stub(notebook, template, name) for name in defines):
        return Program("not attempted")
    return Program("ready", segments=_slice(notebook, defines), future=_future_features(notebook))


def _brief(error: Exception) -> str:
    return str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__


# -- parsing -----------------------------------------------------------------------------------------------------------


def _parse(cells: list[Any]) -> Notebook:
    statements: list[Statement] = []
    broken: list[Broken] = []
    exercises = set()
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        metadata = cell.get("metadata")
        exercise = metadata.get("exercise") if isinstance(metadata, dict) else None
        exercise = exercise if isinstance(exercise, str) else None
        if exercise is not None:
            exercises.add(exercise)
        source = _text(cell.get("source"))
        try:
            try:
                statements += _statements(source, number)
            except SyntaxError:
                source = python_source(source)
                statements += _statements(source, number)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 1
            reason = getattr(error, "msg", None) or str(error)
            broken.append(Broken(number, line, reason, source, exercise))
    return Notebook(tuple(statements), tuple(broken), frozenset(exercises))


def _text(source: Any) -> str:
    text = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
    return text[:MAX_SOURCE]


def python_source(source: str) -> str:
    """The text of a cell that is no Python, with IPython's own syntax blanked out line for line: line numbers stay.

    Lines are looked at one by one, so what looks like a magic inside a string of many lines goes too.
    """
    lines = source.split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%"):
        if not first.startswith(_PYTHON_MAGICS):
            return ""
        lines[next(i for i, line in enumerate(lines) if line.strip())] = ""
    return "\n".join("" if _is_magic(line) else line for line in lines)


def _is_magic(line: str) -> bool:
    """Whether IPython alone understands the line; only at the margin, where it cannot be inside a block."""
    return line.startswith(("%", "!", "?")) or bool(re.fullmatch(r"[\w.]+\?{1,2}\s*", line))


def _statements(source: str, cell: int) -> list[Statement]:
    tree = syntax_tree(source)
    lines = source.split("\n")
    found = []
    for node in tree.body:
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        text = _segment_text(lines, node, start)
        found.append(_statement(node, Segment(text, cell, start)))
    return found


def syntax_tree(source: str) -> ast.Module:
    """``ast.parse``, by one thread at a time. SyntaxError if it is not Python."""
    with _ONE_PARSES:
        try:
            return ast.parse(source)
        except SystemError:  # somebody else in this process parsed without the lock
            return ast.parse(source)


def _segment_text(lines: list[str], node: ast.stmt, start: int) -> str:
    """The statement's own text; several statements on one line (``a = 1; b = 2``) are cut apart."""
    assert node.end_col_offset is not None  # parsed from text, so every node has its place
    chosen = lines[start - 1 : node.end_lineno]
    chosen[-1] = chosen[-1].encode()[: node.end_col_offset].decode()
    if start == node.lineno:
        chosen[0] = chosen[0].encode()[node.col_offset :].decode()
    return "\n".join(chosen)


def _statement(node: ast.stmt, segment: Segment) -> Statement:
    binds, changes, assigns = set(), set(), set()
    for part in _own_scope(node):
        binds |= _bound_by(part)
        changes |= _changed_by(part)
        assigns |= _assigned_by(part)
    uses = _used_names(segment.source)
    fresh = binds - uses if isinstance(node, ast.Assign | ast.AnnAssign) else set()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fresh = {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        fresh = set(binds)
    sets = (frozenset(names) for names in (binds, changes, assigns, uses, fresh))
    return Statement(segment, node, *sets)


def _own_scope(node: ast.AST) -> Iterable[ast.AST]:
    """The node and all below it that run in the module's scope: not the bodies of functions, classes and lambdas."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    for child in ast.iter_child_nodes(node):
        yield from _own_scope(child)


def _bound_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        return {node.id}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name.split(".")[0]) for alias in node.names}
    if isinstance(node, ast.ExceptHandler) and node.name:
        return {node.name}
    return set()


def _changed_by(node: ast.AST) -> set[str]:
    """Names whose object the node may change in place: ``x[0] = …``, ``x.a = …``, ``x.append(…)``."""
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return _root(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        return _root(node.value.func)
    return set()


def _assigned_by(node: ast.AST) -> set[str]:
    """Names of which the node sets an attribute or element themselves: ``x.a.b = …``, not ``x.copy()[0] = …``."""
    if not (isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)):
        return set()
    inner: ast.AST = node
    while isinstance(inner, ast.Attribute | ast.Subscript):
        inner = inner.value
    return {inner.id} if isinstance(inner, ast.Name) else set()


def _root(node: ast.AST) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _used_names(source: str) -> set[str]:
    """Global names the statement refers to, inside functions and classes too; their own locals are not among them."""
    table = symtable.symtable(source, "<cell>", "exec")
    used = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    pending = list(table.get_children())
    while pending:
        inner = pending.pop()
        used |= {symbol.get_name() for symbol in inner.get_symbols() if symbol.is_global()}
        pending += inner.get_children()
    return used


# -- slicing -----------------------------------------------------------------------------------------------------------


def _slice(notebook: Notebook, defines: Sequence[str]) -> tuple[Segment, ...]:
    statements = notebook.statements
    chosen = {i for i, s in enumerate(statements) if "*" in s.binds}  # may bind anything
    known: set[str] = set()
    pending = list(defines)
    while pending:
        name = pending.pop()
        if name in known:
            continue
        known.add(name)
        for index in _definition_of(statements, name):
            chosen.add(index)
            pending += statements[index].uses | statements[index].binds
    return tuple(statements[index].segment for index in sorted(chosen))


def _future_features(notebook: Notebook) -> tuple[str, ...]:
    """Features of ``from __future__ import …``: in a notebook they change how every later cell is compiled."""
    nodes = (s.node for s in notebook.statements)
    imports = (n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "__future__")
    return tuple(sorted({alias.name for node in imports for alias in node.names}))


def _definition_of(statements: Sequence[Statement], name: str) -> list[int]:
    """Indices of what makes ``name``: from its last fresh binding on, all that binds or changes it."""
    start = max((i for i, s in enumerate(statements) if name in s.fresh), default=0)
    later = [i for i, s in enumerate(statements) if i >= start and name in s.binds]
    if not later:
        return []
    # `torch.manual_seed(0)` changes a module, `f.cache_clear()` a function, alone or inside a loop: only data is
    # rebuilt that way.
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    data = not isinstance(statements[later[0]].node, kinds)
    changed = [i for i, s in enumerate(statements) if i > later[0] and name in (s.changes if data else s.assigns)]
    # Imported again, further down: what stands between the two needs the first one.
    again = [i for i, s in enumerate(statements) if i < start and name in s.fresh and _is_import(s.node)]
    return sorted({*later, *changed, *(again if _is_import(statements[later[0]].node) else ())})


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _last_binder(notebook: Notebook, name: str) -> int | None:
    return max((i for i, s in enumerate(notebook.statements) if name in s.binds), default=None)


def _newest_broken(notebook: Notebook, exercise: str, defines: Sequence[str]) -> Broken | None:
    matching = [b for b in notebook.broken if b.exercise == exercise or any(_mentions(b, name) for name in defines)]
    return max(matching, key=lambda b: b.cell, default=None)


def _mentions(broken: Broken, name: str) -> bool:
    # Blanks within a line only: \s would go through all blank lines that follow, again from each of them.
    blanks = r"[ \t\f]"
    definition = rf"^{blanks}*(?:(?:async{blanks}+)?def|class){blanks}+{re.escape(name)}\b"
    pattern = rf"{definition}|^{re.escape(name)}{blanks}*(?::[^=\n]*)?="
    return bool(re.search(pattern, broken.source, flags=re.MULTILINE))


def _named_in_broken(notebook: Notebook, names: frozenset[str]) -> bool:
    return any(_mentions(broken, name) for broken in notebook.broken for name in names)


def _same_as_stub(notebook: Notebook, template: Notebook, name: str) -> bool:
    mine, stub = _last_binder(notebook, name), _last_binder(template, name)
    if mine is None:
        return True
    if stub is None:
        return False
    return _does_the_same(notebook.statements[mine].node, template.statements[stub].node)


def _does_the_same(mine: ast.stmt, stub: ast.stmt) -> bool:
    """Whether two statements differ in docstring, comments and layout only."""
    try:
        return ast.dump(_without_docstring(mine)) == ast.dump(_without_docstring(stub))
    except RecursionError:  # nested deeper than any stub
        return False


def _without_docstring(node: ast.stmt) -> ast.stmt:
    body = getattr(node, "body", None)
    if not (isinstance(body, list) and body and _is_docstring(body[0])):
        return node
    bare = copy.copy(node)
    bare.body = body[1:]  # type: ignore[attr-defined]
    return bare


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
