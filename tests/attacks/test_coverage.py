"""The table of docs/security.md, the corpus and the tests that it names are the same list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradlab.settings import ROOT
from tests.attacks.corpus import ATTACKS

PAGE = ROOT / "docs" / "security.md"
LISTED = 46  # the attacks known from other graders; the rows after them are those on how this one works
# `tests/unit/test_wire.py::test_name`, as the table names tests outside of the corpus
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
NAME = re.compile(r"`([a-zA-Z][^`:]*)`")


def rows() -> dict[int, tuple[str, str]]:
    """Number → (what the attack is, what answers it), of the page's table."""
    lines = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {int(number): (attack, answer) for number, attack, answer in lines}


def test_every_attack_known_elsewhere_is_in_the_table_and_has_an_answer() -> None:
    found = rows()
    assert list(found) == list(range(1, len(found) + 1))
    assert len(found) >= LISTED + 10
    for number, (attack, answer) in found.items():
        assert len(attack) > 10, number
        assert NAME.search(answer) or TEST.search(answer), f"row {number} names no attack and no test"


@pytest.mark.parametrize("number", rows())
def test_the_table_names_the_attacks_that_there_are(number: int) -> None:
    named = set(NAME.findall(TEST.sub("", rows()[number][1])))
    assert named == {attack.name for attack in ATTACKS if number in attack.rows}


def test_the_table_names_tests_that_there_are() -> None:
    for path, name in TEST.findall(PAGE.read_text(encoding="utf-8")):
        file = ROOT / path
        assert file.is_file(), path
        assert re.search(rf"^(?:async )?def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE), (path, name)


def test_attacks_have_names_and_rows_of_their_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert {row for attack in ATTACKS for row in attack.rows} <= set(rows())
    assert all(attack.rows and attack.does for attack in ATTACKS)


def test_the_short_page_points_to_this_one() -> None:
    assert "docs/security.md" in Path(ROOT, "SECURITY.md").read_text(encoding="utf-8")
