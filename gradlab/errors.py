"""Everything Gradlab raises at a person, in one tree.

GradlabError
├── SettingsError        the environment, .env or the credentials file
├── CourseError          a lab, its checker or the question catalogue
├── SubmissionRefused    a notebook or request that cannot be judged (carries an HTTP status)
├── StoreError           the database
└── ServerError          starting or stopping the server

A message names the thing, the value and the remedy, in that order.
"""

__all__ = ["CourseError", "GradlabError", "ServerError", "SettingsError", "StoreError", "SubmissionRefused"]


class GradlabError(Exception):
    """Base of all errors that are shown to a person as one or two sentences, without a traceback."""


class SettingsError(GradlabError):
    """A setting is missing, malformed or contradicts another."""


class CourseError(GradlabError):
    """A lab, its checker notebook or the question catalogue is incomplete or inconsistent."""


class StoreError(GradlabError):
    """The database cannot be opened, migrated or written."""


class ServerError(GradlabError):
    """The server cannot start or stop."""


class SubmissionRefused(GradlabError):
    """A submission cannot be judged at all; nothing was stored or lost.

    ``status`` is the HTTP status the portal answers with: 400 malformed, 404 unknown lab or exercise, 413 too large,
    503 stopping.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
