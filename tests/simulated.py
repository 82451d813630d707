"""The simulated NVIDIA driver for tests: GPUs to describe, and programs that run under it.

``simulated(folder, driver(device(...)))`` writes a scenario and gives the environment for children; ``binding`` is such
a child with NVIDIA's own ``pynvml``, of which a test asks one expression after the other while the scenario changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.gpu.simulator import scenario
from gradlab.gpu.simulator.library import environment

__all__ = ["GIB", "MIB", "Binding", "Refused", "Simulated", "binding", "device", "driver", "instance", "simulated"]

GIB, MIB = 1 << 30, 1 << 20
ROOT = Path(__file__).parent.parent


def device(index: int = 0, **overrides: Any) -> dict[str, Any]:
    """An H200 that does nothing; an override that is None is not reported by it."""
    clocks = {"graphics": 345, "sm": 345, "memory": 3201, "video": 765}
    usual = {
        "name": "NVIDIA H200",
        "uuid": f"GPU-{index}",
        "pci_bus_id": f"00000000:{0x17 + index:02X}:00.0",
        "memory": {"total": 140 * GIB, "reserved": GIB, "used": 0},
        "utilisation": {"gpu": 0, "memory": 0},
        "encoder": 0,
        "decoder": 0,
        "temperature": 35,
        "memory_temperature": 40,
        "power": 78_500,
        "power_limit": 700_000,
        "energy": 5_000_000,
        "clocks": clocks,
        "max_clocks": clocks | {"graphics": 1980, "sm": 1980, "video": 1545},
        "performance_state": 0,
        "persistence_mode": 1,
        "compute_mode": 0,
        "throttle_reasons": 1,
        "ecc": {"mode": [1, 1], "corrected": 0, "uncorrected": 0},
        "mig_mode": [0, 0],
        "recovery_action": 0,
        "processes": [],
        "process_samples": [],
    }
    return usual | overrides


def instance(place: int = 0, **overrides: Any) -> dict[str, Any]:
    """A MIG instance, a seventh of an H200, that does nothing."""
    usual = {
        "name": "NVIDIA H200 MIG 1g.18gb",
        "uuid": f"MIG-{place}",
        "gpu_instance": 7 + place,
        "compute_instance": 0,
        "memory": {"total": 16 * GIB, "reserved": 0, "used": 0},
        "attributes": {"memory": 16 * 1024, "multiprocessors": 16, "gpu_slices": 1, "compute_slices": 1},
        "processes": [],
    }
    return usual | overrides


def driver(*devices: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    usual = {"driver_version": "615.71.09", "nvml_version": "13.615.71.09", "cuda_version": 13040}
    return usual | {"devices": list(devices)} | fields


@dataclass(frozen=True)
class Simulated:
    """A simulated driver: the file that describes it and the environment of programs that are to see it."""

    path: Path
    env: dict[str, str]

    def change(self, state: Mapping[str, Any]) -> None:
        """From now on programs see this."""
        scenario.write(self.path, state)

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """A program that ends, under this driver."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, **options)


def simulated(folder: Path, state: Mapping[str, Any] | None, *, without: Sequence[str] = ()) -> Simulated:
    """A driver with its scenario in ``folder``; no file if ``state`` is None. ``without``: see ``library.build``."""
    path = folder / "scenario"
    made = Simulated(path, {**os.environ, **environment(path, without=without)})
    if state is not None:
        made.change(state)
    return made


class Refused(Exception):
    """The binding raised an error; ``code`` is NVML's, None if it was another."""

    def __init__(self, name: str, code: int | None) -> None:
        super().__init__(f"{name} ({code})")
        self.name, self.code = name, code


class Binding:
    """A process with the real binding. Expressions find ``pynvml``, ``ctypes``, ``time`` and ``h(index)``, a handle."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, code: str) -> None:
        """Let it work; ``answer`` waits for the end of that."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        answer = self._answer()
        if "error" in answer:
            raise Refused(*answer["error"])
        return answer["value"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process with the binding ended: {self.process.wait()}"
        return dict(json.loads(line))

    def tell(self, code: str) -> dict[str, Any]:
        """``{"value": …}`` of an expression, or ``{"error": [name, NVML's code or None]}``."""
        self.begin(code)
        return self._answer()

    def ask(self, code: str) -> Any:
        """The value of an expression as JSON has it, or None of statements; raises Refused for what it raises."""
        self.begin(code)
        return self.answer()

    def code(self, code: str) -> int | None:
        """NVML's answer: 0 where it succeeds."""
        try:
            self.ask(code)
        except Refused as refused:
            return refused.code
        return 0


@contextmanager
def binding(sim: Simulated, *, init: bool = True, before: Sequence[str] = (), **options: Any) -> Iterator[Binding]:
    """A process with the binding under this driver, ended afterwards. ``before`` is put before its command."""
    command = [*before, sys.executable, "-m", "tests.simulated"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=sim.env, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, **options) as process:
        try:
            opened = Binding(process)
            if init:
                opened.ask("pynvml.nvmlInit()")
            yield opened
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]


def plain(value: Any) -> Any:
    """What the binding gives, as JSON has it: structures and objects as mappings, handles as what they point to."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | ctypes.Array):
        return [plain(one) for one in value]
    if isinstance(value, ctypes.Structure | ctypes.Union):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, ctypes._Pointer):
        return ctypes.cast(value, ctypes.c_void_p).value
    return plain(value.value) if hasattr(value, "value") else plain(vars(value))


def evaluated(code: str, names: dict[str, Any]) -> Any:
    try:
        compiled = compile(code, "<test>", "eval")
    except SyntaxError:
        exec(code, names)
        return None
    return plain(eval(compiled, names))


def answered(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """The value, or the error's name and NVML's number of it."""
    try:
        return {"value": evaluated(code, names)}
    except Exception as error:
        known = isinstance(error, names["pynvml"].NVMLError)
        return {"error": [f"{type(error).__name__}: {error}", getattr(error, "value", None) if known else None]}


def main() -> None:
    import time

    import pynvml

    names = {"pynvml": pynvml, "ctypes": ctypes, "time": time, "h": pynvml.nvmlDeviceGetHandleByIndex}
    for line in sys.stdin:
        print(json.dumps(answered(json.loads(line), names)), flush=True)


if __name__ == "__main__":
    main()
