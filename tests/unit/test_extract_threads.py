"""Several checks at once: notebooks are parsed in threads, which Python 3.11's parser does not bear by itself."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from checker.extract import read_notebook


class _Litter:
    """Garbage whose finalizer runs Python code: there the interpreter changes threads in the middle of parsing."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(50))


@pytest.fixture(autouse=True)
def _restless_interpreter() -> Iterator[None]:
    before, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*before)


def test_notebooks_are_parsed_in_several_threads_at_once() -> None:
    source = "\n".join(f"def f{i}(x):\n    return [x * {i} + y for y in (x, {i})]" for i in range(60))
    cell = {"cell_type": "code", "source": source, "metadata": {}}
    notebook = json.dumps({"nbformat": 4, "cells": [cell]}).encode()
    until = time.monotonic() + 1.5

    def parse() -> int:
        done = 0
        while time.monotonic() < until:
            for _ in range(20):
                _Litter()
            assert not read_notebook(notebook, ["f0"]).broken
            done += 1
        return done

    def deeper(levels: int, work: Callable[[], Any]) -> Any:
        return deeper(levels - 1, work) if levels else work()

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(lambda levels: deeper(levels, parse), (1, 9, 20)))
