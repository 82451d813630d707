"""Learners' kernels: forked by the provisioner, and in everything else kernels like any other."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from traitlets.config import Config

from gradlab.settings import ROOT
from labkit import serverextension
from labkit.forkserver import Forked, fork, listen
from labkit.provisioner import SOCKET
from tests.waiting import until


@pytest.fixture(scope="module")
def nursery() -> Iterator[str]:
    """What the server extension starts beside a Jupyter server."""
    runtime = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", runtime)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv(SOCKET, raising=False)
        server = SimpleNamespace(kernel_nursery=None)
        serverextension._start_nursery(server)
        path = os.environ[SOCKET]
        fork(path, {"run": "tests.forked:status", "status": 0}, timeout=120).wait(10)
        yield path
    server.kernel_nursery.communicate()  # its input ends, and so does it
    assert server.kernel_nursery.returncode == 0
    shutil.rmtree(runtime)


class Lab:
    """One kernel of the spec that learners' notebooks use."""

    def __init__(self, folder: Path, *arguments: str, config: Config | None = None) -> None:
        specs = KernelSpecManager()
        specs.kernel_dirs = [str(ROOT / "labkit" / "kernels")]
        self.manager = KernelManager(
            kernel_name="python3", kernel_spec_manager=specs, transport="ipc", ip=f"{folder}/socket", config=config
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MINE": "yes"}
        self.manager.start_kernel(cwd=str(folder), env=environment, extra_arguments=list(arguments))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(60)

    def run(self, code: str) -> Any:
        reply = self.client.execute_interactive(
            code, user_expressions={"value": "value"}, output_hook=lambda message: None, timeout=60
        )["content"]
        return reply["user_expressions"]["value"]["data"]["text/plain"] if reply["status"] == "ok" else reply["ename"]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="k", dir="/tmp")
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def lab(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder)
    yield lab
    lab.client.stop_channels()
    lab.manager.shutdown_kernel(now=True)


def test_a_kernel_is_forked_with_torch_and_the_lab_in_it(nursery: str, lab: Lab, folder: Path) -> None:
    process = lab.manager.provisioner.process
    assert isinstance(process, Forked)
    assert lab.run("import sys; value = 'torch' in sys.modules") == "True"
    assert lab.run("import os; value = os.getcwd(), os.environ['MINE'], __name__") == f"('{folder}', 'yes', '__main__')"
    assert lab.run("value = lab.check.__module__") == "'labkit'"
    assert lab.run("value = callable(get_ipython().find_line_magic('gpu'))") == "True"
    # Not the process it was forked from, but the one that it belongs to.
    assert lab.run("value = os.environ['JPY_PARENT_PID']") == f"'{os.getpid()}'"
    threads = len(os.sched_getaffinity(0))
    assert lab.run("import torch; value = torch.get_num_threads()") == str(threads)


def test_it_is_interrupted_restarted_and_ended_like_any_other(nursery: str, lab: Lab) -> None:
    lab.run("value = 1")
    first = lab.manager.provisioner.process
    request = lab.client.execute("print('sleeping', flush=True)\nimport time; time.sleep(60)")
    while lab.client.get_iopub_msg(timeout=30)["content"].get("text") != "sleeping\n":
        pass
    lab.manager.interrupt_kernel()
    started = time.monotonic()
    while (reply := lab.client.get_shell_msg(timeout=30))["parent_header"]["msg_id"] != request:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert time.monotonic() - started < 30

    lab.manager.restart_kernel(now=True)
    lab.client.wait_for_ready(60)
    second = lab.manager.provisioner.process
    assert isinstance(second, Forked)
    assert second.pid != first.pid
    assert lab.run("value = 2") == "2"
    assert lab.manager.is_alive()
    lab.manager.shutdown_kernel(now=True)
    assert not lab.manager.is_alive()


def test_the_debugger_knows_the_files_of_all_modules_though_no_module_was_asked(nursery: str, lab: Lab) -> None:
    """Each that is asked becomes the kernel's own memory."""
    assert (
        lab.run("import ipykernel.ipkernel as i; value = type(i.sys).__name__, i.sys.platform")
        == "('_System', 'linux')"
    )
    code = "import os, torch; files = get_ipython().kernel._kernel_modules; "
    assert lab.run(f"{code}value = os.__file__ in files and torch.__file__ in files") == "True"
    assert lab.run(f"{code}value = len(files) > 1000 and set(map(type, files)) == {{str}}") == "True"


def test_a_kernel_minds_its_command_line(nursery: str, folder: Path, lab: Lab) -> None:
    code = "config = get_ipython().kernel.config; value = config.get('InteractiveShell', {}).get('xmode'), "
    code += "config['IPKernelApp']['connection_file'] == get_ipython().kernel.parent.connection_file, "
    code += "list(config['IPKernelApp']['extra_extensions'])"
    assert lab.run(code) == "(None, True, ['labkit'])"
    other = Lab(folder, "--InteractiveShell.xmode=Minimal")
    try:
        assert isinstance(other.manager.provisioner.process, Forked)
        assert other.run(code) == "('Minimal', True, ['labkit'])"
    finally:
        other.client.stop_channels()
        other.manager.shutdown_kernel(now=True)


def test_no_signal_goes_to_the_number_of_one_that_has_ended(
    nursery: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been waited for by then: the number may be any other process group's."""
    os.kill(lab.manager.provisioner.pid, 9)
    until(lambda: not lab.manager.is_alive())
    signalled: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: signalled.append(group))
    lab.manager.signal_kernel(15)
    lab.manager.shutdown_kernel(now=True)
    monkeypatch.undo()
    assert signalled == []


@pytest.mark.parametrize("threads", ["4,2", "0", "many"])
def test_a_number_of_threads_that_is_none_is_passed_over(threads: str, nursery: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", threads)
        lab = Lab(folder)
    try:
        assert lab.run("import torch; value = torch.get_num_threads()") == str(len(os.sched_getaffinity(0)))
    finally:
        lab.client.stop_channels()
        lab.manager.shutdown_kernel(now=True)


def test_two_kernels_draw_different_numbers(nursery: str, lab: Lab, folder: Path) -> None:
    code = "import numpy, random; value = numpy.random.rand(), random.random()"
    first = lab.run(code)
    lab.manager.restart_kernel(now=True)
    lab.client.wait_for_ready(60)
    assert lab.run(code) != first


@pytest.mark.parametrize("socket", ["", "/tmp/no-such-socket"])
def test_without_a_fork_server_it_is_started_by_its_command_line(
    socket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOCKET, socket)
    lab = Lab(folder)
    try:
        assert not isinstance(lab.manager.provisioner.process, Forked)
        assert lab.run("value = lab.check.__module__") == "'labkit'"
    finally:
        lab.client.stop_channels()
        lab.manager.shutdown_kernel(now=True)


def test_a_fork_server_that_hangs_is_waited_for_as_long_as_was_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="labkit.provisioner")
    monkeypatch.setenv(SOCKET, f"{folder}/hangs")
    with closing(listen(f"{folder}/hangs")):
        lab = Lab(folder, config=Config(ForkProvisioner={"patience": 0.5}))
    try:
        assert not isinstance(lab.manager.provisioner.process, Forked)
        assert "No kernel could be forked (the fork server has not answered for 0.5 s); it is started" in caplog.text
    finally:
        lab.client.stop_channels()
        lab.manager.shutdown_kernel(now=True)
