"""Tensors and arrays as plain data: what a subclass is made of, what has no values to read, and where it came from.

Learner code makes the classes, so none of their methods is called here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from labkit.table import TENSOR_NAMES, WireError

__all__ = ["check_tensor", "device_of", "from_device", "plain_array", "plain_tensor"]

_SOURCE = "_device_before_the_wire"


def plain_tensor(value: torch.Tensor, kind: type[torch.Tensor]) -> torch.Tensor:
    """A subclass's tensor, sharing its memory: what the class says about itself is not asked."""
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        # It may have no memory of its own at all: reading it would end the process.
        raise WireError(
            f"a {kind.__name__}, a tensor with operations of its own, cannot be handed over; return a torch.Tensor"
        )
    with torch._C.DisableTorchFunctionSubclass():
        plain = torch.Tensor.as_subclass(torch.Tensor.detach(value), torch.Tensor)
        return plain.requires_grad_() if value.requires_grad else plain


def plain_array(value: np.ndarray[Any, Any], kind: type) -> np.ndarray[Any, Any]:
    if issubclass(kind, np.ma.MaskedArray):
        raise WireError("a masked array cannot be handed over; return x.filled(value), where you choose the value")
    return np.ndarray.view(value, np.ndarray)


def check_tensor(value: torch.Tensor) -> None:
    """WireError with a remedy if there is nothing to read, or nothing in the table."""
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        what, remedy = (
            "tensor still inside torch.func (vmap, grad and others)",
            "let the transformed function return it",
        )
    elif value.is_nested:
        what, remedy = "nested tensor", "return the list of its parts, x.unbind()"
    elif value.layout is not torch.strided:
        what, remedy = f"tensor of layout {value.layout}", "return x.to_dense()"
    elif value.is_quantized:
        what, remedy = f"quantised tensor ({value.dtype})", "return x.dequantize()"
    elif value.device.type == "meta":
        what, remedy = "tensor on the meta device, which has a shape but no values,", "return one that was computed"
    elif value.dtype not in TENSOR_NAMES:
        what, remedy = f"tensor of dtype {value.dtype}", "convert it, for example with x.to(torch.float32)"
    elif not _has_memory(value):
        what, remedy = "tensor whose storage is smaller than its shape needs", "return x.clone() before you resize it"
    else:
        return
    raise WireError(f"a {what} cannot be handed over; {remedy}")


def _has_memory(value: torch.Tensor) -> bool:
    """Whether the storage reaches to the last element; it may have been resized."""
    if not value.numel():
        return True
    last = value.storage_offset() + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    return (last + 1) * value.itemsize <= value.untyped_storage().nbytes()


def from_device(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor, with a note of the device that it was on when it was packed."""
    vars(value)[_SOURCE] = device
    return value


def device_of(value: torch.Tensor) -> torch.device:
    """The device that a tensor was on before it crossed; where it is, if it has not crossed or there is no note."""
    device: torch.device = vars(value).get(_SOURCE, value.device)
    return device
