"""Patterns: making a usual mistake yields its sentence, for whatever values; an unrelated answer yields none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checker.compare import EXACT, Tolerance, difference
from checker.patterns import LIMIT, recognise

CLOSE = Tolerance()
Mistake = Callable[[Tensor], tuple[Any, ...]]
SEEDS = st.integers(0, 2**32)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def causal(x: Tensor, diagonal: int = 1) -> Tensor:
    """Scores of 6 x 6 with -inf above a diagonal."""
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(diagonal)
    return torch.cat([x[:, :6], x[:1, :6].cos()]).masked_fill(hidden, -math.inf)


def cube(x: Tensor) -> Tensor:
    return x[:, :6].reshape(5, 2, 3)


def put(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[1, 2] = value
    return x


def zeroed(x: Tensor, row: int) -> Tensor:
    x = x.clone()
    x[row] = 0
    return x


def shifted(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros(5, 1), x[:, :-1]], 1)


def standardised(x: Tensor, axis: int) -> Tensor:
    return (x - x.mean(axis, keepdim=True)) / (x.var(axis, correction=0, keepdim=True) + 1e-5).sqrt()


# Each is made of x, normally distributed, 5 x 7: what was returned, what is right, and the arguments if they help.
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "sign": (lambda x: (-x, x), "Every element has the wrong sign"),
    "sign of one number": (lambda x: (-x.norm(), x.norm()), "It has the wrong sign"),
    "twice": (lambda x: (2 * x, x), "Every element is 2 times what is expected"),
    "any factor": (lambda x: (0.3 * x, x), "Every element is 0.3 times what is expected"),
    "no scaling": (lambda x: (x @ x.T, x @ x.T / math.sqrt(7), (x,)), "a division by √7 that is missing?"),
    "scaled twice": (lambda x: (x @ x.T / 7, x @ x.T / math.sqrt(7), (x,)), "a division by √7 too many?"),
    "size as a number": (lambda x: (x * math.sqrt(11), x, (11,)), "a division by √11 that is missing?"),
    "sum for mean": (lambda x: ((x**2).sum(1), (x**2).mean(1), (x,)), "a sum where the mean over 7 is asked?"),
    "mean for sum": (lambda x: ((x**2).mean(1), (x**2).sum(1), (x,)), "a mean over 7 where the sum is asked?"),
    "mean loss": (lambda x: ((x**2).sum(), (x**2).mean(), (x,)), "It is 35 times what is expected: a sum"),
    "unbiased": (lambda x: (x.exp().var(1), x.exp().var(1, correction=0), (x,)), "variance divided by n - 1 = 6 (unb"),
    "biased": (lambda x: (x.exp().var(1, correction=0), x.exp().var(1), (x,)), "variance divided by n = 7 (biased)"),
    "biased std": (lambda x: (x.exp().std(1, correction=0), x.exp().std(1), (x,)), "the standard deviation divided by"),
    "plain variance": (
        lambda x: (x.var(1), x.var(1, correction=0), (x,)),
        "It is the unbiased variance (divided by n - 1) over axis 1; asked is the biased variance (divided by n)",
    ),
    "log2": (lambda x: ((x**2 + 1).log2(), (x**2 + 1).log()), "log2 where the natural logarithm is asked?"),
    "ln for log10": (lambda x: ((x**2 + 1).log(), (x**2 + 1).log10()), "the natural logarithm where log10 is asked?"),
    "radians": (lambda x: (x, x.rad2deg()), "radians where degrees are asked?"),
    "degrees": (lambda x: (x, x.deg2rad()), "degrees where radians are asked?"),
    "percent": (lambda x: (100 * x, x), "100 times what is expected: percent where a fraction is asked?"),
    "fraction": (lambda x: (x / 100, x), "0.01 times what is expected: a fraction where percent are asked?"),
    "KiB": (lambda x: (x * 1024, x), "another unit (a KiB is 1024 bytes, a MiB 1024 KiB)?"),
    "offset": (lambda x: (x + 0.25, x), "Every element is 0.25 too large"),
    "offset below": (lambda x: (x - 1, x), "Every element is 1 too small"),
    "squared": (lambda x: (x**2, x.abs()), "The square root of it is what is expected: is a last step missing?"),
    "rooted": (lambda x: (x.abs().sqrt(), x.abs()), "The square of it is what is expected: is a last step missing?"),
    "no relu": (lambda x: (x, x.relu()), "The relu of it is what is expected"),
    "relu too many": (lambda x: (x.relu(), x), "It is the relu of what is expected: is one step too many?"),
    "inverse": (lambda x: (1 / x, x), "Every element is 1 divided by what is expected"),
    "complement": (lambda x: (1 - x.sigmoid(), x.sigmoid()), "Every element is 1 minus what is expected"),
    "no log": (lambda x: (x.softmax(1), x.log_softmax(1)), "The log of it is what is expected"),
    "truncated": (lambda x: ((9 * x).trunc(), 9 * x), "The fractions are cut off"),
    "floored": (lambda x: ((9 * x).floor(), 9 * x), "The fractions are rounded down"),
    "no softmax": (lambda x: (x, x.softmax(1)), "After a softmax along axis 1 it is what is expected"),
    "softmax twice": (lambda x: (x.softmax(1).softmax(1), x.softmax(1)), "one more softmax along axis 1: is it done"),
    "not divided": (lambda x: (x.exp(), x.softmax(1)), "After a division by the sum along axis 1 it is what is"),
    "not centred": (lambda x: (x, x - x.mean(0)), "After a subtraction of the mean along axis 0 it is what is"),
    "not shifted": (
        lambda x: (x, x - x.amax(1, keepdim=True)),
        "After a subtraction of the maximum along axis 1 it is what is expected: is that step missing?",
    ),
    "softmax axis": (lambda x: (x.softmax(0), x.softmax(1)), "It sums to 1 along axis 0, not along axis 1"),
    "softmax of all": (lambda x: (x.view(-1).softmax(0).view(5, 7), x.softmax(1)), "over all elements together, not"),
    "norm axis": (lambda x: (x / x.norm(dim=0), x / x.norm(dim=1)[:, None]), "It has length 1 along axis 0, not along"),
    "layer norm axis": (lambda x: (standardised(x, 0), standardised(x, 1)), "variance 1 along axis 0, not along"),
    "mean axis": (lambda x: (x.mean(0), x.mean(1), (x,)), "It is the mean over axis 0; asked is the one over axis 1"),
    "maximum for mean": (lambda x: (x.amax(1), x.mean(1), (x,)), "It is the maximum over axis 1; asked is the mean"),
    "mean of what axis": (lambda x: (x.exp().mean(0), x.exp().mean(1)), "Its mean is that of what is expected"),
    "sum of what axis": (lambda x: (x.exp().sum(0), x.exp().sum(1)), "is it a sum over the wrong axis?"),
    "transposed": (lambda x: (x.T, x), "It is transposed"),
    "transposed square": (lambda x: (x[:, :5].T, x[:, :5]), "It is transposed"),
    "axes swapped": (lambda x: (cube(x).transpose(0, 1), cube(x)), "Its axes 0 and 1 are swapped"),
    "axes turned": (lambda x: (cube(x).permute(2, 0, 1), cube(x)), ".permute(1, 2, 0) gives what is expected"),
    "heads not moved back": (
        lambda x: (x[:, :6].reshape(5, 6), x[:, :6].reshape(2, 5, 3).transpose(0, 1).reshape(5, 6)),
        "is there a reshape (view) where axes should be swapped?",
    ),
    "view for transpose": (lambda x: (x.reshape(7, 5), x.T), "is there a reshape (view) where axes should be swapped?"),
    "interleaved": (
        lambda x: (x[:, :6].view(5, 2, 3).mT.reshape(5, 6), x[:, :6]),
        "Along the last axis the elements are dealt out in another order: reshaped to (3, 2)",
    ),
    "reversed": (lambda x: (x.flip(1), x), "It is in reverse order along axis 1"),
    "rolled": (lambda x: (x.roll(1, 1), x), "It is moved by one place along axis 1: is an index off by one?"),
    "shifted": (lambda x: (shifted(x), x), "It is moved by one place along axis 1: is an index off by one?"),
    "sorted": (lambda x: (x.sort(1).values, x), "It has the right elements, in the wrong order along axis 1"),
    "argsort": (lambda x: (x.view(-1).argsort(descending=True), x.view(-1).argsort()), "in reverse order along axis 0"),
    "mask off by one": (lambda x: (causal(x, 2), causal(x)), "The pattern of -inf is moved by one place forward along"),
    "mask too early": (lambda x: (causal(x, 0), causal(x)), "The pattern of -inf is moved by one place back along"),
    "weights off by one": (lambda x: (causal(x, 2).softmax(1), causal(x).softmax(1)), "The pattern of 0 is moved by"),
    "no mask": (lambda x: (causal(x, 9), causal(x)), "It is wrong only where -inf is expected: is the mask applied?"),
    "no mask on weights": (lambda x: (causal(x, 9).softmax(1), causal(x).softmax(1)), "not applied before the softmax"),
    "bool mask": (lambda x: (causal(x, 2).isinf(), causal(x).isinf()), "The pattern of False is moved by one place"),
    "mask the wrong way": (
        lambda x: (causal(x, 9).masked_fill(~causal(x).isinf(), -math.inf), causal(x)),
        "-inf is exactly where it should not be: is the mask the wrong way round?",
    ),
    "mask inverted": (lambda x: (causal(x).isinf(), ~causal(x).isinf()), "Every element is the opposite of what is"),
    "one nan": (lambda x: (put(x, math.nan), x), "All else is right: nan comes from 0/0"),
    "one inf": (lambda x: (put(x, math.inf), x), "All else is right: inf comes from a division by 0"),
    "nan everywhere": (lambda x: (x * math.nan, x), "It is nan everywhere"),
    "not filled": (lambda x: (torch.zeros(5, 7), x), "It is 0 everywhere"),
    "last row": (lambda x: (zeroed(x, 4), x), "It is wrong only at the last index of axis 0"),
    "first row": (lambda x: (zeroed(x, 0), x), "It is wrong only at the first index of axis 0"),
    "input": (lambda x: (x, x.exp() + x, (x,)), "It is the input, unchanged"),
    "second input": (lambda x: (x, x.exp() + x, (x + 1, x)), "It is tensor 2 of the arguments, unchanged"),
    "keepdim": (lambda x: (x.sum(1), x.sum(1, keepdim=True)), "Only axis 1 of size 1 is missing: keepdim=True or"),
    "no keepdim": (lambda x: (x.sum(1, keepdim=True), x.sum(1)), "Only axis 1 of size 1 is too many: .squeeze(1)"),
    "no batch": (lambda x: (x, x[None]), "Only axis 0 of size 1 is missing"),
    "one of the batch": (lambda x: (x[0], x), "It is only the first of what is expected along axis 0: is the batch"),
    "broadcast": (lambda x: (x[0][:, None] - x[1], x[0] - x[1]), "shapes (7, 1) and (7,) were broadcast to (7, 7)"),
    "flattened": (lambda x: (x.reshape(-1), x), "their order are right: only .reshape((5, 7)) is missing"),
    "one short": (lambda x: (x[:, :-1], x), "All else is right: 1 is missing at the end of axis 1"),
    "too long": (lambda x: (x, x[2:]), "All else is right: 2 are too many at the start of axis 0"),
    "not reduced": (lambda x: (x**2, (x**2).mean()), "Its mean over all elements is what is expected: is the"),
    "reduced": (lambda x: ((x**2).sum(), x**2), "It is the sum over all elements of what is expected: too much is"),
    "one axis reduced": (lambda x: ((x**2).sum(1), x**2), "It is the sum over axis 1 of what is expected"),
    "float64": (lambda x: (x.double(), x), "The values are right, only the dtype is not: NumPy computes in float64"),
    "float32": (lambda x: (x, x.double()), "The values are right, only the dtype is not: torch makes float32 unless"),
    "int64": (lambda x: ((9 * x).long(), (9 * x).int()), "is not: torch makes int64 of Python ints unless"),
    "bool for int": (lambda x: (x > 0, (x > 0).long()), "only the dtype is not: a comparison gives bool"),
    "int for float": (lambda x: ((9 * x).long(), 9 * x), "The fractions are cut off"),
    "wrapped": (lambda x: ((900 * x).int().to(torch.int8), (900 * x).int()), "The values do not fit in int8"),
    "dtype and values": (lambda x: (x.double().exp(), x), "Its values differ, too"),
    "conjugate": (lambda x: (torch.complex(x, -x**2), torch.complex(x, x**2)), "the complex conjugate of what is"),
    "complex factor": (lambda x: (torch.complex(x, x**2) * 3, torch.complex(x, x**2)), "Every element is 3 times what"),
    "complex transposed": (lambda x: (torch.complex(x, x**2).T, torch.complex(x, x**2)), "It is transposed"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@settings(max_examples=4)
@given(seed=SEEDS)
def test_a_usual_mistake_is_named(name: str, seed: int) -> None:
    make, says = MISTAKES[name]
    got, want, *inputs = make(numbers(seed, 5, 7))
    arguments = inputs[0] if inputs else ()
    assert says in (difference(got, want, CLOSE, inputs=arguments) or "")
    assert says not in (difference(got, want, CLOSE, inputs=arguments, explain=False) or "")


@pytest.mark.parametrize("name", MISTAKES)
@settings(max_examples=3)
@given(seed=SEEDS)
def test_the_right_answer_is_no_mistake(name: str, seed: int) -> None:
    make, _ = MISTAKES[name]
    _, want, *inputs = make(numbers(seed, 5, 7))
    noise = torch.randn(want.shape, generator=torch.Generator().manual_seed(seed)).to(want.dtype)
    near = want * (1 + 1e-7 * noise) if want.dtype is torch.float32 else want.clone()
    assert difference(near, want, CLOSE, inputs=inputs[0] if inputs else ()) is None


def drawn(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if kind == "bools":
        return torch.randint(0, 2, shape, generator=generator).bool()
    if kind in ("digits", "quarters"):
        drawn = torch.randint(0, 10, shape, generator=generator)
        return drawn if kind == "digits" else drawn / 4
    values = torch.randn(shape, generator=generator)
    if kind == "probabilities":
        return values.softmax(-1) if shape else values.sigmoid()
    return {"normal": values, "double": values.double(), "half": values.half(), "tiny": values / 1e5}[kind]


SHAPES: list[tuple[int, ...]] = [(), (1,), (2,), (3,), (5,), (8,), (2, 2), (3, 3), (4, 4), (2, 3, 4)]


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        *((kind, 0) for kind in ("normal", "double", "half", "probabilities")),
        # One digit is right by chance now and then; then it is true that only an axis of size 1 is missing.
        *((kind, 3) for kind in ("digits", "quarters", "bools", "tiny")),
    ],
)
def test_an_unrelated_answer_follows_no_pattern(kind: str, allowed: int) -> None:
    generator, said = torch.Generator().manual_seed(7), []
    for turn in range(10 * len(SHAPES)):
        shape = SHAPES[turn % len(SHAPES)]
        other = shape if turn % 2 else SHAPES[int(torch.randint(len(SHAPES), (1,), generator=generator))]
        got, want, source = (drawn(kind, s, generator) for s in (shape, other, (4, 16)))
        text = difference(got, want, CLOSE, inputs=(source, 8))
        if text is not None and text != difference(got, want, CLOSE, explain=False):
            said.append(text)
    assert len(said) <= allowed, said


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (torch.tensor(2.0), torch.tensor(1.0)),
        (torch.tensor([2.0]), torch.tensor([1.0])),
        (torch.zeros(3, 4), torch.zeros(3, 4) + 1),
        (torch.tensor([1, 2]), torch.tensor([2, 4])),
        (torch.tensor([True, False]), torch.tensor([False, True])),
        (torch.ones(3) / 3, torch.ones(3)),
        (6.0, 3.0),
        (4, 2),
    ],
)
def test_what_could_be_chance_is_not_explained(got: Any, want: Any) -> None:
    assert difference(got, want, CLOSE) == difference(got, want, CLOSE, explain=False)


def test_a_number_with_many_digits_is_enough_for_a_usual_factor_but_for_no_other() -> None:
    loss = 0.7312894
    assert "a sum where the mean over 12 is asked?" in (difference(12 * loss, loss, CLOSE, inputs=([0.1] * 12,)) or "")
    assert difference(11.3 * loss, loss, CLOSE, inputs=([0.1] * 12,)) == "8.26357, not 0.731289"


def test_two_readings_of_a_factor_are_both_given_but_none_of_twice() -> None:
    x = numbers(1, 6, 5)
    text = difference(4 * x, x, CLOSE, inputs=(numbers(2, 4), numbers(3, 16))) or ""
    assert "4 times what is expected: a sum where the mean over 4 is asked, or a division by √16 that is" in text
    assert (difference(2 * x, x, CLOSE, inputs=(numbers(2, 4),)) or "").endswith("2 times what is expected")


def test_a_list_of_numbers_is_looked_at_as_a_whole() -> None:
    assert difference([0.36, 0.84, 1.95], [0.12, 0.28, 0.65], CLOSE) == (
        "a list whose item 0 is 0.36, not 0.12. Every element is 3 times what is expected: "
        "a sum where the mean over 3 is asked?"
    )
    assert "Every element is 1 too large" in (difference([*range(1, 13)], [*range(12)]) or "")
    assert difference([2**60, 5], [2**61, 10]) == f"a list whose item 0 is {2**60}, not {2**61}"


def test_where_every_bit_counts_rounding_is_told_from_a_mistake() -> None:
    x = numbers(0, 5, 7)
    assert (difference(x * (1 + 3e-7), x, EXACT) or "").endswith("It is right but for rounding")
    assert (difference(3 * x, x, EXACT) or "").endswith("Every element is 3 times what is expected")


def test_masked_positions_do_not_hide_a_factor() -> None:
    want = causal(numbers(0, 5, 7))
    assert "√64" in (difference(want * 8, want, CLOSE, inputs=(64,)) or "")


@pytest.mark.parametrize("edge", [2**53 + 2, 2**63 - 1, -(2**63)])
def test_integers_that_float64_cannot_hold_are_not_looked_at(edge: int) -> None:
    got, want = torch.tensor([edge, *range(20)]), torch.tensor([edge, *range(1, 21)])
    assert recognise(got, want, 0.0, 0.0) is None
    assert "differs in 20 of 21 elements; the first is at index [1]: 0, not 1" in (difference(got, want) or "")


def test_only_so_many_elements_and_axes_are_looked_at() -> None:
    x = numbers(0, LIMIT + 1)
    assert recognise(-x[:-1], x[:-1], 1e-6, 1e-5) == "Every element has the wrong sign"
    assert recognise(-x, x, 1e-6, 1e-5) is None
    assert recognise(-x[:512].view((2,) * 9), x[:512].view((2,) * 9), 1e-6, 1e-5) is None
    assert "is the input" not in str(recognise(x[:-1], x[1:], 1e-6, 1e-5, (x,)))


@pytest.mark.parametrize("shape", [(LIMIT,), (128, 128), (4,) * 7, (2, 8, 32, 32)])
def test_looking_takes_no_time_that_is_felt(shape: tuple[int, ...]) -> None:
    got, want = numbers(0, *shape), numbers(1, *shape)
    started = time.process_time()
    assert recognise(got, want, 1e-6, 1e-5, (got + 1, want * 2)) is None
    # The bound leaves room for a slow machine, not for another order of growth.
    assert time.process_time() - started < 2
