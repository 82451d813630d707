"""The attacks by theme; those of a theme are one learner's notebook."""

from tests.attacks.attack import Attack
from tests.attacks.corpus import channel, escaping, exhausting, forging, planting, reading

__all__ = ["ATTACKS", "THEMES"]

THEMES: dict[str, list[Attack]] = {
    "reading": reading.ATTACKS,
    "forging": forging.ATTACKS,
    "channel": channel.ATTACKS,
    "escaping": [*escaping.ATTACKS, *planting.ATTACKS],
    "exhausting": exhausting.ATTACKS,
}
ATTACKS = [attack for attacks in THEMES.values() for attack in attacks]
