"""The GPUs of this server, read once through NVML. Nothing here touches CUDA: looking takes no GPU memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from labkit.display import Card, Shown, interactive_shell
from labkit.render import gpu_html, gpu_text

__all__ = ["Devices"]

_CPU = "Everything here runs on the CPU, and exercises that need a GPU are skipped."


class Devices(Shown):
    """What NVML reported: ``devices`` has one dict a GPU, with None for what its hardware does not report."""

    def __init__(self, devices: list[dict[str, Any]], sentence: str, shell: Any = None) -> None:
        super().__init__(shell)
        self.devices = devices
        self.sentence = sentence

    @classmethod
    def read(cls) -> Devices:
        """Read and show."""
        shell = interactive_shell()
        devices, sentence = _read()
        found = cls(devices, " ".join(part for part in (sentence, _torch(bool(devices))) if part), shell)
        found.display(Card(shell))
        return found

    def __repr__(self) -> str:
        return gpu_text(self.devices, self.sentence)

    def _repr_html_(self) -> str:
        return gpu_html(self.devices, self.sentence)


def _read() -> tuple[list[dict[str, Any]], str]:
    try:
        import pynvml
    except ImportError:
        return [], f"NVML cannot be asked: the package nvidia-ml-py is not installed. {_CPU}"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"This server has no NVIDIA GPU that NVML can see ({error}). {_CPU}"
    try:
        devices = [_device(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        return [], f"The GPU driver is there but does not answer ({error}). Tell your instructor."
    finally:
        pynvml.nvmlShutdown()
    if not devices:
        return [], f"The GPU driver {driver} is there, but this server was given no GPU. {_CPU}"
    return devices, f"Driver {driver}. Memory used is the device's, whoever uses it."


def _device(pynvml: Any, index: int) -> dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def reported(query: Callable[[], Any]) -> Any:
        try:
            return query()
        except pynvml.NVMLError:
            return None

    memory = reported(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    return {
        "index": index,
        "name": pynvml.nvmlDeviceGetName(handle),
        "memory_used": None if memory is None else memory.used,
        "memory_total": None if memory is None else memory.total,
        "utilisation": reported(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        "temperature": reported(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
    }


def _torch(gpu: bool) -> str:
    """Whether the torch of this kernel could use a GPU; nothing while it is not imported, since that takes a second."""
    torch = sys.modules.get("torch")
    if torch is None or not gpu:
        return ""
    if torch.version.cuda is None:
        return f"But torch {torch.__version__} is a CPU build and cannot use it."
    return f"torch {torch.__version__} is built for CUDA {torch.version.cuda}."
