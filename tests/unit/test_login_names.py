"""Names, and how often something may be tried."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.hub.login.browsers import address_of
from gradlab.hub.login.guesses import Guesses
from gradlab.hub.login.names import USERNAME_PATTERN, fault, listed, name_of
from tests.logins import Handler


@pytest.mark.parametrize(
    ("claim", "home", "name"),
    [
        ("Ada", "", "ada"),
        ("ada@example.org", "", "ada-at-example.org"),
        ("Ada@Example.org", "example.org", "ada"),
        ("ada@other.org", "example.org", "ada-at-other.org"),
        ("octo-cat_1.x", "", "octo-cat_1.x"),
    ],
)
def test_a_login_stays_and_an_address_can_be_read(claim: str, home: str, name: str) -> None:
    assert name_of(claim, home) == name


@pytest.mark.parametrize(
    "claim", ["zoë", "a+b@example.org", "x" * 39, "李雷", "-dash", "ada-at-x.org", "a-" + "0" * 16]
)
def test_what_loses_something_or_looks_made_ends_in_a_digest(claim: str) -> None:
    assert re.search(r"-[0-9a-f]{16}\Z", name_of(claim))
    assert name_of(claim) == name_of(f" {claim.upper().lower()} ") != claim


@given(st.lists(st.text(min_size=1).map(lambda text: text.strip().lower()).filter(bool), unique=True, max_size=20))
def test_every_claim_becomes_a_name_and_no_two_the_same(claims: list[str]) -> None:
    names = [name_of(claim) for claim in claims]
    assert all(re.fullmatch(USERNAME_PATTERN, name) for name in names)
    assert len(set(names)) == len({claim.strip().lower() for claim in claims})


def test_nobody_can_choose_a_login_that_becomes_the_name_of_another() -> None:
    assert name_of("ada-at-example.org") != name_of("ada@example.org")
    assert name_of(name_of("zoë")) != name_of("zoë")


def test_a_wrong_name_is_told_the_rule() -> None:
    assert fault("ada") == ""
    assert fault("a/b") == (
        "The name 'a/b' cannot be used. A name is 1 to 32 letters a-z, digits, dots, dashes or underscores, beginning "
        "with a letter or a digit. Choose another one."
    )


def test_lists_of_names_may_have_blanks_and_capitals() -> None:
    assert listed(" Ada,grace, ,") == {"ada", "grace"}
    assert listed("") == frozenset()


def test_tries_run_out_come_back_one_by_one_and_right_ones_do_not_count() -> None:
    now = [100.0]
    guesses = Guesses(at_once=3, seconds=10, clock=lambda: now[0])
    assert [guesses.take("a") for _ in range(5)] == [0, 0, 0, 10, 10]
    assert guesses.take("b") == 0
    now[0] += 4
    assert guesses.take("a") == 6
    now[0] += 6
    assert [guesses.take("a"), guesses.take("a")] == [0, 10]
    guesses.give_back("a")
    assert [guesses.take("a"), guesses.take("a")] == [0, 10]
    guesses.give_back("unknown")
    now[0] += 1000
    assert [guesses.take("a") for _ in range(4)] == [0, 0, 0, 10]


def test_what_has_faded_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.hub.login.guesses._MANY", 3)
    now = [0.0]
    guesses = Guesses(at_once=1, seconds=1, clock=lambda: now[0])
    for number in range(50):
        now[0] += 0.5
        assert guesses.take(number) == 0
    assert len(guesses._due) <= 4


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.2.3.4, 203.0.113.9", "203.0.113.9"),  # the first was sent by the browser
        ("203.0.113.9, 10.0.0.1", "203.0.113.9"),  # the last is a proxy of ours
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("nonsense", "unknown"),
        ("", "unknown"),
    ],
)
def test_an_address_is_what_the_proxy_saw(forwarded: str, address: str) -> None:
    handler = Handler(None, headers={"X-Forwarded-For": forwarded, "X-Real-Ip": "198.51.100.1"})
    assert address_of(handler) == address
