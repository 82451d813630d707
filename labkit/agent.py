"""The sandbox's side: holds a learner's program and does what the judge asks of it, one call at a time.

Run as ``python -m labkit.agent``, confined. Frames of :mod:`labkit.wire` come in on standard input and go out on
standard output; both are moved away first, so that learner code finds an empty input and an output that is only shown.

The agent imports torch once and then forks a child per program, which answers until it is told to end or dies; the
agent reports how. A child can do what it likes to the agent: nothing here decides anything, and the judge trusts no
word of it.
"""

from __future__ import annotations
import __future__

import builtins
import linecache
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch

from labkit import nvsim
from labkit.wire import PREFIX, Handle, WireError, pack, prefix_lengths, unpack

__all__ = ["main"]

MAX_OBJECTS = 10_000
MAX_TRACEBACK = 4_000


def main() -> None:
    """Serve programs until standard input ends."""
    # A parent that ran one multi-threaded operation leaves forked children that hang in their first one.
    torch.set_num_threads(1)
    _load_lazy_parts()
    requests, replies = _claim_streams()
    _send(replies, {"ready": os.getpid()})
    while (request := _receive(requests)) is not None:
        if request.get("op") != "start":
            continue  # a late word to a program that has died
        child = os.fork()
        if child == 0:
            try:
                _Program(requests, replies).serve(request)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        _send(replies, {"ended": os.waitstatus_to_exitcode(status)})


class _Program:
    """One learner's program in a forked child: its names, its kept objects, and the judge's requests."""

    def __init__(self, requests: IO[bytes], replies: IO[bytes]) -> None:
        self._requests = requests
        self._replies = replies
        self._names: dict[str, Any] = {"__name__": "lab", "__builtins__": builtins}
        self._objects: dict[int, Any] = {}

    def serve(self, start: dict[str, Any]) -> None:
        seconds = int(start["cpu_seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
        random.seed(start["seed"])
        np.random.seed(start["seed"] % 2**32)
        torch.manual_seed(start["seed"])
        self._answer(start["n"], lambda: self._load(start["segments"], start["future"]))
        while (request := _receive(self._requests)) is not None:
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
        _write(self._replies, reply)


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


def _load_lazy_parts() -> None:
    """What torch loads at first use, loaded before any program waits for it."""
    layer = torch.nn.Linear(1, 1)
    layer(torch.zeros(1, 1)).sum().backward()


def _claim_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output for frames; learner code gets an empty input, and its output goes to stderr."""
    # Unbuffered: what the agent reads ahead would be lost to the child that it forks.
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return requests, replies


def _send(stream: IO[bytes], value: Any) -> None:
    _write(stream, pack(value))


def _write(stream: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _receive(stream: IO[bytes]) -> Any:
    prefix = _read(stream, PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    header, payload = prefix_lengths(prefix)
    return unpack(_read(stream, header), _read(stream, payload))


def _read(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
