"""The kernel that checks run in, spoken to as papermill does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from checker.kernels import KernelPool
from checker.sandbox.config import SandboxConfig
from checker.sandbox.confinement import detect
from checker.workplace import Workplace
from labkit.forkserver import Forked

Client = Any


@contextmanager
def kernel(*, forked: bool) -> Iterator[Client]:
    with ExitStack() as stack:
        workplace = Workplace()
        stack.callback(workplace.close)
        pool = KernelPool(SandboxConfig(method=detect()), int(forked), workplace)
        stack.callback(pool.close)
        pool.warm()
        taken = pool.take()
        assert isinstance(taken.provisioner.process, Forked) == forked
        yield taken.client()


@pytest.fixture(scope="module", params=["forked", "cold"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with kernel(forked=request.param == "forked") as made:
        yield made


def run(client: Client, code: str) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The reply's content, and what was published beside it: texts by their stream (a stream may send its text in
    pieces), and the content of all else by its kind."""
    published: list[tuple[str, Any]] = []

    def hear(message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            kind, content = content["name"], content["text"]
            if published and published[-1][0] == kind:
                content = published.pop()[1] + content
        if kind not in ("status", "execute_input"):
            published.append((kind, content))

    return client.execute_interactive(code, timeout=60, output_hook=hear)["content"], published


def test_names_stay_from_cell_to_cell(client: Client) -> None:
    reply, published = run(client, "kept = 6\nclass Kept: ...")
    assert (reply["status"], published) == ("ok", [])
    assert run(client, "print(kept * 7, Kept.__module__)")[1] == [("stdout", "42 __main__\n")]


def test_what_a_cell_imports_from_the_future_holds_from_then_on() -> None:
    reads = "def reads(x: int): ...\nprint(reads.__annotations__)"
    with kernel(forked=False) as own:
        assert run(own, reads)[1] == [("stdout", "{'x': <class 'int'>}\n")]
        assert run(own, "from __future__ import annotations")[0]["status"] == "ok"
        assert run(own, reads)[1] == [("stdout", "{'x': 'int'}\n")]
        # A dataclass reads such annotations in the module that its class names.
        fields = "import dataclasses, typing\n@dataclasses.dataclass\nclass Found:\n"
        fields += "    kinds: typing.ClassVar[list] = []\n    x: int = 1\n"
        fields += "print([field.name for field in dataclasses.fields(Found)])"
        assert run(own, fields)[1] == [("stdout", "['x']\n")]


def test_a_class_of_a_cell_is_found_by_its_name(client: Client) -> None:
    code = "import pickle\nclass Point: x = 3\nprint(pickle.loads(pickle.dumps(Point)).x)"
    assert run(client, code)[1] == [("stdout", "3\n")]


def test_what_is_printed_belongs_to_its_cell(client: Client) -> None:
    reply, published = run(client, "import sys\nprint('out')\nsys.stdout.flush()\nprint('err', file=sys.stderr)")
    assert reply["status"] == "ok"
    assert published == [("stdout", "out\n"), ("stderr", "err\n")]


def test_what_a_thread_prints_is_published_too(client: Client) -> None:
    code = "import threading\nthread = threading.Thread(target=print, args=['aside'])\nthread.start()\nthread.join()"
    assert run(client, code)[1] == [("stdout", "aside\n")]


def test_what_was_printed_before_an_error_is_read_before_it(client: Client) -> None:
    assert [kind for kind, _ in run(client, "print('before')\n1 / 0")[1]] == ["stdout", "error"]


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


@pytest.mark.parametrize(
    ("raises", "value"),
    [
        ("class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute", "<exception str() failed>"),
        ("raise ValueError('half \\ud800 a pair')", "half ? a pair"),
    ],
)
def test_an_error_that_cannot_be_told_is_told_as_far_as_it_can(raises: str, value: str, client: Client) -> None:
    assert run(client, raises)[0]["evalue"] == value


def interrupts(client: Client) -> Callable[[dict[str, Any]], None]:
    """Interrupts the kernel as soon as a cell prints something: it runs by then."""

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            client.parent.interrupt_kernel()

    return hear


def test_a_cell_that_is_interrupted_ends_and_the_next_one_runs() -> None:
    with kernel(forked=False) as own:
        sleeps = "import time\nprint('asleep', flush=True)\ntime.sleep(50)"
        reply = own.execute_interactive(sleeps, timeout=60, output_hook=interrupts(own))
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert run(own, "pass")[0]["status"] == "ok"


def test_a_value_at_the_end_is_not_shown(client: Client) -> None:
    assert run(client, "1 + 1")[1] == []


def test_no_debugger_is_loaded(client: Client) -> None:
    assert run(client, "import sys\nprint('debugpy' in sys.modules)")[1] == [("stdout", "False\n")]
