"""Values of the wire as hypothesis draws them."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from labkit.table import ARRAY_DTYPES, TENSOR_DTYPES, Handle

__all__ = ["arrays", "tensors", "values", "words"]

any_float = st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", bits.to_bytes(8, "big"))[0])
any_text = st.text() | st.integers(1000, 1001).map("x".__mul__)
array_dtypes = st.sampled_from(sorted(ARRAY_DTYPES))
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
    dtype = draw(st.sampled_from(sorted(TENSOR_DTYPES.values(), key=str)))
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
