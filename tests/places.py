"""A confinement method tried by a certain user: where the tests of confinement run their scripts."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from checker.sandbox.confinement import Method
from gradlab.settings import ROOT

# Of this process alone: processes are counted by user, and other tests run at the same time.
ORDINARY = 0x3000_0000 + os.getpid()
CONFINED = 0x3800_0000 + os.getpid()

# Builds the command as whoever runs it, then becomes it.
DRIVER = """
import json, os, sys
from pathlib import Path
from checker.sandbox.confinement import Confinement, Limits, command
given = json.loads(sys.argv[1])
pairs = {}
for name in ("read_only", "writable"):
    pairs[name] = tuple((Path(outside), Path(inside)) for outside, inside in given["confinement"].pop(name, ()))
confinement = Confinement(limits=Limits(**given["limits"]), **given["confinement"], **pairs)
argv = command(given["method"], confinement, given["argv"])
os.execvpe(argv[0], argv, {"PATH": os.environ["PATH"], "HOME": "/tmp"})
"""


@dataclass(frozen=True)
class Place:
    """A confinement method, tried by a certain user."""

    method: Method
    ordinary: bool

    @property
    def isolates(self) -> bool:
        return self.method != "plain"

    @property
    def uid(self) -> int:
        """Who the confined program is."""
        return ORDINARY if self.ordinary else CONFINED if os.getuid() == 0 else os.getuid()

    def argv(self, argv: list[str], *, limits: dict[str, Any] | None = None, **confinement: Any) -> list[str]:
        given = {
            "method": self.method,
            "argv": argv,
            "limits": {"processes": 64} | (limits or {}),
            "confinement": {"scratch_mb": 8, "uid": CONFINED} | confinement,
        }
        become = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"] if self.ordinary else []
        return [*become, self.python, "-c", DRIVER, json.dumps(given)]

    @property
    def python(self) -> str:
        """This Python, or the system's where the confined user may not reach this one's folder."""
        return _python_for(self.uid if self.ordinary or not self.isolates else os.getuid())

    def run(self, script: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run a Python script confined; ``say(x)`` in it prints JSON, which :meth:`says` returns."""
        script = f"import json, os, sys, socket\ndef say(x): print(json.dumps(x), flush=True)\n{script}"
        argv = self.argv([self.python, "-I", "-c", script], **how)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd="/", env=environment)

    def says(self, script: str, **how: Any) -> Any:
        done = self.run(script, **how)
        assert done.stdout, f"exit status {done.returncode}: {done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def _python_for(uid: int) -> str:
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid != os.getuid() else []
    # A shell between, because setpriv itself looks for the program with root's capabilities still on.
    words = [*become, "/bin/sh", "-c", 'exec "$0" -c ""']
    for path in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([*words, path], capture_output=True, cwd="/", timeout=60).returncode == 0:
            return path
    return sys.executable


@functools.cache
def why_not(place: Place) -> str:
    """Why the method does not work for this user; empty if it does."""
    done = place.run("say('ok')")
    return "" if done.stdout == '"ok"\n' else done.stderr.strip()[-200:] or f"exit status {done.returncode}"


def places(*methods: Method) -> list[Any]:
    users = (False, True) if os.getuid() == 0 else (False,)
    return [
        pytest.param(Place(method, ordinary), id=f"{method}-{'ordinary' if ordinary else 'own'}-user")
        for method in methods
        for ordinary in users
    ]
