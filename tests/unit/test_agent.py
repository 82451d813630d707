"""The sandbox's side, started by hand."""

from __future__ import annotations

import subprocess
import sys

from gradlab.settings import ROOT


def test_who_starts_the_agent_by_hand_is_told_what_it_is() -> None:
    """With an input that is always ready to be read it would tell of one ended program after another."""
    argv = [sys.executable, "-P", "-m", "labkit.agent"]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "labkit.agent is started by the judge, which speaks to it through a pipe. To check a notebook: lab.check\n"
    )
