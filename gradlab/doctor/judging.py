"""A real check of a real notebook: what its verdict tells, and the judge of a hosted server asked for one."""

from __future__ import annotations

from checker.results import Verdict
from gradlab.course import Course, Lab
from gradlab.doctor.finding import Finding
from gradlab.errors import CourseError, GradlabError
from gradlab.settings import Settings

__all__ = ["ask_judge", "judged"]

_NAME = "a real check"
_PATIENCE_SECONDS = 3.0


def ask_judge(settings: Settings) -> Finding:
    """The first lab's reference solution through the judge's own socket, as the portal would ask."""
    from gradlab.judge_service import JUDGE_SOCKET, RemoteJudge
    from gradlab.judging import assignment
    from gradlab.verification import solved_notebook

    judge = RemoteJudge(settings.run_dir / JUDGE_SOCKET, patience=_PATIENCE_SECONDS)
    try:
        lab = Course.load(settings.labs_dir, settings.checks_dir).labs[0]
        verdict = judge.check(assignment(lab), solved_notebook(lab).encode(), seed=1)
    except CourseError as error:
        return Finding(_NAME, "failed", str(error), "Correct the course, then: make images && docker compose up -d")
    except GradlabError as error:
        return Finding(_NAME, "failed", str(error), "See: docker compose logs checker")
    finally:
        judge.close()
    return judged(lab, verdict, "by the judge's service")


def judged(lab: Lab, verdict: Verdict, how: str) -> Finding:
    """What the verdict on a right answer tells of the judge."""
    bad = [result for result in verdict.results if result.outcome not in ("passed", "skipped")]
    if bad:
        value = f"{lab.slug}/{bad[0].exercise} ended as {str(bad[0].outcome)!r}: {bad[0].message}"
        return Finding(_NAME, "failed", value, f"Run `gradlab labs verify {lab.slug}` for all of it.")
    passed = sum(result.outcome == "passed" for result in verdict.results)
    value = f"{lab.slug}: {passed} of {len(verdict.results)} exercises passed in {verdict.seconds:.1f} s {how}"
    return Finding(_NAME, "ok", value)
