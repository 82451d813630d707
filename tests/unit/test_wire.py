"""The wire format: everything in the table survives to the bit, nothing else gets through, and no length is trusted."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import math
import os
import re
import resource
import struct
import sys
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from labkit import wire
from labkit.frames import Frames
from labkit.wire import PREFIX, Handle, WireError, pack, prefix_lengths, unpack
from tests.frames import over_the_wire, parts, same

HANDLE = Handle(7, "lab.Thing", "<Thing>")


def kept(value: Any) -> Handle:
    return HANDLE


# -- what is in the table ----------------------------------------------------------------------------------------------

any_float = st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", bits.to_bytes(8, "big"))[0])
any_text = st.text() | st.integers(1000, 1001).map("x".__mul__)
array_dtypes = st.sampled_from(sorted(wire._ARRAY_DTYPES))
arrays = array_dtypes.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0)))


@st.composite
def words(draw: st.DrawFn) -> Any:
    """What a key can be: no container but a tuple or frozenset."""
    kinds = [
        st.none(), st.booleans(), st.integers(), any_float, any_text, st.binary(),
        st.builds(complex, any_float, any_float),
        st.sampled_from([torch.float32, torch.bfloat16, torch.device("cpu"), torch.device("cuda", 1)]),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(torch.Size),
        st.builds(Handle, st.integers(0, 2**53 - 1), st.text(max_size=200), st.text(max_size=500)),
        array_dtypes.flatmap(lambda dtype: npst.from_dtype(np.dtype(dtype))),
        st.lists(words(), max_size=3).map(tuple), st.frozensets(words(), max_size=3),
    ]  # fmt: skip
    return draw(kinds[draw(st.integers(0, len(kinds) - 1))])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any dtype and bits, contiguous or permuted, sliced, expanded or flipped."""
    dtype = draw(st.sampled_from(sorted(wire._TENSOR_DTYPES.values(), key=str)))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        data = bytes(byte % 2 for byte in data)
    value = torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    value = value.permute(draw(st.permutations(range(len(shape)))))
    if value.dim() and draw(st.booleans()):
        value = value[:: draw(st.integers(1, 3))]
    if draw(st.booleans()):
        value = value.unsqueeze(0).expand(2, *value.shape)
    if (dtype.is_floating_point or dtype.is_complex) and draw(st.booleans()):
        value = value.clone().requires_grad_()
    return value


@st.composite
def values(draw: st.DrawFn, depth: int = 0) -> Any:
    kinds = [words(), arrays, tensors()]
    if depth < 3:
        inner = values(depth + 1)
        kinds += [st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)]
        kinds += [st.dictionaries(words(), inner, max_size=3), st.sets(words(), max_size=3)]
    return draw(kinds[draw(st.integers(0, len(kinds) - 1))])


@given(values())
def test_every_value_of_the_table_arrives_to_the_bit(value: Any) -> None:
    assert same(over_the_wire(value), value)


@given(arrays.filter(lambda value: value.ndim), st.data())
def test_any_view_of_an_array_arrives(value: np.ndarray, data: st.DataObject) -> None:
    view = value.transpose(data.draw(st.permutations(range(value.ndim))))
    view = view[(slice(None, None, data.draw(st.sampled_from([-1, 2, -2]))),) * view.ndim]
    assert same(over_the_wire(view), np.array(view))


@pytest.mark.parametrize("dtype", sorted(wire._TENSOR_DTYPES))
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


class Computed(torch.Tensor):
    """Has no memory: what it is made of is computed when an operation asks."""

    @staticmethod
    def __new__(cls) -> Computed:
        return torch.Tensor._make_wrapper_subclass(cls, (7, 3))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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


# -- objects and refusals ----------------------------------------------------------------------------------------------


def test_what_is_not_in_the_table_becomes_a_handle_or_is_refused() -> None:
    class Thing:
        pass

    assert over_the_wire([1, Thing()], kept) == [1, HANDLE]
    with pytest.raises(WireError, match="a Thing cannot be handed over as data"):
        pack(Thing())


def test_objects_stay_where_they_are() -> None:
    async def later() -> int:
        return 1

    coroutine = later()
    lazy = torch.nn.LazyLinear(3).weight
    for value in (coroutine, (i for i in ()), {}.keys(), range(3), asyncio, lazy, bytearray(b"x"), Ellipsis):
        assert over_the_wire(value, kept) == HANDLE
    coroutine.close()


def test_a_key_that_compares_in_its_own_way_stays_where_it_is() -> None:
    """As plain floats or arrays two of them could be one key."""

    class Matrix(np.ndarray):
        __hash__ = object.__hash__  # type: ignore[assignment]

    for key in (Float(1), (2, Float(1)), np.zeros(2).view(Matrix), torch.zeros(2), print):
        want = (2, HANDLE) if type(key) is tuple else HANDLE
        assert over_the_wire({key: 1}, kept) == {want: 1}
        assert over_the_wire({key}, kept) == {want}
        with pytest.raises(WireError, match="cannot be handed over as data"):
            pack({key: 1})


def without_memory() -> torch.Tensor:
    value = torch.rand(4)
    value.untyped_storage().resize_(8)
    return value


def escaped() -> torch.Tensor:
    found: list[torch.Tensor] = []
    torch.vmap(lambda x: (found.append(x), x)[1])(torch.rand(2, 2))
    return found[0]


def fake() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(3)


REFUSALS: dict[str, tuple[Any, str]] = {
    "meta": (
        lambda: torch.empty(2, device="meta"),
        "a tensor on the meta device, which has a shape but no values, cannot be handed over; return one that was "
        "computed",
    ),
    "sparse": (
        lambda: torch.eye(2).to_sparse(),
        "a tensor of layout torch.sparse_coo cannot be handed over; return x.to_dense()",
    ),
    "float8": (
        lambda: torch.zeros(2).to(torch.float8_e4m3fn),
        "a tensor of dtype torch.float8_e4m3fn cannot be handed over; convert it, for example with x.to(torch.float32)",
    ),
    "vmap": (
        escaped,
        "a tensor still inside torch.func (vmap, grad and others) cannot be handed over; let the transformed function",
    ),
    "resized": (without_memory, "a tensor whose storage is smaller than its shape needs cannot be handed over"),
    "fake": (fake, "a FakeTensor, a tensor with operations of its own, cannot be handed over; return a torch.Tensor"),
    "computed": (Computed, "a Computed, a tensor with operations of its own, cannot be handed over"),
    "masked array": (
        lambda: np.ma.masked_array([1, 2], [0, 1]),
        "a masked array cannot be handed over; return x.filled(value), where you choose the value",
    ),
    "objects": (
        lambda: np.array([None]),
        "a NumPy array of dtype object cannot be handed over; return an array of numbers or bools",
    ),
    "texts": (lambda: np.array(["ab"]), "a NumPy array of dtype <U2 cannot be handed over"),
    "date": (
        lambda: np.datetime64("2020-01-01"),
        "a NumPy scalar of dtype datetime64[D] cannot be handed over; return a Python number or text instead",
    ),
    "rank": (
        lambda: torch.zeros([1] * 33),
        "a tensor or array of 33 dimensions cannot be handed over; at most 32",
    ),
    "stretched": (
        lambda: torch.zeros(1).expand(2**40),
        "the value is too large to hand over: 4194304 MiB, at most 256 MiB",
    ),
    "together": (
        lambda: [torch.zeros(40 << 20), torch.zeros(40 << 20)],
        "the value is too large to hand over: 320 MiB, at most 256 MiB",
    ),
    "empty and huge": (lambda: torch.empty(2**40, 2**20, 0), "a shape of [1099511627776, 1048576, 0] is too large"),
    "text": (lambda: ["x" * (9 << 20)] * 2, "the text is too long to hand over: more than 16 MiB"),
    "surrogate": (
        lambda: {"\ud83d\ude00": 1},
        "a text with a lone surrogate, which is no character, cannot be handed over; return bytes, or decode them with "
        'errors="replace"',
    ),
    "digits": (lambda: -(10**5000), "the integer has more than 4300 digits"),
    "items": (
        lambda: [[0] * 100_001] * 2,
        "the value has more than 200000 items in its lists and dicts; long lists of numbers belong into a tensor",
    ),
    "parts": (
        lambda: ["x" * 100] * 30_000,
        "the value has too many parts to hand over: 2.9 MiB of them, at most 2 MiB; long lists of numbers belong into",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_value_without_values_is_refused_with_the_remedy(name: str) -> None:
    make, says = REFUSALS[name]
    value = make()
    with pytest.raises(WireError, match=re.escape(says)):
        pack(value, kept)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_64_levels_are_deep_enough() -> None:
    assert over_the_wire(nested(64)) == nested(64)
    with pytest.raises(WireError, match="nested more than 64 levels deep"):
        pack(nested(65))
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(WireError, match="nested more than 64 levels deep"):
        pack(cyclic)
    header = b"[" + b'["list",' * 66 + b"0" + b"]" * 66 + b",[]]"
    with pytest.raises(WireError, match="nested more than 64 levels deep"):
        unpack(header, b"")


def test_many_references_to_one_list_end_before_they_fill_the_memory() -> None:
    value: list[Any] = [0] * 1000
    for _ in range(10):
        value = [value] * 1000
    with pytest.raises(WireError, match="more than 200000 items"):
        pack(value)


# -- frames that nobody sent -------------------------------------------------------------------------------------------


def test_a_prefix_is_bounded_before_anything_is_read() -> None:
    assert prefix_lengths(PREFIX.pack(b"GLW1", 1, 1)) == (1, 1)
    for prefix in ((b"GLW1", wire.MAX_HEADER + 1, 0), (b"GLW1", 1, wire.MAX_PAYLOAD + 1), (b"HTTP", 1, 1)):
        with pytest.raises(WireError, match="the bytes are no frame"):
            prefix_lengths(PREFIX.pack(*prefix))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (["object"], "unknown type 'object'"),
        (["pickle"], "unknown type 'pickle'"),
        (["__class__"], "unknown type '__class__'"),
        ([["tensor"]], "malformed frame: TypeError"),
        ([], "malformed frame: IndexError"),
        ({}, "a JSON object is no value"),
        (["list", {"a": 1}], "a JSON object is no value"),
        (["tensor", "float32", [10**9], None, False], "needs 4000000000 bytes, not 4"),
        (["tensor", "float32", [-1, -4], None, False], "malformed shape"),
        (["tensor", "float32", [1.0], None, False], "malformed shape"),
        (["tensor", "float32", [True], None, False], "malformed shape"),
        (["tensor", "float32", "1", None, False], "malformed shape"),
        (["tensor", "float32", [2**62, 0], None, False], "malformed shape"),
        (["tensor", "float32", [2**40, 2**40, 0], None, False], "a shape of [1099511627776, 1099511627776, 0] is too"),
        (["array", "<f4", [2**40, 2**40, 0], False], "a shape of [1099511627776, 1099511627776, 0] is too large"),
        (["tensor", "float32", [1] * 33, None, False], "a tensor or array of 33 dimensions cannot be handed over"),
        (["tensor", "float32", [1, 1], [0, 0], False], "the axes are no permutation"),
        (["tensor", "float32", [1, 1], [0, True], False], "the axes are no permutation"),
        (["tensor", "float32", [1], [0, 1], False], "the axes are no permutation"),
        (["tensor", "int32", [1], None, True], "a tensor of dtype int32 cannot require grad"),
        (["tensor", "float32", [1], None, 1], "a tensor of dtype float32 cannot require grad"),
        (["tensor", "quint8", [4], None, False], "malformed frame: KeyError"),
        (["tensor", "float32", [1], None], "malformed frame: ValueError"),
        (["list", ["bytes"], ["bytes"]], "a buffer is missing"),
        (None, "a buffer belongs to no value"),
        (["array", "|O", [1], False], "malformed frame: KeyError"),
        (["array", "<M8[ns]", [1], False], "malformed frame: KeyError"),
        (["array", "<f4", [1], None], "malformed array"),
        (["scalar", "|O"], "malformed frame: KeyError"),
        (["scalar", "<f8"], "a shape of [] needs 8 bytes, not 4"),
        (["float", "00"], "malformed float"),
        (["float", "0" * 15 + " "], "malformed frame: ValueError"),
        (["float", 1.5], "malformed frame: TypeError"),
        (["complex", 1.5, 2], "a complex number is made of two floats"),
        (["dtype", "__class__"], "unknown dtype '__class__'"),
        (["dtype", "nn"], "unknown dtype 'nn'"),
        (["device", "nowhere"], "unknown device 'nowhere'"),
        (["device", "cuda:99999"], "unknown device 'cuda:99999'"),
        (["device", "cuda:01"], "unknown device 'cuda:01'"),
        (["device", "c" * 10**6], f"unknown device '{'c' * 40}'"),
        (["size", 2**70], "malformed size"),
        (["size", True], "malformed size"),
        (["handle", -1, "", ""], "malformed handle"),
        (["handle", 1.0, "", ""], "malformed handle"),
        (["handle", 1, ["bytes"], ""], "malformed handle"),
        (["list", "\ud800"], "text that is not ASCII belongs into a buffer"),
        (["set", ["list", 1]], "a key that cannot be one"),
        (["dict", ["dict"], 1], "a key that cannot be one"),
        (["dict", ["tuple", ["list"]], 1], "a key that cannot be one"),
        (["dict", ["tensor", "float32", [1], None, False], 1], "a key that cannot be one"),
        (["dict", 1, 2, True, 3], "a key comes twice"),
        (["set", "a", "a"], "a key comes twice"),
        (["dict", 1], "malformed frame: ValueError"),
        (["set", *[n * (2**61 - 1) for n in range(20)]], "more than 16 keys have the hash of another"),
    ],
    ids=lambda tree: str(tree)[:60],
)
def test_a_malformed_value_is_a_wire_error_and_nothing_else(tree: Any, says: str) -> None:
    header = json.dumps([tree, [4]]).encode()
    with pytest.raises(WireError, match=re.escape(says)):
        unpack(header, b"\0\0\0\0")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[NaN,[]]", "NaN is no JSON"),
        (b"[-Infinity,[]]", "-Infinity is no JSON"),
        (b"[" * 1_000_000, "malformed frame: RecursionError"),
        (b"[" + b"9" * 5000 + b",[]]", "malformed frame: ValueError"),
        ("[0,[]]".encode("utf-16"), "malformed frame: UnicodeDecodeError"),
        (b'{"v":0,"b":[]}', "the buffers' lengths do not add up"),
        (b"[0]", "malformed frame: ValueError"),
        (b"[0,[],0]", "malformed frame: ValueError"),
        (b"[0,[]] 1", "malformed frame: JSONDecodeError"),
        (b"[0,5]", "malformed frame: TypeError"),
        (b" " * (wire.MAX_HEADER + 1), "the bytes are no frame"),
    ],
    ids=lambda header: str(header)[:40],
)
def test_a_header_that_is_not_ours_is_refused(header: bytes, says: str) -> None:
    with pytest.raises(WireError, match=re.escape(says)):
        unpack(header, b"")


def test_text_that_is_no_utf_8_is_refused() -> None:
    assert unpack(b'[["str"],[2]]', "é".encode()) == "é"
    for data in ("\ud800".encode("utf-8", "surrogatepass"), b"\xff", b"\xc0\x80"):
        with pytest.raises(WireError, match="malformed frame: UnicodeDecodeError"):
            unpack(b'[["str"],[%d]]' % len(data), data)


def test_lengths_that_do_not_add_up_are_refused() -> None:
    for lengths in ([3], [4, 1], [-4, 8], ["4"], [4.0], [True, 3], {}):
        header = json.dumps([None, lengths]).encode()
        with pytest.raises(WireError, match="the buffers' lengths do not add up"):
            unpack(header, b"\0\0\0\0")


def test_what_an_object_says_of_itself_is_short_and_legible() -> None:
    got = over_the_wire(Handle(1, "t" * 10**5, "\ud800" + "r" * 10**5))
    assert got == Handle(1, "t" * 200, "?" + "r" * 499)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_arbitrary_bytes_are_no_frame(header: bytes, payload: bytes) -> None:
    with pytest.raises(WireError):
        unpack(header, payload)


@given(values(), values(), st.data())
def test_a_damaged_frame_is_a_value_or_refused(one: Any, other: Any, data: st.DataObject) -> None:
    """A bit flipped, an end cut off, or the halves of two frames: whatever can be read can also be written."""
    header, payload = parts([one, torch.ones(2)])
    kind = data.draw(st.sampled_from(["flip", "cut", "splice"]))
    if kind == "flip":
        where = data.draw(st.integers(0, len(header + payload) - 1))
        whole = bytearray(header + payload)
        whole[where] ^= 1 << data.draw(st.integers(0, 7))
        header, payload = bytes(whole[: len(header)]), bytes(whole[len(header) :])
    elif kind == "cut":
        header = header[: data.draw(st.integers(0, len(header)))]
        payload = payload[: data.draw(st.integers(0, len(payload)))]
    else:
        more, rest = parts(other)
        header = header[: data.draw(st.integers(0, len(header)))] + more[data.draw(st.integers(0, len(more))) :]
        payload = data.draw(st.sampled_from([payload, rest, payload + rest]))
    with contextlib.suppress(WireError):
        got = unpack(header, payload)
        assert same(over_the_wire(got), got)


def colliding() -> bytes:
    return ",".join(str(n * (2**61 - 1)) for n in range(2**30, 2**30 + 65_000)).encode()


def filled(unit: bytes) -> bytes:
    return b'[["list",' + b",".join([unit] * ((wire.MAX_HEADER - 20) // (len(unit) + 1))) + b"],[]]"


@pytest.mark.parametrize(
    "header",
    [
        filled(b"[]"),
        filled(b'["set"]'),
        filled(b'{"":0}'),
        filled(b"9" * 4300),
        b"[0,[" + b"0," * 1_000_000 + b"0]]",
        b'[["set",' + colliding() + b"],[]]",
        b'[["dict",' + colliding().replace(b",", b",0,") + b",0],[]]",
    ],
    ids=["empty lists", "sets", "objects", "digits", "empty buffers", "a colliding set", "a colliding dict"],
)
def test_the_worst_header_costs_little(header: bytes) -> None:
    """Before there were bounds, colliding keys of 1 MiB took 11 s, lists of 8 MiB 7 s and 0.4 GB."""
    assert len(header) <= wire.MAX_HEADER
    started = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(WireError):
        unpack(header, b"")
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


# -- the agent's streams -----------------------------------------------------------------------------------------------


def received(data: bytes) -> Any:
    requests, write = os.pipe()
    replies = os.open(os.devnull, os.O_WRONLY)
    with open(write, "wb") as stream:
        stream.write(data)
    frames = Frames(requests, replies)
    try:
        return frames.receive()
    finally:
        frames.requests.close()
        frames._replies.close()


def test_a_stream_gives_its_frames_and_then_none() -> None:
    assert same(received(pack([1, torch.ones(3)])), [1, torch.ones(3)])
    assert received(b"") is None


@given(st.data())
def test_a_stream_that_ends_within_a_frame_is_refused(data: st.DataObject) -> None:
    frame = pack([1, torch.ones(3)])
    with pytest.raises(WireError, match="the stream ended in the middle of a frame"):
        received(frame[: data.draw(st.integers(1, len(frame) - 1))])


def test_whoever_unpacks_imports_nothing() -> None:
    """Names in a frame are looked up in tables."""
    before = set(sys.modules)
    for name in ("dtype", "device"):
        with pytest.raises(WireError, match=f"unknown {name} 'antigravity'"):
            unpack(json.dumps([[name, "antigravity"], []]).encode(), b"")
    assert set(sys.modules) == before
