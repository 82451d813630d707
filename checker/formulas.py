"""What was computed is not what is asked: a factor, a step, a reduction or an axis that is another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from checker.evidence import CONVINCING, Pair

__all__ = [
    "along",
    "conjugate",
    "constant",
    "factor",
    "not_finite",
    "offset",
    "opposite",
    "reduced",
    "reduction",
    "rounding",
    "step",
    "total",
    "unchanged",
    "wrong_axis",
]


def rounding(pair: Pair) -> str | None:
    """Only where a check asks for every bit."""
    return "It is right but for rounding" if pair.same(pair.got, pair.want) else None


def unchanged(pair: Pair) -> str | None:
    for index, value in enumerate(pair.inputs):
        if pair.matches(pair.got, value, among=len(pair.inputs)):
            name = "the input" if len(pair.inputs) == 1 else f"tensor {index + 1} of the arguments"
            return f"It is {name}, unchanged"
    return None


def constant(pair: Pair) -> str | None:
    value = pair.got.reshape(-1)[0]
    if not pair.same(pair.got, value.expand_as(pair.got)) or pair.element_bits(pair.want) < CONVINCING:
        return None
    return f"It is {_number(float(value), pair)} everywhere"


def not_finite(pair: Pair) -> str | None:
    bad = ~pair.got.isfinite() & pair.want.isfinite()
    if not bad.any() or not pair.matches(pair.got[~bad], pair.want[~bad]):
        return None
    if pair.got[bad].isnan().any():
        return "All else is right: nan comes from 0/0, inf - inf, or a root or logarithm of a negative number"
    return "All else is right: inf comes from a division by 0 or log(0) (is an eps missing?), or from overflow"


def factor(pair: Pair) -> str | None:
    usable = pair.got.isfinite() & pair.want.isfinite()
    got, want = pair.got[usable], pair.want[usable]
    power = (want * want.conj()).real.sum()
    if not power:
        return None
    fitted = float((got * want.conj()).real.sum() / power)
    if math.isclose(fitted, -1, rel_tol=1e-2) and pair.follows(pair.got, -pair.want):
        return f"{pair.subject} has the wrong sign"
    known = [(times, text) for times, text in _factors(pair.sizes) if math.isclose(times, fitted, rel_tol=1e-2)]
    tried = 1 + 6 * len(pair.sizes) + len(_CONSTANTS)
    fitting = [(times, text) for times, text in known if pair.follows(pair.got, times * pair.want, among=tried)]
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


def offset(pair: Pair) -> str | None:
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


def _number(value: float, pair: Pair) -> str:
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


def step(pair: Pair) -> str | None:
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


def opposite(pair: Pair) -> str | None:
    if pair.dtype is torch.bool and pair.matches(pair.got, 1 - pair.want):
        return "Every element is the opposite of what is expected"
    return None


def along(pair: Pair) -> str | None:
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


def wrong_axis(pair: Pair) -> str | None:
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


def reduction(pair: Pair) -> str | None:
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


def _reductions_to(source: Tensor, result: Tensor, pair: Pair) -> Iterator[tuple[str, int | None]]:
    axes: list[int | None] = [*range(source.dim())] if source.dim() > 1 else []
    for axis in [*axes, None]:
        x, along = (source.reshape(-1), 0) if axis is None else (source, axis)
        if x.numel() // x.shape[along] != result.numel() or x.shape[along] < 2:
            continue
        for name, reduce in _REDUCTIONS.items():
            if pair.matches(result.reshape(-1), reduce(x, along).reshape(-1), among=len(_REDUCTIONS) ** 2):
                yield name, axis


def conjugate(pair: Pair) -> str | None:
    if pair.follows(pair.got, pair.want.conj().resolve_conj()):
        return "It is the complex conjugate of what is expected"
    return None


def reduced(pair: Pair) -> str | None:
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


def total(pair: Pair) -> str | None:
    """Reduced over another axis: what is left has the same sum, or the same mean."""
    if pair.got.numel() == 1 or pair.want.numel() == 1 or pair.whole:
        return None
    for name in ("sum", "mean"):
        mine, right = getattr(pair.got, name)(), getattr(pair.want, name)()
        # Probabilities have the same sum and mean whatever was done to them: a round sum tells nothing.
        if pair.follows(mine, right, among=2) and pair.follows(pair.want.sum(), pair.want.sum()):
            return f"Its {name} is that of what is expected: is it a {name} over the wrong axis?"
    return None
