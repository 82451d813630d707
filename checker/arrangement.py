"""The right elements in the wrong place: moved, masked elsewhere, in another order or shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from checker.evidence import Pair

__all__ = [
    "axis_of_one",
    "batch",
    "broadcast",
    "cut_short",
    "mask",
    "moved",
    "permuted",
    "place",
    "same_elements",
    "shifted",
]

_MAX_PERMUTED = 4


def mask(pair: Pair) -> str | None:
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


def _unmasked(pair: Pair, hidden: Tensor, name: str) -> str | None:
    if hidden.sum() < 3:
        return None
    if pair.matches(pair.got[~hidden], pair.want[~hidden]):
        return f"It is wrong only where {name} is expected: is the mask applied?"
    if pair.want.dim() and not pair.whole:
        kept = pair.got.masked_fill(hidden, 0)
        if pair.follows(kept / kept.sum(-1, keepdim=True), pair.want):
            return "The mask is not applied before the softmax: all else is right"
    return None


def moved(pair: Pair) -> str | None:
    """The right elements in another place."""
    got, want = pair.got, pair.want
    mine, right = got.reshape(-1).sort().values, want.reshape(-1).sort().values
    if not pair.same(mine, right):
        return None
    if (sentence := _placed(pair)) is not None:
        return sentence
    # That so many are True and so many False says nothing: here only different values count.
    return "It has the right elements in the wrong order" if pair.follows(mine, right) else None


def _placed(pair: Pair) -> str | None:
    got, want = pair.got, pair.want
    if (sentence := permuted(pair)) is not None:
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


def permuted(pair: Pair) -> str | None:
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


def _reshaped(pair: Pair) -> str | None:
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


def shifted(pair: Pair) -> str | None:
    """Moved by one along an axis with something else at the edge."""
    for axis, size in enumerate(pair.want.shape):
        if size < 4:
            continue
        for start, end in ((1, 0), (0, 1)):
            mine, right = pair.got.narrow(axis, start, size - 1), pair.want.narrow(axis, end, size - 1)
            if pair.matches(mine, right, among=2):
                return f"It is moved by one place along axis {axis}: is an index off by one?"
    return None


def place(pair: Pair) -> str | None:
    """Wrong exactly in the first or the last place of one axis."""
    close = torch.isclose(pair.got, pair.want, rtol=pair.rtol, atol=pair.atol, equal_nan=True)
    for axis, size in enumerate(pair.want.shape):
        for name, at, rest in (("first", 0, 1), ("last", size - 1, 0)):
            if size < 4 or close.select(axis, at).any():
                continue
            if pair.matches(pair.got.narrow(axis, rest, size - 1), pair.want.narrow(axis, rest, size - 1)):
                return f"It is wrong only at the {name} index of axis {axis}"
    return None


def axis_of_one(pair: Pair) -> str | None:
    """keepdim forgotten, or an axis that was to go."""
    got, want = pair.got, pair.want
    for few, many in ((got, want), (want, got)):
        for axis in range(many.dim()):
            if many.shape[axis] == 1 and pair.same(few, many.squeeze(axis)):
                if few is got:
                    return f"Only axis {axis} of size 1 is missing: keepdim=True or .unsqueeze({axis}) gives it"
                return f"Only axis {axis} of size 1 is too many: .squeeze({axis}) removes it"
    return None


def broadcast(pair: Pair) -> str | None:
    got, want = pair.got, pair.want.reshape(-1)
    n = want.numel()
    if n > 1 and got.shape == (n, n) and pair.matches(got.diagonal(), want):
        return f"Its diagonal is what is expected: shapes ({n}, 1) and ({n},) were broadcast to ({n}, {n})"
    return None


def batch(pair: Pair) -> str | None:
    if pair.want.dim() == pair.got.dim() + 1 and pair.matches(pair.got, pair.want[0]):
        return "It is only the first of what is expected along axis 0: is the batch axis lost?"
    return None


def same_elements(pair: Pair) -> str | None:
    got, want = pair.got, pair.want
    if got.numel() != want.numel():
        return None
    if pair.matches(got.reshape(-1), want.reshape(-1)):
        return f"The elements and their order are right: only .reshape({tuple(want.shape)}) is missing"
    return permuted(pair) or _reshaped(pair)


def cut_short(pair: Pair) -> str | None:
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
