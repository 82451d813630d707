"""The kernel that checks run in, spoken to as papermill does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from checker.kernels import KernelPool
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.workplace import Workplace

Client = Any


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    workplace = Workplace()
    pool = KernelPool(SandboxConfig(method=detect()), 0, workplace)
    yield pool.take().client()
    pool.close()
    workplace.close()


def run(client: Client, code: str) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The reply's content, and what was published beside it, each as its kind and content."""
    published: list[tuple[str, Any]] = []
    reply = client.execute_interactive(
        code, timeout=60, output_hook=lambda message: published.append((message["msg_type"], message["content"]))
    )
    return reply["content"], [(kind, content) for kind, content in published if kind not in ("status", "execute_input")]


def test_names_stay_from_cell_to_cell(client: Client) -> None:
    reply, published = run(client, "kept = 6\nclass Kept: ...")
    assert (reply["status"], published) == ("ok", [])
    assert run(client, "print(kept * 7, Kept.__module__)")[1] == [
        ("stream", {"name": "stdout", "text": "42 __main__\n"})
    ]


def test_what_a_cell_imports_from_the_future_holds_from_then_on(client: Client) -> None:
    reads = "def reads(x: int): ...\nprint(reads.__annotations__)"
    assert run(client, reads)[1] == [("stream", {"name": "stdout", "text": "{'x': <class 'int'>}\n"})]
    assert run(client, "from __future__ import annotations")[0]["status"] == "ok"
    assert run(client, reads)[1] == [("stream", {"name": "stdout", "text": "{'x': 'int'}\n"})]


def test_what_is_printed_belongs_to_its_cell(client: Client) -> None:
    reply, published = run(client, "import sys\nprint('out')\nsys.stdout.flush()\nprint('err', file=sys.stderr)")
    assert reply["status"] == "ok"
    assert published == [
        ("stream", {"name": "stdout", "text": "out\n"}),
        ("stream", {"name": "stderr", "text": "err\n"}),
    ]


def test_an_error_comes_with_its_lines_and_nothing_of_the_kernels(client: Client) -> None:
    reply, published = run(client, "def halves(x):\n    return x / 0\n\nhalves(1)")
    assert published == [("error", {name: reply[name] for name in ("ename", "evalue", "traceback")})]
    assert (reply["status"], reply["ename"], reply["evalue"]) == ("error", "ZeroDivisionError", "division by zero")
    cell = f"<cell {reply['execution_count']}>"
    assert reply["traceback"] == [
        "Traceback (most recent call last):",
        f'  File "{cell}", line 4, in <module>',
        "    halves(1)",
        f'  File "{cell}", line 2, in halves',
        "    return x / 0",
        "           ~~^~~",
        "ZeroDivisionError: division by zero",
    ]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("%time 1", "SyntaxError"),
        ("await None", "SyntaxError"),
        ("get_ipython()", "NameError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_cell_is_python_and_its_end_is_not_the_kernels(code: str, name: str, client: Client) -> None:
    assert run(client, code)[0]["ename"] == name
    assert run(client, "pass")[0]["status"] == "ok"


def test_a_value_at_the_end_is_not_shown(client: Client) -> None:
    assert run(client, "1 + 1")[1] == []
