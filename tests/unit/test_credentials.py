"""The credentials file: made once, readable by its owner alone, and clear when it is broken."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradlab.credentials import Credentials
from gradlab.errors import SettingsError


def test_the_first_call_makes_the_file_and_the_next_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "credentials.json"
    first = Credentials.ensure(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Credentials.ensure(path) == first
    assert list(path.parent.iterdir()) == [path]
    assert Credentials.ensure(tmp_path / "other.json") != first


def test_passwords_can_be_read_aloud_and_tokens_fit_jupyterhub(tmp_path: Path) -> None:
    made = Credentials.ensure(tmp_path / "c.json")
    assert [len(group) for group in made.learner_password.split("-")] == [4, 4, 4]
    assert [len(group) for group in made.instructor_password.split("-")] == [4, 4, 4, 4, 4]
    assert not set("aeiou01l") & set(made.learner_password + made.instructor_password)
    assert {len(made.portal_token), len(made.proxy_token), len(made.cookie_key)} == {64}


def test_two_starters_at_once_get_the_same_credentials(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Credentials.ensure(tmp_path / "c.json"), range(8)))
    assert len(set(made)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"learner_password": "ab', "is half-written or damaged"),
        ("", "is half-written or damaged"),
        ("[]", "holds list"),
        ('{"learner_password": "x"}', "holds ['learner_password'], not ["),
    ],
)
def test_a_broken_file_says_what_to_do(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError) as caught:
        Credentials.ensure(path)
    assert says in str(caught.value)
    assert f"Restore it from a backup, or delete {path}" in str(caught.value)
    assert path.read_text() == content


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    Credentials.ensure(path)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match=f"Run: chmod 600 {path}"):
        Credentials.ensure(path)


def test_an_empty_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    Credentials.ensure(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cookie_key": ""}))
    with pytest.raises(SettingsError, match="cookie_key"):
        Credentials.ensure(path)
