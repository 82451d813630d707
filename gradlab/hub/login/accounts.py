"""What only an operator does to a login, on the hub's database, while the hub runs or not."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bcrypt
from jupyterhub import orm
from nativeauthenticator.orm import UserInfo

from gradlab.errors import AccountError, SettingsError
from gradlab.hub.login.bound import FREE, keep_for
from gradlab.settings import Settings

__all__ = ["release", "reset_password"]


def reset_password(settings: Settings, name: str) -> str:
    """Give a name a new password, which is returned. A name of an earlier login without passwords gets an account."""
    if settings.login not in ("signup", "approval"):
        raise SettingsError(
            f"GRADLAB_LOGIN={settings.login} has no passwords of people's own, so {name!r} has none to change. "
            "Only signup and approval have them."
        )
    password = "-".join(secrets.token_hex(2) for _ in range(4))
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt())
    with _session(settings, name) as (db, user):
        account = db.query(UserInfo).filter_by(username=name).first()
        if account is None and user is None:
            raise _no_such(name)
        if account is None:
            db.add(UserInfo(username=name, password=hashed, is_authorized=True))
        else:
            account.password = hashed
    return password


def release(settings: Settings, name: str) -> None:
    """Forget whose a name is: the next account that is called so gets it, with all that is kept under it."""
    if settings.login not in ("github", "google", "oidc", "lti"):
        raise SettingsError(
            f"GRADLAB_LOGIN={settings.login} binds no name to an account elsewhere, so {name!r} cannot be released. "
            "With signup and approval, `gradlab password` gives a name to somebody."
        )
    with _session(settings, name) as (_, user):
        if user is None:
            raise _no_such(name)
        user.user_info = keep_for(FREE)


@contextmanager
def _session(settings: Settings, name: str) -> Iterator[tuple[Any, orm.User | None]]:
    """The hub's database and its user of this name; what is done is written at the end."""
    url = settings.hub_store_url
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not file.exists():
        raise AccountError(f"{file} is not there, so nobody has logged in yet. Start the server once: `gradlab up`.")
    try:
        db = orm.new_session_factory(url)()
    except Exception as error:  # JupyterHub's, SQLAlchemy's, the driver's
        raise AccountError(
            f"The hub's database cannot be opened: {error}. Start the server, which says more."
        ) from None
    try:
        yield db, orm.User.find(db, name)
        db.commit()
    finally:
        db.close()
        db.get_bind().dispose()


def _no_such(name: str) -> AccountError:
    return AccountError(f"There is no name {name!r} here. It is the one on the class page, such as 'ada'.")
