"""What of a checker notebook is run for which exercises."""

from __future__ import annotations

from pathlib import Path

import pytest

from checker.notebook import checker_notebook

HEAD = """# %% tags=["parameters"]
job = ""

# %%
from checker.spec import begin
check, student, draw = begin(job)

# %% [markdown]
# ## first
"""
ENDS = "\n\nfrom checker.spec import end\n\nend()"


def sources(tmp_path: Path, cells: list[str], *asked: str) -> list[str]:
    """The code cells that are run, without the head and the end."""
    path = tmp_path / "checks.py"
    path.write_text(HEAD + "".join(f"\n# %%\n{cell}\n" for cell in cells))
    notebook = checker_notebook(path, frozenset(asked))
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata.tags for cell in notebook.cells][:2] == [["parameters", "skip-execution"], []]
    assert code[-1].endswith(ENDS)
    return [*code[2:-1], code[-1].removesuffix(ENDS)]


FIRST = '@check("first")\ndef one():\n    student.first(1).equals(1)'
SECOND = (
    'LIMIT = 3\n\n\ndef helper(x):\n    return x\n\n\n@check("second")\ndef two():\n    student.second(helper(LIMIT))'
)


def test_checks_of_other_exercises_are_left_out_with_what_only_they_use(tmp_path: Path) -> None:
    assert sources(tmp_path, [FIRST, SECOND], "first", "second") == [FIRST, SECOND]
    assert sources(tmp_path, [FIRST, SECOND], "first") == [FIRST]
    assert sources(tmp_path, [FIRST, SECOND], "second") == [SECOND]


def test_what_a_cell_that_stays_speaks_of_stays_too_and_so_on(tmp_path: Path) -> None:
    third = '@check("third")\ndef three():\n    two()'
    user = '@check("first")\ndef uses():\n    three()'
    assert sources(tmp_path, [SECOND, third, user], "first") == [SECOND, third, user]
    assert sources(tmp_path, [SECOND, third, FIRST], "first") == [FIRST]


@pytest.mark.parametrize(
    "cell",
    [
        SECOND + "\n\nprint(LIMIT)",  # it does something by itself
        SECOND + '\n\nTABLE = load("table")',
        'import math\n\n@check("second")\ndef two(): pass',
        '@check("second")\n@other\ndef two(): pass',
        "@check(name)\ndef two(): pass",
        "from __future__ import annotations\ndef helper(): pass",  # has to stand at a cell's beginning
        "def broken(",
    ],
)
def test_a_cell_that_is_more_than_checks_is_run(tmp_path: Path, cell: str) -> None:
    assert sources(tmp_path, [cell, FIRST], "first") == [cell, FIRST]


def test_checks_of_one_exercise_are_one_cell_beside_the_helpers_around_them(tmp_path: Path) -> None:
    helper, second = "import math\n\ndef rounded(): pass", '@check("first")\ndef other():\n    student.first(2)'
    assert sources(tmp_path, [helper, FIRST, second, SECOND], "first", "second") == [
        f"{helper}\n\n\n{FIRST}\n\n\n{second}",
        SECOND,
    ]
    assert sources(tmp_path, [SECOND, helper, FIRST], "first") == [f"{helper}\n\n\n{FIRST}"]
    assert sources(tmp_path, [FIRST, helper, SECOND], "first", "second") == [f"{FIRST}\n\n\n{helper}", SECOND]


def test_text_between_cells_keeps_them_apart(tmp_path: Path) -> None:
    """It tells where an exercise begins, and a report reads as the notebook does."""
    apart = f"{FIRST}\n\n# %% [markdown]\n# More of it."
    assert sources(tmp_path, [apart, FIRST], "first") == [FIRST, FIRST]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert sources(tmp_path, [FIRST], "first") == [FIRST]
    assert sources(tmp_path, [FIRST + "  # changed"], "first") == [FIRST + "  # changed"]
