"""What a wrong answer most likely is: the expected one with one of the usual mistakes in it.

Nothing is known of the exercise. A mistake is recognised by making it: the expected answer (or the wrong one) is
transformed, and if that gives the other, one sentence says so. A sentence is only given if it holds for every element
and if chance is a poor explanation: the elements that had to agree must be worth at least ``_CONVINCING`` bits, more
where more was tried. So a single small integer, or a tensor of zeros, says nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LIMIT", "recognise"]

# Looking takes time that the learner waits for: nothing is looked for in more elements than this.
LIMIT = 1 << 14
_CONVINCING = 12.0
_MAX_RANK = 8
_MAX_PERMUTED = 4
_MAX_SIZES = 40
# Above this, float64 no longer tells neighbouring integers apart.
_EXACT_WHOLE = 2**53


def recognise(got: Tensor, want: Tensor, rtol: float, atol: float, inputs: Sequence[Any] = ()) -> str | None:
    """One sentence (without its full stop) that explains how ``got`` became what it is instead of ``want``, or None.

    ``got`` and ``want`` differ in shape, dtype or values. ``inputs`` are the arguments of the call: their axes' sizes
    give factors a name, and a plain reduction of one is recognised.
    """
    if not (_readable(got) and _readable(want)):
        return None
    pair = _Pair.of(got.detach(), want.detach(), rtol, atol, inputs)
    if got.shape != want.shape:
        looks = _ON_SHAPE
    elif got.dtype != want.dtype:
        return _dtype(got.detach(), want.detach(), pair)
    elif pair.got.is_complex():
        looks = _ON_COMPLEX
    else:
        looks = _ON_VALUES
    return next((sentence for look in looks if (sentence := look(pair)) is not None), None)


def _readable(values: Tensor) -> bool:
    """Whether it is small enough to look at, and float64 (complex128) holds its values as they are."""
    if not 0 < values.numel() <= LIMIT or values.dim() > _MAX_RANK:
        return False
    if values.is_floating_point() or values.is_complex() or values.dtype is torch.bool:
        return True
    return bool(values.to(torch.float64).abs().max() <= _EXACT_WHOLE)


@dataclass(frozen=True)
class _Pair:
    """Both answers in float64 (or complex128), and what counts as equal."""

    got: Tensor
    want: Tensor
    rtol: float
    atol: float
    dtype: torch.dtype
    inputs: list[Tensor]
    sizes: list[int]

    @classmethod
    def of(cls, got: Tensor, want: Tensor, rtol: float, atol: float, inputs: Sequence[Any]) -> _Pair:
        wide = torch.complex128 if got.is_complex() or want.is_complex() else torch.float64
        tensors = list(_tensors(inputs))
        sizes = list(dict.fromkeys(_sizes([*tensors, want], inputs)))[:_MAX_SIZES]
        return cls(got.cpu().to(wide), want.cpu().to(wide), rtol, atol, want.dtype, tensors, sizes)

    @property
    def whole(self) -> bool:
        return not (self.dtype.is_floating_point or self.dtype.is_complex)

    @property
    def subject(self) -> str:
        return "It" if self.got.numel() == 1 else "Every element"

    def same(self, a: Tensor, b: Tensor) -> bool:
        """Equal shapes, and values within the tolerance."""
        if a.shape != b.shape:
            return False
        # Most guesses are wrong from the first element on, which is cheaper to ask for than all.
        first = (0,) * a.dim()
        x, y = (complex(a[first]), complex(b[first])) if a.numel() else (0, 0)
        # hypot: abs() of a large complex number raises.
        if math.hypot((x - y).real, (x - y).imag) > self.atol + self.rtol * math.hypot(y.real, y.imag):
            return False
        return bool(torch.isclose(a, b.to(a.dtype), rtol=self.rtol, atol=self.atol, equal_nan=True).all())

    def follows(self, a: Tensor, b: Tensor, *, among: int = 1, free: int = 0) -> bool:
        """``a`` is ``b`` although each different value of ``b`` could have come out otherwise.

        ``among`` mistakes are tried at this place; ``free`` numbers were fitted to the values first.
        """
        if not self.same(a, b):
            return False
        return min(self._value_bits(a, free), self._value_bits(b, free)) >= _CONVINCING + math.log2(among)

    def matches(self, a: Tensor, b: Tensor, *, among: int = 1) -> bool:
        """``a`` is ``b`` although each element could have come out otherwise."""
        return self.same(a, b) and self.element_bits(b) >= _CONVINCING + math.log2(among)

    def element_bits(self, values: Tensor) -> float:
        count = len(self._distinct(values))
        return max(self._value_bits(values), values.numel() * math.log2(count)) if count > 1 else 0.0

    def _distinct(self, values: Tensor) -> Tensor:
        """The finite values that differ by more than the tolerance, ascending."""
        flat = torch.view_as_real(values).reshape(-1) if values.is_complex() else values.reshape(-1)
        ordered: Tensor = torch.unique(flat[flat.isfinite()])
        apart = ordered.diff() > self.atol + self.rtol * ordered[1:].abs()
        return torch.cat([ordered[:1], ordered[1:][apart]])

    def _value_bits(self, values: Tensor, free: int = 0) -> float:
        """What the different values are worth together; the ``free`` most precious ones count nothing."""
        distinct = self._distinct(values)
        step = torch.full_like(distinct, 1.0) if self.whole else self.atol + self.rtol * distinct.abs()
        # Values such as 0.5 or 3.0 come out of many a wrong formula: they are worth their digits, no more.
        round_ = (distinct * 64 - (distinct * 64).round()).abs() <= 64 * step.minimum(torch.tensor(1e-4))
        step = step.maximum(torch.where(round_, 1 / 64, 0.0)).maximum(torch.tensor(2.0**-40))
        bits = (1 + distinct.abs() / step).log2().sort().values
        return float(bits[: len(bits) - free].sum())


def _tensors(inputs: Sequence[Any]) -> Iterator[Tensor]:
    """The real tensors and arrays among the arguments, in float64."""
    for value in inputs:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value.copy())
        if isinstance(value, Tensor) and not value.is_complex() and _readable(value):
            yield value.detach().cpu().to(torch.float64)


def _sizes(tensors: Iterable[Tensor], inputs: Sequence[Any]) -> Iterator[int]:
    """Numbers that a mistaken formula may have multiplied or divided by: sizes of axes, numbers of elements."""
    for tensor in tensors:
        yield from (size for size in tensor.shape if size > 1)
    for value in inputs:
        if type(value) is int and 1 < value <= 10**6:
            yield value
        if isinstance(value, list | tuple) and len(value) > 1:
            yield len(value)
    for tensor in tensors:
        counts = [tensor.numel(), *(tensor.numel() // size for size in tensor.shape)]
        yield from (count for count in counts if count > 1)


# -- dtypes ------------------------------------------------------------------------------------------------------------

_WHERE_FROM = {
    torch.float64: "NumPy computes in float64 unless it is told otherwise",
    torch.float32: "torch makes float32 unless it is told otherwise",
    torch.int64: "torch makes int64 of Python ints unless it is told otherwise",
    torch.bool: "a comparison gives bool",
}


def _dtype(got: Tensor, want: Tensor, pair: _Pair) -> str:
    if pair.same(pair.got, pair.want):
        source = _WHERE_FROM.get(got.dtype, "")
        return "The values are right, only the dtype is not" + (f": {source}" if source else "")
    whole = not (got.is_floating_point() or got.is_complex())
    if whole and want.is_floating_point() and pair.matches(pair.got, pair.want.trunc()):
        return "The fractions are cut off: something on the way was computed or stored in whole numbers"
    if whole and pair.whole and bool((want.to(got.dtype) == got).all()):
        return f"The values do not fit in {str(got.dtype).removeprefix('torch.')} and have wrapped around"
    return "Its values differ, too"


# -- the same shape ----------------------------------------------------------------------------------------------------


def _rounding(pair: _Pair) -> str | None:
    """Only where a check asks for every bit."""
    return "It is right but for rounding" if pair.same(pair.got, pair.want) else None


def _input(pair: _Pair) -> str | None:
    for index, value in enumerate(pair.inputs):
        if pair.matches(pair.got, value, among=len(pair.inputs)):
            name = "the input" if len(pair.inputs) == 1 else f"tensor {index + 1} of the arguments"
            return f"It is {name}, unchanged"
    return None


def _constant(pair: _Pair) -> str | None:
    value = pair.got.reshape(-1)[0]
    if not pair.same(pair.got, value.expand_as(pair.got)) or pair.element_bits(pair.want) < _CONVINCING:
        return None
    return f"It is {_number(float(value), pair)} everywhere"


def _not_finite(pair: _Pair) -> str | None:
    bad = ~pair.got.isfinite() & pair.want.isfinite()
    if not bad.any() or not pair.matches(pair.got[~bad], pair.want[~bad]):
        return None
    if pair.got[bad].isnan().any():
        return "All else is right: nan comes from 0/0, inf - inf, or a root or logarithm of a negative number"
    return "All else is right: inf comes from a division by 0 or log(0) (is an eps missing?), or from overflow"


def _factor(pair: _Pair) -> str | None:
    usable = pair.got.isfinite() & pair.want.isfinite()
    got, want = pair.got[usable], pair.want[usable]
    power = (want * want.conj()).real.sum()
    if not power:
        return None
    fitted = float((got * want.conj()).real.sum() / power)
    if math.isclose(fitted, -1, rel_tol=1e-2) and pair.follows(pair.got, -pair.want):
        return f"{pair.subject} has the wrong sign"
    known = [(factor, text) for factor, text in _factors(pair.sizes) if math.isclose(factor, fitted, rel_tol=1e-2)]
    tried = 1 + 6 * len(pair.sizes) + len(_CONSTANTS)
    fitting = [(factor, text) for factor, text in known if pair.follows(pair.got, factor * pair.want, among=tried)]
    texts = list(dict.fromkeys(text for _, text in fitting))
    if texts and all(texts) and len(texts) <= 2:
        return f"{pair.subject} is {fitting[0][0]:.6g} times what is expected: {', or '.join(texts)}?"
    if fitting or pair.follows(pair.got, fitted * pair.want, free=1):
        return f"{pair.subject} is {fitting[0][0] if fitting else fitted:.6g} times what is expected"
    return None


_CONSTANTS = [
    (math.log(2), "the natural logarithm where log2 is asked"),
    (1 / math.log(2), "log2 where the natural logarithm is asked"),
    (math.log(10), "the natural logarithm where log10 is asked"),
    (1 / math.log(10), "log10 where the natural logarithm is asked"),
    (math.pi / 180, "radians where degrees are asked"),
    (180 / math.pi, "degrees where radians are asked"),
    (100.0, "percent where a fraction is asked"),
    (0.01, "a fraction where percent are asked"),
    *((1024.0**power, "another unit (a KiB is 1024 bytes, a MiB 1024 KiB)") for power in (-3, -2, -1, 1, 2, 3)),
]


def _factors(sizes: Sequence[int]) -> Iterator[tuple[float, str]]:
    """Factors that a usual mistake leaves, with the mistake. Bessel's correction is n/(n - 1)."""
    # Twice or half has too many causes to name one; and it comes before what an axis of 2 or 4 could explain.
    yield from ((2.0, ""), (0.5, ""))
    for n in sizes:
        yield n, f"a sum where the mean over {n} is asked"
        yield 1 / n, f"a mean over {n} where the sum is asked"
        yield math.sqrt(n), f"a division by √{n} that is missing"
        yield 1 / math.sqrt(n), f"a division by √{n} too many"
        bessel = n / (n - 1)
        for power, name in ((1.0, "variance"), (0.5, "standard deviation")):
            yield bessel**power, f"the {name} divided by n - 1 = {n - 1} (unbiased) where n = {n} is asked (biased)"
            yield bessel**-power, f"the {name} divided by n = {n} (biased) where n - 1 = {n - 1} is asked (unbiased)"
    yield from _CONSTANTS


def _offset(pair: _Pair) -> str | None:
    usable = pair.got.isfinite() & pair.want.isfinite()
    if not usable.any():
        return None
    by = (pair.got[usable] - pair.want[usable]).mean()
    low, bottom = pair.want[usable].min(), pair.got[usable].min()
    # What the values tell is how far they are apart, not where they lie.
    if not pair.follows(pair.got[usable] - bottom, pair.want[usable] - low, free=1):
        return None
    if not pair.same(pair.got, pair.want + by):
        return None
    return f"Every element is {_number(abs(float(by)), pair)} too {'large' if by > 0 else 'small'}"


def _number(value: float, pair: _Pair) -> str:
    if pair.dtype is torch.bool:
        return str(bool(value))
    return str(round(value)) if pair.whole else f"{value:.6g}"


Map = Callable[[Tensor], Tensor]
# One call each: what is missing if it turns the answer into the right one, what is too much the other way round.
_FUNCTIONS: list[tuple[str, Map]] = [
    ("abs", torch.abs),
    ("relu", torch.relu),
    ("exp", torch.exp),
    ("log", torch.log),
    ("square", torch.square),
    ("square root", torch.sqrt),
    ("sigmoid", torch.sigmoid),
    ("tanh", torch.tanh),
]
_MUTUAL: list[tuple[str, Map]] = [
    ("1 divided by", torch.reciprocal),
    ("1 minus", lambda x: 1 - x),
]
_ALONG: list[tuple[str, Callable[[Tensor, int], Tensor]]] = [
    ("softmax", torch.softmax),
    ("log_softmax", torch.log_softmax),
    ("cumulative sum", torch.cumsum),
    ("division by the sum", lambda x, axis: x / x.sum(axis, keepdim=True)),
    ("division by the norm", lambda x, axis: x / x.norm(dim=axis, keepdim=True)),
    ("subtraction of the mean", lambda x, axis: x - x.mean(axis, keepdim=True)),
    ("subtraction of the maximum", lambda x, axis: x - x.amax(axis, keepdim=True)),
]


def _function(pair: _Pair) -> str | None:
    tried = 2 * len(_FUNCTIONS) + len(_MUTUAL) + 3
    for name, function in _MUTUAL:
        if pair.follows(pair.got, function(pair.want), among=tried):
            return f"{pair.subject} is {name} what is expected"
    # A step forgotten is likelier than one too many, so all of the one are tried before the other.
    for name, function in _FUNCTIONS:
        if pair.follows(function(pair.got), pair.want, among=tried):
            return f"The {name} of it is what is expected: is a last step missing?"
    for name, function in _FUNCTIONS:
        if pair.follows(pair.got, function(pair.want), among=tried):
            return f"It is the {name} of what is expected: is one step too many?"
    for verb, function in (("cut off", torch.trunc), ("rounded off", torch.round), ("rounded down", torch.floor)):
        if pair.matches(pair.got, function(pair.want), among=tried):
            return f"The fractions are {verb}: something on the way was computed in whole numbers"
    return None


def _opposite(pair: _Pair) -> str | None:
    if pair.dtype is torch.bool and pair.matches(pair.got, 1 - pair.want):
        return "Every element is the opposite of what is expected"
    return None


def _along(pair: _Pair) -> str | None:
    if pair.whole:
        return None
    tried = 2 * len(_ALONG) * max(1, pair.want.dim())
    for axis in reversed(range(pair.want.dim())):
        if pair.want.shape[axis] == 1:
            continue
        for name, function in _ALONG:
            if pair.follows(function(pair.got, axis), pair.want, among=tried):
                return f"After a {name} along axis {axis} it is what is expected: is that step missing?"
            if pair.follows(pair.got, function(pair.want, axis), among=tried):
                return f"It is what is expected after one more {name} along axis {axis}: is it done twice?"
    return None


def _sums_to_1(x: Tensor, axis: int) -> bool:
    return bool((x >= 0).all()) and bool(((x.sum(axis) - 1).abs() < 1e-3).all())


def _has_length_1(x: Tensor, axis: int) -> bool:
    return bool(((x.square().sum(axis) - 1).abs() < 1e-3).all())


def _is_standardised(x: Tensor, axis: int) -> bool:
    # An eps under the root makes the variance a little smaller than 1.
    centred = bool((x.mean(axis).abs() < 1e-3).all())
    return centred and bool(((x.var(axis, correction=0) - 1).abs() < 1e-2).all())


def _wrong_axis(pair: _Pair) -> str | None:
    """Normalised over another axis. Which one a tensor is normalised over can be seen from its sums alone."""
    if pair.whole or pair.want.dim() < 2 or pair.want.numel() < 6:
        return None
    looks = {"sums to 1": _sums_to_1, "has length 1": _has_length_1, "has mean 0 and variance 1": _is_standardised}
    for text, look in looks.items():
        mine, right = ([axis for axis in range(x.dim()) if look(x, axis)] for x in (pair.got, pair.want))
        if len(mine) == len(right) == 1 and mine != right:
            return f"It {text} along axis {mine[0]}, not along axis {right[0]}: is it computed over the wrong axis?"
        if len(right) == 1 and not mine and look(pair.got.reshape(1, -1), 1):
            return f"It {text} over all elements together, not along axis {right[0]} each: is the axis missing?"
    return None


Reduction = Callable[[Tensor, int], Tensor]
_REDUCTIONS: dict[str, Reduction] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "maximum": torch.amax,
    "minimum": torch.amin,
    "product": lambda x, axis: x.prod(axis),
    "norm": lambda x, axis: x.norm(dim=axis),
    "logsumexp": torch.logsumexp,
    "argmax": lambda x, axis: x.argmax(axis).to(x.dtype),
    "argmin": lambda x, axis: x.argmin(axis).to(x.dtype),
    "biased variance (divided by n)": lambda x, axis: x.var(axis, correction=0),
    "unbiased variance (divided by n - 1)": lambda x, axis: x.var(axis, correction=1),
    "biased standard deviation (divided by n)": lambda x, axis: x.std(axis, correction=0),
    "unbiased standard deviation (divided by n - 1)": lambda x, axis: x.std(axis, correction=1),
}


def _reduction(pair: _Pair) -> str | None:
    """Two plain reductions of one argument, alike but for the axis or the kind."""
    for source in pair.inputs:
        right = list(_reductions_to(source, pair.want, pair))
        if not right:
            continue
        for (kind, axis), (mine, other) in itertools.product(right, _reductions_to(source, pair.got, pair)):
            if kind == mine and axis != other:
                return f"It is the {kind} {_over(other)}; asked is the one {_over(axis)}"
            if kind != mine and axis == other:
                return f"It is the {mine} {_over(other)}; asked is the {kind}"
    return None


def _over(axis: int | None) -> str:
    return "over all elements" if axis is None else f"over axis {axis}"


def _reductions_to(source: Tensor, result: Tensor, pair: _Pair) -> Iterator[tuple[str, int | None]]:
    axes: list[int | None] = [*range(source.dim())] if source.dim() > 1 else []
    for axis in [*axes, None]:
        x, along = (source.reshape(-1), 0) if axis is None else (source, axis)
        if x.numel() // x.shape[along] != result.numel() or x.shape[along] < 2:
            continue
        for name, reduce in _REDUCTIONS.items():
            if pair.matches(result.reshape(-1), reduce(x, along).reshape(-1), among=len(_REDUCTIONS) ** 2):
                yield name, axis


def _mask(pair: _Pair) -> str | None:
    """The places of 0, -inf or nan are a mask; where it lies tells more than the values between."""
    for value, name in ((-math.inf, "-inf"), (math.nan, "nan"), (0.0, "0")):
        mine, right = _places(pair.got, value), _places(pair.want, value)
        if not right.any() or right.all():
            continue
        name = "False" if pair.dtype is torch.bool else name
        if (shift := _shift_of(mine, right)) is not None:
            return f"The pattern of {name} is moved by one place {shift} the last axis: is the mask off by one?"
        if right.numel() >= 16 and bool((mine == ~right).all()):
            return f"{name} is exactly where it should not be: is the mask the wrong way round?"
        if not mine.any() and (sentence := _unmasked(pair, right, name)) is not None:
            return sentence
    return None


def _places(values: Tensor, value: float) -> Tensor:
    return values.isnan() if math.isnan(value) else values == value


def _shift_of(mine: Tensor, right: Tensor) -> str | None:
    """How a mask whose every row is one run of hidden and one of open places was moved, if by one."""
    if right.dim() < 2 or right.shape[-1] < 4 or not (mine != right).any(-1).sum() >= 3:
        return None
    if any(bool(((x[..., 1:] != x[..., :-1]).sum(-1) > 1).any()) for x in (mine, right)):
        return None
    if bool((mine[..., 1:] == right[..., :-1]).all()):
        return "forward along"
    return "back along" if bool((mine[..., :-1] == right[..., 1:]).all()) else None


def _unmasked(pair: _Pair, hidden: Tensor, name: str) -> str | None:
    if hidden.sum() < 3:
        return None
    if pair.matches(pair.got[~hidden], pair.want[~hidden]):
        return f"It is wrong only where {name} is expected: is the mask applied?"
    if pair.want.dim() and not pair.whole:
        kept = pair.got.masked_fill(hidden, 0)
        if pair.follows(kept / kept.sum(-1, keepdim=True), pair.want):
            return "The mask is not applied before the softmax: all else is right"
    return None


# -- the same elements elsewhere ---------------------------------------------------------------------------------------


def _moved(pair: _Pair) -> str | None:
    """The right elements in another place."""
    got, want = pair.got, pair.want
    mine, right = got.reshape(-1).sort().values, want.reshape(-1).sort().values
    if not pair.same(mine, right):
        return None
    if (sentence := _placed(pair)) is not None:
        return sentence
    # That so many are True and so many False says nothing: here only different values count.
    return "It has the right elements in the wrong order" if pair.follows(mine, right) else None


def _placed(pair: _Pair) -> str | None:
    got, want = pair.got, pair.want
    if (sentence := _permuted(pair)) is not None:
        return sentence
    axes = [axis for axis in range(want.dim()) if want.shape[axis] > 1]
    for axis in axes:
        if pair.matches(got, want.flip(axis)):
            return f"It is in reverse order along axis {axis}"
    for axis, by in itertools.product(axes, (1, -1)):
        if want.shape[axis] > 2 and pair.matches(got, want.roll(by, axis)):
            return f"It is moved by one place along axis {axis}: is an index off by one?"
    if (sentence := _reshaped(pair)) is not None:
        return sentence
    for axis in axes:
        if pair.follows(got.sort(axis).values, want.sort(axis).values):
            return f"It has the right elements, in the wrong order along axis {axis}"
    return None


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """All orders of the axes but the natural one, swaps first; swaps alone where there are too many."""
    plain = tuple(range(rank))
    every = itertools.permutations(plain) if rank <= _MAX_PERMUTED else _swaps(plain)
    yield from sorted((order for order in every if order != plain), key=lambda order: _displaced(order))


def _swaps(plain: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for i, j in itertools.combinations(plain, 2):
        yield tuple(j if axis == i else i if axis == j else axis for axis in plain)


def _displaced(order: Sequence[int]) -> int:
    return sum(place != axis for place, axis in enumerate(order))


def _permuted(pair: _Pair) -> str | None:
    got, want = pair.got, pair.want
    if got.dim() != want.dim() or sorted(got.shape) != sorted(want.shape):
        return None
    for order in _orders(got.dim()):
        if pair.matches(got.permute(order), want):
            if got.dim() == 2:
                return "It is transposed"
            if _displaced(order) == 2:
                i, j = (axis for place, axis in enumerate(order) if place != axis)
                return f"Its axes {min(i, j)} and {max(i, j)} are swapped"
            return f"Its axes are in another order: .permute{order} gives what is expected"
    return None


_RESHAPED = "The elements are right, their order is not: is there a reshape (view) where axes should be swapped?"


def _reshaped(pair: _Pair) -> str | None:
    """Elements that stayed in memory order where axes had to change places, or the reverse."""
    flat, want = pair.got.reshape(-1), pair.want
    for order in _orders(want.dim()):
        if pair.matches(flat, want.permute(order).reshape(-1)):
            return _RESHAPED
    if want.dim() == 0:
        return None
    size = want.shape[-1]
    for parts in (n for n in range(2, min(size, 65)) if size % n == 0):
        split = want.reshape(*want.shape[:-1], parts, size // parts)
        if want.dim() > 1 and pair.matches(flat, split.transpose(-2, -3).reshape(-1)):
            return _RESHAPED
        if pair.matches(flat, split.transpose(-1, -2).reshape(-1)):
            how = f"reshaped to ({size // parts}, {parts}) and transposed they are right"
            return f"Along the last axis the elements are dealt out in another order: {how}"
    return None


def _shifted(pair: _Pair) -> str | None:
    """Moved by one along an axis with something else at the edge."""
    for axis, size in enumerate(pair.want.shape):
        if size < 4:
            continue
        for start, end in ((1, 0), (0, 1)):
            mine, right = pair.got.narrow(axis, start, size - 1), pair.want.narrow(axis, end, size - 1)
            if pair.matches(mine, right, among=2):
                return f"It is moved by one place along axis {axis}: is an index off by one?"
    return None


def _place(pair: _Pair) -> str | None:
    """Wrong exactly in the first or the last place of one axis."""
    close = torch.isclose(pair.got, pair.want, rtol=pair.rtol, atol=pair.atol, equal_nan=True)
    for axis, size in enumerate(pair.want.shape):
        for name, at, rest in (("first", 0, 1), ("last", size - 1, 0)):
            if size < 4 or close.select(axis, at).any():
                continue
            if pair.matches(pair.got.narrow(axis, rest, size - 1), pair.want.narrow(axis, rest, size - 1)):
                return f"It is wrong only at the {name} index of axis {axis}"
    return None


def _conjugate(pair: _Pair) -> str | None:
    if pair.follows(pair.got, pair.want.conj().resolve_conj()):
        return "It is the complex conjugate of what is expected"
    return None


# -- other shapes ------------------------------------------------------------------------------------------------------


def _axis_of_one(pair: _Pair) -> str | None:
    """keepdim forgotten, or an axis that was to go."""
    got, want = pair.got, pair.want
    for few, many in ((got, want), (want, got)):
        for axis in range(many.dim()):
            if many.shape[axis] == 1 and pair.same(few, many.squeeze(axis)):
                if few is got:
                    return f"Only axis {axis} of size 1 is missing: keepdim=True or .unsqueeze({axis}) gives it"
                return f"Only axis {axis} of size 1 is too many: .squeeze({axis}) removes it"
    return None


def _broadcast(pair: _Pair) -> str | None:
    got, want = pair.got, pair.want.reshape(-1)
    n = want.numel()
    if n > 1 and got.shape == (n, n) and pair.matches(got.diagonal(), want):
        return f"Its diagonal is what is expected: shapes ({n}, 1) and ({n},) were broadcast to ({n}, {n})"
    return None


def _reduced(pair: _Pair) -> str | None:
    for (few, many), text in (
        ((pair.got, pair.want), "It is the {} {} of what is expected: too much is reduced"),
        ((pair.want, pair.got), "Its {} {} is what is expected: is the reduction missing?"),
    ):
        over = [axis for axis in range(many.dim()) if many.dim() > 1 and few.dim() == many.dim() - 1]
        for axis, name in itertools.product([*over, None] if few.dim() == 0 else over, ("sum", "mean")):
            result = getattr(many, name)() if axis is None else getattr(many, name)(axis)
            if pair.follows(few, result, among=2 * many.dim()):
                return text.format(name, _over(axis))
    return None


def _batch(pair: _Pair) -> str | None:
    if pair.want.dim() == pair.got.dim() + 1 and pair.matches(pair.got, pair.want[0]):
        return "It is only the first of what is expected along axis 0: is the batch axis lost?"
    return None


def _same_elements(pair: _Pair) -> str | None:
    got, want = pair.got, pair.want
    if got.numel() != want.numel():
        return None
    if pair.matches(got.reshape(-1), want.reshape(-1)):
        return f"The elements and their order are right: only .reshape({tuple(want.shape)}) is missing"
    return _permuted(pair) or _reshaped(pair)


def _cut_short(pair: _Pair) -> str | None:
    got, want = pair.got, pair.want
    if got.dim() != want.dim():
        return None
    unlike = [axis for axis in range(got.dim()) if got.shape[axis] != want.shape[axis]]
    if len(unlike) != 1:
        return None
    axis = unlike[0]
    few, many = (got, want) if got.shape[axis] < want.shape[axis] else (want, got)
    left = many.shape[axis] - few.shape[axis]
    for start, end in ((0, "end"), (left, "start")):
        if pair.matches(few, many.narrow(axis, start, few.shape[axis])):
            verb = "missing" if few is got else "too many"
            return f"All else is right: {left} {'is' if left == 1 else 'are'} {verb} at the {end} of axis {axis}"
    return None


def _total(pair: _Pair) -> str | None:
    """Reduced over another axis: what is left has the same sum, or the same mean."""
    if pair.got.numel() == 1 or pair.want.numel() == 1 or pair.whole:
        return None
    for name in ("sum", "mean"):
        mine, right = getattr(pair.got, name)(), getattr(pair.want, name)()
        # Probabilities have the same sum and mean whatever was done to them: a round sum tells nothing.
        if pair.follows(mine, right, among=2) and pair.follows(pair.want.sum(), pair.want.sum()):
            return f"Its {name} is that of what is expected: is it a {name} over the wrong axis?"
    return None


Look = Callable[[_Pair], str | None]
_ON_VALUES: tuple[Look, ...] = (
    *(_rounding, _input, _constant, _reduction, _factor, _opposite, _offset, _function),
    *(_mask, _not_finite, _wrong_axis, _moved, _shifted, _along, _place),
)
_ON_COMPLEX: tuple[Look, ...] = (_rounding, _not_finite, _factor, _conjugate, _permuted)
_ON_SHAPE: tuple[Look, ...] = (
    *(_axis_of_one, _broadcast, _batch, _same_elements, _cut_short),
    *(_reduction, _reduced, _total),
)
