"""The corpus does what it says: nothing of an attack is left out where it is run, and it looks for what is there."""

from __future__ import annotations

import ctypes
import re
import socket
import sys
from functools import cache

import pytest

from tests.attacks.attack import Attack, digits, pattern
from tests.attacks.campaign import SEED, Campaign, sources
from tests.attacks.corpus import ATTACKS, THEMES
from tests.attacks.lab import strays


@cache
def programs(theme: str) -> list[str]:
    return sources(THEMES[theme], {})


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_all_of_an_attack_is_run_and_nothing_of_another(attack: Attack) -> None:
    theme = next(theme for theme, attacks in THEMES.items() if attack in attacks)
    assert strays(programs(theme), 2 * THEMES[theme].index(attack)) == ([], [])


def test_what_an_attack_does_beside_its_function_is_noticed() -> None:
    """So that the test above is known to fail."""
    left_out = "import os\nos.environ['A'] = 'B'\ndef energy(x):\n    return kept"
    lost, foreign = strays([left_out, "kept = []\ndef energy(x):\n    return kept"], 0)
    assert lost == ["import os", "os.environ['A'] = 'B'"]
    assert foreign == ["kept = []"]


def test_the_seed_is_looked_for_as_python_keeps_it() -> None:
    memory = ctypes.string_at(id(SEED), sys.getsizeof(SEED))
    assert digits(SEED) in memory
    assert re.search(pattern(digits(SEED)).encode(), memory)


def test_somebody_listens_where_attacks_connect_to(campaign: Campaign) -> None:
    socket.create_connection(("127.0.0.1", int(campaign.facts["PORT"])), timeout=5).close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{campaign.facts['MARK']}")
