"""Compiles the simulated ``libnvidia-ml.so.1``, once for each version of its source, and says where it is found."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from gradlab.errors import SimulatorError

__all__ = ["NAME", "SCENARIO", "SOURCE", "build", "environment", "functions"]

NAME = "libnvidia-ml.so.1"
SCENARIO = "NVML_SCENARIO"
SOURCE = Path(__file__).with_name("nvml.c")

# With a newer standard of C the library would need a newer C library, which the containers it is given to may lack.
# `append` in the source works on lists of every type, which C's rules on aliasing forbid.
_FLAGS = (
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-O2",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
)
_LINKING = (f"-Wl,-soname,{NAME}", "-pthread")
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 120.0
_REMEDY = "Install a C compiler, on Debian and Ubuntu with `apt install gcc libc6-dev`."


@functools.cache
def functions() -> frozenset[str]:
    """The names of NVML's functions that the library simulates."""
    table = re.search(r"#define FUNCTIONS\(F\)(.*?)\n\n", SOURCE.read_text(), re.DOTALL)
    assert table is not None
    return frozenset(re.findall(r"\bF\((\w+)\)", table[1]))


def build(folder: Path | None = None, *, without: Iterable[str] = ()) -> Path:
    """The folder that holds ``libnvidia-ml.so.1``; compiles it first if nobody has yet.

    ``folder`` is where compiled libraries are kept, ``~/.cache/gradlab/nvml-simulator`` if not given; each is in a
    folder of its own there. The functions named in ``without`` do not exist in the library, as in one of an older
    driver. Several processes may do this at once. Raises SimulatorError without a compiler that does it.
    """
    absent = sorted(set(without))
    if unknown := set(absent) - functions():
        raise ValueError(f"The simulated library has no functions {sorted(unknown)} to leave out.")
    kept = (folder or _cache()) / _key([*_FLAGS, *_LINKING, *absent])
    if not (kept / NAME).exists():
        _compile(kept, absent)
    return kept


def environment(scenario: Path, *, without: Iterable[str] = ()) -> dict[str, str]:
    """The variables with which a child process finds the library, and the library this scenario.

    They come on top of this process's own. ``without`` is as in :func:`build`.
    """
    paths = [str(build(without=without))]
    if before := os.environ.get("LD_LIBRARY_PATH"):
        paths.append(before)
    return {"LD_LIBRARY_PATH": os.pathsep.join(paths), SCENARIO: str(scenario.absolute())}


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradlab" / "nvml-simulator"


def _key(parts: list[str]) -> str:
    told = "\0".join([platform.machine(), *parts]).encode()
    return hashlib.sha256(told + b"\0" + SOURCE.read_bytes()).hexdigest()[:20]


def _compile(kept: Path, absent: list[str]) -> None:
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise SimulatorError(f"The simulated NVIDIA driver cannot be compiled: there is no {_COMPILERS[0]}. {_REMEDY}")
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept, prefix=".building-") as building:
            made, script = Path(building) / NAME, Path(building) / "symbols"
            script.write_text("{ local: " + " ".join(f"{name};" for name in ["gradlab_none", *absent]) + " };\n")
            _run([compiler, *_FLAGS, "-o", str(made), str(SOURCE), *_LINKING, f"-Wl,--version-script={script}"])
            made.chmod(0o755)  # whatever the umask: programs of other users load it, too
            made.replace(kept / NAME)
    except OSError as error:
        raise SimulatorError(
            f"The simulated NVIDIA driver cannot be kept in {kept}: {error.strerror or error}. "
            "Set XDG_CACHE_HOME to a folder that this user may write."
        ) from None


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise SimulatorError(f"{command[0]} did not compile {SOURCE} within {_SECONDS:.0f} s.") from None
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise SimulatorError(f"{command[0]} did not compile {SOURCE}: {said[-2000:]}\n{_REMEDY}")
