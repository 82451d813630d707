"""``lab.gpu()`` and ``%gpu``: what the portal knows, else what NVML says; one plain sentence where there is none."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import labkit
from labkit import devices, nvsim
from labkit.errors import LabError
from tests.fake_portal import TOKEN, FakePortal, fake_portal
from tests.nvml import GIB, Card, Library, Runs, loaded
from tests.own_gpus import answer, held
from tests.waiting import until

CPU = "Everything here runs on the CPU, and exercises that need a GPU are skipped."


@pytest.fixture(autouse=True)
def _outside_of_a_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("GRADLAB_PORTAL_URL", "JUPYTERHUB_API_TOKEN", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    yield
    until(lambda: "labkit-nvml" not in {thread.name for thread in threading.enumerate()}, what="the thread's end")
    if sys.modules.get("pynvml"):
        nvsim.uninstall()


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePortal]:
    with fake_portal() as portal:
        monkeypatch.setenv("GRADLAB_PORTAL_URL", portal.url)
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
        yield portal


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A real IPython shell, as in a terminal: not a kernel, so outputs are printed lines."""
    shell = InteractiveShell.instance(config=None)
    shell.history_manager.enabled = False
    yield shell
    InteractiveShell.clear_instance()


# -- what the portal knows ---------------------------------------------------------------------------------------------


def test_the_portal_is_asked_and_the_driver_is_not(portal: FakePortal, capsys: pytest.CaptureFixture[str]) -> None:
    portal.gpu = answer(held())
    library = Library(Card())
    with loaded(library):
        found = labkit.gpu()
    assert library.starts == 0
    assert [request.path for request in portal.requests] == ["/services/portal/api/gpu/mine"]
    (device,) = found.devices
    assert (device["memory_used"], device["mine"]["memory"], device["others"]["memory"]) == (12 * GIB, 3 * GIB, 9 * GIB)
    assert "3.0 GiB, 12 % busy, 2 processes" in capsys.readouterr().out
    assert "Read at " in repr(found)


def test_who_has_none_is_told_so_though_the_driver_shows_the_machines(portal: FakePortal) -> None:
    """Where learners share a machine every kernel sees its GPUs."""
    portal.gpu = answer()
    with loaded(Library(Card())):
        found = labkit.gpu()
    assert found.devices == []
    assert found.sentence.startswith("You have no GPU now. Open a lab with a GPU from the list of labs")


def test_a_driver_that_hangs_for_the_portal_is_not_asked_here(portal: FakePortal) -> None:
    message = "The NVIDIA driver has not answered since 12:00."
    portal.gpu = answer(held(), state="silent", available=False, message=message)
    library = Library(Card())
    with loaded(library):
        found = labkit.gpu()
    assert (library.starts, found.devices, found.sentence) == (0, [], message)  # no figures of before


@pytest.mark.parametrize(
    ("state", "message", "shown"),
    [
        ("mismatch", "The driver was updated.", "The driver was updated. Tell your instructor."),
        ("no driver", "No NVIDIA driver is installed here.", "This server has no NVIDIA GPU that NVML can see"),
        ("no gpu", "The driver shows no GPU.", "This server has no NVIDIA GPU that NVML can see"),
        ("failed", "", "This server has no NVIDIA GPU that NVML can see"),
    ],
)
def test_where_the_portal_knows_nothing_the_driver_here_is_asked(
    portal: FakePortal, state: str, message: str, shown: str
) -> None:
    portal.gpu = answer(state=state, available=False, message=message)
    with loaded(Library(Card(utilisation=7))):
        assert labkit.gpu().devices[0]["utilisation"] == 7
    with loaded(None):
        assert labkit.gpu().sentence.startswith(shown)


def test_a_place_in_the_queue_is_shown_while_nothing_else_is_known(portal: FakePortal) -> None:
    waiting = {"position": 1, "estimate": None}
    portal.gpu = answer(state="failed", available=False, message="A fault.", waiting=waiting)
    with loaded(None):
        assert labkit.gpu().sentence == "You wait for a GPU, 1 ahead of you: you get the next GPU that becomes free."


@pytest.mark.parametrize(
    "refuse", [(404, '{"detail": "Not Found"}'), (403, "{}"), (500, "oh"), (200, "[]"), (200, "{"), (200, "{}")]
)
def test_a_portal_that_cannot_say_is_passed_over(portal: FakePortal, refuse: tuple[int, str]) -> None:
    portal.refuse = refuse
    with loaded(Library(Card())):
        assert labkit.gpu().devices[0]["utilisation"] == 42


def test_a_portal_that_hangs_is_waited_for_for_a_second(portal: FakePortal) -> None:
    portal.gpu, portal.silent = answer(), threading.Event()
    started = time.monotonic()
    try:
        with loaded(Library(Card())), devices.Source() as source:
            assert source.read().devices[0]["utilisation"] == 42
            assert 0.9 < time.monotonic() - started < 10
            # And left alone for a while then: a live card goes on every second.
            started = time.monotonic()
            assert source.read().devices
            assert time.monotonic() - started < 0.9
    finally:
        portal.silent.set()


def test_a_simulated_driver_is_shown_though_the_portal_knows_of_no_gpu(
    portal: FakePortal, capsys: pytest.CaptureFixture[str]
) -> None:
    portal.gpu = answer()
    with loaded(None):
        labkit.simulate_gpu(2, seed=1893)
        capsys.readouterr()
        found = labkit.gpu()
        labkit.load_ipython_extension(SimpleNamespace(user_ns={}, register_magic_function=lambda *_: None))
        devices.print_lines()
        nvsim.uninstall()
    assert len(found.devices) == 2
    assert found.reading.simulated
    out = capsys.readouterr().out
    assert "These figures are simulated: nothing can run on such a GPU." in out
    assert len(re.findall(r"^GPU \d .* \(simulated\): ", out, re.MULTILINE)) == 2
    assert portal.requests == []


# -- what the driver says ----------------------------------------------------------------------------------------------


def test_a_gpu_is_shown_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(Library(Card(used=3 * GIB, reserved=0, total=140 * GIB, runs=[Runs(os.getpid(), GIB)]))):
        found = labkit.gpu()
    out = capsys.readouterr().out
    assert out == f"{found!r}\n"
    for told in ("GPU 0  NVIDIA H200\n", "42 %\n", "3.0 of 140.0 GiB\n", "610.43\n", "35 °C\n", "78 W\n"):
        assert told in out
    assert re.search(r"yours: +1.0 GiB, 0 % busy, 1 process\n", out)
    assert re.search(r"others: +2.0 GiB\n", out)
    assert found.devices[0]["memory_total"] == 140 * GIB


def test_without_a_driver_it_says_what_that_means(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(None):
        assert labkit.gpu().devices == []
    assert capsys.readouterr().out == (
        f"This server has no NVIDIA GPU that NVML can see (NVML Shared Library Not Found). {CPU}\n"
    )


def test_without_nvmls_binding_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    assert labkit.gpu().sentence == f"NVML cannot be asked: the package nvidia-ml-py is not installed. {CPU}"


def test_a_driver_without_a_gpu_is_another_case() -> None:
    with loaded(Library()):
        assert labkit.gpu().sentence == f"The GPU driver 610.43 is there, but this server was given no GPU. {CPU}"


def test_what_a_gpu_does_not_report_is_not_a_zero(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Card(fails={"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED})
    with loaded(Library(silent)):
        assert labkit.gpu().devices[0]["utilisation"] is None
    assert "not reported" in capsys.readouterr().out


def test_a_torch_that_cannot_use_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_cpu = SimpleNamespace(__version__="2.13.0+cpu", version=SimpleNamespace(cuda=None))
    monkeypatch.setitem(sys.modules, "torch", built_for_cpu)
    with loaded(Library(Card())):
        assert "But torch 2.13.0+cpu is a CPU build and cannot use it." in labkit.gpu().sentence
    with loaded(None):
        assert "torch" not in labkit.gpu().sentence


def test_a_torch_that_can_use_the_gpu_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_cuda = SimpleNamespace(__version__="2.13.0+cu130", version=SimpleNamespace(cuda="13.0"))
    monkeypatch.setitem(sys.modules, "torch", built_for_cuda)
    with loaded(Library(Card())):
        assert "torch 2.13.0+cu130 is built for CUDA 13.0." in labkit.gpu().sentence


# -- in a shell --------------------------------------------------------------------------------------------------------


def test_in_a_cell_it_is_shown_once(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(Library(Card())):
        shell.run_cell("import labkit as lab\nlab.gpu()", store_history=True)
        assert capsys.readouterr().out.count("NVIDIA H200") == 1
        shell.run_cell("found = lab.gpu()", store_history=True)
        capsys.readouterr()
        shell.run_cell("found", store_history=True)
    assert capsys.readouterr().out.count("NVIDIA H200") == 1


def test_the_magic_prints_a_line_a_gpu(
    shell: InteractiveShell, portal: FakePortal, capsys: pytest.CaptureFixture[str]
) -> None:
    portal.gpu = answer(held(), held(index=1, name="NVIDIA L40S"))
    shell.extension_manager.load_extension("labkit")
    shell.run_cell("%gpu")
    assert capsys.readouterr().out == (
        "GPU 0 NVIDIA H200: 42 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0), 35 °C, 98 W\n"
        "GPU 1 NVIDIA L40S: 42 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0), 35 °C, 98 W\n"
    )
    with pytest.raises(UsageError, match=r"%gpu takes nothing behind it. For a live card: lab.gpu\(watch=60\)"):
        shell.run_line_magic("gpu", "60")
    shell.run_cell("%gpu?")
    assert "one line each" in capsys.readouterr().out


def test_in_a_terminal_a_watch_is_a_line_a_second_until_its_end(
    portal: FakePortal, capsys: pytest.CaptureFixture[str]
) -> None:
    portal.gpu = answer(held())
    found = labkit.gpu(watch=1.2)
    out = capsys.readouterr().out
    assert out.startswith("GPU 0  NVIDIA H200\n")
    assert out.endswith("GPU 0 NVIDIA H200: 42 % busy, 12.0 of 140.0 GiB (yours 3.0, others 9.0), 35 °C, 98 W\n")
    assert len(portal.requests) == 2
    assert found.devices


def test_in_a_terminal_ctrl_c_ends_it(portal: FakePortal, monkeypatch: pytest.MonkeyPatch) -> None:
    portal.gpu = answer(held())
    readings = iter(range(2))

    class Interrupted(devices.Source):
        def read(self) -> Any:
            if next(readings):
                raise KeyboardInterrupt
            return super().read()

    monkeypatch.setattr(devices, "Source", Interrupted)
    assert labkit.gpu(watch=3600).devices


def test_where_there_is_no_gpu_nothing_is_watched() -> None:
    started = time.monotonic()
    with loaded(None):
        assert CPU in labkit.gpu(watch=3600).sentence
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "watch",
    [-1, -0.001, 3600.5, 10**400, float("nan"), float("inf"), "60", True, [60], 1j, np.ones(2), "x" * 9999],
)
def test_a_watch_that_makes_no_sense_is_refused_in_a_sentence(watch: Any) -> None:
    said = r"^watch is the number of seconds to keep the card live, from 0 to 3600, not .*\. For a minute: lab\.gpu"
    with pytest.raises(LabError, match=said) as error:
        labkit.gpu(watch=watch)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("watch", [None, 0, 0.0, np.float32(0), np.int64(0)])
def test_no_watch_is_one_reading(watch: Any, portal: FakePortal) -> None:
    portal.gpu = answer(held())
    assert labkit.gpu(watch=watch).devices
    assert len(portal.requests) == 1


def test_a_second_that_was_missed_is_left_out() -> None:
    """A reading may take longer than its second."""
    pauses: list[float] = []
    clock = iter([0.0, 0.0, 0.0, 2.5, 2.5, 2.6, 2.6])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices.time, "monotonic", lambda: next(clock))
        ticks = devices._ticks(4, lambda pause: pauses.append(pause) or False)
        for _ in range(3):
            next(ticks)
    assert pauses == [1.0, 0.0, pytest.approx(0.4)]
