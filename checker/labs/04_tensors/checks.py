# %% tags=["parameters"]
job = ""

# %%
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from checker.remote import Remote
from checker.spec import Answer, Failure, begin
from labkit.wire import Handle

check, student, draw = begin(job)


# %%
def plain(value: Any) -> Any:
    """``torch.Size`` as the tuple that it is."""
    return tuple(value) if type(value) is torch.Size else value


# %% [markdown]
# ## rank_of

# %%
COUNTS_ELEMENTS = "That is the number of elements; the rank is the number of axes."
COUNTS_FIRST = "That is the size of the first axis (what len gives); the rank is how many axes there are."


@check("rank_of")
def counts_axes():
    """Tensors with one to five axes are answered with their number of axes."""
    for rank in (3, 1, 2, 4, 5):
        # No size is 3 in the first round, so that counting anything else shows at once.
        x = draw.tensor(*draw.shape(rank, low=4, high=6))
        student.rank_of(x).equals(rank, diagnose={COUNTS_ELEMENTS: x.numel(), COUNTS_FIRST: len(x)})


@check("rank_of")
def scalar_has_none():
    """A single number is a tensor too: its rank is 0."""
    for x in (draw.tensor(), draw.tensor(dtype=torch.int64, high=9), draw.tensor().requires_grad_()):
        student.rank_of(x).equals(0, diagnose={"It has one element, but no axis: its shape is ().": 1})


@check("rank_of")
def sizes_do_not_matter():
    """Axes of size 1 or 0 are axes."""
    for shape in ((1,), (1, 1, 1), (0,), (draw.integer(2, 5), 0, 3), (1, draw.integer(2, 5))):
        x = draw.tensor(*shape)
        longer = sum(size > 1 for size in shape)
        message = f"An axis of size 1 or 0 counts as well: the shape {shape} has {len(shape)}."
        student.rank_of(x).equals(len(shape), diagnose={message: longer, COUNTS_ELEMENTS: x.numel()})


@check("rank_of")
def any_tensor():
    """Neither dtype nor memory layout matters, and the tensor is left alone."""
    for dtype in (torch.float64, torch.int64, torch.bool, torch.complex64):
        x = draw.tensor(4, 5, 2, dtype=dtype, layout="transposed")
        answer = student.rank_of(x)
        answer.equals(3)
        answer.left_alone(x)


# %% [markdown]
# ## mean_squared_error


# %%
def check_error(prediction: torch.Tensor, target: torch.Tensor) -> None:
    difference = (prediction - target).detach()
    square = difference.double().square()
    mistakes = {
        "That is the sum of the squares, not their mean.": square.sum().item(),
        "That is the root of the mean square.": square.mean().sqrt().item(),
        "That is the mean of the absolute differences: square them.": difference.abs().double().mean().item(),
        "That is the mean difference: square each one first.": difference.double().mean().item(),
        "That is the square of the mean: square first, then take the mean.": difference.double().mean().item()
        ** 2,
    }
    student.mean_squared_error(prediction, target).is_close(
        square.mean().item(), rtol=1e-5, atol=1e-6, diagnose=mistakes
    )


@check("mean_squared_error")
def right_number():
    """The mean of the squared differences comes back as a Python float."""
    for rank in (1, 2, 3):
        shape = draw.shape(rank, low=2, high=6)
        check_error(draw.tensor(*shape, low=-5, high=5), draw.tensor(*shape, low=-5, high=5))


@check("mean_squared_error")
def from_a_network():
    """A prediction that autograd follows gives a plain number as well."""
    shape = draw.shape(2, low=2)
    check_error(draw.tensor(*shape).requires_grad_(), draw.tensor(*shape))


@check("mean_squared_error")
def any_rank():
    """Tensors of rank 0, of one element, and transposed ones work like any other."""
    check_error(draw.tensor(high=3), draw.tensor(low=-3))
    check_error(draw.tensor(1, 1, high=3), draw.tensor(1, 1, low=-3))
    check_error(draw.tensor(4, 3, layout="transposed"), draw.tensor(4, 3))
    check_error(draw.tensor(5, dtype=torch.float64), draw.tensor(5, dtype=torch.float64))


# %% [markdown]
# ## describe


# %%
def card(x: torch.Tensor, device: str = "cpu", requires_grad: bool | None = None) -> dict[str, Any]:
    return {
        "dtype": x.dtype,
        "shape": tuple(x.shape),
        "stride": tuple(x.stride()),
        "device": device,
        "requires_grad": x.requires_grad if requires_grad is None else requires_grad,
    }


def check_card(
    answer: Answer, want: dict[str, Any], diagnose: Mapping[str, dict[str, Any]] | None = None
) -> None:
    got = answer.value
    if isinstance(got, dict):
        got = {key: plain(value) for key, value in got.items()}
    Answer(answer.call, got).equals(want, diagnose=diagnose)


@check("describe")
def plain_tensors():
    """A new tensor's dtype, shape and strides are read right, for any dtype and rank."""
    for rank, dtype in enumerate((torch.float32, torch.int64, torch.float64, torch.bool, torch.float16)):
        x = draw.tensor(*draw.shape(rank, low=2), dtype=dtype)
        want = card(x)
        in_bytes = tuple(step * x.element_size() for step in want["stride"])
        text = {
            "PyTorch counts strides in elements, NumPy in bytes.": want | {"stride": in_bytes},
            "Give the dtype itself, not its name.": want | {"dtype": str(dtype)},
            "Give the device as a string: str(x.device).": want | {"device": torch.device("cpu")},
        }
        check_card(student.describe(x), want, text)


@check("describe")
def strides_are_the_layout():
    """A transposed tensor shows how it lies in memory: its strides do not follow from its shape."""
    for shape in ((3, 4), (2, 5, 3)):
        x = draw.tensor(*shape, layout="transposed")
        as_if = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        message = "Those are the strides of a contiguous tensor of this shape; this one was transposed."
        check_card(student.describe(x), card(x), {message: card(x) | {"stride": as_if}})


@check("describe")
def autograd_flag():
    """requires_grad is True for a parameter, and for what was computed from one."""
    leaf = draw.tensor(3, 2)
    check_card(student.describe(leaf.clone().requires_grad_()), card(leaf, requires_grad=True))
    result = student.put(leaf.clone().requires_grad_()).exp.make()
    message = (
        "It was computed from a parameter, so autograd follows it, though it is no leaf and has no .grad."
    )
    want = card(leaf, requires_grad=True)
    check_card(student.describe(result), want, {message: want | {"requires_grad": False}})


@check("describe")
def device_is_asked():
    """A tensor on another device says so."""
    x = draw.tensor(*draw.shape(2, low=2))
    elsewhere = student.put(x).to.make("meta")
    want = card(x, device="meta")
    message = "The tensor is on the device meta: ask it, do not assume."
    check_card(student.describe(elsewhere), want, {message: want | {"device": "cpu"}})


# %% [markdown]
# ## every_digit

# %%
THROUGH_32 = "The dtype is right, but float32 has lost the digits already: casting does not bring them back."
DEFAULT_32 = "That is PyTorch's default for Python floats: about 7 digits."
AS_DOUBLE = "Integers became float64, which has every integer only up to 2**53."


@check("every_digit")
def floats():
    """Floats come back as float64, to the last digit."""
    for rank in (1, 2, 3):
        data = draw.array(*draw.shape(rank, low=2), low=-1e6, high=1e6).tolist()
        want = torch.tensor(data, dtype=torch.float64)
        rounded = torch.tensor(data, dtype=torch.float32)
        student.every_digit(data).equals(want, diagnose={THROUGH_32: rounded.double(), DEFAULT_32: rounded})


@check("every_digit")
def integers():
    """Integers and bools stay what they are, beyond 2**53 too."""
    data = [2**53 + 1, *(draw.integer(-(2**62), 2**62) for _ in range(4))]
    want = torch.tensor(data, dtype=torch.int64)
    student.every_digit(data).equals(want, diagnose={AS_DOUBLE: want.double()})
    flags = [[draw.boolean() for _ in range(3)] for _ in range(2)]
    want = torch.tensor(flags)
    student.every_digit(flags).equals(want, diagnose={"Bools became numbers.": want.double()})


@check("every_digit")
def complex_numbers():
    """Complex numbers come back as complex128, to the last digit."""
    data = [complex(draw.real(-1e3, 1e3), draw.real()) for _ in range(4)] + [draw.real()]
    rounded = torch.tensor(data, dtype=torch.complex64)
    student.every_digit(data).equals(
        torch.tensor(data, dtype=torch.complex128),
        diagnose={
            THROUGH_32: rounded.to(torch.complex128),
            "That is PyTorch's default: two float32 parts.": rounded,
        },
    )


@check("every_digit")
def no_list_needed():
    """A bare number gives rank 0, and an empty list an empty float64 tensor."""
    for number in (draw.real(-1e6, 1e6), draw.integer(2**53, 2**60), True, complex(draw.real(), 0.1)):
        want = torch.tensor(number, dtype={float: torch.float64, complex: torch.complex128}.get(type(number)))
        student.every_digit(number).equals(want, diagnose={"A bare number has no axis.": want.reshape(1)})
    for empty in ([], [[], []]):
        want = torch.tensor(empty, dtype=torch.float64)
        student.every_digit(empty).equals(
            want, diagnose={"An empty list of numbers counts as floats.": want.float()}
        )


@check("every_digit")
def leaves_no_trace():
    """Afterwards torch.tensor(0.1) is float32 for everyone else, as before."""
    number = draw.real()
    student.every_digit([number]).equals(torch.tensor([number], dtype=torch.float64))
    default = student.evaluate("torch.get_default_dtype()").get().value
    if default is not torch.float32:
        raise Failure(
            f"After the call PyTorch's default dtype is {default}: every tensor and layer that anyone "
            "creates from now on has it. Choose the dtype of this one tensor instead."
        )


# %% [markdown]
# ## matmul_shape

# %%
Shape = tuple[int, ...]


def torch_shape(a: Shape, b: Shape) -> Shape | str:
    """What torch says: the shape, or its words of refusal."""
    try:
        return tuple((torch.zeros(a) @ torch.zeros(b)).shape)
    except RuntimeError as error:
        return str(error).splitlines()[0].rstrip(".")


def check_shape(a: Shape, b: Shape, diagnose: Mapping[str, Any] | None = None) -> None:
    want = torch_shape(a, b)
    answer = student.matmul_shape(a, b)
    if isinstance(want, str):
        answer.raises("ValueError", otherwise=f"torch refuses: {want}.")
        return
    Answer(answer.call, plain(answer.value)).equals(want, diagnose=diagnose)


@check("matmul_shape")
def matrices():
    """Two matrices, and batches of them, give rows by columns of the last two axes."""
    for rank in (0, 1, 2):
        n, k, m = draw.shape(3, low=2, high=9)
        batch = draw.shape(rank, low=2)
        check_shape((*batch, n, k), (*batch, k, m), {"Rows come from a and columns from b.": (*batch, k, k)})


@check("matmul_shape")
def vectors():
    """A vector is a row on the left and a column on the right; the axis it lacks is missing in the result."""
    n, k, m = draw.shape(3, low=2, high=9)
    batch = draw.shape(2, low=2)
    check_shape(
        (k,), (k,), {"The product of two vectors is one number: rank 0.": (1,), "It is rank 0.": (1, 1)}
    )
    extra = "The axis that was put in front of the vector is taken away again."
    check_shape((k,), (k, m), {extra: (1, m)})
    check_shape((n, k), (k,), {"The axis that was put behind the vector is taken away again.": (n, 1)})
    check_shape((*batch, n, k), (k,), {"Only the vector's own axis goes away.": batch})
    lost = "A vector on the left meets b's second to last axis; all of b's batch axes stay."
    check_shape((k,), (*batch, k, m), {lost: (m,), extra: (*batch, 1, m)})


@check("matmul_shape")
def batches_broadcast():
    """Batch axes are matched from the right, and an axis of size 1, or none at all, fits any size."""
    n, k, m = draw.shape(3, low=2, high=9)
    p, q, r = draw.sample(range(2, 9), 3)
    mine = "The batch axes come from both sides, broadcast; these are only those of a."
    check_shape((n, k), (p, q, k, m), {mine: (n, m)})
    check_shape((p, 1, n, k), (q, k, m), {mine: (p, 1, n, m)})
    check_shape((1, q, n, k), (p, 1, k, m), {mine: (1, q, n, m)})
    check_shape((r, 1, q, n, k), (p, 1, k, m), {mine: (r, 1, q, n, m)})
    check_shape((p, n, k), (k, m))


@check("matmul_shape")
def sizes_one_and_zero():
    """A size of 0 is a size: it gives empty results, and 1 against 0 broadcasts to 0."""
    n, k, m = draw.shape(3, low=2, high=9)
    check_shape((0, k), (k, m))
    check_shape((n, 0), (0, m), {"Each element is an empty sum, but the elements are there.": (0, 0)})
    check_shape((1, n, k), (0, k, m), {"1 stretches to the other size, and that is 0 here.": (1, n, m)})
    check_shape(
        (0, 1, n, k), (1, 5, k, m), {"1 stretches to the other size, and that is 0 here.": (1, 5, n, m)}
    )
    check_shape((1,), (1, m))


@check("matmul_shape")
def refusals():
    """ValueError comes exactly where torch refuses: unequal inner sizes, batch axes that clash, rank 0."""
    n, k, m = draw.sample(range(2, 9), 3)
    p, q = draw.sample(range(2, 9), 2)
    for a, b in (
        ((n, k), (m, k)),
        ((n, 1), (k, m)),
        ((n, k), (1, m)),
        ((1,), (k,)),
        ((n, k), (n,)),
        ((n,), (k, n)),
        ((n, k), (p, m, k)),
        ((p, n, k), (q, k, m)),
        ((0, n, k), (q, k, m)),
        ((p, 1, n, k), (q, 2, k, m)),
        ((), (k,)),
        ((n, k), ()),
        ((), ()),
    ):
        check_shape(a, b)


@check("matmul_shape")
def too_large_to_run():
    """Shapes that fit in no memory are answered as quickly as small ones."""
    large = 2 ** draw.integer(19, 21)
    for a, b, want in (
        ((large, large), (large, large + 1), (large, large + 1)),
        ((large, 64, large), (large, 3), (large, 64, 3)),
    ):
        answer = student.matmul_shape(a, b)
        Answer(answer.call, plain(answer.value)).equals(want)


@check("matmul_shape")
def anything():
    """Twenty random pairs, fitting or not, are answered as torch answers them."""
    for _ in range(20):
        inner = draw.integer(1, 3)
        batch = [draw.choice((1, 2, 2, 3)) for _ in range(draw.integer(0, 2))]
        a = (*(draw.choice((1, size)) for size in batch), *draw.shape(draw.integer(0, 1), high=4), inner)
        b = (*draw.sample(batch, len(batch)), inner + (draw.integer(0, 4) == 0), draw.integer(1, 4))
        check_shape(a, b)


# %% [markdown]
# ## shared

# %%
ALL = ((np.float64, 1), (np.float32, 2), (np.int64, 3), (np.uint8, 2), (np.bool_, 1))
TO_32 = "The dtype changed to PyTorch's default. torch.from_numpy and torch.tensor keep the array's own."


def tensor_of(name: str, array: Remote, want: np.ndarray) -> Remote:
    """The learner's tensor, left there, once it is known to hold what the array holds."""
    call = f"{name}({_in_words(want)})"
    kept = student.make(name, array)
    got = Answer(call, kept.get().value)
    right = torch.from_numpy(want.copy())
    got.equals(right, diagnose={TO_32: right.float()})
    return kept


def _in_words(array: np.ndarray) -> str:
    lock = "" if array.flags.writeable else "read-only "
    back = "reversed " if any(step < 0 for step in array.strides) else ""
    return f"<{lock}{back}{array.dtype} array of shape {array.shape}>"


def first(array: np.ndarray) -> Any:
    """The key of the first element."""
    return (0,) * array.ndim


def element(target: Remote, key: Any) -> Any:
    """One element, as a Python number."""
    return target[key].get().value.item()


def drawn(dtype: Any, rank: int) -> np.ndarray:
    return draw.array(*draw.shape(rank, low=2), dtype=dtype, low=0, high=9)


def other(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    return (not value) if isinstance(value, bool) else value + 1


def view_with_step(step: int) -> tuple[Remote, Remote, np.ndarray]:
    """An array over there, every ``step``-th element of it (a view), and the same view here."""
    base = draw.array(8)
    there = student.put(base)
    view = there[student.evaluate(f"slice(None, None, {step})")].keep()
    return there, view, base[::step]


@check("shared")
def seen_from_both_sides():
    """What is written to shared(array) is seen in the array, and the other way round."""
    for dtype, rank in ALL:
        array = drawn(dtype, rank)
        there = student.put(array)
        tensor = tensor_of("shared", there, array)
        old = array[first(array)].item()
        tensor[first(array)].set(other(old))
        if element(there, first(array)) == old:
            raise Failure(
                f"shared({_in_words(array)}): after a write to the tensor the array still has the old value. "
                "The tensor has a copy; sharing was asked for."
            )
        there[first(array)].set(old)
        if element(tensor, first(array)) != old:
            raise Failure(f"shared({_in_words(array)}): a write to the array is not seen in the tensor.")


@check("shared")
def copy_is_private():
    """copied(array) has memory of its own: no write to one is seen in the other."""
    for dtype, rank in ALL:
        array = drawn(dtype, rank)
        there = student.put(array)
        tensor = tensor_of("copied", there, array)
        old = array[first(array)].item()
        tensor[first(array)].set(other(old))
        if element(there, first(array)) != old:
            raise Failure(
                f"copied({_in_words(array)}): a write to the tensor changed the array. They still share "
                "their memory."
            )
        tensor[first(array)].set(old)
        there[first(array)].set(other(old))
        if element(tensor, first(array)) != old:
            raise Failure(f"copied({_in_words(array)}): a write to the array changed the tensor.")


@check("shared")
def views_are_shared():
    """A view with gaps in its memory is shared too: its elements are the large array's own."""
    base, view, want = view_with_step(2)
    tensor = tensor_of("shared", view, want)
    tensor[1].set(7.0)
    if element(base, 2) != 7.0:
        raise Failure(
            "shared(array[::2]) gave a copy, but a positive step is no obstacle: torch.from_numpy takes it "
            "with a stride of 2."
        )


@check("shared")
def read_only_is_protected():
    """A read-only array gives a copy: no write through a tensor can change it."""
    for name in ("shared", "copied"):
        array = draw.array(5)
        array.flags.writeable = False
        there = student.put(array)
        tensor = tensor_of(name, there, array)
        tensor[0].set(7.0)
        if element(there, 0) == 7.0:
            raise Failure(
                f"{name}({_in_words(array)}): a write to the tensor went through to the read-only array, "
                "which PyTorch calls undefined behaviour. Look at array.flags."
            )


@check("shared")
def backwards_is_copied():
    """A reversed array, whose strides are negative, gives a copy in the reversed order."""
    for name in ("shared", "copied"):
        _, view, want = view_with_step(-1)
        tensor = tensor_of(name, view, want)
        tensor[0].set(7.0)
        if element(view, 0) == 7.0:
            raise Failure(f"{name}(array[::-1]): a write to the tensor changed the array.")
        table = draw.array(3, 4)
        columns_back = student.evaluate("(slice(None), slice(None, None, -1))")
        mirrored = student.put(table)[columns_back].keep()
        tensor_of(name, mirrored, table[:, ::-1])


@check("shared")
def odd_sizes():
    """Arrays of rank 0 and empty arrays keep their shape and dtype."""
    for array in (draw.array(), draw.array(0, dtype=np.int64), draw.array(2, 0, 3, dtype=np.float32)):
        for name in ("shared", "copied"):
            tensor_of(name, student.put(array), array)


# %% [markdown]
# ## settle

# %%
FIRST, LAST = 6, 3


def network() -> Remote:
    """A lazy network with a lazy part two levels down."""
    inner = "nn.Sequential(nn.LazyLinear(5, bias=False), nn.LazyBatchNorm1d())"
    return student.evaluate(
        f"nn.Sequential(nn.LazyLinear({FIRST}), nn.ReLU(), nn.Dropout(0.5), {inner}, nn.Linear(5, {LAST}))"
    )


WITHOUT_SHAPE = {
    "parameters": {"0.weight", "0.bias", "3.0.weight", "3.1.weight", "3.1.bias"},
    "buffers": {"3.1.running_mean", "3.1.running_var"},
}
ALL_WITHOUT = WITHOUT_SHAPE["parameters"] | WITHOUT_SHAPE["buffers"]


def settled(model: Remote, sample: torch.Tensor) -> dict[str, torch.Tensor]:
    """Call the learner's settle; the model's state afterwards, all of it with shapes."""
    answer = student.settle(model, sample)
    answer.equals(None)
    after = model.state_dict()
    for name, value in after.items():
        if isinstance(value, Handle):
            raise Failure(
                f"After settle(model, sample), {name} still has no shape. Was the model called on the sample?"
            )
    return after


def modes(model: Remote) -> dict[str, bool]:
    """Whether each submodule is in training mode, by name; the model itself is ``""``."""
    return student.evaluate("lambda model: {n: m.training for n, m in model.named_modules()}")(model).value


@check("settle")
def finds_them_all():
    """unsettled names every parameter and buffer without a shape, at any depth, and no other."""
    student.unsettled(network()).equals(
        ALL_WITHOUT,
        diagnose={
            "Buffers can be without a shape too: the running statistics of batch norm.": WITHOUT_SHAPE[
                "parameters"
            ],
            "Modules inside modules have parameters too.": {"0.weight", "0.bias"},
        },
    )
    student.unsettled(student.evaluate(f"nn.LazyLinear({draw.integer(2, 9)})")).equals({"weight", "bias"})


@check("settle")
def empty_is_a_shape():
    """unsettled leaves out what is merely empty: a shape of (0,) is a shape."""
    model = student.evaluate(f"nn.Sequential(nn.PReLU(0), nn.Linear(4, {draw.integer(1, 5)}))")
    message = "0.weight is an empty parameter: its shape (0,) is known. Only a lazy one has none."
    student.unsettled(model).equals(set(), diagnose={message: {"0.weight"}})
    mixed = student.evaluate("nn.Sequential(nn.PReLU(0), nn.LazyLinear(2))")
    student.unsettled(mixed).equals({"1.weight", "1.bias"})


@check("settle")
def dry_run_gives_shapes():
    """settle gives everything the shape that fits the sample, and then nothing is unsettled."""
    model, width = network(), draw.integer(2, 9)
    sample = draw.tensor(draw.integer(2, 6), width)
    after = settled(model, sample)
    if (shape := tuple(after["0.weight"].shape)) != (FIRST, width):
        raise Failure(
            f"The sample has {width} features, so the first layer's weight should be {(FIRST, width)}, not "
            f"{shape}. Run the model on the sample that is given."
        )
    student.unsettled(model).equals(set())


@check("settle")
def leaves_no_trace_in_statistics():
    """The dry run is not counted: running statistics and the number of batches are those of a new layer."""
    model = network()
    after = settled(model, draw.tensor(4, draw.integer(2, 9), low=5, high=9))
    if (count := after["3.1.num_batches_tracked"].item()) != 0:
        raise Failure(
            f"The dry run was counted as a batch of training: num_batches_tracked is {count}, and the "
            "running mean has moved. In which mode do batch norm and dropout have no memory?"
        )
    if after["3.1.running_mean"].any() or not after["3.1.running_var"].eq(1).all():
        raise Failure("The running statistics have moved: a new layer has a mean of 0 and a variance of 1.")


@check("settle")
def modes_are_kept():
    """Every submodule is in the mode it was in: training, evaluation, or a mixture."""
    for frozen in ((), ("3",), ("",)):
        model = network()
        for name in frozen:
            model.get_submodule.make(name).eval()
        before = modes(model)
        settled(model, draw.tensor(3, 4))
        after = modes(model)
        changed = [name for name in before if before[name] != after[name]]
        if not changed:
            continue
        if all(before.values()) and not any(after.values()):
            raise Failure(
                "The model was in training mode and is in eval mode now: it would be trained without dropout."
            )
        was, name = before[changed[0]], f"module {changed[0]}" if changed[0] else "the model itself"
        raise Failure(
            f"A model with parts in eval mode is not what it was: {name} had training={was} and now has "
            f"training={not was}. Note the mode of each module and put each one back."
        )


@check("settle")
def one_row_is_enough():
    """A sample of one row will do, and it is left alone."""
    model, sample = network(), draw.tensor(1, draw.integer(2, 9))
    answer = student.settle(model, sample)
    if answer.error is not None and "more than 1 value per channel" in answer.error.message:
        raise Failure(
            "With a sample of one row batch norm refused: in training mode it needs several rows, to take a "
            "variance of."
        )
    if not torch.equal(answer.args_after[1], sample):
        raise Failure("settle(model, sample) changed the sample in place.")
