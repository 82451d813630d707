"""Notices: told until they no longer hold, one a subject."""

from __future__ import annotations

from gradlab.store import Notice, Store

DATABASES = ("sqlite", "postgresql")


def test_a_notice_is_told_until_its_time(store: Store) -> None:
    store.notify("ada", "Your GPU goes back.", key="gpu", until=20.0, now=10.0)
    assert store.notices("ada", 19.9) == [Notice("gpu", "Your GPU goes back.", 10.0, 20.0)]
    assert store.notices("ada", 20.0) == []
    assert store.notices("bob", 15.0) == []


def test_a_subject_has_one_notice_and_the_newest_counts(store: Store) -> None:
    store.notify("ada", "Soon.", key="gpu", until=20.0, now=10.0)
    store.notify("ada", "Welcome.", key="hello", until=90.0, now=11.0)
    store.notify("ada", "Now.", key="gpu", until=30.0, now=12.0)
    assert [(notice.text, notice.at) for notice in store.notices("ada", 15.0)] == [("Welcome.", 11.0), ("Now.", 12.0)]


def test_a_notice_can_be_withdrawn_and_nobody_elses_goes_with_it(store: Store) -> None:
    for learner in ("ada", "bob"):
        store.notify(learner, "Soon.", key="gpu", until=20.0, now=10.0)
    store.withdraw("ada", "gpu")
    store.withdraw("ada", "never told")
    assert store.notices("ada", 11.0) == []
    assert len(store.notices("bob", 11.0)) == 1


def test_what_is_over_is_removed_with_the_next_notice(store: Store) -> None:
    store.notify("ada", "Soon.", key="gpu", until=20.0, now=10.0)
    store.notify("ada", "Stopped.", key="stopped", until=90.0, now=20.0)
    assert [notice.key for notice in store.notices("ada", 15.0)] == ["stopped"]


def test_a_notice_is_no_sign_of_life(store: Store) -> None:
    store.see("ada", now=1.0)
    for learner in ("ada", "never seen"):
        store.notify(learner, "Soon.", key="gpu", until=20.0, now=10.0)
    assert [(learner.name, learner.last_seen) for learner in store.learners()] == [("ada", 1.0)]


def test_notices_outlive_the_process(store: Store, store_url: str) -> None:
    store.notify("ada", "Soon.", key="gpu", until=20.0, now=10.0)
    again = Store.open(store_url)
    assert [notice.text for notice in again.notices("ada", 11.0)] == ["Soon."]
    again.close()
