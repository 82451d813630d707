"""Sign-up with a password of one's own, on NativeAuthenticator's table and password rules.

Its pages are not used. On JupyterHub 6 its login page fails (``statsd`` is gone), and its approval needs an
administrator and changes things on GET. What else is different here:

* A code makes the group, once, at sign-up: the class code a learner, the instructors' code an instructor. From then on
  the hub's own record of the name is what counts, so no later login changes it.
* Names of ``reserved`` are kept for whoever has the instructors' code.
* Whether a name exists is not to be learnt from a failed login: the sentence, the work and the counting are the same.
* Wrong passwords slow down everybody who tries that name, except in a browser that once logged in under it. So nobody
  keeps somebody else out of their usual browser, and nobody guesses faster by using many machines.
* bcrypt works in threads, two at a time: it takes a quarter of a second, and the hub answers the others meanwhile.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bcrypt
from jupyterhub import orm
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.orm import UserInfo
from tornado.web import HTTPError
from traitlets import Bool, Int, Set, Unicode, default

from gradlab.hub.login.browsers import address_of, key_of, remember
from gradlab.hub.login.forms import Refused, SignUp
from gradlab.hub.login.guesses import Guesses
from gradlab.hub.login.names import INSTRUCTORS, LEARNERS, fault
from gradlab.hub.login.pages import ApprovalsHandler, PasswordHandler, SignUpHandler, bring_templates

__all__ = ["LONGEST_PASSWORD", "MOST_WAITING", "SignUpAuthenticator"]

MOST_WAITING = 200
LONGEST_PASSWORD = 72  # bytes: bcrypt looks at no more


class SignUpAuthenticator(NativeAuthenticator):  # type: ignore[misc]
    """NativeAuthenticator with codes instead of administrators."""

    signs_up = True  # the login page looks for it

    class_code = Unicode(help="What learners know who may sign up.").tag(config=True)
    instructor_code = Unicode(help="What instructors know.").tag(config=True)
    reserved = Set(help="Names that only the instructors' code signs up.").tag(config=True)
    rounds = Int(12, help="What a password costs to hash, as bcrypt counts it.").tag(config=True)
    approval = Bool(False, help="Learners need no code, but an instructor's approval.").tag(config=True)

    @default("db")  # type: ignore[untyped-decorator]
    def _hub_session(self) -> Any:
        return self._deprecated_db_session  # the table lies in the hub's database

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        bring_templates(self.parent)
        self._logins = Guesses(at_once=10, seconds=15)
        self._codes = Guesses(at_once=10, seconds=60)
        self._all_codes = Guesses(at_once=100, seconds=5)
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="bcrypt")
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(self.rounds))

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Our pages, at NativeAuthenticator's addresses; the login page is JupyterHub's."""
        pages: list[tuple[str, type]] = [(r"/signup", SignUpHandler), (r"/change-password", PasswordHandler)]
        return [*pages, (r"/authorize", ApprovalsHandler)] if self.approval else pages

    def check_allowed(self, username: str, authentication: Any = None) -> bool:
        """Whoever has an account may come in; only :meth:`authenticate` gives groups."""
        return bool(authentication and authentication["groups"])

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Name and password; what is wrong with them is said only to those who know the password."""
        name = self.normalize_username(data.get("username", "").strip())
        known = fault(name) == ""
        key = key_of(handler, name) or (name if known else "")
        if seconds := self._logins.take(key):
            raise HTTPError(429, f"Too many logins under this name failed. {_wait(seconds)}")
        account = self.account(name) if known else None
        if not await self.matches(account, data.get("password", "")) or account is None:
            return None
        self._logins.give_back(key)
        if not account.is_authorized:
            raise HTTPError(403, f"The name {name!r} waits for an instructor's approval. Ask yours, and sign in then.")
        if key == name:
            remember(handler, name)
        user = handler.find_user(name)
        groups = [] if user is None else sorted(group.name for group in user.groups)
        return {"name": name, "groups": groups or [LEARNERS]}

    def account(self, name: str) -> UserInfo | None:
        """As it is in the database now: ``gradlab password`` changes it there while we run."""
        return self.db.query(UserInfo).filter_by(username=name).populate_existing().first()

    async def matches(self, account: UserInfo | None, password: str) -> bool:
        """Whether the password is the account's; it takes as long where there is no account."""
        typed = password.encode()[:LONGEST_PASSWORD]
        stored = self._nobody if account is None else account.password
        right = await asyncio.get_running_loop().run_in_executor(self._threads, bcrypt.checkpw, typed, stored)
        return right and account is not None and len(password.encode()) <= LONGEST_PASSWORD

    async def sign_up(self, handler: Any, form: SignUp) -> list[str]:
        """Make the account. Returns its groups: none if it waits for approval. Refused says what to change."""
        group = self._group(address_of(handler), form.code)
        name = self.normalize_username(form.name.strip())
        self._check_name(name, group)
        self.check_password(form.password, form.again, name)
        hashed = await self.hashed(form.password)
        self._check_name(name, group)  # again: somebody else may have taken it meanwhile
        self.db.add(UserInfo(username=name, password=hashed, is_authorized=bool(group)))
        self.db.commit()
        return [group] if group else []

    async def hashed(self, password: str) -> bytes:
        work = asyncio.get_running_loop().run_in_executor
        return await work(self._threads, lambda: bcrypt.hashpw(password.encode(), bcrypt.gensalt(self.rounds)))

    def check_password(self, password: str, again: str, name: str) -> None:
        """Refused says what is wrong with a new password."""
        least = self.minimum_password_length
        wrong = ""
        if len(password) < least:
            wrong = (
                f"The password has {len(password)} characters; it needs {least} or more. Several words are a good one."
            )
        elif len(password.encode()) > LONGEST_PASSWORD:
            wrong = f"The password is longer than {LONGEST_PASSWORD} bytes. Choose a shorter one."
        elif self.is_password_common(password) or self.is_password_common(password.lower()) or password.lower() == name:
            wrong = (
                "This password is one of the first that anybody would try. Choose another one, such as several words."
            )
        elif _plain(password) in (self.class_code, self.instructor_code):
            wrong = "This is a code that others know as well. Choose a password of your own."
        elif password != again:
            wrong = "The two passwords differ. Type the same one twice."
        if wrong:
            raise Refused(400, wrong, "password")

    def waiting(self) -> list[str]:
        """Names that wait for approval."""
        rows = self.db.query(UserInfo.username).filter(UserInfo.is_authorized.is_(False))
        return sorted(name for (name,) in rows)

    def decide(self, name: str, *, approve: bool) -> bool:
        """Let a waiting name in, or forget it; False if it does not wait any more."""
        account = self.account(name)
        if account is None or account.is_authorized:
            return False
        if approve:
            account.is_authorized = True
        else:
            self.db.delete(account)
        self.db.commit()
        return True

    def slow_down(self, name: str) -> None:
        """Before a logged-in person's old password is looked at."""
        if seconds := self._logins.take(("change", name)):
            raise Refused(429, f"Too many wrong passwords. {_wait(seconds)}", "old")

    def speed_up(self, name: str) -> None:
        self._logins.give_back(("change", name))

    def _group(self, address: str, typed: str) -> str:
        """The group that the code makes; none if there is none and none is needed. Wrong codes are counted."""
        code = _plain(typed)
        if self.approval and not code:
            if len(self.waiting()) >= MOST_WAITING:
                message = f"{MOST_WAITING} people wait for approval already. Ask an instructor to look at them first."
                raise Refused(503, message, "username")
            return ""
        if seconds := self._all_codes.take("all"):
            raise Refused(429, f"Too many wrong codes were tried on this server. {_wait(seconds)}", "code")
        if seconds := self._codes.take(address):
            self._all_codes.give_back("all")
            raise Refused(429, f"Too many wrong codes were tried from your network. {_wait(seconds)}", "code")
        learner = self.is_class_code(code)
        instructor = hmac.compare_digest(code.encode(), self.instructor_code.encode())
        if not instructor and not learner:
            raise Refused(403, self._wrong_code(), "code")
        self._all_codes.give_back("all")
        self._codes.give_back(address)
        return INSTRUCTORS if instructor else LEARNERS

    def is_class_code(self, typed: str) -> bool:
        """Whether it is what learners know, and may be shown to the one who typed it."""
        return not self.approval and hmac.compare_digest(_plain(typed).encode(), self.class_code.encode())

    def _wrong_code(self) -> str:
        if self.approval:
            return "This is not the instructors' code. Learners leave the field empty; an instructor approves them."
        return "This is not the class code. Your instructor has it."

    def _check_name(self, name: str, group: str) -> None:
        if wrong := fault(name):
            raise Refused(400, wrong, "username")
        if name in self.reserved and group != INSTRUCTORS:
            message = (
                f"The name {name!r} is kept for an instructor and needs the instructors' code. Choose another one."
            )
            raise Refused(403, message, "username")
        if self.account(name) is not None or orm.User.find(self.db, name) is not None:
            message = f"The name {name!r} is taken. If it is yours, sign in; else choose another one."
            raise Refused(409, message, "username")


def _plain(code: str) -> str:
    return "".join(code.split()).lower()


def _wait(seconds: float) -> str:
    return f"Wait {int(seconds) + 1} s and try again."
