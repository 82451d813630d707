"""Every attack of the corpus, on every kind of sandbox: no point, nothing found, nobody hurt.

Between two attacks the same notebook holds a right answer, which must pass, and another learner's checks run beside.
"""

from __future__ import annotations

import pytest

from checker.results import Outcome
from tests.attacks.attack import LEAK, TRIED, Attack
from tests.attacks.campaign import POOL, Campaign
from tests.attacks.corpus import ATTACKS
from tests.attacks.lab import RIGHT

NAMES = [attack.name for attack in ATTACKS]


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_an_attack_gains_nothing(attack: Attack, campaign: Campaign) -> None:
    result = campaign.result(attack)
    assert result.outcome in attack.ends.split("|"), result
    assert (result.points == 0) == (result.outcome is not Outcome.PASSED)
    assert attack.says in result.message
    assert LEAK not in result.output
    assert attack.cut_short or TRIED in result.output, result


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_the_next_exercise_is_judged_all_the_same(attack: Attack, campaign: Campaign) -> None:
    neighbour = campaign.neighbour(attack)
    assert (neighbour.outcome, neighbour.points) == (Outcome.PASSED, 3), neighbour
    assert LEAK not in neighbour.output


def test_nothing_of_an_answer_is_unpickled(campaign: Campaign) -> None:
    campaign.result(next(attack for attack in ATTACKS if attack.name == "returns a pickle bomb"))
    assert not campaign.exploded.exists()


def test_a_judge_that_was_attacked_is_warm_again_and_sound(campaign: Campaign) -> None:
    campaign.warm()
    waiting = set(campaign.judge._kernels._started)
    assert len(waiting) == POOL
    verdict = campaign.check(RIGHT)
    assert verdict.passed
    campaign.warm()
    assert len(waiting & campaign.judge._kernels._started) == POOL - 1  # it was one of those that judged
