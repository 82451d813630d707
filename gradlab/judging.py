"""What stands between the course and the judge: a lab as the judge wants it, and how this server judges."""

from __future__ import annotations

from typing import Literal, Protocol

from checker.engine import Assignment, JudgeConfig, Task
from checker.results import Verdict
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import Method, detect
from gradlab.course import Lab
from gradlab.credentials import Credentials
from gradlab.errors import SettingsError
from gradlab.settings import Settings

__all__ = ["Judging", "assignment", "judge_config"]


class Judging(Protocol):
    """What Checks needs of ``checker.engine.Judge``."""

    def check(self, assignment: Assignment, notebook: bytes, *, only: str | None = None, seed: int) -> Verdict: ...


def assignment(lab: Lab) -> Assignment:
    """The lab as the judge wants it."""
    tasks = tuple(
        Task(
            name=exercise.name,
            points=exercise.points,
            defines=exercise.defines,
            needs=exercise.needs,
            gpu=exercise.gpu,
            seconds=exercise.seconds,
        )
        for exercise in lab.exercises
    )
    return Assignment(slug=lab.slug, tasks=tasks, template=lab.notebook, checks=lab.checks)


def judge_config(settings: Settings) -> JudgeConfig:
    """How this server judges; SettingsError if learner code cannot be confined as it is told to."""
    preference = settings.confined_checks
    gpus = tuple(filter(None, settings.check_gpus.split(",")))
    if gpus and preference != "docker":
        raise SettingsError(
            f"GRADLAB_CHECK_GPUS={settings.check_gpus!r} has no effect with the sandbox {preference!r}: only a "
            "container can be given a GPU. Set GRADLAB_CHECK_SANDBOX=docker, or leave GRADLAB_CHECK_GPUS empty."
        )
    try:
        method: Method | Literal["docker"] = "docker" if preference == "docker" else detect(preference)
    except RuntimeError as error:
        own = settings.check_sandbox != "as learners"
        said = str(error).replace("GRADLAB_SANDBOX", "GRADLAB_CHECK_SANDBOX") if own else str(error)
        raise SettingsError(said) from None
    sandbox = SandboxConfig(
        method=method,
        image=settings.check_image,
        gpus=gpus,
        # Only containers outlive us, and have to be found again.
        installation=_installation(settings) if method == "docker" else "",
        memory_mb=settings.check_memory_mb,
        processes=settings.check_processes,
        scratch_mb=settings.check_scratch_mb,
        output_kb=settings.check_output_kb,
    )
    return JudgeConfig(sandbox, pool=settings.check_pool)


def _installation(settings: Settings) -> str:
    """A hosted server has a name; a trial is told apart by its keys."""
    return settings.installation or Credentials.ensure(settings.credentials_file).installation
