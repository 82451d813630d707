"""The wire format: everything in the table survives, nothing else gets through, and no length is trusted."""

import contextlib
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit import wire
from labkit.wire import PREFIX, Handle, WireError, pack, prefix_lengths, unpack


def over_the_wire(value, keep=None):
    frame = pack(value, keep)
    header, payload = prefix_lengths(frame[: PREFIX.size])
    body = frame[PREFIX.size :]
    assert len(body) == header + payload
    return unpack(body[:header], body[header:])


def frame_parts(value):
    frame = pack(value)
    header, _ = prefix_lengths(frame[: PREFIX.size])
    return frame[PREFIX.size : PREFIX.size + header], frame[PREFIX.size + header :]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


def same(a, b):
    """Equality of value and exact type, with nan equal to nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return repr(a) == repr(b)


@given(values)
def test_plain_values_arrive_with_their_exact_types(value):
    assert same(over_the_wire(value), value)


@pytest.mark.parametrize("dtype", sorted(wire._TENSOR_DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 0, 3), (2, 3, 4)])
def test_tensors_keep_dtype_shape_and_values(dtype, shape):
    value = (torch.rand(shape) * 3).to(getattr(torch, dtype))
    got = over_the_wire(value)
    assert type(got) is torch.Tensor
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    assert torch.equal(got, value)


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_an_empty_tensor_made_from_an_array_arrives(shape):
    value = torch.from_numpy(np.zeros(shape))
    got = over_the_wire(value)
    assert got.shape == value.shape
    assert got.dtype == torch.float64


def test_a_transposed_tensor_arrives_transposed():
    value = torch.rand(3, 4, 5).permute(2, 0, 1)
    got = over_the_wire(value)
    assert got.stride() == value.stride()
    assert torch.equal(got, value)


def test_expanded_sliced_and_subclassed_tensors_arrive_as_plain_ones():
    for value in (torch.rand(3, 1).expand(3, 4), torch.rand(10)[::3], torch.nn.Parameter(torch.rand(2, 2))):
        got = over_the_wire(value)
        assert type(got) is torch.Tensor
        assert torch.equal(got, value)
        assert got.requires_grad == value.requires_grad


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64", ">f4"]
)
def test_arrays_keep_dtype_shape_and_writability(dtype):
    value = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    value.flags.writeable = False
    got = over_the_wire(value)
    assert got.dtype == value.dtype.newbyteorder("=")
    assert not got.flags.writeable
    assert np.array_equal(got, value)


def test_torch_and_numpy_words_arrive():
    for value in (torch.float32, torch.bfloat16, torch.Size([2, 3]), torch.device("cuda", 1)):
        got = over_the_wire(value)
        assert got == value
        assert type(got) is type(value)
    got = over_the_wire(np.float32(1.5))
    assert type(got) is np.float32
    assert got == 1.5
    assert over_the_wire({1, 2}) == {1, 2}


def test_what_is_not_in_the_table_becomes_a_handle_or_is_refused():
    class Thing:
        pass

    handle = Handle(7, "lab.Thing", "<Thing>")
    assert over_the_wire([1, Thing()], keep=lambda value: handle) == [1, handle]
    with pytest.raises(WireError, match="a Thing cannot be handed over as data"):
        pack(Thing())


def test_lazy_and_meta_and_sparse_tensors_stay_where_they_are():
    handle = Handle(1, "t", "r")
    for value in (torch.empty(2, device="meta"), torch.eye(2).to_sparse(), torch.nn.LazyLinear(3).weight):
        assert over_the_wire(value, keep=lambda v: handle) == handle


def test_too_deep_too_long_and_too_large_are_refused_when_sending():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(WireError, match="nested more than 64 levels deep"):
        pack(deep)
    with pytest.raises(WireError, match="more than 4000 digits"):
        pack(10**5000)
    with pytest.raises(WireError, match=r"too large to hand over: \d+ MiB, at most 256 MiB"):
        pack(torch.zeros(1).expand(70_000_000))


def test_a_prefix_is_bounded_before_anything_is_read():
    with pytest.raises(WireError, match="the bytes are no frame"):
        prefix_lengths(PREFIX.pack(b"GLW1", wire.MAX_HEADER + 1, 0))
    with pytest.raises(WireError, match="the bytes are no frame"):
        prefix_lengths(PREFIX.pack(b"GLW1", 1, wire.MAX_PAYLOAD + 1))
    with pytest.raises(WireError, match="the bytes are no frame"):
        prefix_lengths(PREFIX.pack(b"HTTP", 1, 1))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"t": "object"}, "unknown type 'object'"),
        (
            {"t": "tensor", "dtype": "float32", "shape": [10**9], "axes": [0], "grad": False, "b": 0},
            "needs 4000000000 bytes, not 4",
        ),
        (
            {"t": "tensor", "dtype": "float32", "shape": [-1, -4], "axes": [0, 1], "grad": False, "b": 0},
            "malformed shape",
        ),
        (
            {"t": "tensor", "dtype": "float32", "shape": [1, 1], "axes": [0, 0], "grad": False, "b": 0},
            "the axes are no permutation",
        ),
        ({"t": "tensor", "dtype": "float32", "shape": [1.0], "axes": [0], "grad": False, "b": 0}, "malformed shape"),
        (
            {"t": "tensor", "dtype": "int32", "shape": [1], "axes": [0], "grad": True, "b": 0},
            "malformed frame: RuntimeError",
        ),
        (
            {"t": "tensor", "dtype": "quint8", "shape": [4], "axes": [0], "grad": False, "b": 0},
            "malformed frame: KeyError",
        ),
        (
            {"t": "tensor", "dtype": "float32", "shape": [1], "axes": [0], "grad": False, "b": 7},
            "malformed frame: IndexError",
        ),
        ({"t": "array", "dtype": "|O", "shape": [1], "locked": False, "b": 0}, "unknown array dtype"),
        ({"t": "array", "dtype": "<M8[ns]", "shape": [1], "locked": False, "b": 0}, "unknown array dtype"),
        ({"t": "npscalar", "dtype": "|O", "b": 0}, "unknown scalar dtype"),
        ({"t": "int", "v": "9" * 5000}, "an integer with too many digits"),
        ({"t": "dtype", "v": "__class__"}, "unknown dtype"),
        ({"t": "dtype", "v": "nn"}, "unknown dtype"),
        ({"t": "device", "v": "nowhere"}, "malformed frame: RuntimeError"),
        ({"t": "dict", "v": [[["unhashable"], 1]]}, "malformed frame: TypeError"),
        ({"t": "pickle", "b": 0}, "unknown type 'pickle'"),
        ({"t": ["tensor"]}, "malformed frame: TypeError"),
        ({}, "malformed frame: KeyError"),
    ],
)
def test_a_malformed_value_is_a_wire_error_and_nothing_else(tree, says):
    header = json.dumps({"v": tree, "b": [4]}).encode()
    with pytest.raises(WireError, match=re.escape(says)):
        unpack(header, b"\0\0\0\0")


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_arbitrary_bytes_never_raise_anything_else(header, payload):
    with pytest.raises(WireError):
        unpack(header, payload)


@given(values, st.data())
def test_a_damaged_frame_is_read_as_some_value_or_refused(value, data):
    header, payload = frame_parts([value, torch.ones(2)])
    where = data.draw(st.integers(0, len(header) - 1))
    damaged = header[:where] + bytes([data.draw(st.integers(0, 255))]) + header[where + 1 :]
    with contextlib.suppress(WireError):
        unpack(damaged, payload)


def test_lengths_that_do_not_add_up_are_refused():
    for lengths in ([3], [4, 1], [-4, 8], ["4"], [4.0]):
        header = json.dumps({"v": None, "b": lengths}).encode()
        with pytest.raises(WireError, match="the buffers' lengths do not add up"):
            unpack(header, b"\0\0\0\0")


def test_floats_that_json_cannot_say():
    assert math.isnan(over_the_wire(math.nan))
    assert over_the_wire(-math.inf) == -math.inf
    assert over_the_wire(2**80) == 2**80
