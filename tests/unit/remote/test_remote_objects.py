"""What a check can do with the learner's classes and objects, in a real sandbox."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from checker.draw import Draw
from checker.results import Outcome
from checker.student import Failure, Remote, StudentError
from labkit.wire import Handle
from tests.unit.remote.conftest import Load

NET = """
class Net(nn.Module):
    def __init__(self, size, hidden=4):
        super().__init__()
        if size < 1:
            raise ValueError("no inputs")
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))
        self.layers[2].bias.requires_grad_(False)
        self.factor = 1.0

    def forward(self, x):
        return self.layers(x) * self.factor

    def encode(self, x, *, twice=False):
        x = self.layers[0](x)
        return 2 * x if twice else x

class Plain:
    def __init__(self):
        self.weight = torch.ones(2)
    def eval(self):
        return 5

def count(net):
    return sum(p.numel() for p in net.parameters())

def doubled(x):
    return 2 * x
"""


def by_hand(x: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
    hidden = torch.relu(x @ values["layers.0.weight"].mT + values["layers.0.bias"])
    return hidden @ values["layers.2.weight"].mT + values["layers.2.bias"]


def test_a_class_is_constructed_called_and_known_by_its_call(load: Load, draw: Draw) -> None:
    net = load(NET).make("Net", 3, hidden=5)
    assert isinstance(net, Remote)
    x = draw.tensor(6, 3)
    answer = net(x)
    assert answer.call == "Net(3, hidden=5)(<tensor (6, 3) float32>)"
    assert answer.value.shape == (6, 2)
    encoded = net.encode(x, twice=True)
    assert encoded.call == "Net(3, hidden=5).encode(<tensor (6, 3) float32>, twice=True)"
    assert encoded.value.shape == (6, 5)


def test_parameters_that_the_judge_drew_let_a_reference_compute_the_result(load: Load, draw: Draw) -> None:
    net, x = load(NET).make("Net", 3), draw.tensor(6, 3)
    values = net.draw_parameters(draw)
    net(x).is_close(by_hand(x, values))
    state = net.state_dict()
    assert state.keys() == values.keys() | {"seen"}
    assert all(torch.equal(state[name], value) for name, value in values.items())


def test_state_is_loaded_across_the_wire(load: Load, draw: Draw) -> None:
    student = load(NET)
    first, second, x = student.make("Net", 3), student.make("Net", 3), draw.tensor(4, 3)
    first.draw_parameters(draw)
    assert not torch.equal(first(x).value, second(x).value)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x).value, second(x).value)
    with pytest.raises(StudentError, match=r"Net\(3\)\.load_state_dict\(.* raised RuntimeError: Error\(s\) in loading"):
        second.load_state_dict({"layers.0.weight": torch.zeros(1, 1)}, strict=False)


def test_parameters_and_buffers_are_described_without_their_values(load: Load) -> None:
    net = load(NET).make("Net", 3)
    parameters = net.parameters()
    assert {name: p.shape for name, p in parameters.items()} == {
        "layers.0.weight": (4, 3),
        "layers.0.bias": (4,),
        "layers.2.weight": (2, 4),
        "layers.2.bias": (2,),
    }
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["layers.2.bias"]
    assert parameters["layers.0.bias"].dtype is torch.float32
    [(name, buffer)] = net.buffers().items()
    assert (name, buffer.shape, buffer.dtype, buffer.requires_grad) == ("seen", (1,), torch.int64, False)


def test_a_lazy_parameter_has_no_shape_and_cannot_be_drawn(load: Load, draw: Draw) -> None:
    lazy = load(NET).evaluate("nn.LazyLinear(2)")
    assert lazy.parameters()["weight"].shape is None
    with pytest.raises(Failure, match=r"^The parameter weight of <LazyLinear> has no shape yet\.$"):
        lazy.draw_parameters(draw)


def test_parameters_that_cannot_be_drawn_are_the_learners(load: Load, draw: Draw) -> None:
    student = load("""
    class Large(nn.Module):
        def named_parameters(self, *args, **kwargs):
            yield "w", torch.empty(1 << 39, device="meta")
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    """)
    with pytest.raises(Failure, match=r"^Large\(\) has more parameters than a check can set\. How large is its"):
        student.make("Large").draw_parameters(draw)
    with pytest.raises(Failure, match=r"^The parameter w of Whole\(\) is int64, not floating-point\.$"):
        student.make("Whole").draw_parameters(draw)


def test_training_and_evaluation_mode_are_set_and_read(load: Load) -> None:
    net = load(NET).make("Net", 3)
    net.eval()
    assert net.modes() == dict.fromkeys(("", "layers", "layers.0", "layers.1", "layers.2"), False)
    net.layers.train()
    assert net.modes()[""] is False
    assert net.modes()["layers.2"] is True


def test_attributes_and_items_are_read_and_set(load: Load) -> None:
    net = load(NET).make("Net", 3)
    bias = net.layers[0].bias
    bias.set(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    bias.get().equals(torch.tensor([1.0, 2.0, 3.0, 4.0]).requires_grad_())
    assert net.parameters()["layers.0.bias"].requires_grad  # the same parameter, with new elements
    net.factor.set(0.0)
    net(torch.ones(1, 3)).equals(torch.zeros(1, 2))
    with pytest.raises(Failure) as failure:
        net.factor.get().equals(2.0)
    assert str(failure.value).startswith("Net(3).factor is 0.0, not 2.0")
    with pytest.raises(StudentError) as error:
        bias.set(torch.zeros(1))  # copy_ would stretch it
    told = "Net(3).layers[0].bias raised ValueError: the parameter has shape (4,), the new value (1,)"
    assert str(error.value).startswith(told)


def test_a_part_is_found_anew_but_a_kept_one_stays(load: Load) -> None:
    plain = load(NET).make("Plain")
    weight = plain.weight.keep()
    plain.weight.set(torch.zeros(2))
    plain.weight.get().equals(torch.zeros(2))
    weight.get().equals(torch.ones(2))
    assert plain.part("eval")().value == 5


def test_remote_objects_are_arguments_also_inside_containers(load: Load) -> None:
    student = load(NET + "\ndef nested(things):\n    return [type(t).__name__ for t in things['nets'][0]]\n")
    net = student.make("Net", 3)
    student.count(net).equals(26)
    student.count(net.layers[0]).equals(16)
    student.nested({"nets": [(net, student.doubled)]}).equals(["Net", "function"])
    assert student.count(net).call == "count(<Net>)"


def test_an_argument_that_stays_there_is_known_afterwards_by_its_handle(load: Load) -> None:
    student = load("def where(x, y):\n    return str(x.device)")
    meta = student.evaluate('torch.ones(2, device="meta")')
    answer = student.where(meta, 3)
    answer.equals("meta")
    # A tensor without values could not come back as data.
    assert [type(value) for value in answer.args_after] == [Handle, int]


def test_what_a_call_returned_as_an_object_can_be_used_on(load: Load) -> None:
    student = load("class Box:\n    size = 3\ndef box():\n    return Box()")
    found = student.box().value
    assert type(found) is Handle
    student.remote(found).size.get().equals(3)


def test_many_calls_in_one_request_keep_their_answers_apart(load: Load) -> None:
    source = """
    out = torch.zeros(2)
    def reused(x):
        if x.sum() == 0:
            raise ValueError("nothing here")
        return out.copy_(x)
    """
    ones, zeros, twos = torch.ones(2), torch.zeros(2), torch.full((2,), 2.0)
    first, failed, last = load(source).reused.each([(ones,), (zeros,), (twos,)])
    # The same buffer every time: what the first call returned is what it was then.
    first.equals(ones)
    last.equals(twos)
    failed.raises("ValueError")
    with pytest.raises(StudentError, match=r"^reused\(tensor\(\[0\.0, 0\.0\]\)\) raised ValueError: nothing here"):
        _ = failed.value


def test_parameters_given_for_one_call_are_gone_after_it(load: Load) -> None:
    net = load(NET).make("Net", 3)
    before = net.state_dict()
    zero, plain = net.each([(torch.ones(1, 3),)] * 2, [{"layers.2.weight": torch.zeros(2, 4)}, {}])
    zero.is_close(before["layers.2.bias"].reshape(1, 2))
    assert not torch.equal(zero.value, plain.value)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda s: s.make("Net", 0), "Net(0) raised ValueError: no inputs (cell 1, line 8)"),
        (lambda s: s.make("Nett"), "Nett() raised NameError: name 'Nett' is not defined"),
        (
            lambda s: s.make("Plain").parameters(),
            "Plain() raised TypeError: a Plain is no nn.Module: does the class in",
        ),
        (lambda s: s.make("Plain").bias.get().value, "Plain().bias raised AttributeError: 'Plain' object has no attri"),
        (
            lambda s: s.make("Plain").weight[5].get().value,
            "Plain().weight[5] raised IndexError: index 5 is out of boun",
        ),
    ],
)
def test_errors_name_what_was_asked(load: Load, ask, says: str) -> None:
    with pytest.raises(StudentError) as error:
        ask(load(NET))
    assert str(error.value).startswith(says)
    assert error.value.outcome is Outcome.ERROR


def test_a_state_that_is_none_is_the_learners_mistake(load: Load) -> None:
    student = load("class Odd:\n    def state_dict(self):\n        return {1: 2}\n")
    with pytest.raises(Failure, match=r"^Odd\(\)\.state_dict\(\) has keys that are no names\.$"):
        student.make("Odd").state_dict()


def test_only_a_part_can_be_set(load: Load) -> None:
    with pytest.raises(TypeError, match=r"^doubled is no attribute or item, so it cannot be set$"):
        load(NET).doubled.set(3)


def test_objects_are_kept_within_bounds(load: Load) -> None:
    many = load("def many(n):\n    return [object() for _ in range(n)]").many
    assert len(many(5_000).value) == 5_000
    with pytest.raises(StudentError, match=r"^many\(5001\) raised WireError: more than 10000 objects are kept"):
        _ = many(5_001).value


def test_what_no_agent_can_do_is_named(load: Load) -> None:
    with pytest.raises(StudentError, match=r"^WireError: unknown request 'dance'"):
        load("")._ask({"op": "dance"})


def test_nothing_is_iterated_by_accident(load: Load) -> None:
    with pytest.raises(TypeError, match=r"^doubled is in the sandbox: read it with \.get\(\) to go through it$"):
        list(load(NET).doubled)


def test_arrays_are_shared_as_the_program_shares_them(load: Load) -> None:
    student = load("def view(a):\n    return torch.from_numpy(a)")
    array = student.put(np.zeros(3))
    tensor = student.make("view", array)
    tensor[1].set(4.0)
    array.get().equals(np.array([0.0, 4.0, 0.0]))


# A device that every build of torch has besides the CPU; its tensors are computed when they are looked at.
LAZY = """
import torch._lazy.ts_backend
torch._lazy.ts_backend.init()

def there(x):
    return x.to("lazy").mT * 2

def back(x):
    return there(x).cpu()

def both(x):
    return {"there": [there(x)], "back": back(x)}
"""


def test_tensors_come_back_with_the_device_they_were_on(load: Load, draw: Draw) -> None:
    student, x = load(LAZY), draw.tensor(3, 2)
    student.there(x).equals(2 * x.mT, device="lazy")
    student.there(x).is_close(2 * x.mT, device="lazy:0")
    student.back(x).equals(2 * x.mT, device="cpu")
    want = {"there": [2 * x.mT], "back": 2 * x.mT}
    student.both(x).equals(want)
    for name, device, says in (
        ("back", "lazy", "is on cpu; it should be on lazy. torch makes tensors on the CPU unless it is told otherwise"),
        ("there", "cpu", "is on lazy:0; it should be on cpu. Did .cpu() or .to() come too late, or on another tensor?"),
    ):
        with pytest.raises(Failure) as failure:
            getattr(student, name)(x).equals(2 * x.mT, device=device)
        text = f"{name}(<tensor (3, 2) float32>) returned a tensor with the right values that {says}"
        assert str(failure.value).startswith(text)
    with pytest.raises(Failure, match=r"a dict in which 'there' is a list whose item 0 is .* that is on lazy:0"):
        student.both(x).equals(want, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_tensors_come_back_from_the_gpu_they_were_on(load: Load, draw: Draw) -> None:
    student, x = load("def there(x):\n    return x.cuda()\ndef back(x):\n    return x.cuda().cpu()"), draw.tensor(3, 2)
    student.there(x).equals(x, device="cuda")
    with pytest.raises(Failure, match="is on cpu; it should be on cuda"):
        student.back(x).equals(x, device="cuda")
