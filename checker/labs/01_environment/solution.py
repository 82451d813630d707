# %%
import importlib.metadata
import json
import re
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version


# %% exercise="running_build"
def running_build() -> dict[str, str | None]:
    version = str(torch.__version__)
    release, _, build = version.partition("+")
    return {
        "version": version,
        "release": release,
        "build": build,
        "commit": torch.version.git_version,
        "cuda": torch.version.cuda,
    }


# %% exercise="passport"
def passport(name: str) -> dict[str, Any]:
    header = importlib.metadata.metadata(name)
    requirements = [Requirement(line) for line in header.get_all("Requires-Dist") or ()]
    here = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    expression = header["License-Expression"] or ""
    parts = re.split(r"\bAND\b|\bOR\b|[()]", expression)
    return {
        "summary": header["Summary"],
        "python": header["Requires-Python"],
        "needs": sorted({r.name for r in here}),
        "licences": sorted({part.strip() for part in parts if part.strip()}),
    }


# %% exercise="people"
def people(licence: str) -> dict[str, int]:
    earliest: dict[str, int] = {}
    for line in licence.splitlines():
        names = re.search(r"\(([^()]*)\)\s*$", line)
        year = re.search(r"\d{4}", line)
        if line.startswith("Copyright") and names and year:
            for name in names[1].split(","):
                name = name.strip()
                earliest[name] = min(int(year[0]), earliest.get(name, 9999))
    return earliest


# %% exercise="install_command"
def install_command(wheels: dict[str, dict[str, list[str]]], system: str, python: str, compute: str) -> str:
    fitting = [
        release
        for release, row in wheels.items()
        if python in row["python"] and compute in row.get(system, ())
    ]
    if not fitting:
        raise ValueError(f"There is no wheel for Python {python} with {compute} on {system}.")
    command = f"pip install torch=={max(fitting, key=Version)}"
    if system == "macos":
        return command
    return f"{command} --index-url https://download.pytorch.org/whl/{compute}"


# %% exercise="windows_builds"
def windows_builds(files: list[str]) -> dict[str, list[str]]:
    builds: dict[str, set[tuple[int, int, str]]] = {}
    for file in files:
        if not file.endswith(".whl"):
            continue
        name, version, _, tags = parse_wheel_filename(file)
        for tag in tags:
            if name == "torch" and tag.platform.startswith("win"):
                python = (int(tag.interpreter[2]), int(tag.interpreter[3:]), "t" if tag.abi.endswith("t") else "")
                builds.setdefault(version.public, set()).add(python)
    return {
        release: [f"{major}.{minor}{free}" for major, minor, free in sorted(pythons)]
        for release, pythons in builds.items()
    }


# %% exercise="origin"
def origin(files: dict[str, str], package: str) -> dict[str, Any]:
    def is_of_package(path: str) -> bool:
        folder = re.search(r"(?:^|/)([^/-]+)-[^/-]+\.dist-info/", path)
        return folder is not None and canonicalize_name(folder[1]) == canonicalize_name(package)

    records = [path for path in files if path.startswith("conda-meta/")]
    environment = "conda" if records else "venv" if "pyvenv.cfg" in files else "system"
    signed = [text for path, text in files.items() if path.endswith("/INSTALLER") and is_of_package(path)]
    installer = signed[0].strip() if signed else None
    listed = [path for record in records if record.endswith(".json") for path in json.loads(files[record])["files"]]
    owned = any(is_of_package(path) for path in listed)
    return {
        "environment": environment,
        "installer": installer,
        "replaced": owned and installer not in (None, "conda"),
    }


# %% exercise="compare"
def compare(first: str, second: str) -> dict[str, Any]:
    def versions(text: str) -> dict[str, str]:
        lines = [line.strip() for line in text.splitlines()]
        parts = [line.split("=") for line in lines if line and not line.startswith("#")]
        return {part[0]: part[1] for part in parts}

    a, b = versions(first), versions(second)
    return {
        "only_first": sorted(a.keys() - b.keys()),
        "only_second": sorted(b.keys() - a.keys()),
        "other_version": {name: (a[name], b[name]) for name in a.keys() & b.keys() if a[name] != b[name]},
    }
