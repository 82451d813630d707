"""One learner's program in a forked child of the agent: its names, its kept objects, and what the judge asks of it.

Everything here runs beside learner code, which can do what it likes to it: nothing here decides anything, and the judge
trusts no word of it.
"""

from __future__ import annotations
import __future__

import builtins
import linecache
import random
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from labkit import nvsim
from labkit.frames import Frames
from labkit.wire import Handle, WireError, pack

__all__ = ["Program"]

MAX_OBJECTS = 10_000
MAX_TRACEBACK = 4_000


class Program:
    """Runs a program's statements and answers requests about them until the judge has no more."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._names: dict[str, Any] = {"__name__": "lab", "__builtins__": builtins}
        self._objects: dict[int, Any] = {}

    def serve(self, start: dict[str, Any]) -> None:
        seconds = int(start["cpu_seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
        random.seed(start["seed"])
        np.random.seed(start["seed"] % 2**32)
        torch.manual_seed(start["seed"])
        self._answer(start["n"], lambda: self._load(start["segments"], start["future"]))
        while (request := self._frames.receive()) is not None:
            if request["op"] == "end":
                sys.stdout.flush()
                sys.stderr.flush()
                return
            self._answer(request["n"], lambda request=request: self._do(request))  # type: ignore[misc]

    def _load(self, segments: list[dict[str, Any]], future: list[str]) -> None:
        """Run the program's statements, each under the name and line it has in the notebook."""
        flags = sum(getattr(__future__, name).compiler_flag for name in future)
        lines: dict[int, list[str]] = {}
        for segment in segments:
            text = lines.setdefault(segment["cell"], [])
            source = segment["source"].splitlines()
            text += [""] * (segment["line"] - 1 + len(source) - len(text))
            text[segment["line"] - 1 : segment["line"] - 1 + len(source)] = source
        for cell, text in lines.items():
            name = f"<cell {cell}>"
            linecache.cache[name] = (0, None, [line + "\n" for line in text], name)
        for segment in segments:
            source = "\n" * (segment["line"] - 1) + segment["source"]
            exec(compile(source, f"<cell {segment['cell']}>", "exec", flags, dont_inherit=True), self._names)

    def _do(self, request: dict[str, Any]) -> Any:
        op, target = request["op"], request.get("target")
        if op == "get":
            return self._resolve(target)
        if op == "put":
            return self._keep(request["value"])
        if op == "call":
            return self._call(request)
        if op == "attr":
            return getattr(self._resolve(target), request["name"])
        if op == "item":
            return self._resolve(target)[self._inside(request["key"])]
        if op == "set_item":
            self._resolve(target)[self._inside(request["key"])] = self._inside(request["value"])
            return None
        if op == "simulate_gpu":
            nvsim.install(request["state"])
            return None
        raise WireError(f"unknown request {op!r}")

    def _call(self, request: dict[str, Any]) -> Any:
        args = [self._inside(arg) for arg in request["args"]]
        kwargs = {key: self._inside(value) for key, value in request["kwargs"].items()}
        value = self._resolve(request["target"])(*args, **kwargs)
        if request["keep"]:
            value = self._keep(value)
        return value, args

    def _resolve(self, target: Any) -> Any:
        if isinstance(target, Handle):
            return self._objects[target.id]
        if target in self._names:
            return self._names[target]
        raise NameError(f"name {target!r} is not defined", name=target)

    def _inside(self, value: Any) -> Any:
        """Arguments as learner code sees them: handles replaced by their objects, in lists and tuples too."""
        if isinstance(value, Handle):
            return self._objects[value.id]
        if type(value) in (list, tuple):
            return type(value)(self._inside(item) for item in value)
        return value

    def _keep(self, value: Any) -> Handle:
        if len(self._objects) >= MAX_OBJECTS:
            raise WireError(f"more than {MAX_OBJECTS} objects are kept")
        number = len(self._objects) + 1
        self._objects[number] = value
        kind = type(value)
        return Handle(number, f"{kind.__module__}.{kind.__qualname__}", _safe_repr(value))

    def _answer(self, number: int, work: Callable[[], Any]) -> None:
        try:
            reply = pack({"n": number, "value": work()}, self._keep)
        except BaseException as error:
            reply = pack({"n": number, "error": _describe(error)})
        sys.stdout.flush()
        self._frames.send(reply)


def _describe(error: BaseException) -> dict[str, Any]:
    """An exception as data: type, its bases' names, message, and the traceback's part in the notebook's cells."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("<cell ")]
    if isinstance(error, SyntaxError) and (error.filename or "").startswith("<cell "):
        where: str | None = f"{(error.filename or '').strip('<>')}, line {error.lineno}"
    else:
        where = f"{frames[-1].filename.strip('<>')}, line {frames[-1].lineno}" if frames else None
    text = "".join(traceback.format_list(frames))[-MAX_TRACEBACK:]
    return {
        "type": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "message": _safe_str(error)[:2000],
        "where": where,
        "traceback": text,
    }


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)[:500]
    except Exception as error:
        return f"<repr failed: {type(error).__name__}>"


def _safe_str(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(the error's own text could not be read)"
