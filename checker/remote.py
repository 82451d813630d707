"""What is in the sandbox, as the judge holds it: a name of the learner's program, an object, or a part of one.

::

    net = student.make("Net", 3, hidden=4)      # the learner's class, constructed there
    values = net.draw_parameters(draw)          # parameters that the judge knows too
    net.eval()
    net(x).is_close(reference(x, values))       # an Answer, as from any call
    net.encoder.layers[0].bias.get().equals(b)  # attributes and items, read as data
    net.gradients(x, wrt=[0]).of(0).is_close(g)

Nothing is asked of the sandbox before a call or one of the methods; each costs one request, gradients two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from checker import forbidden
from checker.answer import Answer, Failure, StudentError, call_text
from checker.draw import Draw
from labkit.autograd import tensors
from labkit.wire import Handle

if TYPE_CHECKING:
    from checker.student import Student

__all__ = ["Gradients", "Operation", "Parameter", "Remote", "data"]

Step = tuple[str, Any]
_MAX_PARAMETERS = 5_000
_MAX_ELEMENTS = 1 << 24
_DRAWN = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


@dataclass(frozen=True)
class Parameter:
    """What is known of a parameter or buffer without its values; the ``shape`` of a lazy one is None."""

    shape: tuple[int, ...] | None
    dtype: torch.dtype
    requires_grad: bool


@dataclass(frozen=True)
class Operation:
    """An operation of torch that a call ran: its name, the line of the notebook (empty if unknown) and how often."""

    name: str
    where: str
    count: int


@dataclass(frozen=True)
class Gradients:
    """What one call returned, and the gradients of it, weighted with what the judge drew (``upstream``).

    ``upstream`` has one entry for each tensor in ``output``, in their order; None where it cannot have a gradient.
    ``inputs`` are by position or keyword. A gradient is None where no path leads back.
    """

    call: str
    output: Any
    upstream: tuple[torch.Tensor | None, ...]
    inputs: dict[int | str, torch.Tensor | None]
    parameters: dict[str, torch.Tensor | None]

    def of(self, source: int | str) -> Answer:
        """The gradient by an input (its position or keyword) or a parameter (its name). Failure if there is none."""
        known: dict[int | str, torch.Tensor | None] = dict(self.inputs)
        known.update(self.parameters)
        if source not in known:
            raise KeyError(f"no gradient by {source!r} was asked for; there are {', '.join(map(repr, known))}")
        words = f"the gradient of {self.call} with respect to {source_text(source, source in self.inputs)}"
        if known[source] is None:
            raise Failure(
                f"There is no gradient of {self.call} with respect to {source_text(source, source in self.inputs)}: "
                "no path leads back to it. .detach(), .item(), .numpy(), torch.tensor(…) and torch.no_grad() cut it."
            )
        return Answer(words[0].upper() + words[1:], known[source], verb="is")


class Remote:
    """A name, a kept object, or a part of one. Call it, read it, set it, differentiate it.

    ``remote.name`` and ``remote[key]`` are its parts; a part that has the name of a method here is
    ``remote.part("eval")``.
    """

    def __init__(self, student: Student, target: str | Handle, path: tuple[Step, ...] = (), label: str = "") -> None:
        self._student = student
        self._target = target
        self._path = path
        self._label = label or (target if isinstance(target, str) else f"<{target.type.rsplit('.', 1)[-1]}>")

    def __repr__(self) -> str:
        return f"Remote({self._label})"

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.part(name)

    def __getitem__(self, key: Any) -> Remote:
        return Remote(self._student, self._target, (*self._path, ("item", key)), f"{self._label}[{key!r}]")

    def __iter__(self) -> Iterator[Remote]:
        raise TypeError(f"{self._label} is in the sandbox: read it with .get() to go through it")

    def part(self, name: str) -> Remote:
        """The attribute ``name``, whatever it is called."""
        return Remote(self._student, self._target, (*self._path, ("attribute", name)), f"{self._label}.{name}")

    # -- calling, reading, setting -----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Answer:
        """Call it with data and with other remote objects."""
        return self._called(args, kwargs, keep=False)

    def make(self, *args: Any, **kwargs: Any) -> Remote:
        """Call it and leave what it gives there. Raises what the learner's code raised."""
        text = call_text(self._label, data(args), data(kwargs))
        return Remote(self._student, self._called(args, kwargs, keep=True).value, label=text)

    def each(self, calls: Sequence[Sequence[Any]], parameters: Sequence[Mapping[str, Any]] = ()) -> list[Answer]:
        """Call it once with each list of positional arguments, all in one request.

        ``parameters`` has, for each call, values that the module's parameters have during it alone.
        """
        values = [dict(value) for value in parameters] or [{}] * len(calls)
        sent = [
            {"args": data(list(args)), "kwargs": {}, "parameters": value}
            for args, value in zip(calls, values, strict=True)
        ]
        found = self._ask("each", calls=sent)
        texts = [call_text(self._label, tuple(call["args"]), {}) for call in sent]
        return [_answer(text, reply) for text, reply in zip(texts, found, strict=True)]

    def get(self) -> Answer:
        """The thing itself, as data."""
        return self._student._answer(self._label, self._request("get", keep=False), verb="is")

    def keep(self) -> Remote:
        """The thing itself, as an object of its own: it stays the same when an attribute is set anew."""
        handle = self._student._answer(self._label, self._request("get", keep=True)).value
        return Remote(self._student, handle, label=self._label)

    def set(self, value: Any) -> None:
        """Set this attribute or item; a parameter stays the same object and gets new elements."""
        if not self._path:
            raise TypeError(f"{self._label} is no attribute or item, so it cannot be set")
        self._ask("set", value=data(value))

    # -- modules -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        self.part("train").make()

    def eval(self) -> None:
        self.part("eval").make()

    def parameters(self) -> dict[str, Parameter]:
        """The module's parameters by name, each once. TypeError of the learner's if it is no ``nn.Module``."""
        return _parameters(self._ask("module")["parameters"])

    def buffers(self) -> dict[str, Parameter]:
        return _parameters(self._ask("module")["buffers"])

    def modes(self) -> dict[str, bool]:
        """Whether each submodule is in training mode, by name; the module itself is ``""``."""
        found: dict[str, bool] = self._ask("module")["training"]
        return found

    def state_dict(self) -> dict[str, Any]:
        """The module's state as data; what is lazy is a :class:`~labkit.wire.Handle`."""
        answer = self.part("state_dict")()
        state = answer.as_dict({})
        if not all(type(name) is str for name in state):
            raise Failure(f"{answer.call} has keys that are no names.")
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor], *, strict: bool = True) -> None:
        """Give parameters and buffers these values. Raises the learner's error if names or shapes do not fit."""
        self.part("load_state_dict").make(dict(state), strict=strict)

    def draw_parameters(self, draw: Draw, *, low: float = -1.0, high: float = 1.0) -> dict[str, torch.Tensor]:
        """Give every parameter new values, and return them: so a reference can compute what the module must give.

        Failure if one is lazy still or no ordinary floating-point tensor.
        """
        values, known = {}, self.parameters()
        if len(known) > _MAX_PARAMETERS or sum(math.prod(p.shape or ()) for p in known.values()) > _MAX_ELEMENTS:
            raise Failure(f"{self._label} has more parameters than a check can set. How large is its largest layer?")
        for name, parameter in known.items():
            if parameter.shape is None:
                raise Failure(f"The parameter {name} of {self._label} has no shape yet.")
            if parameter.dtype not in _DRAWN:
                raise Failure(
                    f"The parameter {name} of {self._label} is {str(parameter.dtype)[6:]}, not floating-point."
                )
            values[name] = draw.tensor(*parameter.shape, dtype=parameter.dtype, low=low, high=high)
        self.load_state_dict(values, strict=False)
        return values

    # -- autograd ----------------------------------------------------------------------------------------------------

    def gradients(
        self,
        *args: Any,
        wrt: Sequence[int | str] | None = None,
        parameters: bool = False,
        draw: Draw | None = None,
        **kwargs: Any,
    ) -> Gradients:
        """Call it and walk back through the learner's own graph: vector-Jacobian products in the dtype of the inputs.

        ``wrt`` names inputs by position or keyword; without it, all floating-point ones. ``parameters`` adds the
        module's parameters that require gradients. The upstream gradient is drawn once the output's shape is known.
        """
        given: dict[int | str, Any] = dict(enumerate(args))
        given.update(kwargs)
        sources = [key for key, value in given.items() if _differentiable(value)] if wrt is None else list(wrt)
        if wrong := [key for key in sources if not _differentiable(given.get(key))]:
            raise TypeError(f"{source_text(wrong[0], True)} is no floating-point tensor, so it has no gradient")
        leaves = {key: value.detach().requires_grad_() if key in sources else value for key, value in given.items()}
        positional = tuple(leaves[index] for index in range(len(args)))
        named = {key: leaves[key] for key in kwargs}
        text = call_text(self._label, data(positional), data(named))
        try:
            request = {"args": list(positional), "kwargs": named, "wrt": sources, "parameters": parameters}
            output, graph = self._ask("forward", **data(request))
            upstream = tuple(_upstream(value, draw or self._student._draw) for value in tensors(output))
            by_input, by_parameter = self._ask("backward", graph=graph, upstream=list(upstream))
        except StudentError as error:
            error.call = text
            raise
        if len(by_input) != len(sources) or not all(
            _fits(value, given[key]) for key, value in zip(sources, by_input, strict=True)
        ):
            raise self._student._forged()
        if not any(weight is not None for weight in upstream):
            raise Failure(f"{text} has no floating-point tensor in what it returns, so there is no gradient of it.")
        return Gradients(text, output, upstream, dict(zip(sources, by_input, strict=True)), by_parameter)

    # -- operations --------------------------------------------------------------------------------------------------

    def operations(self, *args: Any, **kwargs: Any) -> list[Operation]:
        """What operations of torch the call runs, as the sandbox tells.

        Advisory: the list comes from a process in which learner code can do anything, so what is missing may have run.
        """
        text = call_text(self._label, data(args), data(kwargs))
        try:
            found = self._ask("trace", args=list(data(args)), kwargs=data(kwargs))
        except StudentError as error:
            error.call = text
            raise
        return [Operation(*line) for line in found]

    def avoids(self, *names: str, on: Sequence[Any]) -> None:
        """The program does not name these operations (:meth:`Student.avoids`), and this call does not run them either.

        Both fail the check, for exercises that are about doing without; :meth:`operations` and :meth:`Student.uses` are
        there to advise. The second part finds what is hidden from the first, ``nn.MultiheadAttention`` for ``softmax``
        say, but learner code can hide from it: passing proves nothing.
        """
        self._student.avoids(*names)
        for operation in self.operations(*on):
            if forbidden.means(operation.name, names):
                where = operation.where[:1].upper() + operation.where[1:] if operation.where else f"{self._label}(…)"
                raise Failure(f"{where} runs {operation.name}. {forbidden.by_hand(names)}")

    # -- requests ----------------------------------------------------------------------------------------------------

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, keep: bool, after: bool = True) -> Answer:
        args, kwargs = data(args), data(kwargs)
        text = call_text(self._label, args, kwargs)
        request = self._request("call", args=list(args), kwargs=kwargs, keep=keep, after=after)
        answer = self._student._answer(text, request)
        if answer.error is not None:
            return answer
        value, left = answer.value
        return Answer(text, value, after=left, args=args)

    def _ask(self, op: str, **more: Any) -> Any:
        try:
            return self._student._ask(self._request(op, **more))
        except StudentError as error:
            error.call = error.call or self._label
            raise

    def _request(self, op: str, **more: Any) -> dict[str, Any]:
        path = [list(data(step)) for step in self._path]
        return {"op": op, "target": self._target, "path": path, **more}

    def _handle(self) -> Handle:
        if isinstance(self._target, Handle) and not self._path:
            return self._target
        return self.keep()._handle()


def data(value: Any) -> Any:
    """A value as it crosses: remote objects in it, also in lists, tuples and dicts, by their handles."""
    if isinstance(value, Remote):
        return value._handle()
    if type(value) in (list, tuple):
        return type(value)(data(item) for item in value)
    if type(value) is dict:
        return {key: data(item) for key, item in value.items()}
    return value


def source_text(source: int | str, is_input: bool) -> str:
    """What a gradient is taken by, in words; positions are counted from 1."""
    if not is_input:
        return f"the parameter {source}"
    return f"argument {source + 1}" if isinstance(source, int) else f"the argument {source}"


def _differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _fits(gradient: torch.Tensor | None, source: torch.Tensor) -> bool:
    """Whether autograd could have given this: it always has the shape and dtype of its source."""
    return gradient is None or (gradient.shape == source.shape and gradient.dtype == source.dtype)


def _upstream(value: torch.Tensor, draw: Draw) -> torch.Tensor | None:
    return draw.tensor(*value.shape, dtype=value.dtype) if _differentiable(value) else None


def _parameters(facts: dict[str, tuple[list[int] | None, torch.dtype, bool]]) -> dict[str, Parameter]:
    return {
        name: Parameter(None if shape is None else tuple(shape), dtype, requires_grad)
        for name, (shape, dtype, requires_grad) in facts.items()
    }


def _answer(text: str, reply: dict[str, Any]) -> Answer:
    if "error" not in reply:
        return Answer(text, reply["value"])
    return Answer(text, error=StudentError(**reply["error"] | {"bases": tuple(reply["error"]["bases"]), "call": text}))
