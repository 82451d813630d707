"""Comparison: equal only if type, shape, dtype and values are; otherwise a sentence that says what differs."""

import copy
import json
import math
import re
import struct
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checker.compare import EXACT, MAX_LENGTH, Tolerance, describe, difference
from labkit.wire import Handle, unpack

CLOSE = Tolerance()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        math.nan,
        "a",
        b"a",
        (1, 2),
        [1, [2.0]],
        {"a": (1,)},
        {1, 2},
        torch.float32,
        torch.Size([2]),
        torch.tensor([1.0, math.nan]),
        torch.empty(0, 3),
        np.arange(3.0),
        np.float32(2),
    ],
)
def test_equal_values_do_not_differ(value):
    assert difference(value, value) is None


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (None, 3, "None, not 3. Did you forget a return statement?"),
        ({"a": None}, {"a": 3}, "a dict in which 'a' is None, not 3"),
        ([0], [None], "a list whose item 0 is 0, not None"),
        (3.0, 3, "3.0, which is a float, not an int"),
        (True, 1, "True, which is a bool, not an int"),
        ([1, 2], (1, 2), "[1, 2], which is a list, not a tuple"),
        (torch.tensor(3), 3, "A tensor with one element becomes a Python number with .item()"),
        (4, 3, "4, not 3"),
        ((1, 2), (1, 3), "a tuple whose item 1 is 2, not 3"),
        ([1], [1, 2], "[1] with 1 item, not 2"),
        ({"a": 1}, {"a": 1, "b": 2}, "a dict without the key 'b'"),
        ({"a": 1, "c": 2}, {"a": 1}, "a dict with the key 'c', which does not belong there"),
        ({"a": [1.0]}, {"a": [2.0]}, "a dict in which 'a' is a list whose item 0 is 1.0, not 2.0"),
        (Handle(1, "lab.Net", "Net()"), 3, "Net() (a Net object), which is a Net object, not an int"),
        (torch.zeros(2, 3), torch.zeros(3, 2), "of shape (2, 3), not (3, 2) (the axes are in reverse order)"),
        (torch.zeros(6), torch.zeros(3, 2), "(the same number of elements, laid out differently)"),
        (torch.zeros(2), torch.zeros(2).double(), "of dtype torch.float32, not torch.float64"),
        (
            torch.tensor([0, 1, 5]),
            torch.tensor([0, 2, 5]),
            "differs in 1 of 3 elements; the first is at index [1]: 1, not 2",
        ),
        (
            torch.tensor([math.nan, 1.0]),
            torch.tensor([0.0, 1.0]),
            "nan, not 0.0; it has 1 nan, the first at index [0], and should have none",
        ),
        (torch.tensor(2.0), torch.tensor(3.0), "2.0, not 3.0"),
        (np.zeros(2), torch.zeros(2), "which is a NumPy array, not a tensor"),
        (np.zeros(2, np.float32), np.zeros(2), "an array of dtype float32, not float64"),
        (np.zeros((2, 1)), np.zeros(2), "an array of shape (2, 1), not (2,)"),
    ],
)
def test_a_difference_says_what_and_where(got, want, says):
    assert says in difference(got, want)


def test_tensors_and_arrays_are_called_what_they_are():
    rest = "that differs in 1 of 2 elements; the first is at index [1]: 2, not 3"
    assert difference(np.array([1, 2]), np.array([1, 3])) == f"an array {rest}"
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == f"a tensor {rest}"


def test_tolerance_follows_the_dtype():
    want = torch.tensor([1.0, 100.0])
    assert difference(want + 1e-6, want, CLOSE) is None
    assert difference(want + 1e-6, want, EXACT) is not None
    assert difference(want.double() + 1e-6, want.double(), CLOSE) is not None
    assert difference(want.half() * 1.0005, want.half(), CLOSE) is None
    assert difference(2.0 + 1e-9, 2.0, CLOSE) is None
    assert difference(2.1, 2.0, CLOSE) == "2.1, not 2.0"
    assert difference(torch.tensor([1]), torch.tensor([2]), CLOSE) is not None


def test_a_tolerance_given_is_the_one_used():
    assert difference(torch.tensor(1.05), torch.tensor(1.0), Tolerance(rtol=0.1, atol=0)) is None
    assert difference(torch.tensor(math.inf), torch.tensor(math.inf), CLOSE) is None
    assert difference(torch.tensor(math.inf), torch.tensor(-math.inf), CLOSE) is not None


def test_only_infinity_is_close_to_infinity():
    assert difference(math.inf, math.inf, CLOSE) is None
    assert difference(5.0, math.inf, CLOSE) == "5.0, not inf"
    assert difference(-math.inf, math.inf, CLOSE) == "-inf, not inf"
    assert difference(math.inf, 5.0, CLOSE) == "inf, not 5.0"
    assert difference(math.nan, math.nan, CLOSE) is None


def test_integers_are_compared_exactly_unless_a_tolerance_is_given():
    got, want = torch.tensor([2**60, 101]), torch.tensor([2**60, 100])
    assert difference(got, want, Tolerance(atol=1)) is None
    assert difference(got, want, Tolerance(rtol=0.01)) is None
    assert difference(np.array([101]), np.array([100]), Tolerance(atol=1)) is None
    assert difference(got, want, CLOSE) is not None
    assert difference(torch.tensor([2**60 + 1]), torch.tensor([2**60]), CLOSE) is not None


def test_numbers_that_round_to_the_same_text_are_shown_in_full():
    exact, rounded = torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.1]).double()
    assert "0.10000000149011612, not 0.1" in (difference(rounded, exact, EXACT) or "")
    assert "100000.25, not 100000.125" in (difference(100000.25, 100000.125, EXACT) or "")


def test_gradients_of_the_answer_do_not_disturb():
    assert difference(torch.ones(2, requires_grad=True), torch.ones(2)) is None


def test_large_things_are_described_by_shape():
    assert describe(torch.zeros(100)) == "a tensor of shape (100,) and dtype torch.float32"
    assert describe("x" * 1000).endswith("…")
    assert describe(torch.tensor([0.1])) == "[0.1] (a tensor of shape (1,) and dtype torch.float32)"


def test_the_largest_errors_are_told_with_their_tolerances():
    got, want = torch.tensor([1.0, 2.5, 400.0, 0.25]), torch.tensor([1.0, 2.0, 401.0, 0.0])
    assert difference(got, want, CLOSE) == (
        "a tensor that differs in 3 of 4 elements; the first is at index [1]: 2.5, not 2.0; "
        "the largest error is 1 (tolerance 1e-05), relative 0.25 (tolerance 1.3e-06)"
    )
    assert "the largest error" not in (difference(got, want, EXACT) or "")
    assert "the largest error is 2 (tolerance 1), relative 2 (tolerance 0)" in (
        difference(torch.tensor([1, 3, 9]), torch.tensor([3, 1, 9]), Tolerance(0, 1)) or ""
    )
    assert (
        "error is 0.5 (tolerance 1e-05), relative 0.25 (tolerance 1.3e-06); it has 1 inf, the first at index [2]"
        in (difference(torch.tensor([2.5, 1.0, math.inf]), torch.tensor([2.0, 1.0, 1.0]), CLOSE) or "")
    )


def test_nan_and_inf_that_belong_there_are_not_told():
    want = torch.tensor([[0.0, -math.inf, math.nan], [1.0, 2.0, 3.0]])
    got = want.clone()
    got[1, 1] = math.nan
    assert difference(got, want, CLOSE, explain=False) == (
        "a tensor that differs in 1 of 6 elements; the first is at index [1, 1]: nan, not 2.0"
    )
    got[1, 1] = -math.inf
    assert "it has" not in (difference(got, want, CLOSE) or "")
    clean = torch.ones(2, 3)
    got = clean.clone()
    got[0, 2] = got[1, 0] = -math.inf
    assert "; it has 2 inf, the first at index [0, 2], and should have none" in (difference(got, clean, CLOSE) or "")


def test_numbers_of_any_kind_have_their_tolerance():
    assert difference(np.float32(1.000001), np.float32(1.0), CLOSE) is None
    assert difference(np.float64(1.5), np.float64(1.0), CLOSE) == "1.5, not 1.0"
    assert difference(1 + 1e-9j, 1 + 0j, CLOSE) is None
    assert difference(1 + 0.25j, 1 + 0j, CLOSE) == "(1+0.25j), not (1+0j)"
    assert difference(2**70, 2**70 + 1, CLOSE) == f"{2**70}, not {2**70 + 1}"


@pytest.mark.parametrize("axes", [(1, 0, 2), (0, 2, 1)])
def test_the_order_in_memory_matters_only_where_it_is_asked_for(axes):
    want = torch.arange(24.0).reshape(2, 3, 4).permute(axes)
    plain = want.contiguous()
    assert difference(plain, want) is None
    strides = f"strides {plain.stride()}, not {want.stride()}"
    assert f"{strides}. It is a copy in order, where a view with its axes moved is asked" in (
        difference(plain, want, layout=True) or ""
    )
    assert (difference(want, plain, layout=True) or "").endswith(
        "A transpose or permute only changes strides: .contiguous() puts the elements in order"
    )
    assert difference(want, want, layout=True) is None
    assert "right values" not in (difference(want + 1, plain, layout=True) or "")


def test_strides_of_axes_that_hold_nothing_do_not_matter():
    assert difference(torch.zeros(3, 1), torch.zeros(1, 3).T, layout=True) is None
    assert difference(torch.zeros(0, 3), torch.zeros(3, 0).T, layout=True) is None


def test_the_part_in_the_gradient_matters_only_where_it_is_asked_for():
    free, bound = torch.ones(2), torch.ones(2, requires_grad=True)
    assert difference(free, bound) is None
    assert "no longer requires grad: .detach(), .data, .item()" in (difference(free, bound, requires_grad=True) or "")
    assert "requires grad and should not" in (difference([bound], [free], requires_grad=True) or "")
    assert difference(bound, bound, requires_grad=True) is None


def from_device(word):
    header = json.dumps([["tensor", "float32", [2], None, False, *([word] if word else [])], [8]]).encode()
    return unpack(header, struct.pack("<2f", 1, 2))


@pytest.mark.parametrize(
    ("word", "device", "says"),
    [
        (
            "",
            "cuda",
            "is on cpu; it should be on cuda. torch makes tensors on the CPU unless it is told otherwise: dev",
        ),
        ("", torch.device("cuda", 1), "is on cpu; it should be on cuda:1"),
        ("cuda:0", "cuda:1", "is on cuda:0; it should be on cuda:1"),
        (
            "cuda:0",
            "cpu",
            "is on cuda:0; it should be on cpu. Did .cpu() or .to() come too late, or on another tensor?",
        ),
    ],
)
def test_the_device_matters_only_where_it_is_asked_for(word, device, says):
    got, want = from_device(word), torch.tensor([1.0, 2.0])
    assert difference(got, want) is None
    assert difference(got, want, device=device).startswith(f"a tensor with the right values that {says}")
    assert difference({"a": [got]}, {"a": [want]}, device=device).startswith("a dict in which 'a' is a list whose item")
    assert difference(got, want + 1, device=device) == difference(got, want + 1)


@pytest.mark.parametrize(("word", "device"), [("", "cpu"), ("cuda:1", "cuda"), ("cuda:1", "cuda:1"), ("mps:0", "mps")])
def test_a_device_without_a_number_is_any_of_its_kind(word, device):
    assert difference(from_device(word), torch.tensor([1.0, 2.0]), device=device) is None


def test_the_cause_is_left_out_on_request():
    got, want = torch.arange(1, 20), torch.arange(19)
    bare = "a tensor that differs in 19 of 19 elements; the first is at index [0]: 1, not 0"
    assert difference(got, want) == f"{bare}. Every element is 1 too large"
    assert difference(got, want, explain=False) == bare
    assert (
        difference({"a": [got]}, {"a": [want]}, explain=False)
        == f"a dict in which 'a' is a list whose item 0 is {bare}"
    )


def test_the_same_mistake_is_told_in_the_same_words():
    def told(seed):
        want = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) + 10
        return re.sub(r"-?[0-9.]+(e-?[0-9]+)?", "#", difference(want * 3, want, CLOSE) or "")

    assert len({told(seed) for seed in range(20)}) == 1


@pytest.mark.parametrize(
    ("got", "want"),
    [
        pytest.param(got, want, id=name)
        for name, got, want in [
            ("texts", ["x" * 10**6] * 3, 3),
            ("keys", {"k" * 10**6: 1}, {"other" * 10**6: 1}),
            ("within a key", {"k" * 10**4: [3]}, {"k" * 10**4: [4]}),
            ("items", [1.5] * 10**6, {}),
            ("digits", 10**3999, 10**3999 + 1),
            ("a text", "a" * 10**6, "b" * 10**6),
            ("a longer text", "a" * 10**6, "a" * 10**6 + "b"),
            ("bytes", b"a" * 10**6, b"b" * 10**6),
            ("dicts", {n: {n: [n] * 99} for n in range(10**3)}, 0),
            ("sets", {"a", *range(10**5)}, frozenset([1])),
            ("tensors", [torch.zeros(10**6)] * 99, 5),
            ("objects", Handle(1, "lab." + "N" * 300, "r" * 500), Handle(1, "x" * 300, "")),
            ("ranks", torch.zeros((1,) * 32), torch.zeros((2,) * 9)),
            ("high ranks", torch.zeros((1,) * 32), torch.ones((1,) * 32)),
            ("complex", torch.zeros((1,) * 32, dtype=torch.complex128) + 1 / 3, torch.zeros((1,) * 32) + 0j),
        ]
    ],
)
def test_no_message_is_long_and_none_takes_long_to_write(got, want):
    started = time.process_time()
    assert 0 < len(difference(got, want, CLOSE)) <= MAX_LENGTH
    assert 0 < len(difference(want, got, CLOSE)) <= MAX_LENGTH
    assert time.process_time() - started < 2


def test_a_deeply_nested_difference_keeps_its_start_and_its_end():
    got, want = torch.arange(1, 20), torch.arange(19)
    for _ in range(60):
        got, want = [got], [want]
    text = difference(got, want) or ""
    assert text.startswith("a list whose item 0 is a list")
    assert text.endswith("the first is at index [0]: 1, not 0. Every element is 1 too large")
    assert len(text) <= MAX_LENGTH


def test_a_dict_is_shown_in_its_own_order_and_not_in_full():
    assert describe({"b": 1.25, "a": [0.1 + 0.2], 3: {}}) == "{'b': 1.25, 'a': [0.3], 3: {}}"
    assert describe({n: n for n in range(10)}) == str({n: n for n in range(10)})


def test_a_device_is_called_by_its_name():
    assert difference(torch.device("cuda:0"), torch.device("cpu")) == "the device cuda:0, not the device cpu"


_DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
]  # fmt: skip
_EDGES = [0, 1, -1, 0.5, 3, 1e-40, 1e38, -1e300, math.nan, math.inf, -math.inf]
_WHOLE_EDGES = [0, 1, 2, 127, -128, 2**31 - 1, 2**53 + 1, 2**63 - 1, -(2**63)]


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(_DTYPES))
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (4,), (2, 0), (2, 3), (3, 2), (1, 3), (3, 3), (2, 2, 2)]))
    some = _EDGES if dtype.is_floating_point or dtype.is_complex else _WHOLE_EDGES
    values = draw(st.lists(st.sampled_from(some), min_size=math.prod(shape), max_size=math.prod(shape)))
    whole = torch.int64 if some is _WHOLE_EDGES else torch.complex128 if dtype.is_complex else torch.float64
    made = torch.tensor(values, dtype=whole).to(dtype).reshape(shape)
    return draw(st.sampled_from([made, made.mT if made.dim() > 1 else made, made.numpy() if dtype in _NUMPY else made]))


_NUMPY = [dtype for dtype in _DTYPES if dtype is not torch.bfloat16]
_LEAVES = st.one_of(
    tensors(),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from(
        [np.float32(1), np.int64(-3), np.complex64(1j), torch.Size([2]), torch.float16, Handle(1, "a", "b")]
    ),
)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner), max_leaves=4
)


@settings(max_examples=150)
@given(_VALUES, _VALUES, st.sampled_from([EXACT, CLOSE, Tolerance(0.5, 2)]))
def test_whatever_comes_over_the_wire_can_be_compared(got, want, tolerance):
    text = difference(got, want, tolerance, inputs=(got, want), layout=True, requires_grad=True)
    assert text is None or 0 < len(text) <= MAX_LENGTH
    assert difference(got, got, tolerance, layout=True, requires_grad=True) is None
    assert difference(want, copy.deepcopy(want), tolerance, requires_grad=True) is None


@settings(max_examples=150)
@given(tensors(), tensors())
def test_tensors_of_any_dtypes_can_be_compared(got, want):
    if type(got) is not type(want):
        got, want = (torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in (got, want))
    text = difference(got, want, CLOSE, inputs=(got,))
    assert text is None or 0 < len(text) <= MAX_LENGTH


@pytest.mark.parametrize("code", ["u2", "u4", "u8", "<i4", ">i4", ">f8"])
def test_arrays_of_types_that_torch_hardly_knows_are_compared(code):
    want = np.arange(20, dtype=code)
    assert difference(want, want.copy()) is None
    assert "differs in 20 of 20 elements; the first is at index [0]: 1" in (
        difference(want + want.dtype.type(1), want) or ""
    )


def test_a_large_answer_is_compared_in_pieces():
    want = torch.zeros(1 << 20)
    got = want.clone()
    got[-1], got[700_000] = 2, 1
    assert difference(got, want, CLOSE) == (
        "a tensor that differs in 2 of 1048576 elements; the first is at index [700000]: 1.0, not 0.0; "
        "the largest error is 2 (tolerance 1e-05)"
    )
    assert difference(want.long(), want.long()) is None
