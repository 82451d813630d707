"""Operations that an exercise asks to do without ("softmax without torch.softmax"), found in the program's text.

A name stands for all its spellings: ``softmax`` is ``torch.softmax``, ``x.softmax()``, ``F.softmax``, ``nn.Softmax``,
``torch._softmax`` and ``softmax_``, under any alias, and ``getattr(torch, "softmax")``. ``matmul`` and ``pow`` are also
the operators ``@`` and ``**``. A function that the program defines itself is none of them, and neither is a method or
attribute that one of its classes has, unless a module is asked for it. A name that is only assigned to is not used.

The text is what runs, so what is found is there. What is put together at run time is not found, nor is ``x.softmax``
where some class has a ``softmax`` of its own; a trace of the calls (:meth:`checker.remote.Remote.avoids`) finds some of
it.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Use", "by_hand", "means", "uses"]

_OPERATORS: dict[type[ast.operator], str] = {ast.MatMult: "matmul", ast.Pow: "pow"}
_SIGNS = {"matmul": "@", "pow": "**"}
_BY_NAME = frozenset(("getattr", "attrgetter", "methodcaller", "__getattribute__", "import_module", "__import__"))
_RUN_TEXT = frozenset(("eval", "exec", "compile"))
_NO_NAME = "…"  # in front of the dots where there is a call, say
# What an operation is below autograd, where that has another name (torch/_decomp and native_functions.yaml of PyTorch).
_BELOW = {
    "matmul": (
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "mv",
        "addmv",
        "dot",
        "vdot",
        "linear",
        "einsum",
        "tensordot",
    ),
    "softmax": ("safe_softmax",),
    "scaled_dot_product_attention": (
        "scaled_dot_product_attention_math",
        "scaled_dot_product_flash_attention",
        "scaled_dot_product_flash_attention_for_cpu",
        "scaled_dot_product_efficient_attention",
        "scaled_dot_product_cudnn_attention",
        "scaled_dot_product_fused_attention_overrideable",
        "scaled_dot_product_attention_math_for_mps",
    ),
    "layer_norm": ("native_layer_norm",),
    "group_norm": ("native_group_norm",),
    "batch_norm": ("native_batch_norm", "native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm"),
    "rms_norm": ("fused_rms_norm",),
    "dropout": ("native_dropout", "fused_dropout"),
    "conv1d": ("convolution", "conv_depthwise2d", "mkldnn_convolution"),
    "conv2d": ("convolution", "conv_depthwise2d", "mkldnn_convolution", "thnn_conv2d", "slow_conv2d_forward"),
    "conv3d": ("convolution", "slow_conv3d", "mkldnn_convolution"),
    "lstm": ("mkldnn_rnn_layer", "thnn_fused_lstm_cell", "cudnn_rnn"),
    "gru": ("thnn_fused_gru_cell", "cudnn_rnn"),
    "var": ("var_mean", "std", "std_mean"),
}


@dataclass(frozen=True)
class Use:
    """One place in the learner's notebook that names a forbidden operation; ``text`` is how it is written there."""

    text: str
    cell: int
    line: int

    def __str__(self) -> str:
        return f"Cell {self.cell}, line {self.line} uses {self.text}"


def uses(segments: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[Use]:
    """Where the program names one of ``names``. A segment has ``source``, ``cell`` and the ``line`` it starts at."""
    wanted = {_plain(name) for name in names}
    trees = [(segment, ast.parse(segment["source"])) for segment in segments]
    reader = _Reader(wanted, [tree for _, tree in trees])
    return [
        Use(text, segment["cell"], segment["line"] + line - 1)
        for segment, tree in trees
        for line, text in sorted(set(reader.findings(tree)))
    ]


def by_hand(names: Sequence[str]) -> str:
    """What to tell a learner who used one of them."""
    return f"This exercise is to be written without {' and '.join(names)}."


def means(operation: str, names: Iterable[str]) -> bool:
    """Whether an operation of a trace (``softmax``, ``aten::_softmax``, ``aten::softmax.int``) is one of ``names``."""
    plain = _plain(re.sub(r"^\w+::|\.\w+$", "", operation))
    below = {_plain(name): {_plain(other) for other in others} for name, others in _BELOW.items()}
    return any(plain == _plain(name) or plain in below.get(_plain(name), ()) for name in names)


class _Reader:
    """Finds the wanted names in a program; it knows the program's imports, its definitions and its classes' members."""

    def __init__(self, wanted: set[str], trees: Sequence[ast.Module]) -> None:
        self._wanted = wanted
        self._aliases: dict[str, str] = {}
        self._imported: set[str] = set()
        self._own: set[str] = set()
        self._members: set[str] = set()
        self._star = False
        self._selves = _selves(trees)
        for tree in trees:
            for node in ast.walk(tree):
                self._note(node)

    def findings(self, tree: ast.Module) -> Iterator[tuple[int, str]]:
        """Line (from 1) and wording of each use."""
        for node in ast.walk(tree):
            if isinstance(node, ast.expr | ast.stmt) and (text := self._use(node)):
                yield node.lineno, text

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.ImportFrom | ast.Import):
            self._note_import(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._own.add(node.name)
            if isinstance(node, ast.ClassDef):
                self._members.update(name for line in node.body for name in _bound(line))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if _root(node) in self._selves:
                self._members.add(node.attr)
        elif isinstance(node, ast.arg):
            self._own.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            self._own.add(node.id)

    def _note_import(self, node: ast.ImportFrom | ast.Import) -> None:
        self._imported.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.Import):
            return
        self._star = self._star or any(alias.name == "*" for alias in node.names)
        for alias in node.names:
            if self._is_wanted(alias.name):
                self._aliases[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"

    def _use(self, node: ast.expr | ast.stmt) -> str:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            return _dotted(node) if self._is_wanted(node.attr) and not self._is_mine(node) else ""
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            starred = self._star and self._is_wanted(node.id) and node.id not in self._own
            return self._aliases.get(node.id, node.id if starred else "")
        if isinstance(node, ast.BinOp | ast.AugAssign):
            name = _OPERATORS.get(type(node.op), "")
            return f"the operator {_SIGNS[name]}" if name in self._wanted else ""
        if isinstance(node, ast.Import):
            parts = (alias.name for alias in node.names if any(map(self._is_wanted, alias.name.split("."))))
            return next(parts, "")
        if isinstance(node, ast.Call):
            return self._by_name(node)
        if isinstance(node, ast.Subscript) and _is_namespace(node.value):
            return self._text(node.slice)
        return ""

    def _is_mine(self, node: ast.Attribute) -> bool:
        """Whether the attribute is one that the program's own classes have, as far as its text tells."""
        root = _root(node)
        if root in self._selves and isinstance(node.value, ast.Name):
            return True
        imported = root in self._imported or (self._star and root != _NO_NAME and root not in self._own)
        return node.attr in self._members and not imported

    def _by_name(self, call: ast.Call) -> str:
        """A call that looks a name up: ``getattr(torch, "soft" + "max")``, ``eval("torch.softmax(x)")``."""
        function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if function in _BY_NAME:
            return next(filter(None, map(self._text, call.args)), "")
        if function in _RUN_TEXT and call.args:
            words = re.findall(r"\w+", _joined(call.args[0]))
            return next((word for word in words if self._is_wanted(word)), "")
        return ""

    def _text(self, node: ast.expr) -> str:
        text = _joined(node)
        return text if any(map(self._is_wanted, text.split("."))) else ""

    def _is_wanted(self, name: str) -> bool:
        return _plain(name) in self._wanted


def _plain(name: str) -> str:
    """One spelling for ``Softmax``, ``_softmax`` and ``softmax_``, and for ``LayerNorm`` and ``layer_norm``."""
    return name.replace("_", "").lower()


def _joined(node: ast.expr) -> str:
    """The text of constants, empty if it is none or takes more additions than Python can follow."""
    try:
        return _constant(node) or ""
    except RecursionError:
        return ""


def _constant(node: ast.expr) -> str | None:
    """The text that an expression of constants gives; None if it is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _constant(node.left), _constant(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.JoinedStr):
        parts = [_constant(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values]
        return None if None in parts else "".join(filter(None, parts))
    return None


def _is_namespace(node: ast.expr) -> bool:
    """``torch.__dict__``, ``vars(torch)``, ``globals()``."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") in ("vars", "globals", "locals")
    return isinstance(node, ast.Attribute) and node.attr == "__dict__"


def _selves(trees: Sequence[ast.Module]) -> set[str]:
    """The names under which methods know their object (``self``), unless the program gives them another meaning."""
    meant: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.ClassDef):
            meant.update(filter(None, map(_first_argument, node.body)))
        elif isinstance(node, ast.arg):
            every[node.arg] += 1
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            every[node.id] += 1
        elif isinstance(node, ast.alias):
            every[node.asname or node.name] += 1
    return {name for name, times in meant.items() if every[name] == times}


def _first_argument(line: ast.stmt) -> str:
    """Of a method; empty if it has none that only its object can be."""
    if not isinstance(line, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    given = [*line.args.posonlyargs, *line.args.args]
    return given[0].arg if len(given) > len(line.args.defaults) else ""


def _bound(line: ast.stmt) -> list[str]:
    """The names that a line of a class's body gives to the class."""
    if isinstance(line, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [line.name]
    return [node.id for node in ast.walk(line) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _root(node: ast.Attribute) -> str:
    """The name in front of all dots, or ``_NO_NAME``."""
    return _parts(node)[0]


def _dotted(node: ast.Attribute) -> str:
    """``torch.nn.functional.softmax``; what is no plain name in front becomes an ellipsis: ``….softmax``."""
    return ".".join(_parts(node))


def _parts(node: ast.Attribute) -> list[str]:
    parts, inner = [node.attr], node.value
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    return [inner.id if isinstance(inner, ast.Name) else _NO_NAME, *reversed(parts)]
