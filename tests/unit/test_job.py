"""What the judge's kernel puts down, and what the engine finds of it, whenever the kernel was killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checker.job import Job, JobTask, read_results


@pytest.fixture
def job(tmp_path: Path) -> Job:
    task = JobTask("first", 10.0, ("zeroth",), False, "ready", "", [{"source": "x = 1", "cell": 1, "line": 1}], [])
    return Job(seed=7, gpu=True, results=str(tmp_path / "results.jsonl"), tasks=(task,))


def test_a_job_comes_back_as_it_was(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_the_last_results_count(job: Job) -> None:
    path = Path(job.results)
    assert read_results(path) == []
    job.add_results([{"exercise": "first", "outcome": "our fault"}])
    job.add_results([{"exercise": "first", "outcome": "passed", "message": "two\nlines\u2028and more"}])
    assert read_results(path) == [{"exercise": "first", "outcome": "passed", "message": "two\nlines\u2028and more"}]


def test_a_line_that_was_cut_off_is_none(job: Job) -> None:
    path = Path(job.results)
    path.write_text('[{"exercise": "fir')
    assert read_results(path) == []
    path.unlink()
    job.add_results([{"exercise": "first", "outcome": "failed"}])
    whole = json.dumps([{"exercise": "first", "outcome": "passed"}])
    for cut in (1, len(whole) // 2, len(whole)):
        with path.open("a") as file:
            file.write(whole[:cut])
        assert read_results(path) == [{"exercise": "first", "outcome": "failed"}]
        path.write_text(path.read_text().rpartition("\n")[0] + "\n")
