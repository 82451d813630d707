"""What a sandbox makes of the bytes that come out of it, from an agent that is none."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from checker.sandbox.base import OutputFlood, Sandbox, SandboxBroken, SandboxGarbled
from checker.sandbox.process import ProcessSandbox
from tests.sandboxes import CONFIG

Says = Callable[..., Sandbox]
SECONDS = 60


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Iterator[Says]:
    """A sandbox in which this script runs instead of the agent."""
    opened: list[Sandbox] = []

    def start(script: str) -> Sandbox:
        script = f"import os, sys, time\nfrom labkit.wire import pack\n{script}"
        monkeypatch.setattr("checker.sandbox.process.command", lambda *_: [sys.executable, "-c", script])
        sandbox = ProcessSandbox(replace(CONFIG, method="plain", output_kb=1))
        opened.append(sandbox)
        sandbox.start()
        return sandbox

    yield start
    for sandbox in opened:
        sandbox.close()


def test_an_agent_that_begins_with_something_else_is_none(says: Says) -> None:
    with pytest.raises(SandboxBroken, match=r"^the agent's first word was \['hello'\]$"):
        says("os.write(1, pack(['hello']))").wait_ready(SECONDS)


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("os.write(1, bytes(100))", SandboxGarbled, "the agent sent no valid frame"),
        ("sys.exit('gone')", SandboxBroken, "the agent has ended"),
        ("os.write(2, bytes(2000)); time.sleep(60)", OutputFlood, "^$"),
    ],
)
def test_what_ends_a_sandbox_leaves_it_unsound(script: str, error: type[Exception], text: str, says: Says) -> None:
    sandbox = says(script)
    assert sandbox.sound
    with pytest.raises(error, match=text):
        sandbox.wait_ready(SECONDS)
    assert not sandbox.sound


def test_of_a_flood_that_comes_late_the_beginning_is_kept(says: Says) -> None:
    """Nobody waits for an answer any more when it is noticed."""
    sandbox = says("os.write(1, pack({'ready': 1})); os.read(0, 1); os.write(2, b'x' * 3000); time.sleep(60)")
    sandbox.wait_ready(SECONDS)
    sandbox.send({}, time.monotonic() + SECONDS)
    assert select.select([sandbox._descriptors()[0][1]], [], [], SECONDS)[0]
    assert sandbox.take_output() == "x" * 1024
    assert not sandbox.sound
    with pytest.raises(SandboxBroken):
        sandbox.receive(time.monotonic() + SECONDS)
    assert sandbox.take_output() == ""


@pytest.mark.parametrize(("script", "told"), [("echo no room >&2", "no room"), ("exit 0", "it said nothing")])
def test_a_holder_without_namespaces_is_told_with_its_last_words(script: str, told: str) -> None:
    sandbox = ProcessSandbox(replace(CONFIG, method="unshare"))
    with pytest.raises(OSError, match=f"^unshare made no namespaces: {told}$"):
        sandbox._hold(["sh", "-c", script])
