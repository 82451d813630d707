"""Everything Gradlab raises at a person, in one tree.

GradlabError
├── SettingsError        the environment, .env or the credentials file
├── CourseError          a lab, its checker or the question catalogue
├── SubmissionRefused    a notebook or request that cannot be judged (carries an HTTP status)
├── StoreError           the database
├── JudgeError           the judge of a hosted server gave no verdict
├── PoolEmpty            there is no GPU that anybody could wait for
├── LimitRefused         the GPU memory of a container is not limited
├── SimulatorError       the simulated NVIDIA driver cannot be built
├── ServerError          starting or stopping the server
└── AccountError         a name that may log in, changed by an operator

A message names the thing, the value and the remedy, in that order.
"""

__all__ = [
    "CourseError",
    "GradlabError",
    "JudgeError",
    "LimitRefused",
    "PoolEmpty",
    "ServerError",
    "SettingsError",
    "SimulatorError",
    "StoreError",
    "SubmissionRefused",
]


class GradlabError(Exception):
    """Base of all errors that are shown to a person as one or two sentences, without a traceback."""


class SettingsError(GradlabError):
    """A setting is missing, malformed or contradicts another."""


class CourseError(GradlabError):
    """A lab, its checker notebook or the question catalogue is incomplete or inconsistent."""


class StoreError(GradlabError):
    """The database cannot be opened, migrated or written."""


class JudgeError(GradlabError):
    """The judge gave no verdict; its words are for the instructor."""


class PoolEmpty(GradlabError):
    """There is no GPU that anybody could wait for; the sentence says why and what to do."""


class LimitRefused(GradlabError):
    """A container's GPU memory has no hard limit; the sentence says what is missing."""


class SimulatorError(GradlabError):
    """The simulated NVIDIA driver cannot be compiled here, for want of a compiler or of a place for it."""


class ServerError(GradlabError):
    """The server cannot start or stop."""


class AccountError(GradlabError):
    """There is no such name, or nothing that could be changed about it."""


class SubmissionRefused(GradlabError):
    """A submission cannot be judged at all; nothing was stored or lost.

    ``status`` is the HTTP status the portal answers with: 400 malformed, 404 unknown lab or exercise, 413 too large,
    503 stopping.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
