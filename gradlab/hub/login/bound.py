"""Names of people who log in elsewhere: each is bound to the account that first used it.

A name is made from what the other site calls somebody, which may change and may later be somebody else's: logins are
renamed and given away, addresses are reassigned. What does not change is the site's own number for the account. So the
hub keeps a digest of that with the user (``user_info``): an account keeps its name whatever it is called by then, and a
name keeps its account. A name of another login (a trial's, say) has no account, and none gets it: ``gradlab release``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from jupyterhub import orm
from tornado.web import HTTPError

from gradlab.hub.login.names import name_of

__all__ = ["FREE", "account_of", "keep_for", "known_name", "new_name"]

_KEY = "gradlab_account"
FREE = "free"  # the next account may have the name


def account_of(site: str, number: object) -> str:
    """What the hub keeps of an account: it can be compared, and says nothing about anybody."""
    return hashlib.sha256(f"{site} {number}".encode()).hexdigest()[:32]


def keep_for(account: str) -> dict[str, str]:
    """``user_info`` of the name that the account has."""
    return {_KEY: account}


def known_name(db: Any, account: str) -> str:
    """The name that the account has; empty if it never logged in."""
    return next((name for name, other in _accounts(db) if other == account), "")


def new_name(db: Any, claim: str, home: str = "") -> str:
    """The name that a new account gets. HTTP 403 says why it cannot have it."""
    if "/" in claim or not claim.isprintable() or not claim.strip():
        raise HTTPError(
            403,
            f"Your account is called {claim[:40]!r} there, which cannot be a name here: it has a slash or a character "
            "that cannot be seen. Change it there, or ask whoever runs this server.",
        )
    name = name_of(claim, home)
    if dict(_accounts(db)).get(name, FREE) != FREE:
        raise HTTPError(
            403,
            f"The name {name!r} belongs to another account here. If it is yours from an earlier login, ask whoever "
            f"runs this server to give it back: `gradlab release {name}`.",
        )
    return name


def _accounts(db: Any) -> Iterator[tuple[str, str]]:
    """All names with their accounts, as the database has them now: ``gradlab release`` changes it while we run."""
    for user in db.query(orm.User).populate_existing():
        yield user.name, (user.user_info or {}).get(_KEY, "")
