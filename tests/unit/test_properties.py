"""Properties of functions that answer the same question in two ways, in a real sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from checker.answer import Failure
from checker.properties import gradcheck
from checker.sandbox.base import Sandbox
from checker.sandbox.confinement import detect
from tests.sandboxes import program, start

SOURCE = """
calls = []
def shrinks(x):
    calls.append(x)
    return x * x if len(calls) == 1 else (x * x)[:1]
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    sandbox = start(detect())
    yield sandbox
    sandbox.close()


def test_an_output_of_another_shape_has_no_slope(sandbox: Sandbox) -> None:
    student = program(sandbox, SOURCE)
    with pytest.raises(Failure) as failure:
        gradcheck(student.shrinks, torch.ones(3))
    assert str(failure.value).startswith("shrinks(")
    assert str(failure.value).endswith(" returns tensors of other shapes for inputs that differ by a hair.")
