"""Comparison: equal only if type, shape, dtype and values are; otherwise a sentence that says what differs."""

import math

import numpy as np
import pytest
import torch

from checker.compare import EXACT, Tolerance, describe, difference
from labkit.wire import Handle

CLOSE = Tolerance()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        math.nan,
        "a",
        b"a",
        (1, 2),
        [1, [2.0]],
        {"a": (1,)},
        {1, 2},
        torch.float32,
        torch.Size([2]),
        torch.tensor([1.0, math.nan]),
        torch.empty(0, 3),
        np.arange(3.0),
        np.float32(2),
    ],
)
def test_equal_values_do_not_differ(value):
    assert difference(value, value) is None


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (None, 3, "None, not 3. Did you forget a return statement?"),
        ({"a": None}, {"a": 3}, "a dict in which 'a' is None, not 3"),
        ([0], [None], "a list whose item 0 is 0, not None"),
        (3.0, 3, "3.0, which is a float, not an int"),
        (True, 1, "True, which is a bool, not an int"),
        ([1, 2], (1, 2), "[1, 2], which is a list, not a tuple"),
        (torch.tensor(3), 3, "A tensor with one element becomes a Python number with .item()"),
        (4, 3, "4, not 3"),
        ((1, 2), (1, 3), "a tuple whose item 1 is 2, not 3"),
        ([1], [1, 2], "[1] with 1 items, not 2"),
        ({"a": 1}, {"a": 1, "b": 2}, "a dict without the key 'b'"),
        ({"a": 1, "c": 2}, {"a": 1}, "a dict with the key 'c', which does not belong there"),
        ({"a": [1.0]}, {"a": [2.0]}, "a dict in which 'a' is a list whose item 0 is 1.0, not 2.0"),
        (Handle(1, "lab.Net", "Net()"), 3, "Net() (a Net object), which is a Net object, not an int"),
        (torch.zeros(2, 3), torch.zeros(3, 2), "of shape (2, 3), not (3, 2) (the axes are in reverse order)"),
        (torch.zeros(6), torch.zeros(3, 2), "(the same number of elements, laid out differently)"),
        (torch.zeros(2), torch.zeros(2).double(), "of dtype torch.float32, not torch.float64"),
        (
            torch.tensor([0, 1, 5]),
            torch.tensor([0, 2, 5]),
            "differs in 1 of 3 elements; the first is at index [1]: 1, not 2",
        ),
        (torch.tensor([math.nan, 1.0]), torch.tensor([0.0, 1.0]), "nan, not 0.0; it contains nan"),
        (torch.tensor(2.0), torch.tensor(3.0), "2.0, not 3.0"),
        (np.zeros(2), torch.zeros(2), "which is a NumPy array, not a tensor"),
        (np.zeros(2, np.float32), np.zeros(2), "an array of dtype float32, not float64"),
        (np.zeros((2, 1)), np.zeros(2), "an array of shape (2, 1), not (2,)"),
    ],
)
def test_a_difference_says_what_and_where(got, want, says):
    assert says in difference(got, want)


def test_tensors_and_arrays_are_called_what_they_are():
    rest = "that differs in 1 of 2 elements; the first is at index [1]: 2, not 3"
    assert difference(np.array([1, 2]), np.array([1, 3])) == f"an array {rest}"
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == f"a tensor {rest}"


def test_tolerance_follows_the_dtype():
    want = torch.tensor([1.0, 100.0])
    assert difference(want + 1e-6, want, CLOSE) is None
    assert difference(want + 1e-6, want, EXACT) is not None
    assert difference(want.double() + 1e-6, want.double(), CLOSE) is not None
    assert difference(want.half() * 1.0005, want.half(), CLOSE) is None
    assert difference(2.0 + 1e-9, 2.0, CLOSE) is None
    assert difference(2.1, 2.0, CLOSE) == "2.1, not 2.0"
    assert difference(torch.tensor([1]), torch.tensor([2]), CLOSE) is not None


def test_a_tolerance_given_is_the_one_used():
    assert difference(torch.tensor(1.05), torch.tensor(1.0), Tolerance(rtol=0.1, atol=0)) is None
    assert difference(torch.tensor(math.inf), torch.tensor(math.inf), CLOSE) is None
    assert difference(torch.tensor(math.inf), torch.tensor(-math.inf), CLOSE) is not None


def test_only_infinity_is_close_to_infinity():
    assert difference(math.inf, math.inf, CLOSE) is None
    assert difference(5.0, math.inf, CLOSE) == "5.0, not inf"
    assert difference(-math.inf, math.inf, CLOSE) == "-inf, not inf"
    assert difference(math.inf, 5.0, CLOSE) == "inf, not 5.0"
    assert difference(math.nan, math.nan, CLOSE) is None


def test_integers_are_compared_exactly_unless_a_tolerance_is_given():
    got, want = torch.tensor([2**60, 101]), torch.tensor([2**60, 100])
    assert difference(got, want, Tolerance(atol=1)) is None
    assert difference(got, want, Tolerance(rtol=0.01)) is None
    assert difference(np.array([101]), np.array([100]), Tolerance(atol=1)) is None
    assert difference(got, want, CLOSE) is not None
    assert difference(torch.tensor([2**60 + 1]), torch.tensor([2**60]), CLOSE) is not None


def test_numbers_that_round_to_the_same_text_are_shown_in_full():
    exact, rounded = torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.1]).double()
    assert "0.10000000149011612, not 0.1" in (difference(rounded, exact, EXACT) or "")
    assert "100000.25, not 100000.125" in (difference(100000.25, 100000.125, EXACT) or "")


def test_gradients_of_the_answer_do_not_disturb():
    assert difference(torch.ones(2, requires_grad=True), torch.ones(2)) is None


def test_large_things_are_described_by_shape():
    assert describe(torch.zeros(100)) == "a tensor of shape (100,) and dtype torch.float32"
    assert describe("x" * 1000).endswith("…")
    assert describe(torch.tensor([0.1])) == "[0.1] (a tensor of shape (1,) and dtype torch.float32)"
