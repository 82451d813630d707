"""One learner's program in a forked child of the agent: its names, its kept objects, and what the judge asks of it.

Everything here runs beside learner code, which can do what it likes to it: nothing here decides anything, and the judge
trusts no word of it.
"""

from __future__ import annotations
import __future__

import builtins
import contextlib
import linecache
import random
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from labkit import nvsim
from labkit.autograd import Graph, tensors
from labkit.exceptions import describe
from labkit.frames import Frames
from labkit.operations import Trace
from labkit.wire import Handle, WireError, pack

__all__ = ["Program"]

MAX_OBJECTS = 10_000


class Program:
    """Runs a program's statements and answers requests about them until the judge has no more."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._names: dict[str, Any] = {"__name__": "lab", "__builtins__": builtins}
        self._objects: dict[int, Any] = {}
        self._kept = 0

    def serve(self, start: dict[str, Any]) -> None:
        seconds = int(start["cpu_seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
        _bound_mappings()
        random.seed(start["seed"])
        np.random.seed(start["seed"] % 2**32)
        _seed_torch(start["seed"])
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
        operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "get": self._get,
            "put": lambda request: self._keep(request["value"]),
            "set": self._set,
            "evaluate": self._evaluate,
            "call": self._call,
            "each": self._each,
            "module": self._module,
            "forward": self._forward,
            "backward": self._backward,
            "trace": self._trace,
            "simulate_gpu": lambda request: nvsim.install(request["state"]),
        }
        if request["op"] not in operations:
            raise WireError(f"unknown request {request['op']!r}")
        return operations[request["op"]](request)

    def _get(self, request: dict[str, Any]) -> Any:
        value = self._resolve(request)
        return self._keep(value) if request["keep"] else value

    def _set(self, request: dict[str, Any]) -> None:
        *path, (kind, key) = request["path"]
        owner, value = self._resolve(request | {"path": path}), self._inside(request["value"])
        if kind == "item":
            owner[self._inside(key)] = value
        elif isinstance(getattr(owner, key, None), torch.nn.Parameter) and isinstance(value, torch.Tensor):
            # The parameter itself stays: optimisers and other modules may hold it.
            _overwrite(getattr(owner, key), value)
        else:
            setattr(owner, key, value)

    def _evaluate(self, request: dict[str, Any]) -> Handle:
        return self._keep(eval(request["expression"], {"torch": torch, "nn": torch.nn, "np": np}))

    def _call(self, request: dict[str, Any]) -> Any:
        args, kwargs = self._arguments(request)
        value = self._resolve(request)(*args, **kwargs)
        if request["keep"]:
            value = self._keep(value)
        # What the judge passed as a handle it has as a handle; there may be no way to hand it over.
        after = [sent if isinstance(sent, Handle) else arg for sent, arg in zip(request["args"], args, strict=True)]
        return value, after if request["after"] else []

    def _each(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Several calls of the same thing, each with what it returned or raised, as it was right after the call."""
        target = self._resolve(request)
        return [self._attempt(target, call) for call in request["calls"]]

    def _attempt(self, target: Any, call: dict[str, Any]) -> dict[str, Any]:
        args, kwargs = self._arguments(call)
        try:
            with _parameters(target, call["parameters"]):
                return {"value": _snapshot(target(*args, **kwargs))}
        except Exception as error:
            return {"error": describe(error)}

    def _module(self, request: dict[str, Any]) -> dict[str, Any]:
        module = _as_module(self._resolve(request))
        return {
            "parameters": {name: _facts(value) for name, value in module.named_parameters()},
            "buffers": {name: _facts(value) for name, value in module.named_buffers()},
            "training": {name: bool(part.training) for name, part in module.named_modules()},
        }

    def _forward(self, request: dict[str, Any]) -> tuple[Any, Handle]:
        target = self._resolve(request)
        args, kwargs = self._arguments(request)
        output = target(*args, **kwargs)
        inputs = [kwargs[key] if isinstance(key, str) else args[key] for key in request["wrt"]]
        parameters: dict[str, torch.Tensor] = {}
        if request["parameters"]:
            parameters = {name: p for name, p in _as_module(target).named_parameters() if p.requires_grad}
        return output, self._keep(Graph(list(tensors(output)), inputs, parameters))

    def _backward(self, request: dict[str, Any]) -> Any:
        return self._objects.pop(request["graph"].id).backward(request["upstream"])

    def _trace(self, request: dict[str, Any]) -> list[tuple[str, str, int]]:
        target = self._resolve(request)
        args, kwargs = self._arguments(request)
        with Trace() as trace:
            target(*args, **kwargs)
        return trace.lines()

    def _arguments(self, request: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        return self._inside(request["args"]), self._inside(request["kwargs"])

    def _resolve(self, request: dict[str, Any]) -> Any:
        """The object that a request is about: a name or a kept object, and the attributes and items on the way."""
        target = request["target"]
        if isinstance(target, Handle):
            value = self._objects[target.id]
        elif target in self._names:
            value = self._names[target]
        else:
            raise NameError(f"name {target!r} is not defined", name=target)
        for kind, key in request["path"]:
            value = value[self._inside(key)] if kind == "item" else getattr(value, key)
        return value

    def _inside(self, value: Any) -> Any:
        """Arguments as learner code sees them: handles replaced by their objects, in lists, tuples and dicts too."""
        if isinstance(value, Handle):
            return self._objects[value.id]
        if type(value) in (list, tuple):
            return type(value)(self._inside(item) for item in value)
        if type(value) is dict:
            return {key: self._inside(item) for key, item in value.items()}
        return value

    def _keep(self, value: Any) -> Handle:
        if len(self._objects) >= MAX_OBJECTS:
            raise WireError(f"more than {MAX_OBJECTS} objects are kept; return fewer of your own classes at a time")
        self._kept += 1
        self._objects[self._kept] = value
        kind = type(value)
        return Handle(self._kept, f"{kind.__module__}.{kind.__qualname__}", _safe_repr(value))

    def _answer(self, number: int, work: Callable[[], Any]) -> None:
        try:
            reply = pack({"n": number, "value": work()}, self._keep)
        except BaseException as error:
            reply = pack({"n": number, "error": describe(error)})
        sys.stdout.flush()
        self._frames.send(reply)


def _bound_mappings() -> None:
    """Shared mappings count for RLIMIT_AS alone; it is the size so far and what RLIMIT_DATA allows, which ignores them.

    Where there are GPUs nothing can be bounded so: CUDA maps more addresses than there is memory.
    """
    data = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if data != resource.RLIM_INFINITY and torch.version.cuda is None:
        with open("/proc/self/statm") as sizes:
            mapped = int(sizes.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + data, mapped + data))


def _as_module(value: Any) -> torch.nn.Module:
    if isinstance(value, torch.nn.Module):
        return value
    raise TypeError(f"a {type(value).__name__} is no nn.Module: does the class inherit from nn.Module?")


def _facts(value: torch.Tensor) -> tuple[list[int] | None, torch.dtype, bool]:
    """Shape (None for a lazy one), dtype and requires_grad."""
    shape = None if torch.nn.parameter.is_lazy(value) else list(value.shape)
    return shape, value.dtype, value.requires_grad


def _overwrite(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """New elements for the same parameter. Unlike ``copy_`` it stretches nothing: ValueError if the shapes differ."""
    if parameter.shape != value.shape:
        raise ValueError(f"the parameter has shape {tuple(parameter.shape)}, the new value {tuple(value.shape)}")
    with torch.no_grad():
        parameter.copy_(value)


@contextlib.contextmanager
def _parameters(target: Any, values: dict[str, torch.Tensor] | None) -> Iterator[None]:
    """The module with these values for its parameters, and afterwards with its own again."""
    if not values:
        yield
        return
    mine = dict(_as_module(target).named_parameters())
    before = {name: mine[name].detach().clone() for name in values}
    try:
        for name, value in values.items():
            _overwrite(mine[name], value)
        yield
    finally:
        for name, value in before.items():
            _overwrite(mine[name], value)


def _snapshot(value: Any) -> Any:
    """The value as it is now: a later call may write into the same tensors again."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(_snapshot(item) for item in value)
    if type(value) is dict:
        return {key: _snapshot(item) for key, item in value.items()}
    return value


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)[:500]
    except Exception as error:
        return f"<repr failed: {type(error).__name__}>"


def _seed_torch(seed: int) -> None:
    """As ``torch.manual_seed``, which is slow where there is no GPU: it notes the call's traceback for later."""
    torch.default_generator.manual_seed(seed)
    if torch.version.cuda is not None:
        torch.cuda.manual_seed_all(seed)
