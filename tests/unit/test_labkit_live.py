"""The live card of ``lab.gpu(watch=…)`` and ``%gpu`` in real kernels of the spec that learners' notebooks use."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from gradlab.settings import ROOT
from labkit.provisioner import SOCKET
from tests.fake_portal import TOKEN, FakePortal, fake_portal
from tests.own_gpus import answer, held
from tests.simulated import GIB, Simulated, device, driver, simulated
from tests.waiting import until

Message = dict[str, Any]


class Notebook:
    """A kernel and all that it has sent to its notebook."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        specs = KernelSpecManager()
        specs.kernel_dirs = [str(ROOT / "labkit" / "kernels")]
        self.manager = KernelManager(
            kernel_name="python3", kernel_spec_manager=specs, transport="ipc", ip=f"{folder}/socket"
        )
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)})
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(60)
        self.sent: list[Message] = []

    def start(self, code: str) -> str:
        """Send a cell; its request id."""
        return str(self.client.execute(code))

    def run(self, code: str) -> str:
        """Run a cell to its end; its request id. What it raises fails the test."""
        request = self.start(code)
        while (reply := self.client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != request:
            pass
        assert reply["content"]["status"] == "ok", reply["content"]
        self.wait_for(
            lambda: [one for one in self.of(request, "status") if one["content"]["execution_state"] == "idle"]
        )
        return request

    def printed(self, code: str) -> str:
        request = self.run(code)
        return "".join(one["content"]["text"] for one in self.of(request, "stream"))

    def of(self, request: str, kind: str) -> list[Message]:
        """Messages of one kind that belong to a cell."""
        return [one for one in self.sent if one["msg_type"] == kind and one["parent_header"].get("msg_id") == request]

    def wait_for(self, what: Callable[[], Any], seconds: float = 60) -> Any:
        return until(lambda: self._receive() or what(), seconds)

    def cards(self, request: str) -> list[str]:
        """The texts of a cell's card, one after the other, all in the same place."""
        shown = [*self.of(request, "display_data"), *self.of(request, "update_display_data")]
        assert len({one["content"]["transient"]["display_id"] for one in shown}) <= 1
        return [one["content"]["data"]["text/plain"] for one in shown]

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)

    def _receive(self) -> None:
        try:
            while True:
                self.sent.append(self.client.get_iopub_msg(timeout=0.05))
        except Empty:
            pass


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePortal]:
    with fake_portal(gpu=answer(held())) as portal:
        monkeypatch.setenv("GRADLAB_PORTAL_URL", portal.url)
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
        monkeypatch.setenv(SOCKET, "")
        yield portal


@pytest.fixture
def notebook(portal: FakePortal) -> Iterator[Notebook]:
    folder = tempfile.mkdtemp(prefix="k", dir="/tmp")
    notebook = Notebook(Path(folder))
    yield notebook
    notebook.close()
    shutil.rmtree(folder)


@pytest.fixture
def sim(tmp_path: Path) -> Simulated:
    """A driver below the kernel's own binding, in C."""
    return simulated(tmp_path, driver(device(), device(1)))


@pytest.fixture
def alone(sim: Simulated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A kernel that sees this driver and has no portal."""
    for name in ("GRADLAB_PORTAL_URL", "JUPYTERHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(SOCKET, "")
    folder = tempfile.mkdtemp(prefix="k", dir="/tmp")
    notebook = Notebook(Path(folder), sim.env)
    yield notebook
    sim.change(driver())  # a call that hangs goes on
    notebook.close()
    shutil.rmtree(folder)


WATCHES = "import threading; print([one.name for one in threading.enumerate() if one.name.startswith('labkit')])"


def test_a_line_a_gpu_is_there_without_an_import_and_costs_a_start_nothing(notebook: Notebook) -> None:
    loaded = "import sys; print(sorted(one for one in sys.modules if one.split('.')[0] in ('labkit', 'pynvml')))"
    assert notebook.printed(loaded) == "['labkit']\n"
    assert notebook.printed("%gpu") == (
        "GPU 0 NVIDIA H200: 42 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0), 35 °C, 98 W\n"
    )
    assert notebook.printed("%who") == "sys\t \n"  # `lab` is there and is nobody's variable
    assert notebook.printed("print(lab.__name__)") == "labkit\n"


def test_a_live_card_changes_in_its_place_while_other_cells_run(notebook: Notebook, portal: FakePortal) -> None:
    cell = notebook.run("found = lab.gpu(watch=60)")
    (first,) = notebook.cards(cell)
    assert "42 %" in first
    assert "`lab.gpu(watch=0)` ends it." in first
    other = notebook.start("import time\nfor turn in range(30): time.sleep(0.1)\nprint('done')")
    notebook.wait_for(lambda: len(notebook.cards(cell)) >= 2)
    portal.gpu = answer(held(utilisation=97))
    notebook.wait_for(lambda: "97 %" in notebook.cards(cell)[-1])
    assert not notebook.of(other, "update_display_data")
    notebook.wait_for(lambda: notebook.of(other, "stream"))
    assert "97" in notebook.printed("print(found.devices[0]['utilisation'])")  # the value is the latest reading, too

    notebook.run("lab.gpu(watch=0)")
    notebook.wait_for(lambda: "No longer live." in notebook.cards(cell)[-1])
    assert notebook.printed(WATCHES) == "[]\n"
    asked = len(portal.requests)
    notebook.run("import time; time.sleep(1.5)")
    assert len(portal.requests) == asked


def test_a_live_card_ends_after_its_time(notebook: Notebook) -> None:
    started = time.monotonic()
    cell = notebook.run("lab.gpu(watch=2.5)")
    notebook.wait_for(lambda: "No longer live." in notebook.cards(cell)[-1])
    assert 2.5 <= time.monotonic() - started < 30
    assert 2 < len(notebook.cards(cell)) <= 4  # at once, after one second, after two, and the end
    notebook.wait_for(lambda: notebook.printed(WATCHES) == "[]\n")


def test_another_live_card_takes_its_place(notebook: Notebook) -> None:
    first = notebook.run("lab.gpu(watch=60)")
    second = notebook.run("lab.gpu(watch=60)")
    notebook.wait_for(lambda: "No longer live." in notebook.cards(first)[-1])
    notebook.wait_for(lambda: len(notebook.cards(second)) >= 3)
    assert notebook.printed(WATCHES).count("labkit-gpu-watch") == 1
    assert "No longer live." not in notebook.cards(second)[-1]


def test_a_live_card_goes_on_when_the_portal_does_not(notebook: Notebook, portal: FakePortal) -> None:
    cell = notebook.run("lab.gpu(watch=60)")
    portal.refuse = (503, "")
    notebook.wait_for(lambda: "This server has no NVIDIA GPU" in notebook.cards(cell)[-1])
    assert "42 %" not in notebook.cards(cell)[-1]  # what is not known is not shown as it was


def test_a_live_card_holds_nobody_up_when_the_kernel_ends(notebook: Notebook) -> None:
    cell = notebook.run("lab.gpu(watch=3600)")
    notebook.wait_for(lambda: len(notebook.cards(cell)) >= 2)
    process = notebook.manager.provisioner.process
    started = time.monotonic()
    notebook.client.shutdown()
    assert process.wait(30) == 0
    assert time.monotonic() - started < 20


def test_a_simulated_gpu_is_watched_and_its_driver_started_once(notebook: Notebook) -> None:
    notebook.run("lab.simulate_gpu(1, seed=3)\nfrom labkit import nvsim\nimport pynvml")
    notebook.run(
        "starts = []\nreal = pynvml.nvmlLib._nvmlInitWithFlags\n"
        "pynvml.nvmlLib._nvmlInitWithFlags = lambda flags: (starts.append(1), real(flags))[1]\n"
        "pynvml._nvmlGetFunctionPointer_cache.clear()"
    )
    cell = notebook.run("lab.gpu(watch=60)")
    notebook.wait_for(lambda: len(notebook.cards(cell)) >= 3)
    assert "simulated" in notebook.cards(cell)[-1]
    assert notebook.printed("print(starts, pynvml.nvmlLib._users)") == "[1] 1\n"
    notebook.run("lab.gpu(watch=0)")
    notebook.wait_for(lambda: notebook.printed("print(pynvml.nvmlLib._users)") == "0\n")


def test_the_drivers_own_library_is_read_and_said_to_be_simulated(alone: Notebook, sim: Simulated) -> None:
    kernel = int(alone.printed("import os; print(os.getpid())"))
    sim.change(
        driver(
            device(
                utilisation={"gpu": 80, "memory": 9},
                memory={"total": 140 * GIB, "reserved": GIB, "used": 12 * GIB},
                processes=[{"pid": kernel, "memory": 3 * GIB}, {"pid": os.getppid(), "memory": 8 * GIB}],
                process_samples=[{"pid": kernel, "time": "now", "sm": 25}],
            )
        )
    )
    assert alone.printed("%gpu") == (
        "GPU 0 NVIDIA H200 (simulated): 80 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0), 35 °C, 78 W\n"
    )
    (card,) = alone.cards(alone.run("lab.gpu()"))
    assert "3.0 GiB, 25 % busy, 1 process\n" in card
    assert "Driver version: 615.71.09\n" in card
    assert "Driver model:   not applicable on Linux\n" in card


def test_what_happens_to_the_gpus_is_seen_in_a_live_card(alone: Notebook, sim: Simulated) -> None:
    """A GPU that is lost, a driver that hangs, and both well again: nothing of it is idleness, and no cell waits."""
    cell = alone.run("lab.gpu(watch=600)")
    sim.change(driver(device(error="lost"), device(1)))
    alone.wait_for(lambda: "This GPU has fallen off the bus" in alone.cards(cell)[-1])
    assert alone.cards(cell)[-1].count("Utilisation") == 1  # the other one's

    sim.change(driver(device(), hangs=["nvmlDeviceGetUtilizationRates"]))
    alone.wait_for(lambda: "The GPU driver has not answered for" in alone.cards(cell)[-1])
    assert "Utilisation" not in alone.cards(cell)[-1]
    started = time.monotonic()
    assert alone.printed("print(6 * 7)") == "42\n"
    assert "has not answered for" in alone.printed("%gpu")
    assert time.monotonic() - started < 10

    sim.change(driver(device(), device(1)))
    alone.wait_for(lambda: alone.cards(cell)[-1].count("Utilisation") == 2)
    sim.change(driver(error="version mismatch", fails={"*": "version mismatch"}))
    alone.wait_for(lambda: "was updated while the old one is still loaded" in alone.cards(cell)[-1])
    sim.change(driver(device()))
    alone.wait_for(lambda: alone.cards(cell)[-1].count("Utilisation") == 1)


def test_a_kernel_whose_driver_hangs_can_be_ended(alone: Notebook, sim: Simulated) -> None:
    sim.change(driver(device(), hangs=["nvmlInitWithFlags"]))
    cell = alone.run("lab.gpu(watch=600)")
    assert "The GPU driver has not answered for 3 s" in alone.cards(cell)[0]
    process = alone.manager.provisioner.process
    alone.client.shutdown()
    assert process.wait(30) == 0
