"""NVML's answers: which mean that something is merely not there, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

__all__ = [
    "FAILURES",
    "NO_RIGHTS",
    "Fields",
    "concerns_all",
    "of_all",
    "of_one",
    "optional",
    "reported",
    "state_of_all",
    "state_of_one",
]

# NVMLLibraryMismatchError is not an NVMLError; and NVML's errors cannot be hashed or compared, only caught by class.
FAILURES = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)

# Answers that mean "this hardware or driver does not report that", which is nobody's fault.
_NOT_THERE = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    )
)
_NOT_REPORTED = _NOT_THERE | {pynvml.NVML_ERROR_NO_PERMISSION}

# Answers after which nothing else of this GPU is worth asking, and those after which nothing at all is.
_ENDS_ONE = frozenset((pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED))
_ENDS_ALL = frozenset(
    (
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    )
)

_STATES_OF_ALL = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatch",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "too old",
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "too old",
}
_STATES_OF_ONE = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "lost",
    pynvml.NVML_ERROR_RESET_REQUIRED: "reset required",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
}

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
    pynvml.NVML_ERROR_UNINITIALIZED: (
        "The NVIDIA driver was unloaded while it was read; reading begins anew. If this stays so, run `nvidia-smi`."
    ),
}
_ONE = {
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "This GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked."
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: "This GPU needs a reset: end its processes and run `nvidia-smi --gpu-reset`.",
    pynvml.NVML_ERROR_NO_PERMISSION: "This user may not read this GPU. Give it access to the GPU's /dev/nvidia* file.",
}
NO_RIGHTS = (
    "The driver tells this only to a user with more rights. Give the GPU monitor more rights: docs/operators.md, "
    "“Idle servers and idle GPUs”, has them."
)
_LOST_DEVICES = (
    "A container in which nothing else works either has lost its devices: start the container anew."  # daemon-reload
)


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


def optional(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call's value, or None whatever is wrong."""
    try:
        return function(*arguments)
    except FAILURES:
        return None


class Fields:
    """Asks one figure of a GPU after the other; ``problems`` has by name why one could not be read.

    A call gives None where there is no value. It raises what ends the reading of this GPU or of all. ``answers`` counts
    the values, ``failure`` is the first error, and ``stale`` says that the handle is of something that is no more.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.answers = 0
        self.failure: Exception | None = None
        self.stale = False

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            found = function(*arguments)
            self.answers += 1
            return found
        except pynvml.NVMLLibraryMismatchError:
            return None
        except pynvml.NVMLError as error:
            if error.value in _ENDS_ONE or error.value in _ENDS_ALL:
                raise
            if error.value not in _NOT_THERE:
                self._fail(name, error)
        except UnicodeDecodeError as error:  # the binding takes what a library wrote for UTF-8
            self.problems.setdefault(name, f"The driver gave a text that is none: {error}. Run `nvidia-smi`.")
        return None

    def _fail(self, name: str, error: pynvml.NVMLError) -> None:
        self.failure = self.failure or error
        self.problems.setdefault(name, _sentence(error, {pynvml.NVML_ERROR_NO_PERMISSION: NO_RIGHTS}))
        # So a handle of what is no more is answered, for ever.
        self.stale = self.stale or error.value == pynvml.NVML_ERROR_INVALID_ARGUMENT


def concerns_all(error: Exception) -> bool:
    """Whether an answer about one GPU means that no GPU can be read any more."""
    return getattr(error, "value", None) in _ENDS_ALL


def state_of_all(error: Exception) -> str:
    """The state of a frame without GPUs, in a word or two."""
    if isinstance(error, pynvml.NVMLLibraryMismatchError):
        return "too old"
    return _STATES_OF_ALL.get(getattr(error, "value", None), "failed")


def state_of_one(error: Exception) -> str:
    """The state of a GPU that cannot be read, in a word or two."""
    return _STATES_OF_ONE.get(getattr(error, "value", None), "failed")


def of_all(error: Exception) -> str:
    """A sentence on a failure that concerns the whole driver."""
    if state_of_all(error) == "too old":
        return f"The NVIDIA driver is too old for this server's NVML binding: {error}. Update the driver."
    return _sentence(error, _WHOLE)


def of_one(error: Exception) -> str:
    """A sentence on a failure that concerns one GPU."""
    said = _sentence(error, _ONE)
    return f"{said} {_LOST_DEVICES}" if getattr(error, "value", None) == pynvml.NVML_ERROR_UNKNOWN else said


def _sentence(error: Exception, known: dict[int, str]) -> str:
    if isinstance(error, pynvml.NVMLLibraryMismatchError):
        return f"The NVIDIA driver is too old for this server's NVML binding: {error}. Update the driver."
    code = getattr(error, "value", None)
    if code in known:
        return known[code]
    answer = f"NVIDIA's driver answered {str(error)!r} (NVML error {code})."
    return f"{answer} Run `nvidia-smi`, and look for lines with NVRM in `dmesg`."
