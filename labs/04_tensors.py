# %% [markdown]
# # Tensors: what they are, what they are not
#
# **You will be able to** read a tensor's rank, dtype, strides, device and autograd flag; leave torch with a
# plain number; create tensors without losing digits; predict the shape of any matrix product; say when a
# tensor and a NumPy array are the same memory; and name the two places where PyTorch has a shape that is
# not known yet.
#
# **You need** Python, a little NumPy, and matrix multiplication. **Out of scope:** gradients, GPUs, speed.
#
# **How it works.** Read, write the function, try it, run its check. `lab.hint("name")` gives one hint after
# another. Helper functions and extra cells are welcome anywhere. Seven exercises, the first two of one line
# each; about 40 minutes.

# %%
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


def is_written(function: Callable[..., Any], *example: Any) -> bool:
    """Whether the function has been written already; if not, one line says so."""
    try:
        function(*example)
    except NotImplementedError:
        print(f"{function.__name__} is not written yet. Fill in its cell above, run it, then run this one.")
        return False
    return True


# %% [markdown]
# ## 1. How many axes?
#
# > *Interview:* "Which mathematical objects do networks work on: scalar, vector, matrix?"
#
# All of them, in one type. A tensor's **rank** is the number of its axes: a scalar has none, a vector one,
# a matrix two, a batch of colour images four.
#
# People say PyTorch has no tensor for a single number. Run the next cell and see what its first line tells
# you.

# %%
examples = {
    "one temperature": torch.tensor(21.5),
    "one temperature, in a list": torch.tensor([21.5]),
    "a week of temperatures": torch.zeros(7),
    "a grey image": torch.zeros(28, 28),
    "a colour image": torch.zeros(3, 28, 28),
    "a batch of colour images": torch.zeros(16, 3, 28, 28),
    "an empty batch of them": torch.zeros(0, 3, 28, 28),
}
for title, x in examples.items():
    print(f"{title:28} shape {tuple(x.shape)!s:18} {x.numel():6} elements")

# %% [markdown]
# **Task.** `rank_of(x)` gives the number of axes of any tensor.
#
# | x | `rank_of(x)` |
# |---|---|
# | `torch.tensor(21.5)` | 0 |
# | `torch.zeros(16, 3, 28, 28)` | 4 |


# %% exercise="rank_of"
def rank_of(x: torch.Tensor) -> int:
    """The number of axes of x. (roughly 1 line)"""
    raise NotImplementedError


# %%
if is_written(rank_of, torch.tensor(0.0)):
    for title, x in examples.items():
        print(f"rank {rank_of(x)}: {title}")

# %%
lab.check("rank_of")

# %% [markdown]
# ## 2. From a tensor to a number
#
# > *Interview:* "Your loss prints as `tensor(0.25)`. What is it, and how do you log it?"
#
# A reduction over all elements (`sum`, `mean`, `max`, every loss function) does not leave torch: it gives a
# tensor of rank 0. That is on purpose, since a Python number could not be differentiated. To log it, plot
# it or put it into JSON you want the number itself.
#
# **Task.** `mean_squared_error(prediction, target)` gives the mean of the squared differences as a Python
# `float`. Both tensors have the same shape, of any rank. The slow specification:

# %%
def mean_squared_error_spec(prediction: torch.Tensor, target: torch.Tensor) -> float:
    total = 0.0
    for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        total += (p - t) ** 2
    return total / prediction.numel()


mean_squared_error_spec(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))


# %% exercise="mean_squared_error"
def mean_squared_error(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """The mean of the squared differences, as a Python number. (roughly 1 line, no loop)"""
    raise NotImplementedError


# %%
prediction = torch.tensor([1.0, 2.0], requires_grad=True)
target = torch.tensor([1.0, 4.0])
print("a reduced loss:", nn.functional.mse_loss(prediction, target))
if is_written(mean_squared_error, prediction, target):
    print("your number:   ", repr(mean_squared_error(prediction, target)))

# %%
lab.check("mean_squared_error")

# %% [markdown]
# ## 3. A tensor's identity card
#
# > *Interview:* "What is a tensor in PyTorch? Isn't it just a NumPy array?"
#
# One published answer creates its tensor with `torch.floatTensor([2])`. Find out:

# %%
try:
    print(torch.floatTensor([2]))
except AttributeError as error:
    print("AttributeError:", error)
print(torch.tensor([2.0]), "<- the way to write it")
print(torch.FloatTensor([2]), torch.FloatTensor(2).shape, "<- legacy: a list is data, a number a size")

# %% [markdown]
# A tensor is elements of one **dtype** in memory, plus a recipe for finding them: the **shape**, and the
# **strides**, which say how many elements to step over in memory to get one further along each axis. So far
# that is a NumPy array (which counts its strides in bytes). What an array does not have is a **device** and
# a part in **autograd**.
#
# **Task.** `describe(x)` gives a dict with exactly these keys:
#
# | key | value | for `torch.zeros(2, 3)` |
# |---|---|---|
# | `"dtype"` | a `torch.dtype` | `torch.float32` |
# | `"shape"` | a tuple | `(2, 3)` |
# | `"stride"` | a tuple | `(3, 1)` |
# | `"device"` | a string | `"cpu"` |
# | `"requires_grad"` | whether autograd follows this tensor | `False` |


# %% exercise="describe"
def describe(x: torch.Tensor) -> dict[str, object]:
    """The identity card of x: dtype, shape, stride, device, requires_grad. (roughly 7 lines)"""
    raise NotImplementedError


# %% [markdown]
# Before you run the next cell, guess the strides of the second and third row, and the dtypes of the last
# two. A tensor on the device `meta` has everything but memory.

# %%
weight = torch.ones(3, requires_grad=True)
creations = {
    "torch.zeros(2, 3)": torch.zeros(2, 3),
    "torch.zeros(2, 3).T": torch.zeros(2, 3).T,
    "torch.zeros(3, 1).expand(3, 4)": torch.zeros(3, 1).expand(3, 4),
    "torch.ones(3, requires_grad=True)": weight,
    "weight * 2": weight * 2,
    "torch.empty(9, 9, device='meta')": torch.empty(9, 9, device="meta"),
    "torch.tensor([1, 2])": torch.tensor([1, 2]),
    "torch.tensor([1, 2.0])": torch.tensor([1, 2.0]),
}
if is_written(describe, torch.zeros(1)):
    print(" " * 34, *(f"{key:14}" for key in describe(weight)))
    for code, x in creations.items():
        print(f"{code:34}", *(f"{value!s:14}" for value in describe(x).values()))
    print(f"{'np.array([1, 2.0]), for comparison':34}", np.array([1, 2.0]).dtype)

# %%
lab.check("describe")

# %% [markdown]
# ## 4. Every digit
#
# > *Interview:* "Your NumPy prototype and its PyTorch port disagree in the seventh digit. Why?"
#
# The last two lines above have shown it: from the same Python numbers NumPy makes `float64`, about 16
# significant digits, and PyTorch makes `float32`, about 7. That is good for training and bad for time
# stamps, coordinates, money and reference results.

# %%
for number in [0.1, 1234567.891, 1_700_000_000.25]:
    kept = torch.tensor(number).item()
    print(f"{number!r:>16} in Python, {kept!r:>22} in torch.tensor: off by {abs(kept - number):.1e}")

# %% [markdown]
# **Task.** `every_digit(data)` makes a tensor that holds Python numbers exactly. `data` is a number or a
# list of numbers, nested to any depth.
#
# | data holds | dtype |
# |---|---|
# | `bool` | `torch.bool` |
# | `int` | `torch.int64` |
# | `float`, or nothing at all | `torch.float64` |
# | `complex` | `torch.complex128` |
#
# Nothing outside your function may change: other cells still get `float32` from `torch.tensor(0.1)`.


# %% exercise="every_digit"
def every_digit(data: bool | int | float | complex | list) -> torch.Tensor:
    """The numbers in data as a tensor, none of them rounded. (roughly 1 line)"""
    raise NotImplementedError


# %%
if is_written(every_digit, 0.0):
    for data in [0.1, [1_700_000_000.25], [2**53 + 1], [True, False], [[0.1, 2j]], []]:
        exact = every_digit(data)
        default = torch.tensor(data).tolist()
        print(f"{data!s:22} {exact.dtype!s:17} {exact.tolist()!s:22} torch.tensor: {default}")

# %%
lab.check("every_digit")

# %% [markdown]
# ## 5. More than a matrix
#
# > *Interview:* "Is a tensor the same thing as a matrix?"
#
# Some answer with the physicist's tensor, which is defined by how it transforms when the coordinates
# change. A `torch.Tensor` obeys no such law: it is an n-dimensional array, and a matrix is the case of two
# axes. What is interesting is what the matrix operations do with tensors of *other* ranks.
#
# Cover the output, predict each shape or error, then run the cell.

# %%
vector = torch.randn(3)
images = torch.randn(8, 3, 3)  # 8 matrices
heads = torch.randn(2, 4, 5, 16)  # (batch, heads, tokens, width)
for code in [
    "vector @ vector",
    "images @ vector",
    "vector.mT",
    "heads.mT",
    "torch.linalg.det(images)",
    "heads @ heads.mT",
    'torch.einsum("bhtw,bhsw->bhts", heads, heads)',
    "heads @ images",
]:
    try:
        found = str(tuple(eval(code).shape))
    except RuntimeError as error:
        found = "RuntimeError: " + str(error).split(". ")[0]
    print(f"{code:47} {found}")

# %% [markdown]
# So: matrix operations work on the **last two axes**, and every axis before those is a batch.
#
# **Task.** `matmul_shape(a, b)` gives the shape of `A @ B` for tensors of the shapes `a` and `b`, as a
# tuple, and raises `ValueError` exactly where torch would refuse. Compute it: the shapes can be far too
# large for any memory.
#
# The specification is torch itself, for small shapes. Find out how it treats rank 1 on either side, batch
# axes of different number and size, sizes 1 and 0, and rank 0. (`help(torch.matmul)` has the rules.)

# %%
def matmul_shape_spec(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple((torch.zeros(a) @ torch.zeros(b)).shape)
    except RuntimeError as error:
        raise ValueError(str(error)) from None


# %% exercise="matmul_shape"
def matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of A @ B, or ValueError if torch would refuse. (roughly 12 lines)"""
    raise NotImplementedError


# %%
def outcome(function: Callable, *shapes: tuple[int, ...]) -> str:
    try:
        return str(function(*shapes))
    except ValueError:
        return "ValueError"


if is_written(matmul_shape, (2, 3), (3, 4)):
    for a, b in [
        ((2, 3), (3, 4)),
        ((2, 3), (4, 3)),
        ((3,), (3,)),
        ((3,), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((7, 1, 2, 3), (5, 3, 4)),
        ((7, 2, 3), (5, 3, 4)),
        ((2, 1), (3, 4)),
        ((), (3,)),
    ]:
        yours, torchs = outcome(matmul_shape, a, b), outcome(matmul_shape_spec, a, b)
        note = "" if yours == torchs else "<- differs"
        print(f"{a!s:13} @ {b!s:10} torch: {torchs:14} you: {yours:14} {note}")

# %%
lab.check("matmul_shape")

# %% [markdown]
# ## 6. Whose memory is it?
#
# > *Interview:* "What does `torch.from_numpy` do?"
#
# "It converts an array to a tensor" is half of it. Look at what the array says after the tensor was written
# to:

# %%
array = np.array([1.0, 2.0, 3.0])
tensor = torch.from_numpy(array)
tensor[0] = 100.0
print(array, "same address:", tensor.data_ptr() == array.ctypes.data)

constants = np.array([3.14, 2.72])
constants.flags.writeable = False
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    alias = torch.from_numpy(constants)
alias[0] = 4.0
print("a read-only array after a write through the tensor:", constants)
warned = str(caught[0].message).split(".")[0] if caught else "(it has been given)"
print("the warning, given once a process:", warned)

try:
    torch.from_numpy(array[::-1])
except ValueError as error:
    print("ValueError:", str(error).split(".")[0])

# %% [markdown]
# **Task.** Two functions; both keep the array's shape, values and dtype.
#
# - `shared(array)` gives a tensor on the array's own memory wherever that is allowed: writing to one is
#   seen in the other. Where it is not allowed (the array is read-only, or walks its memory backwards) it
#   gives a copy.
# - `copied(array)` always gives a tensor with memory of its own, for every kind of array.


# %% exercise="shared"
def shared(array: np.ndarray) -> torch.Tensor:
    """The array's own memory as a tensor, or a copy where sharing is not allowed. (roughly 3 lines)"""
    raise NotImplementedError


def copied(array: np.ndarray) -> torch.Tensor:
    """A tensor with the array's values in memory of its own. (roughly 1 line)"""
    raise NotImplementedError


# %%
locked = np.arange(6.0)
locked.flags.writeable = False
arrays = {
    "np.arange(6.0)": np.arange(6.0),
    "every second element": np.arange(12.0)[::2],
    "transposed integers": np.arange(6).reshape(2, 3).T,
    "reversed": np.arange(6.0)[::-1],
    "read-only": locked,
    "np.broadcast_to": np.broadcast_to(np.arange(6.0), (2, 6)),
}
if is_written(shared, np.zeros(1)) and is_written(copied, np.zeros(1)):
    for title, array in arrays.items():
        same = [function(array).data_ptr() == array.ctypes.data for function in (shared, copied)]
        dtype = str(shared(array).dtype)
        print(f"{title:22} {dtype:14} same address: shared {same[0]!s:6} copied {same[1]}")

# %%
lab.check("shared")

# %% [markdown]
# ## 7. Shapes that are not known yet
#
# > *Interview:* "Is a tensor's shape always fully known?"
#
# People say part of it may be unknown until the graph runs. That was TensorFlow 1, where you built the
# graph first. In PyTorch an operation has run when its line has run, so its result has a concrete shape,
# even on the device `meta`, where there are no elements. Now for the exceptions. Here is a network that was
# not told the size of its input:

# %%
def lazy_network() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Dropout(0.5), nn.LazyLinear(3))


network = lazy_network()
print(network)
for code in ["network[0].weight.shape", "network[0].weight.numel()", "network[0].weight.size()"]:
    try:
        found = eval(code)
    except (RuntimeError, ValueError) as error:
        found = f"{type(error).__name__}: {str(error).split('. ')[0]}"
    print(f"{code:26} {found}")

# %% [markdown]
# Mind the last line: `.size()` does not complain. A parameter that really is empty, such as the bias of
# `nn.Linear(3, 0)`, gives the same answer, and is no exception at all.
#
# **Task.** Two functions for any module, however deeply nested.
#
# - `unsettled(model)` gives the set of the names (as in `model.state_dict()`) of all parameters *and
#   buffers* that have no shape yet.
# - `settle(model, sample)` gives them their shapes by one dry run on `sample`, and changes nothing else.
#   Running statistics do not count the dry run as a batch of training, a batch of one is enough, and every
#   submodule is in the mode (`.training`) it was in before, also if someone has put just one of them into
#   eval mode.


# %% exercise="settle"
def unsettled(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers that have no shape yet. (roughly 2 lines)"""
    raise NotImplementedError


def settle(model: nn.Module, sample: torch.Tensor) -> None:
    """Give every parameter its shape by one dry run that leaves no other trace. (roughly 6 lines)"""
    raise NotImplementedError


# %%
network = lazy_network()
if is_written(unsettled, network) and is_written(settle, lazy_network(), torch.zeros(1, 5)):
    print("before:", sorted(unsettled(network)))
    settle(network, torch.zeros(1, 5))
    print("after: ", sorted(unsettled(network)))
    print("dry run counted as a batch:", bool(network[1].num_batches_tracked))
    print("still in training mode:", network.training)
    print(network)

# %%
lab.check("settle")

# %% [markdown]
# **The other exception** is a size that is a *symbol*. While a program is compiled or exported, a size may
# be declared free; the tensors of the graph then carry a `SymInt` where a number would be. The cell takes a
# few seconds.

# %%
exported = torch.export.export(
    nn.Sequential(nn.Flatten(), nn.Linear(12, 4)),
    (torch.zeros(2, 3, 4),),
    dynamic_shapes=({0: torch.export.Dim("batch")},),
)
for node in exported.graph.nodes:
    if "val" in node.meta:
        shape = node.meta["val"].shape
        print(f"{node.name:12} {tuple(shape)!s:14} first size: {type(shape[0]).__name__}")
print("eager again:", tuple(exported.module()(torch.zeros(7, 3, 4)).shape))
