"""The wire's values: everything in the table survives to the bit, and subclasses arrive as what they are made of."""

from __future__ import annotations

import enum
import json
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.table import TENSOR_DTYPES
from labkit.wire import WireError, device_of, pack, unpack
from tests.frames import over_the_wire, parts, same
from tests.values import arrays, values

# -- what is in the table ----------------------------------------------------------------------------------------------


@given(values())
def test_every_value_of_the_table_arrives_to_the_bit(value: Any) -> None:
    assert same(over_the_wire(value), value)


@given(arrays.filter(lambda value: value.ndim), st.data())
def test_any_view_of_an_array_arrives(value: np.ndarray, data: st.DataObject) -> None:
    view = value.transpose(data.draw(st.permutations(range(value.ndim))))
    view = view[(slice(None, None, data.draw(st.sampled_from([-1, 2, -2]))),) * view.ndim]
    assert same(over_the_wire(view), np.array(view))


@pytest.mark.parametrize("dtype", sorted(TENSOR_DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 0, 3), (2, 3, 4)])
def test_tensors_keep_dtype_shape_and_values(dtype: str, shape: tuple[int, ...]) -> None:
    value = (torch.rand(shape) * 3).to(getattr(torch, dtype))
    assert same(over_the_wire(value), value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64", "complex64"])
def test_arrays_keep_dtype_shape_and_writability(dtype: str) -> None:
    value = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    assert same(over_the_wire(value), value)
    value.flags.writeable = False
    assert same(over_the_wire(value), value)


def test_a_big_endian_array_arrives_in_native_order() -> None:
    assert same(over_the_wire(np.array([[1.5, 2]], ">f4")), np.array([[1.5, 2]], "f4"))
    assert same(over_the_wire(np.array(3, ">i8")), np.array(3))


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_an_empty_tensor_made_from_an_array_arrives(shape: tuple[int, ...]) -> None:
    value = torch.from_numpy(np.zeros(shape))
    assert same(over_the_wire(value), value)


def test_a_transposed_tensor_arrives_transposed() -> None:
    value = torch.rand(3, 4, 5).permute(2, 0, 1)
    got = over_the_wire(value)
    assert got.stride() == value.stride()
    assert same(got, value)


def test_conj_and_neg_views_arrive_resolved() -> None:
    value = torch.tensor([1 + 2j, 3 - 4j]).conj()
    for view in (value, value.imag):
        assert view.is_conj() or view.is_neg()
        got = over_the_wire(view)
        assert not got.is_conj()
        assert not got.is_neg()
        assert got.tolist() == view.tolist()


def test_an_argument_is_an_ordinary_tensor() -> None:
    """Its memory is its own and can be resized, whatever default device the program has chosen."""
    header, payload = parts([torch.arange(4.0), torch.arange(4.0).bfloat16()])
    with torch.device("meta"):
        got = unpack(header, payload)
    for tensor in got:
        assert tensor.device.type == "cpu"
        pack(tensor)
        tensor.resize_(100)


def test_a_tensor_says_which_device_it_came_from() -> None:
    """What happens on a device that is not the CPU: tests/unit/remote/test_remote_objects.py."""
    came = over_the_wire({"a": [torch.ones(2)]})["a"][0]
    assert device_of(came) == torch.device("cpu")
    for word in ("cuda:3", "mps:0", "meta"):
        header = json.dumps([["tensor", "float32", [1], None, True, word], [4]]).encode()
        got = unpack(header, b"\0\0\0\0")
        assert device_of(got) == torch.device(word)
        assert same(got, torch.zeros(1, requires_grad=True))
        assert got.device == torch.device("cpu")
        assert device_of(over_the_wire(got)) == torch.device("cpu")


def test_32_dimensions_are_enough() -> None:
    value = torch.rand([1] * 30 + [2, 3]).transpose(30, 31)
    assert same(over_the_wire(value), value)
    assert same(over_the_wire(value.numpy()), value.numpy().copy())


def test_a_bool_of_other_bytes_is_true_and_nothing_more() -> None:
    """Seen as bool, a byte of 2 is true and yet differs from True."""
    odd = torch.tensor([2, 1, 0], dtype=torch.uint8)
    want = [True, True, False]
    assert over_the_wire(odd.view(torch.bool)).view(torch.uint8).tolist() == [1, 1, 0]
    assert same(over_the_wire(odd.numpy().view(bool)), np.array(want))
    header, payload = parts([torch.tensor(want), np.array(want), np.True_])
    for place in range(len(payload)):
        with pytest.raises(WireError, match="a bool that is neither 0 nor 1"):
            unpack(header, payload[:place] + b"\2" + payload[place + 1 :])


# -- subclasses --------------------------------------------------------------------------------------------------------


class Float(float):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


class Int(int):
    def __int__(self) -> int:
        return 5

    def __repr__(self) -> str:
        return "6"


class Text(str):
    def __str__(self) -> str:
        return "other"


class Items(list):
    def __iter__(self):
        return iter([1, 2, 3])


class Colour(enum.StrEnum):
    RED = "red"


class Liar(torch.Tensor):
    """Says it is something else, and computes when asked."""

    shape = (99,)
    dtype = torch.int8
    ran: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.ran.append(str(function))
        return torch.zeros(1)


Point = namedtuple("Point", "x y")
moved = OrderedDict(a=1, b=2)
moved.move_to_end("a")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Float(1.5), 1.5),
        (Float(-0.0), -0.0),
        (Int(3), 3),
        (enum.IntEnum("E", "A B").B, 2),  # type: ignore[attr-defined]
        (Text("text"), "text"),
        (Colour.RED, "red"),
        (Items([7]), [7]),
        (Point(1, 2), (1, 2)),
        (torch.max(torch.zeros(1, 1), 0), (torch.zeros(1), torch.zeros(1, dtype=torch.int64))),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (moved, {"b": 2, "a": 1}),
        ({Text("a"): 1, np.str_("b"): 2, Colour.RED: 3}, {"a": 1, "b": 2, "red": 3}),
        (np.str_("é"), "é"),
        (np.bytes_(b"x"), b"x"),
        (np.array([[1, 2]]).view(np.matrix), np.array([[1, 2]])),
        (torch.rand(3, 1).expand(3, 4) * 0, torch.zeros(3, 4)),
        (torch.nn.Parameter(torch.zeros(2)), torch.zeros(2, requires_grad=True)),
        (torch.nn.Buffer(torch.zeros(2)), torch.zeros(2)),
    ],
    ids=repr,
)
def test_a_subclass_arrives_as_what_it_is_made_of(value: Any, plain: Any) -> None:
    assert same(over_the_wire(value), plain)


def test_a_tensor_subclass_is_not_asked_what_it_is() -> None:
    value = torch.arange(4.0).reshape(2, 2).as_subclass(Liar)
    Liar.ran.clear()
    got = over_the_wire(value)
    assert same(got, torch.tensor([[0.0, 1], [2, 3]]))
    assert Liar.ran == []
    with torch.no_grad():
        assert over_the_wire(torch.nn.Parameter(torch.zeros(1))).requires_grad
