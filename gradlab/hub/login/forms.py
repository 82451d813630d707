"""What people type, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from tornado.web import HTTPError

__all__ = ["Refused", "SignUp"]


class Refused(HTTPError):
    """A form that was not accepted: ``field`` is the one to correct."""

    def __init__(self, status: int, message: str, field: str) -> None:
        super().__init__(status, message)
        self.message = message
        self.field = field


@dataclass(frozen=True)
class SignUp:
    """The sign-up form, filled in."""

    name: str
    password: str
    again: str
    code: str
