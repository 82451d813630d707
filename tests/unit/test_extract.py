"""Answers are found by name: the smallest program that defines an exercise, wherever its parts are."""

import json

import pytest

from checker.extract import NotebookError, extract, read_notebook


def notebook(*cells, metadata=None):
    rows = [{"cell_type": "code", "source": c, "metadata": {}} if isinstance(c, str) else c for c in cells]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": rows}).encode()


STUBS = (
    "import torch",
    'def f(x):\n    """What f does."""\n    raise NotImplementedError',
    "def g(x):\n    raise NotImplementedError",
)
TEMPLATE = read_notebook(notebook(*STUBS), ["f", "g"])


def program(*cells, name="f", defines=None):
    return extract(read_notebook(notebook(*cells), ["f", "g"]), name, defines or [name], TEMPLATE)


def sources(*cells, **options):
    found = program(*cells, **options)
    assert found.state == "ready", found
    return [segment.source for segment in found.segments]


def test_only_what_the_answer_uses_is_taken():
    assert sources(
        "import torch\nimport numpy as np",
        "scale = 3",
        "model = train_for_an_hour()",
        "def helper(x):\n    return x * scale",
        "def f(x):\n    return helper(x)",
        "print(f(1))",
    ) == ["scale = 3", "def helper(x):\n    return x * scale", "def f(x):\n    return helper(x)"]


def test_locals_that_share_a_name_with_a_training_cell_pull_nothing_in():
    assert sources("x = expensive()", "def f(x):\n    total = [x for x in x]\n    return total") == [
        "def f(x):\n    total = [x for x in x]\n    return total"
    ]


def test_the_last_definition_counts():
    assert sources("def f(x):\n    return 1", "def f(x):\n    return 2") == ["def f(x):\n    return 2"]


def test_order_and_deleted_cells_do_not_matter():
    assert sources("def f(x):\n    return helper(x)", "def helper(x): return x") == [
        "def f(x):\n    return helper(x)",
        "def helper(x): return x",
    ]


def test_data_is_rebuilt_with_every_statement_that_changes_it():
    assert sources(
        "table = {}", "table['a'] = 1\ntable.update(b=2)", "unrelated = {}", "def f(x):\n    return table[x]"
    ) == ["table = {}", "table['a'] = 1", "table.update(b=2)", "def f(x):\n    return table[x]"]


def test_calls_on_modules_are_not_taken_but_patched_methods_are():
    cells = ("import torch", "torch.manual_seed(0)", "class f:\n    pass", "f.forward = lambda self, x: torch.relu(x)")
    assert sources(*cells) == ["import torch", "class f:\n    pass", "f.forward = lambda self, x: torch.relu(x)"]


def test_a_module_used_in_a_try_or_loop_or_through_its_result_pulls_nothing_in():
    answer = "def f(x):\n    return torch.relu(x)"
    used = (
        "try:\n    torch.from_numpy(array)\nexcept ValueError:\n    pass",
        "for epoch in range(3):\n    torch.manual_seed(epoch)\n    train_for_an_hour()",
        "torch.zeros(3)[0] = missing",
    )
    assert sources("import torch", *used, answer) == ["import torch", answer]


def test_an_import_that_is_repeated_later_still_serves_what_stands_between():
    cells = ["import torch", "scale = torch.tensor(2.0)", "import torch", "def f(x):\n    return torch.mul(x, scale)"]
    assert sources(*cells) == cells


def test_several_statements_on_a_line_are_cut_apart():
    assert sources("a = 1; b = 2; c = 'é'; d = 4", "def f(x):\n    return (b, c)") == [
        "b = 2",
        "c = 'é'",
        "def f(x):\n    return (b, c)",
    ]


def test_decorators_stay_with_their_function():
    assert sources("import functools", "@functools.cache\ndef f(x):\n    return x") == [
        "import functools",
        "@functools.cache\ndef f(x):\n    return x",
    ]


def test_statements_know_where_they_stand():
    found = program({"cell_type": "markdown", "source": "text", "metadata": {}}, "\n\ndef f(x):\n    return x")
    assert [(segment.cell, segment.line) for segment in found.segments] == [(2, 3)]


def test_magics_are_blanked_without_moving_lines():
    found = program("%matplotlib inline\n!ls\nf?\ndef f(x):\n    return x % 2", "%%bash\nrm -rf /", "%%time\ny = 1")
    assert [(segment.source, segment.line) for segment in found.segments] == [("def f(x):\n    return x % 2", 4)]


def test_what_looks_like_a_magic_inside_a_string_stays():
    answer = 'def f(x):\n    return """\n% of x\n! or not\nwhy?\n"""'
    assert sources(answer) == [answer]


def test_an_expression_over_lines_that_begin_with_an_operator_of_ipython_stays():
    answer = "rest = (7\n% 4)"
    assert sources(answer, "def f(x):\n    return rest")[0] == answer


def test_star_imports_are_kept_because_they_may_bind_anything():
    assert sources("from math import *", "def f(x):\n    return sqrt(x)") == [
        "from math import *",
        "def f(x):\n    return sqrt(x)",
    ]


def test_future_features_hold_for_the_whole_notebook():
    found = program("from __future__ import annotations", "def f(x: Missing):\n    return x")
    assert found.future == ("annotations",)
    assert [segment.source for segment in found.segments] == ["def f(x: Missing):\n    return x"]


def test_a_future_feature_that_is_imported_twice_counts_once():
    found = program("from __future__ import annotations", "from __future__ import annotations", "def f(x): return x")
    assert found.future == ("annotations",)


def test_an_answer_nested_deeper_than_python_can_compare_is_an_answer():
    deep = " + ".join(["x"] * 800)
    assert program(f'def f(x):\n    """What f does."""\n    return {deep}').state == "ready"
    assert program(f"def f(x):\n    return {deep}").state == "ready"


@pytest.mark.parametrize(
    "cell",
    [
        "def f(x):\n    raise NotImplementedError",
        'def f(x):\n    """Another docstring."""\n    # a comment\n    raise NotImplementedError',
        "def f( x ):\n\n    raise NotImplementedError  # soon",
    ],
)
def test_an_untouched_stub_is_not_attempted(cell):
    assert program(cell).state == "not attempted"


def test_a_deleted_stub_is_not_attempted_and_says_so():
    found = program("def g(x):\n    return 1")
    assert (found.state, found.message) == ("not attempted", "f is not defined anywhere in the notebook.")


def test_an_exercise_of_several_names_is_attempted_when_one_is_touched():
    assert program("def f(x):\n    return 1", STUBS[2], name="pair", defines=["f", "g"]).state == "ready"
    assert program(STUBS[1], STUBS[2], name="pair", defines=["f", "g"]).state == "not attempted"


def test_a_syntax_error_hits_only_its_own_exercise():
    cells = ("def f(x):\n    return (", "def g(x):\n    return 1")
    broken = program(*cells)
    assert (broken.state, broken.message) == ("error", "SyntaxError in cell 1, line 2: '(' was never closed")
    assert program(*cells, name="g").state == "ready"


def test_a_later_good_definition_wins_over_an_earlier_broken_one_and_the_other_way_round():
    assert program("def f(x) return", "def f(x):\n    return 1").state == "ready"
    assert program("def f(x):\n    return 1", "def f(x) return").state == "error"


def test_a_cell_is_known_by_its_mark_even_if_its_text_says_nothing():
    cell = {"cell_type": "code", "source": "lambda x: (", "metadata": {"exercise": "f"}}
    assert program(cell).state == "error"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "The notebook is not valid JSON"),
        (b"\xff\xfe", "The notebook is not valid JSON"),
        (b"[" * 100_000, "The notebook is not valid JSON"),
        (b"{}", "no notebook of format 4"),
        (b"[]", "no notebook of format 4"),
        (b'{"nbformat": 3, "cells": []}', "no notebook of format 4"),
        (notebook("x = 1"), "no exercise of this lab in it: none of f, g is defined"),
        (notebook(*["x = 1"] * 2001), "has 2001 cells, more than 2000"),
        (notebook("x = 1\n" * 10_001), "has 10001 statements outside functions, more than 10000"),
    ],
)
def test_what_cannot_be_judged_at_all_is_refused_in_a_sentence(data, says):
    with pytest.raises(NotebookError, match=says):
        read_notebook(data, ["f", "g"])


@pytest.mark.parametrize(
    "cell",
    [
        None,
        5,
        {"cell_type": "code"},
        {"cell_type": "code", "source": 7, "metadata": []},
        {"cell_type": "code", "source": ["def f(x):\n", "    return 1"], "metadata": {"exercise": ["f"]}},
        {"cell_type": "code", "source": "x = '\0'", "metadata": {}},
        {"cell_type": "code", "source": "(" * 5000, "metadata": {}},
        {"cell_type": "code", "source": "-" * 50_000 + "1", "metadata": {}},
    ],
)
def test_odd_cells_never_break_the_others(cell):
    rows = [cell, {"cell_type": "code", "source": "def g(x):\n    return 1", "metadata": {}}]
    data = json.dumps({"nbformat": 4, "cells": rows}).encode()
    assert extract(read_notebook(data, ["f", "g"]), "g", ["g"], TEMPLATE).state == "ready"
