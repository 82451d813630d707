# %%
import numpy as np
import torch
from torch import nn


# %% exercise="rank_of"
def rank_of(x: torch.Tensor) -> int:
    return x.dim()


# %% exercise="mean_squared_error"
def mean_squared_error(prediction: torch.Tensor, target: torch.Tensor) -> float:
    return (prediction - target).square().mean().item()


# %% exercise="describe"
def describe(x: torch.Tensor) -> dict[str, object]:
    return {
        "dtype": x.dtype,
        "shape": tuple(x.shape),
        "stride": x.stride(),
        "device": str(x.device),
        "requires_grad": x.requires_grad,
    }


# %% exercise="every_digit"
def every_digit(data: bool | int | float | complex | list) -> torch.Tensor:
    # NumPy picks 64-bit dtypes for Python numbers, and from_numpy keeps whatever dtype the array has.
    return torch.from_numpy(np.array(data))


# %% exercise="matmul_shape"
def matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b:
        raise ValueError(f"@ needs at least one axis on either side, not {a} and {b}")
    rows = a[-2:-1]  # () for a vector: the axis that it lacks is missing from the result too
    columns = b[-1:] if len(b) > 1 else ()
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise ValueError(f"{a} @ {b}: the inner sizes {a[-1]} and {inner} differ")
    return broadcast(a[:-2], b[:-2]) + rows + columns


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(len(a), len(b))
    a = (1,) * (rank - len(a)) + a
    b = (1,) * (rank - len(b)) + b
    for p, q in zip(a, b, strict=True):
        if p != q and 1 not in (p, q):
            raise ValueError(f"the batch axes {a} and {b} do not broadcast: {p} is not {q}")
    # Not max(p, q): a size of 1 against 0 gives 0.
    return tuple(q if p == 1 else p for p, q in zip(a, b, strict=True))


# %% exercise="shared"
def shared(array: np.ndarray) -> torch.Tensor:
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        return copied(array)
    return torch.from_numpy(array)


def copied(array: np.ndarray) -> torch.Tensor:
    # torch.tensor(array) copies as well, but refuses negative strides; NumPy's own copy has none.
    return torch.from_numpy(array.copy())


# %% exercise="settle"
def unsettled(model: nn.Module) -> set[str]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name for name, tensor in tensors if nn.parameter.is_lazy(tensor)}


def settle(model: nn.Module, sample: torch.Tensor) -> None:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # batch norm neither counts the batch nor needs more than one row
    with torch.no_grad():
        model(sample)
    for module, training in modes:
        module.training = training
