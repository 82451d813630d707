"""Frames: no length is trusted, what nobody packed is refused, and reading the worst of it costs little."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.frames import Frames
from labkit.wire import MAX_HEADER, MAX_PAYLOAD, PREFIX, Handle, WireError, pack, prefix_lengths, unpack
from tests.frames import over_the_wire, parts, same
from tests.values import values

# -- frames that nobody sent -------------------------------------------------------------------------------------------


def test_a_prefix_is_bounded_before_anything_is_read() -> None:
    assert prefix_lengths(PREFIX.pack(b"GLW1", 1, 1)) == (1, 1)
    for prefix in ((b"GLW1", MAX_HEADER + 1, 0), (b"GLW1", 1, MAX_PAYLOAD + 1), (b"HTTP", 1, 1)):
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
        (["tensor", "float32", [1], None, False, "nowhere"], "unknown device 'nowhere'"),
        (["tensor", "float32", [1], None, False, "cuda:99999"], "unknown device 'cuda:99999'"),
        (["tensor", "float32", [1], None, False, "c" * 10**6], f"unknown device '{'c' * 40}'"),
        (["tensor", "float32", [1], None, False, ["device", "cpu"]], "malformed frame: TypeError"),
        (["tensor", "float32", [1], None, False, "cpu", "cpu"], "malformed frame: ValueError"),
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
        (b" " * (MAX_HEADER + 1), "the bytes are no frame"),
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
    return b'[["list",' + b",".join([unit] * ((MAX_HEADER - 20) // (len(unit) + 1))) + b"],[]]"


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
    """Without bounds, colliding keys took the square of their number, and the objects of a long header the memory."""
    assert len(header) <= MAX_HEADER
    started = time.process_time()
    with contextlib.suppress(WireError):
        unpack(header, b"")
    assert time.process_time() - started < 5
    # Not the process's own peak, which an earlier test may have made higher.
    tracemalloc.start()
    try:
        with contextlib.suppress(WireError):
            unpack(header, b"")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


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
