"""NVML's answers: which mean that something is merely not there, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

__all__ = ["FAILURES", "of_all", "of_one", "optional", "reported"]

# NVMLLibraryMismatchError is not an NVMLError; and NVML's errors cannot be hashed or compared, only caught by class.
FAILURES = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)

# Answers that mean "this hardware or driver does not report that", which is nobody's fault.
_NOT_REPORTED = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    )
)

_WHOLE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "No NVIDIA driver is installed here: libnvidia-ml.so.1 was not found. Everything runs on the CPU. "
        "To use a GPU, install NVIDIA's driver; inside a container, start it with the NVIDIA container toolkit."
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "The NVIDIA driver is installed but not loaded, so no GPU can be read. "
        "Run `modprobe nvidia` as root (or restart the machine), then `nvidia-smi`."
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA driver was updated while the old one is still loaded, so no GPU can be read. Restart the machine."
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "This user may not talk to the NVIDIA driver. Give it read and write access to /dev/nvidiactl and /dev/nvidia*."
    ),
}
_ONE = {
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "This GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked."
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: "This GPU needs a reset: end its processes and run `nvidia-smi --gpu-reset`.",
    pynvml.NVML_ERROR_NO_PERMISSION: "This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.",
}


def reported(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call's value, or None where this hardware or driver does not report it. Other failures are raised."""
    try:
        return function(*arguments)
    except pynvml.NVMLLibraryMismatchError:
        return None
    except pynvml.NVMLError as error:
        if error.value in _NOT_REPORTED:
            return None
        raise


def optional(function: Callable[..., Any]) -> Any:
    """The call's value, or None whatever is wrong."""
    try:
        return function()
    except FAILURES:
        return None


def of_all(error: Exception) -> str:
    """A sentence on a failure that concerns the whole driver."""
    return _sentence(error, _WHOLE)


def of_one(error: Exception) -> str:
    """A sentence on a failure that concerns one GPU."""
    return _sentence(error, _ONE)


def _sentence(error: Exception, known: dict[int, str]) -> str:
    if isinstance(error, pynvml.NVMLLibraryMismatchError):
        return f"The NVIDIA driver is too old for this server's NVML binding: {error}. Update the driver."
    code = getattr(error, "value", None)
    if code in known:
        return known[code]
    answer = f"NVIDIA's driver answered {str(error)!r} (NVML error {code})."
    return f"{answer} Run `nvidia-smi`, and look for lines with NVRM in `dmesg`."
