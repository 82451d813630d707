"""Gradients that learner code computes with its own graph, in a real sandbox, and what the learner reads of them."""

from __future__ import annotations

import pytest
import torch

from checker.answer import Failure, ProgramEnded, StudentError
from checker.draw import Draw
from checker.properties import gradcheck, same_gradients
from tests.unit.remote.conftest import Load

FUNCTIONS = """
def attend(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

def detached(x, y):
    return x * y.detach()

def cut(x):
    return torch.tensor((x * x).tolist())

def tokens(x):
    return x > 0

def two(x):
    return {"a": x * x, "b": [x.sum(), x > 0]}

class Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * x

    @staticmethod
    def backward(ctx, upstream):
        [x] = ctx.saved_tensors
        return upstream * 2 * x * ctx.factor, None

def right(x):
    return Times.apply(x, 1.0)

def half(x):
    return Times.apply(x, 0.5)

def negative(x):
    return Times.apply(x, -1.0)

def no_chain_rule(x):
    return Times.apply(x.exp(), 1 / x.exp().detach())

def in_float32(x):
    return (x.float() ** 3).to(x.dtype)

def always_float32(x):
    return x.float() ** 2

def imaginary(x):
    return x * 1j

def kink(x):
    return x.relu() + x.abs()

class Net(nn.Module):
    def __init__(self, spoilt=False):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.spoilt = spoilt

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.second(hidden.detach() + 0 * hidden if self.spoilt else hidden)
"""


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def test_gradients_are_those_of_the_upstream_that_the_judge_drew(load: Load, draw: Draw) -> None:
    q, k, v = (draw.tensor(2, 5, 3) for _ in range(3))
    found = load(FUNCTIONS).attend.gradients(q, k, v, wrt=[0, 2])
    [upstream] = found.upstream
    assert upstream is not None
    assert upstream.unique().numel() > 25  # not ones: a row of softmax has no gradient of its sum
    q, v = q.requires_grad_(), v.requires_grad_()
    by_q, by_v = torch.autograd.grad(attend(q, k, v), [q, v], upstream)
    found.of(0).is_close(by_q)
    found.of(2).is_close(by_v)
    assert found.inputs.keys() == {0, 2}
    with pytest.raises(KeyError, match="no gradient by 1 was asked for; there are 0, 2"):
        found.of(1)


def test_gradients_of_containers_and_keywords(load: Load, draw: Draw) -> None:
    x = draw.tensor(4)
    found = load(FUNCTIONS).two.gradients(x=x)
    square, total, flags = found.upstream
    assert flags is None
    found.of("x").is_close(square * 2 * x + total)


def test_gradients_by_parameters(load: Load, draw: Draw) -> None:
    net = load(FUNCTIONS).make("Net")
    net.draw_parameters(draw)
    found = net.gradients(draw.tensor(6, 3), wrt=[], parameters=True)
    assert found.inputs == {}
    found.of("second.bias").is_close(found.upstream[0].sum(0))
    assert found.parameters.keys() == {"first.weight", "first.bias", "second.weight", "second.bias"}


def test_a_wrong_gradient_is_told_as_one(load: Load) -> None:
    with pytest.raises(Failure) as failure:
        load(FUNCTIONS).half.gradients(torch.tensor([1.0, 2.0])).of(0).is_close(torch.zeros(2))
    assert str(failure.value).startswith(
        "The gradient of half(tensor([1.0, 2.0])) with respect to argument 1 is a tensor that differs in 2 of 2 "
    )


@pytest.mark.parametrize(("name", "count"), [("detached", 2), ("cut", 1)])
def test_a_cut_path_is_said(load: Load, name: str, count: int) -> None:
    found = getattr(load(FUNCTIONS), name).gradients(*(torch.ones(2) for _ in range(count)))
    with pytest.raises(Failure, match=rf"respect to argument {count}: no path leads back to it\. \.detach\(\)"):
        found.of(count - 1)


def test_an_output_that_can_have_no_gradient(load: Load) -> None:
    with pytest.raises(Failure, match=r"^tokens\(.*\) has no floating-point tensor in what it returns"):
        load(FUNCTIONS).tokens.gradients(torch.ones(2))


def test_only_tensors_have_gradients(load: Load) -> None:
    student = load(FUNCTIONS)
    with pytest.raises(TypeError, match="argument 2 is no floating-point tensor, so it has no gradient"):
        student.right.gradients(torch.ones(2), 3, wrt=[1])


def test_an_error_on_the_way_back_is_the_learners(load: Load) -> None:
    source = FUNCTIONS.replace("[x] = ctx.saved_tensors", "raise KeyError('lost')")
    with pytest.raises(StudentError, match=r"^right\(.*\) raised KeyError: 'lost' \(cell 1, line 28\)"):
        load(source).right.gradients(torch.ones(2))


def test_gradcheck_passes_what_is_right(load: Load, draw: Draw) -> None:
    student = load(FUNCTIONS)
    gradcheck(student.attend, *(draw.tensor(2, 4, 3) for _ in range(3)))
    gradcheck(student.right, draw.tensor(40, 50))
    # Exactly on the kink and beside it: within the step of the differences.
    gradcheck(student.kink, torch.tensor([1.0, -2.0, 3e-7], dtype=torch.float64))
    net = student.make("Net")
    net.double().value  # noqa: B018
    gradcheck(net, draw.tensor(6, 3), parameters=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("half", "argument 1 is not the slope of the function itself: it is 0.5 times the slope, everywhere."),
        ("negative", "argument 1 is not the slope of the function itself: it has the opposite sign."),
        ("no_chain_rule", "as small steps measure it. Is a factor of the chain rule missing"),
        ("in_float32", "loses the digits of float64 inside"),
        ("always_float32", "returned float32 for float64 inputs: keep the dtype of the input."),
        ("cut", "returned float32 for float64 inputs"),
        ("imaginary", "returned complex128 for float64 inputs"),
    ],
)
def test_gradcheck_says_what_is_wrong(load: Load, draw: Draw, name: str, says: str) -> None:
    with pytest.raises(Failure) as failure:
        gradcheck(getattr(load(FUNCTIONS), name), draw.tensor(3, 4))
    assert says in str(failure.value)


def test_gradcheck_finds_a_parameter_that_gets_no_gradient(load: Load, draw: Draw) -> None:
    net = load(FUNCTIONS).make("Net", spoilt=True)
    net.double().value  # noqa: B018
    with pytest.raises(Failure, match=r"^The gradient of Net\(spoilt=True\)\(.*\) with respect to .* is not the slope"):
        gradcheck(net, draw.tensor(6, 3), parameters=True)


def test_gradcheck_finds_a_path_that_is_cut(load: Load, draw: Draw) -> None:
    with pytest.raises(Failure, match=r"^There is no gradient of detached\(.*\) with respect to argument 2"):
        gradcheck(load(FUNCTIONS).detached, draw.tensor(3), draw.tensor(3))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("{}", "The state_dict of Odd(3, 2) does not have the parameter weight as it is."),
        ("{'weight': torch.ones(1).double(), 'bias': torch.ones(2).double()}", "does not have the parameter weight as"),
        ("{'weight': 3, 'bias': 3}", "does not have the parameter weight as it is."),
        ("{'weight': torch.ones(2, 3), 'bias': torch.ones(2)}", "weight of Odd(3, 2) is float32 after .double()."),
    ],
)
def test_a_state_that_does_not_fit_is_the_learners(load: Load, draw: Draw, state: str, says: str) -> None:
    net = load(f"class Odd(nn.Linear):\n    def state_dict(self):\n        return {state}").make("Odd", 3, 2)
    net.double().value  # noqa: B018
    with pytest.raises(Failure) as failure:
        gradcheck(net, draw.tensor(4, 3), parameters=True)
    assert says in str(failure.value)


def test_the_same_gradients_as_a_reference_in_float64(load: Load, draw: Draw) -> None:
    student, qkv = load(FUNCTIONS), [draw.tensor(2, 5, 3) for _ in range(3)]
    same_gradients(student.attend, attend, *qkv)
    with pytest.raises(Failure, match=r"^attend\(.*\) returned a tensor that differs"):
        same_gradients(student.attend, lambda q, k, v: attend(q, k, v) * 1.001, *qkv)
    with pytest.raises(
        Failure, match=r"^The gradient of half\(.*\) with respect to argument 1 is a tensor that differs"
    ):
        same_gradients(student.half, lambda x: x * x, qkv[0])
    # No path in the reference either: a gradient of zero and none are the same.
    same_gradients(student.detached, lambda x, y: x * y.detach(), qkv[0], qkv[1])


@pytest.mark.parametrize(
    "forged",
    [
        "lambda self, upstream: ([torch.ones(3)], {})",  # another shape than the input's
        "lambda self, upstream: ([torch.ones(2).double()], {})",
        "lambda self, upstream: ([torch.ones(2)] * 2, {})",
        "lambda self, upstream: ([], {})",
        "lambda self, upstream: ([3.0], {})",
        "lambda self, upstream: ([torch.ones(2)], {1: None})",
        "lambda self, upstream: 5",
    ],
)
def test_forged_gradients_end_the_program(load: Load, forged: str) -> None:
    student = load(f"import labkit.autograd\nlabkit.autograd.Graph.backward = {forged}\ndef f(x):\n    return x * x\n")
    with pytest.raises(ProgramEnded, match="Your code wrote over the answers it should return"):
        student.f.gradients(torch.ones(2))
