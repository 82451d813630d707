"""One-line properties against right and wrong code in a real sandbox, and what the learner reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from checker.answer import Failure, StudentError
from checker.draw import Draw
from checker.properties import (
    batch_invariant,
    causal,
    deterministic,
    permutation_equivariant,
    permutation_invariant,
    stateless,
)
from tests.unit.remote.conftest import Load

SOURCE = """
def scores(x, diagonal):
    size = x.shape[1]
    return (x @ x.mT).masked_fill(torch.ones(size, size).triu(diagonal).bool(), float("-inf"))

def masked(x):
    return scores(x, 1).softmax(-1) @ x

def off_by_one(x):
    return scores(x, 2).softmax(-1) @ x

def wrong_way(x):
    return scores(x, 1).mT.nan_to_num(neginf=-1e9).softmax(-1) @ x

def last_peeks(x):
    y = x.cumsum(1)
    y[:, -2] += x[:, -1]
    return y

def running(x):
    return x.cumsum(1)

def shifted(x):
    return torch.cat([x[:, 1:], x[:, :1]], 1)

def full(x):
    return (x @ x.mT).softmax(-1) @ x

def positions(x):
    return x + torch.arange(x.shape[1]).reshape(1, -1, 1)

def pooled(x):
    return x.mean(1)

def pooled_to_all(x):
    return x.mean(1, keepdim=True).expand_as(x)

def rows(x):
    return x.softmax(-1)

def over_batch(x):
    return x.softmax(0)

def squeezed(x):
    return (x * x).squeeze()

def signs(x):
    return x > 0

def hollow(x):
    return x[..., :0]

def nothing(x):
    return x[:, :0]

def number(x):
    return 3.0

class Thing: pass

def thing(x):
    return Thing()

def counts(x, seen=[]):
    seen.append(x)
    return x * len(seen)

def last_other(x, box={"x": None}):
    before, box["x"] = box["x"], x.clone()
    return x if before is None or before.shape == x.shape else x + 1

def noisy(x):
    return F.dropout(x)

def fails(x):
    raise ValueError("no")
"""


def x_of(draw: Draw) -> torch.Tensor:
    return draw.tensor(3, 6, 4)


@pytest.mark.parametrize(
    ("prove", "name"),
    [
        (causal, "masked"),
        (causal, "running"),
        (causal, "rows"),
        (causal, "signs"),
        (causal, "hollow"),
        (permutation_equivariant, "full"),
        (permutation_equivariant, "rows"),
        (permutation_equivariant, "pooled_to_all"),
        (permutation_invariant, "pooled"),
        (batch_invariant, "full"),
        (batch_invariant, "masked"),
        (deterministic, "full"),
        (deterministic, "number"),
    ],
)
def test_what_has_the_property_passes(load: Load, draw: Draw, prove: Callable[..., Any], name: str) -> None:
    function = getattr(load(SOURCE), name)
    for _ in range(5):
        prove(function, x_of(draw))


@pytest.mark.parametrize(
    ("prove", "name", "says"),
    [
        (causal, "off_by_one", "looks into the future: its output at position "),
        (causal, "wrong_way", "looks into the future: its output at position "),
        (causal, "full", "looks into the future: its output at position "),
        (causal, "shifted", "looks into the future: its output at position "),
        (causal, "last_peeks", "its output at position 4 changes when only the input from position 5 on does."),
        (causal, "pooled", "returned a tensor of shape (3, 4); along axis 1 there should be 6."),
        (causal, "number", "returned 3.0, which is no tensor."),
        (permutation_equivariant, "positions", "treats the items along axis 1 by their place"),
        (permutation_equivariant, "running", "treats the items along axis 1 by their place"),
        (permutation_equivariant, "pooled", "along axis 1 there should be 6."),
        (permutation_invariant, "full", "depends on the order of the items along axis 1"),
        (permutation_invariant, "thing", "which is no tensor."),
        (batch_invariant, "over_batch", "a row of the batch gets another result when other rows are beside it"),
        (batch_invariant, "squeezed", "for another input there were 3"),
        (causal, "nothing", "along axis 1 there should be 6."),
        (batch_invariant, "number", "returned 3.0, which is no tensor."),
        (deterministic, "noisy", "gives different results for the same input."),
        (deterministic, "counts", "gives different results for the same input."),
        (deterministic, "thing", "which is no tensor."),
    ],
)
def test_what_lacks_it_is_told_why(load: Load, draw: Draw, prove: Callable[..., Any], name: str, says: str) -> None:
    function = getattr(load(SOURCE), name)
    with pytest.raises(Failure) as failure:
        prove(function, x_of(draw))
    assert says in str(failure.value)
    assert "tensor([" not in str(failure.value)  # nothing of the hidden inputs


def test_state_between_calls_is_found(load: Load, draw: Draw) -> None:
    student = load(SOURCE)
    stateless(student.rows, [x_of(draw)], [draw.tensor(2, 2)])
    for name in ("counts", "last_other"):
        with pytest.raises(Failure, match="gives another result after a call with another input: something is kept"):
            stateless(getattr(student, name), [x_of(draw)], [draw.tensor(2, 2)])


def test_tokens_stay_tokens(load: Load, draw: Draw) -> None:
    source = """
    table = torch.randn(9, 4)
    def embedded(tokens):
        return table[tokens].cumsum(1)
    def backwards(tokens):
        return table[tokens].flip(1).cumsum(1)
    """
    student = load(source)
    tokens = draw.tensor(2, 7, dtype=torch.int64, low=0, high=8)
    causal(student.embedded, tokens)
    with pytest.raises(Failure, match="looks into the future"):
        causal(student.backwards, tokens)
    with pytest.raises(ValueError, match="at least two different tokens"):
        causal(student.embedded, torch.ones(2, 3, dtype=torch.int64))


def test_an_error_is_told_as_an_error(load: Load, draw: Draw) -> None:
    with pytest.raises(StudentError, match=r"^fails\(<tensor \(3, 6, 4\) float32>\) raised ValueError: no"):
        causal(load(SOURCE).fails, x_of(draw))


@pytest.mark.parametrize("prove", [causal, permutation_equivariant, permutation_invariant])
def test_an_axis_needs_two_items(load: Load, prove: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"two (positions|items) along axis 1; x has 1"):
        prove(load(SOURCE).rows, torch.ones(3, 1, 2))


def test_a_batch_needs_two_rows(load: Load) -> None:
    with pytest.raises(ValueError, match="two rows along axis 0; x has 1"):
        batch_invariant(load(SOURCE).rows, torch.ones(1, 4))


def test_modules_have_properties_too(load: Load, draw: Draw) -> None:
    source = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.5)
        def forward(self, x):
            return self.drop(self.norm(x))
    """
    net, x = load(source).make("Net"), draw.tensor(8, 4)
    with pytest.raises(Failure, match="dropout that does not ask"):
        deterministic(net, x)
    net.drop.eval()
    with pytest.raises(StudentError, match="Expected more than 1 value per channel"):
        batch_invariant(net, x)
    net.eval()
    deterministic(net, x)
    batch_invariant(net, x)
