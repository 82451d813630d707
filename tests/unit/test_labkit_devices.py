"""``lab.gpu()``: what NVML says, in a shell and without one, and one plain sentence where there is nothing to say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest
from IPython.core.interactiveshell import InteractiveShell

import labkit
from tests.nvml import GIB, Card, Library, loaded


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A real IPython shell, as in a terminal: not a kernel, so outputs are printed lines."""
    shell = InteractiveShell.instance(config=None)
    shell.history_manager.enabled = False
    yield shell
    InteractiveShell.clear_instance()


def test_a_gpu_is_shown_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(Library(Card(used=3 * GIB, reserved=0, total=140 * GIB))):
        found = labkit.gpu()
    lines = capsys.readouterr().out.splitlines()
    assert [part.strip() for part in lines[1].split("  ") if part][:5] == [
        "0",
        "NVIDIA H200",
        "3.00 GiB",
        "140.00 GiB",
        "42 %",
    ]
    assert lines[2].startswith("Driver ")
    assert found.devices[0]["memory_total"] == 140 * GIB


def test_without_a_driver_it_says_what_that_means(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(None):
        assert labkit.gpu().devices == []
    assert capsys.readouterr().out == (
        "This server has no NVIDIA GPU that NVML can see (NVML Shared Library Not Found). "
        "Everything here runs on the CPU, and exercises that need a GPU are skipped.\n"
    )


def test_without_nvmls_binding_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    assert labkit.gpu().sentence == (
        "NVML cannot be asked: the package nvidia-ml-py is not installed. "
        "Everything here runs on the CPU, and exercises that need a GPU are skipped."
    )


def test_a_driver_without_a_gpu_is_another_case() -> None:
    with loaded(Library()):
        assert labkit.gpu().sentence == (
            "The GPU driver 610.43 is there, but this server was given no GPU. "
            "Everything here runs on the CPU, and exercises that need a GPU are skipped."
        )


def test_a_driver_that_does_not_answer_is_no_missing_gpu() -> None:
    with loaded(Library(Card(), fails={"nvmlDeviceGetCount_v2": pynvml.NVML_ERROR_UNKNOWN})):
        assert labkit.gpu().sentence == (
            "The GPU driver is there but does not answer (Unknown Error). Tell your instructor."
        )


def test_what_a_gpu_does_not_report_is_not_a_zero(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Card(fails={"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED})
    with loaded(Library(silent)):
        assert labkit.gpu().devices[0]["utilisation"] is None
    assert "not reported" in capsys.readouterr().out


def test_a_torch_that_cannot_use_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_cpu = SimpleNamespace(__version__="2.13.0+cpu", version=SimpleNamespace(cuda=None))
    monkeypatch.setitem(sys.modules, "torch", built_for_cpu)
    with loaded(Library(Card())):
        assert labkit.gpu().sentence.endswith("But torch 2.13.0+cpu is a CPU build and cannot use it.")
    with loaded(None):
        assert "torch" not in labkit.gpu().sentence


def test_a_torch_that_can_use_the_gpu_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_cuda = SimpleNamespace(__version__="2.13.0+cu130", version=SimpleNamespace(cuda="13.0"))
    monkeypatch.setitem(sys.modules, "torch", built_for_cuda)
    with loaded(Library(Card())):
        assert labkit.gpu().sentence == (
            "Driver 610.43. Memory used is the device's, whoever uses it. torch 2.13.0+cu130 is built for CUDA 13.0."
        )


def test_in_a_cell_it_is_shown_once(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with loaded(Library(Card())):
        shell.run_cell("import labkit as lab\nlab.gpu()", store_history=True)
        assert capsys.readouterr().out.count("NVIDIA H200") == 1
        shell.run_cell("found = lab.gpu()", store_history=True)
        capsys.readouterr()
        shell.run_cell("found", store_history=True)
    assert capsys.readouterr().out.count("NVIDIA H200") == 1
