"""Operations that are to be done without: found in the text, whatever the spelling, and in a trace of the calls."""

from __future__ import annotations

import textwrap

import pytest
import torch

from checker.answer import Failure
from checker.forbidden import means, uses
from checker.remote import Operation
from tests.unit.remote.conftest import HEAD, Load


def found(source: str, *names: str) -> list[str]:
    return [str(use) for use in uses([{"source": textwrap.dedent(source).strip("\n"), "cell": 3, "line": 5}], names)]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("y = torch.softmax(x, 0)", "torch.softmax"),
        ("y = x.softmax(0)", "x.softmax"),
        ("y = (x + 1).softmax(0)", "….softmax"),
        ("y = torch.nn.functional.softmax(x)", "torch.nn.functional.softmax"),
        ("y = nn.Softmax(-1)(x)", "nn.Softmax"),
        ("y = torch._softmax(x, 0, False)", "torch._softmax"),
        ("y = torch.ops.aten._softmax(x, 0, False)", "torch.ops.aten._softmax"),
        ("soft = torch.softmax", "torch.softmax"),
        ("def f(g=torch.softmax): pass", "torch.softmax"),
        ("y = getattr(torch, 'softmax')(x, 0)", "softmax"),
        ("y = getattr(torch, 'soft' + 'max')(x, 0)", "softmax"),
        ("y = getattr(torch, f'soft{\"max\"}')(x, 0)", "softmax"),
        ("y = torch.__dict__['softmax']", "softmax"),
        ("y = vars(torch)['softmax']", "softmax"),
        ("y = operator.attrgetter('nn.functional.softmax')(torch)", "nn.functional.softmax"),
        ("y = operator.methodcaller('softmax', 0)(x)", "softmax"),
        ("y = torch.__getattribute__('softmax')", "softmax"),
        ("y = eval('torch.softmax(x, 0)')", "softmax"),
    ],
)
def test_every_spelling_is_found(source: str, text: str) -> None:
    assert found(source, "softmax") == [f"Cell 3, line 5 uses {text}"]


def test_aliases_are_followed_to_the_line_that_uses_them() -> None:
    source = """
    from torch.nn.functional import softmax as quiet
    from torch import exp

    def f(x):
        return quiet(x, 0)
    """
    assert found(source, "softmax") == ["Cell 3, line 9 uses torch.nn.functional.softmax"]
    assert found("from torch.nn.functional import *\ny = softmax(x)", "softmax") == ["Cell 3, line 6 uses softmax"]


HEAD_CLASS = "import torch\nclass Head:\n    def softmax(self, x): return x\n"


@pytest.mark.parametrize(
    "source",
    [
        "def softmax(x):\n    return x.exp() / x.exp().sum()\ny = softmax(x)",
        "class A:\n    def softmax(self): pass\n    def f(self): return self.softmax()",
        "y = x.log_softmax(0)",
        "y = 'torch.softmax'",
        '"""Without torch.softmax."""',
        "y = {'softmax': 1}['softmax']",
        "# torch.softmax",
        "softmax = 3\ny = softmax",
        "y = print('softmax')",
        "y = x ** 2 @ x",
        "y = getattr(x, " + "'a' + " * 1200 + "'softmax')",
        "stats.softmax = 1",
        "torch.softmax = 1",
        "del stats.softmax",
        f"{HEAD_CLASS}head = Head()\ny = head.softmax(x)",
        f"{HEAD_CLASS}y = Head().softmax(x)",
        f"{HEAD_CLASS}y = [Head()][0].softmax(x)",
        f"{HEAD_CLASS}y = Head.softmax(None, x)",
        f"from torch import *\n{HEAD_CLASS}y = Head().softmax(x)",
        "class A:\n    softmax = 3\ny = A.softmax",
        "class A:\n    def __init__(self): self.softmax = 3\ny = A().softmax",
    ],
)
def test_what_only_looks_like_it_is_not(source: str) -> None:
    assert found(source, "softmax") == []


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (f"{HEAD_CLASS}y = torch.softmax(x, 0)", "torch.softmax"),
        (f"{HEAD_CLASS}import torch.nn.functional as F\ny = F.softmax(x)", "F.softmax"),
        (f"{HEAD_CLASS}y = torch.nn.functional.softmax(x)", "torch.nn.functional.softmax"),
        (f"{HEAD_CLASS}y = torch.nn.Softmax(0)(x)", "torch.nn.Softmax"),
        (f"{HEAD_CLASS}y = x.Softmax", "x.Softmax"),
        (f"from torch import *\n{HEAD_CLASS}y = nn.functional.softmax(x)", "nn.functional.softmax"),
        ("import torch\ntorch.softmax = 1\ny = torch.softmax(x)", "torch.softmax"),
        ("stats.softmax = 1\ny = x.softmax(0)", "x.softmax"),
        ("self = torch\ny = self.softmax(x)", "self.softmax"),
        ("def f(x, self=torch):\n    return self.softmax(x)", "self.softmax"),
        ("class A:\n    def f(self=torch, x=0):\n        return self.softmax(x)", "self.softmax"),
        ("class A:\n    def f(self, x):\n        self = torch\n        return self.softmax(x)", "self.softmax"),
        ("class A:\n    def f(self): pass\nimport torch as self\ny = self.softmax(x)", "self.softmax"),
        ("class A:\n    def f(self): pass\nfor self in [torch]:\n    y = self.softmax(x)", "self.softmax"),
        ("class A:\n    def f(self): pass\ny = (lambda self: self.softmax(x))(torch)", "self.softmax"),
    ],
)
def test_a_method_of_ones_own_hides_no_modules_function(source: str, text: str) -> None:
    assert [words.partition(" uses ")[2] for words in found(source, "softmax")] == [text]


def test_operators_modules_and_underscores() -> None:
    assert found("y = a @ b", "matmul") == ["Cell 3, line 5 uses the operator @"]
    assert found("a **= 2", "pow") == ["Cell 3, line 5 uses the operator **"]
    assert found("import scipy.special as s", "scipy") == ["Cell 3, line 5 uses scipy.special"]
    assert found("y = nn.LayerNorm(3)", "layer_norm") == ["Cell 3, line 5 uses nn.LayerNorm"]
    assert found("y = torch.sort(x); z = x.topk(2)", "topk", "sort") == [
        "Cell 3, line 5 uses torch.sort",
        "Cell 3, line 5 uses x.topk",
    ]


@pytest.mark.parametrize(
    ("operation", "name", "same"),
    [
        ("aten::_softmax", "softmax", True),
        ("aten::softmax.int", "softmax", True),
        ("aten::_safe_softmax", "softmax", True),
        ("softmax", "Softmax", True),
        ("aten::bmm", "matmul", True),
        ("aten::native_layer_norm", "LayerNorm", True),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_attention", True),
        ("aten::_log_softmax", "softmax", False),
        ("aten::mul.Tensor", "matmul", False),
    ],
)
def test_operations_below_autograd_are_known_by_their_names_above(operation: str, name: str, same: bool) -> None:
    assert means(operation, [name]) is same


TRICK = """
def hidden(x):
    function = getattr(torch, "".join(["soft", "max"]))
    return function(x, -1)

def attention(x):
    return nn.MultiheadAttention(4, 1)(x, x, x)[0]

def honest(x):
    return x.exp() / x.exp().sum(-1, keepdim=True)
"""


def test_what_a_method_of_the_same_name_hides_the_trace_shows(load: Load) -> None:
    source = """
    class Head:
        def softmax(self, x):
            return x.exp() / x.exp().sum()

    def honest(x):
        return Head().softmax(x)

    def sly(x):
        return x.softmax(0)
    """
    student, x = load(source), torch.ones(2)
    student.avoids("softmax")
    student.honest.avoids("softmax", on=[x])
    with pytest.raises(Failure, match=r"^Cell 1, line 12 runs .*softmax\. This exercise is to be written without"):
        student.sly.avoids("softmax", on=[x])


def test_what_the_text_hides_a_trace_may_show(load: Load) -> None:
    student, x = load(TRICK), torch.ones(2, 3, 4)
    student.avoids("softmax")
    student.honest.avoids("softmax", on=[x])
    for name, line in (("hidden", 6), ("attention", 9)):
        with pytest.raises(Failure) as failure:
            getattr(student, name).avoids("softmax", on=[x])
        text = str(failure.value)
        assert text.startswith(f"Cell 1, line {line} runs ")
        assert text.endswith("softmax. This exercise is to be written without softmax.")


def test_the_operations_of_a_call_are_counted_with_their_lines(load: Load) -> None:
    operations = load(TRICK).honest.operations(torch.ones(2))
    assert Operation("aten::exp", "cell 1, line 12", 2) in operations
    assert Operation("exp", "cell 1, line 12", 2) in operations


def test_the_text_that_is_judged_is_read(load: Load) -> None:
    student = load("def f(x):\n    return x.softmax(0)")
    line = HEAD.count("\n") + 2
    assert [str(use) for use in student.uses("softmax")] == [f"Cell 1, line {line} uses x.softmax"]
    with pytest.raises(Failure) as failure:
        student.avoids("softmax", "log_softmax")
    assert str(failure.value) == (
        f"Cell 1, line {line} uses x.softmax. This exercise is to be written without softmax and log_softmax."
    )
