"""Properties that an answer must have whatever its values are: one line each in a checker notebook.

::

    causal(student.attention, x, axis=1)
    permutation_equivariant(net, x, axis=1)
    gradcheck(student.my_gelu, x)

Each takes a function of the learner's (:class:`~checker.remote.Remote`) and inputs that the check drew, makes the
other inputs itself, and raises :class:`~checker.answer.Failure` with a sentence that teaches. All calls of one property
are one request. Outputs are compared within the tolerance of their dtype: adding up in another order is no mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from checker.answer import Answer, Failure
from checker.compare import EXACT, Tolerance, difference
from checker.draw import Draw
from checker.remote import Gradients, Remote, source_text
from labkit.autograd import tensors
from labkit.wire import Handle

__all__ = [
    "batch_invariant",
    "causal",
    "deterministic",
    "gradcheck",
    "permutation_equivariant",
    "permutation_invariant",
    "same_gradients",
    "stateless",
]

_CLOSE = Tolerance()
_CUTS = 4
_DIRECTIONS = 3


def deterministic(function: Remote, *inputs: Any) -> None:
    """The same inputs give the same output, to the last bit: what evaluation mode promises."""
    first, second = _comparable(function.each([inputs, inputs]))
    if not _same(second.value, first.value):
        raise Failure(
            f"{first.call} gives different results for the same input. Something random is left in it: dropout that "
            "does not ask self.training, say."
        )


def stateless(function: Remote, inputs: Sequence[Any], others: Sequence[Any]) -> None:
    """A call's output does not depend on the calls before it: ``inputs`` give the same before and after ``others``."""
    first, _, second = _comparable(function.each([inputs, others, inputs]))
    if not _same(second.value, first.value):
        raise Failure(
            f"{first.call} gives another result after a call with another input: something is kept between calls. "
            "Look for globals, attributes, default arguments and changes in place."
        )


def causal(function: Remote, x: Tensor, *rest: Any, axis: int = 1) -> None:
    """Position t of the output depends on no later position of ``x``; both run along ``axis``.

    The positions from t on get other values, for up to four t, and the output before t must stay. Tokens (integers) get
    other values between the smallest and the largest in ``x``.
    """
    length = x.shape[axis]
    if length < 2:
        raise ValueError(f"causal needs at least two positions along axis {axis}; x has {length}")
    draw = function._student._draw
    cuts = sorted({1, length - 1, *draw.sample(range(1, length), min(_CUTS - 2, length - 1))})
    changed = [(_with_other_future(x, cut, draw, axis), *rest) for cut in cuts]
    before, *after = _tensors(function.each([(x, *rest), *changed]))
    for answer in (before, *after):
        _has_length(answer, length, axis)
    for cut, other in zip(cuts, after, strict=True):
        past, same = (answer.value.narrow(axis, 0, cut) for answer in (before, other))
        if past.shape != same.shape or (moved := _moved(past, same, axis)):
            place = "" if past.shape != same.shape else f" at position {moved[0]}"
            raise Failure(
                f"{before.call} looks into the future: its output{place} changes when only the input from position "
                f"{cut} on does. Position t may use positions 0 to t and none behind it."
            )


def permutation_equivariant(function: Remote, x: Tensor, *rest: Any, axis: int = 1) -> None:
    """When the items along ``axis`` change places, the items of the output change places with them."""
    order = _order(function._student._draw, x, axis)
    before, after = _tensors(function.each([(x, *rest), (x.index_select(axis, order), *rest)]))
    _has_length(before, len(order), axis)
    if not _same(after.value, before.value.index_select(axis, order), _CLOSE):
        raise Failure(
            f"{before.call} treats the items along axis {axis} by their place: when they change places, the results do "
            "not just change places with them. Does a position, an index or a running sum get in?"
        )


def permutation_invariant(function: Remote, x: Tensor, *rest: Any, axis: int = 1) -> None:
    """The output stays the same when the items along ``axis`` change places."""
    order = _order(function._student._draw, x, axis)
    before, after = _comparable(function.each([(x, *rest), (x.index_select(axis, order), *rest)]))
    if not _same(after.value, before.value, _CLOSE):
        raise Failure(
            f"{before.call} depends on the order of the items along axis {axis}: when they change places, the result "
            "is another. A sum, a mean or a maximum over them forgets the order."
        )


def batch_invariant(function: Remote, x: Tensor, *rest: Any, axis: int = 0) -> None:
    """Each row's output is the same alone, in a part of the batch, and in the whole batch."""
    size = x.shape[axis]
    if size < 2:
        raise ValueError(f"batch_invariant needs at least two rows along axis {axis}; x has {size}")
    parts = [(0, 1), (size - 1, 1), (0, max(1, size // 2))]
    calls = [(x, *rest), *((x.narrow(axis, start, count), *rest) for start, count in parts)]
    whole, *alone = _tensors(function.each(calls))
    _has_length(whole, size, axis)
    for (start, count), part in zip(parts, alone, strict=True):
        _has_length(part, count, axis)
        rows = whole.value.narrow(axis, start, count)
        if rows.shape != part.value.shape or _moved(rows, part.value, axis):
            raise Failure(
                f"{whole.call}: a row of the batch gets another result when other rows are beside it. Something is "
                f"computed over axis {axis}: a mean, a softmax, or batch norm in training mode?"
            )


def same_gradients(
    function: Remote,
    reference: Callable[..., Tensor],
    *inputs: Any,
    wrt: Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Output and gradients are those of ``reference``, which is differentiated here in float64.

    ``reference`` takes the same inputs and returns one tensor; the learner's has the dtype of the first input that is
    differentiated. The tolerance is that of this dtype, or the one given.
    """
    found = function.gradients(*inputs, wrt=wrt)
    positions = [int(position) for position in found.inputs]
    exact = [_wide(value) for value in inputs]
    leaves = [exact[position].requires_grad_() for position in positions]
    output = reference(*exact)
    Answer(found.call, found.output).is_close(output.detach().to(inputs[positions[0]].dtype), rtol=rtol, atol=atol)
    expected = torch.autograd.grad((output * _wide(found.upstream[0])).sum(), leaves, allow_unused=True)
    for position, gradient in zip(positions, expected, strict=True):
        source = inputs[position].detach()
        want = torch.zeros_like(source) if gradient is None else gradient.to(source.dtype)
        if found.inputs[position] is not None or want.any():
            found.of(position).is_close(want, rtol=rtol, atol=atol)


def gradcheck(
    function: Remote,
    *inputs: Any,
    wrt: Sequence[int] | None = None,
    parameters: bool = False,
    rtol: float = 1e-4,
    atol: float = 1e-7,
) -> None:
    """The learner's gradient is the slope of the learner's own function, measured in float64 by central differences.

    Inputs become float64; a module is made so before, by ``net.double()``. For directions u of length 1 and the
    upstream gradient v, ``v · (f(x + eps u) - f(x - eps u)) / (2 eps)`` must be the gradient times u: the fast mode of
    ``torch.autograd.gradcheck`` (PyTorch documentation, "Gradcheck mechanics"), two calls a direction however large x.
    """
    exact = [_wide(value) for value in inputs]
    found = function.gradients(*exact, wrt=wrt, parameters=parameters)
    _keeps_float64(found)
    values: dict[int | str, Tensor] = {position: exact[int(position)] for position in found.inputs}
    if found.parameters:
        values.update(_parameters(function, found))
    for source, value in values.items():
        slopes = _slopes(function, exact, found, source, value, eps=1e-6)
        if _agree(slopes, rtol, atol):
            continue
        # Within 1e-6 of a kink (of relu, of abs) the differences see both of its sides; nearer by, only one.
        if _agree(_slopes(function, exact, found, source, value, eps=1e-8), 100 * rtol, 100 * atol):
            continue
        found.of(source)
        raise Failure(_explained(found, source, slopes, _slopes(function, exact, found, source, value, eps=1e-2)))


def _parameters(function: Remote, found: Gradients) -> dict[str, Tensor]:
    """The values of the parameters that gradients are known of; a state without one of them was forged or spoilt."""
    state = function.state_dict()
    for name, gradient in found.parameters.items():
        value = state.get(name)
        if type(value) is not Tensor or (gradient is not None and gradient.shape != value.shape):
            raise Failure(f"The state_dict of {function._label} does not have the parameter {name} as it is.")
        if value.dtype != torch.float64:
            raise Failure(f"The parameter {name} of {function._label} is {str(value.dtype)[6:]} after .double().")
    return {name: state[name].detach() for name in found.parameters}


def _slopes(
    function: Remote, inputs: Sequence[Any], found: Gradients, source: int | str, value: Tensor, *, eps: float
) -> list[tuple[float, float]]:
    """Along three random directions: the measured slope, and the one that the gradient says."""
    directions = []
    for _ in range(_DIRECTIONS):
        drawn = function._student._draw.tensor(*value.shape, dtype=torch.float64)
        directions.append(drawn / drawn.norm().clamp_min(1e-12))
    steps = [value + sign * eps * direction for direction in directions for sign in (1, -1)]
    if source in found.inputs:
        answers = function.each([[step if i == source else other for i, other in enumerate(inputs)] for step in steps])
    else:
        answers = function.each([inputs] * len(steps), [{str(source): step} for step in steps])
    heights = [_weighted(answer, found.upstream) for answer in answers]
    gradient = found.inputs[source] if source in found.inputs else found.parameters[str(source)]
    said = [0.0 if gradient is None else float((gradient * direction).sum().real) for direction in directions]
    measured = [(up - down) / (2 * eps) for up, down in zip(heights[::2], heights[1::2], strict=True)]
    return list(zip(measured, said, strict=True))


def _weighted(answer: Answer, weights: Sequence[Tensor | None]) -> float:
    """The upstream gradient times the output, over all tensors in it."""
    outputs = list(tensors(answer.value))
    known = [None if weight is None else weight.shape for weight in weights]
    if len(outputs) != len(known) or any(s not in (None, o.shape) for s, o in zip(known, outputs, strict=True)):
        raise Failure(f"{answer.call} returns tensors of other shapes for inputs that differ by a hair.")
    return sum(
        float((weight * output).sum().real)
        for output, weight in zip(outputs, weights, strict=True)
        if weight is not None
    )


def _agree(slopes: Sequence[tuple[float, float]], rtol: float, atol: float) -> bool:
    # A nan agrees with nothing.
    return all(abs(measured - said) <= atol + rtol * max(abs(measured), abs(said)) for measured, said in slopes)


def _explained(
    found: Gradients, source: int | str, slopes: Sequence[tuple[float, float]], coarse: Sequence[tuple[float, float]]
) -> str:
    name = source_text(source, source in found.inputs)
    if _agree(coarse, 0.05, 1e-3):
        return (
            f"{found.call} loses the digits of float64 inside: in large steps its gradient with respect to {name} is "
            "right, in small ones the output moves by jumps. Does it compute in float32 for a while?"
        )
    text = f"The gradient of {found.call} with respect to {name} is not the slope of the function itself"
    factors = [said / measured for measured, said in slopes if measured]
    if len(factors) == len(slopes) and max(factors) - min(factors) < 0.01 * abs(factors[0]):
        if abs(factors[0] + 1) < 0.01:
            return f"{text}: it has the opposite sign."
        return f"{text}: it is {factors[0]:.3g} times the slope, everywhere."
    return f"{text}, as small steps measure it. Is a factor of the chain rule missing, or a path cut by .detach()?"


def _keeps_float64(found: Gradients) -> None:
    for output in tensors(found.output):
        if (output.is_floating_point() or output.is_complex()) and output.dtype != torch.float64:
            raise Failure(
                f"{found.call} returned {str(output.dtype)[6:]} for float64 inputs: keep the dtype of the input. "
                "Constants and buffers made without dtype=x.dtype are float32."
            )


def _same(got: Any, want: Any, tolerance: Tolerance = EXACT) -> bool:
    return difference(got, want, tolerance, explain=False) is None


def _tensors(answers: Sequence[Answer]) -> list[Answer]:
    """The answers, each of which has to be a tensor, all of the same number of axes."""
    rank = answers[0].tensor().dim()
    for answer in answers:
        if answer.tensor().dim() != rank:
            raise Failure(f"{answer.call} returned {answer.value.dim()} axes; for another input there were {rank}.")
    return list(answers)


def _comparable(answers: Sequence[Answer]) -> list[Answer]:
    """The answers, none of which is an object that cannot be looked at."""
    for answer in answers:
        if type(answer.value) is Handle:
            answer.tensor()
    return list(answers)


def _has_length(answer: Answer, length: int, axis: int) -> None:
    shape = tuple(answer.value.shape)
    if not -len(shape) <= axis < len(shape) or shape[axis] != length:
        raise Failure(f"{answer.call} returned a tensor of shape {shape}; along axis {axis} there should be {length}.")


def _moved(before: Tensor, after: Tensor, axis: int) -> list[int]:
    """The positions along ``axis`` at which two tensors of one shape differ, beyond the tolerance of their dtype."""
    rtol, atol = _CLOSE.of(before.dtype)
    differs = ~torch.isclose(after.to(before.dtype), before, rtol=rtol, atol=atol, equal_nan=True)
    if not differs.numel():
        return []
    others = [other for other in range(before.dim()) if other != axis % before.dim()]
    return [int(i) for i in (differs.amax(others) if others else differs).nonzero()]


def _with_other_future(x: Tensor, cut: int, draw: Draw, axis: int) -> Tensor:
    """``x`` with other values at every position from ``cut`` on."""
    changed = x.detach().clone()
    future = changed.narrow(axis, cut, x.shape[axis] - cut)
    if x.is_floating_point():
        future.copy_(draw.tensor(*future.shape, dtype=x.dtype, low=-3.0, high=3.0))
        return changed
    low, high = int(x.min()), int(x.max())
    if low == high:
        raise ValueError("causal needs at least two different tokens in x, to put one in the place of another")
    future.copy_(low + (future - low + draw.integer(1, high - low)) % (high - low + 1))
    return changed


def _order(draw: Draw, x: Tensor, axis: int) -> Tensor:
    """A permutation of the positions along ``axis`` that leaves some item in no place where it was."""
    length = x.shape[axis]
    if length < 2:
        raise ValueError(f"a permutation needs at least two items along axis {axis}; x has {length}")
    order = draw.shuffled(range(length))
    return torch.tensor(order if order != sorted(order) else order[::-1])


def _wide(value: Any) -> Any:
    """A floating-point tensor in float64, detached; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double()
    return value
