"""What is no value stays in the sandbox as an object, and what has no values to read is refused with the remedy."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest
import torch

from labkit.wire import Handle, WireError, pack, unpack
from tests.frames import over_the_wire

HANDLE = Handle(7, "lab.Thing", "<Thing>")


def kept(value: Any) -> Handle:
    return HANDLE


# -- objects -----------------------------------------------------------------------------------------------------------


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


class Number(float):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


def test_a_key_that_compares_in_its_own_way_stays_where_it_is() -> None:
    """As plain floats or arrays two of them could be one key."""

    class Matrix(np.ndarray):
        __hash__ = object.__hash__  # type: ignore[assignment]

    for key in (Number(1), (2, Number(1)), np.zeros(2).view(Matrix), torch.zeros(2), print):
        want = (2, HANDLE) if type(key) is tuple else HANDLE
        assert over_the_wire({key: 1}, kept) == {want: 1}
        assert over_the_wire({key}, kept) == {want}
        with pytest.raises(WireError, match="cannot be handed over as data"):
            pack({key: 1})


# -- refusals ----------------------------------------------------------------------------------------------------------


class Computed(torch.Tensor):
    """Has no memory: what it is made of is computed when an operation asks."""

    @staticmethod
    def __new__(cls) -> Computed:
        return torch.Tensor._make_wrapper_subclass(cls, (7, 3))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.zeros(1)


def nested_tensor() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.rand(2), torch.rand(3)])


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
    "nested": (nested_tensor, "a nested tensor cannot be handed over; return the list of its parts, x.unbind()"),
    "resized": (
        without_memory,
        "a tensor whose storage is smaller than its shape needs cannot be handed over; return x.clone() before you "
        "resize it",
    ),
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
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested tensors")
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
