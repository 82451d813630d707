# %% [markdown]
# # What you are running: PyTorch, where it came from, how it got installed
#
# **You will be able to** say which PyTorch this is, who stands behind it and under which licences; give
# the right install command for a machine, or say why there is none; and find out whether pip or conda put
# it there. Each answer is read from a file on this machine or from real data, never from memory.
#
# **Before you start:** ordinary Python (dicts, strings, sorting). No PyTorch yet.
#
# **Out of scope:** GPUs and drivers (lab 2), what tensors do (lab 4), building PyTorch from source.
#
# **How it works:** 7 exercises, about 40 minutes. Each has a stub to fill in, a cell to try it out, and a
# check. `lab.check("name")` sends the notebook to the judge; `lab.hint("name")` gives you a hint, then a
# better one. The judge asks for other inputs than you see here, so write the rule, not the result.

# %%
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version


def is_written(function: Callable[..., Any], *example: Any) -> bool:
    """Whether the function has been written already; if not, one line says so."""
    try:
        function(*example)
    except NotImplementedError:
        print(f"{function.__name__} is not written yet. Fill in its cell above, run it, then run this one.")
        return False
    return True


# %% [markdown]
# ## 1. Which build is this?
#
# *"Which PyTorch are you running?"* is the first question under every bug report. "2.13" is no answer:
# the same release is built many times, once per compute platform, and a CPU build never sees your GPU.
#
# **People say:** "`torch.cuda.is_available()` tells me whether I installed the CUDA version." Find out
# what does. It is `False` on a CUDA build without a driver, too. Facts about the *build* are frozen into
# the package.
#
# Return a dict with these keys; every value is a plain `str` (or `None` where it says so):
#
# | key | value | example |
# |---|---|---|
# | `"version"` | all of the version | `"2.9.1+cu128"` |
# | `"release"` | the part before the `+` | `"2.9.1"` |
# | `"build"` | the part after the `+`, `""` if there is none | `"cu128"` |
# | `"commit"` | the git commit it was built from | `"5811a8d7da87…"` (40 characters) |
# | `"cuda"` | the CUDA version it was built with, `None` if without | `"12.8"` |

# %%
print(type(torch.__version__).__mro__)  # look closely: is it a plain str?
print(torch.__version__ > "2.9", "2.13.0" > "2.9")  # and why somebody went to that trouble


# %% exercise="running_build"
def running_build() -> dict[str, str | None]:
    """Which build of torch this process runs. (roughly 8 lines)"""
    raise NotImplementedError


# %%
if is_written(running_build):
    for key, value in running_build().items():
        print(f"{key:>8}  {value!r}")

# %%
lab.check("running_build")

# %% [markdown]
# ## 2. What is PyTorch, by its own account?
#
# **People say:** "PyTorch came out in October 2016. It is a library based on Torch, used for things like
# natural language processing, under the BSD licence." Four claims. Every installed package carries a
# passport, the file `METADATA`, that lets you test three of them; the dates come up in the next exercise.
#
# Write `passport(name)` for **any** installed package. Return a dict:
#
# * `"summary"`: the package's own one-line description, a `str`.
# * `"python"`: its `Requires-Python`, a `str`, or `None` if it declares none.
# * `"needs"`: the sorted names of the packages it needs **here, without extras**. A requirement with a
#   marker counts if the marker is true on this machine; `extra == "…"` is not, since nobody asked for an
#   extra.
# * `"licences"`: the licences named in its `License-Expression`, sorted, each once; `[]` if it has no
#   such field. `AND`, `OR` and brackets separate licences, but `X WITH Y` is *one* licence (X, with the
#   exception Y).
#
# `importlib.metadata.metadata(name)` reads the file. It behaves like an e-mail's header, so mind what
# that means for a field that is there ten times. `packaging.requirements.Requirement` parses a
# requirement and its marker.

# %%
header = importlib.metadata.metadata("torch")
for field in ("Name", "Version", "Author-email", "Requires-Dist", "License-Expression"):
    print(f"{field:>18}: {header[field]}")
for line in ("fsspec>=0.8.5", 'optree>=0.13.0; extra == "optree"', 'pywin32; sys_platform == "win32"'):
    requirement = Requirement(line)
    print(f"{line:>35}  ->  name {requirement.name!r}, marker {requirement.marker}")


# %% exercise="passport"
def passport(name: str) -> dict[str, Any]:
    """What an installed package says about itself. (roughly 12 lines)"""
    raise NotImplementedError


# %%
if is_written(passport, "torch"):
    for package in ("torch", "numpy", "packaging"):
        for key, value in passport(package).items():
            print(f"{package:>10} {key:>9}: {value}")

# %% [markdown]
# Read torch's lines again. Is anything of the old Torch, or of Lua, among what it needs? Is language
# mentioned? And how many licences does "the BSD licence" come to, once the code bundled into the wheel is
# counted?

# %%
lab.check("passport")

# %% [markdown]
# ## 3. Who created PyTorch?
#
# **People say:** "Soumith Chintala and Hugh Perkins founded it." The passport cannot settle it: its
# author is a team. But the wheel also carries the `LICENSE` file, and its copyright lines are a family
# tree. (The project's first alphas are from the summer of 2016, and the public release came in January
# 2017.)

# %%
print(parseaddr(header["Author-email"]), "\n")
licence = importlib.metadata.distribution("torch").read_text("licenses/LICENSE") or ""
print(licence[:900])

# %% [markdown]
# Write `people(licence)`: for everybody named in brackets **at the end of a copyright line**, the
# earliest year they appear under. A copyright line starts with `Copyright`; its year is the first on the
# line.
#
# ```
# Copyright (c) 2012-2014 Deepmind Technologies    (Koray Kavukcuoglu)
# Copyright (c) 2011-2012 NEC Laboratories America (Koray Kavukcuoglu)
# Copyright (c) 2001-2004 Idiap Research Institute (Ronan Collobert, Samy Bengio, Johnny Mariethoz)
# Copyright (c) 2016 Facebook Inc.
# ```
# gives `{"Koray Kavukcuoglu": 2011, "Ronan Collobert": 2001, "Samy Bengio": 2001, "Johnny Mariethoz":
# 2001}`. Not all brackets hold people, and not all brackets are on copyright lines: that is what the
# check will look at.


# %% exercise="people"
def people(licence: str) -> dict[str, int]:
    """Everybody named in a licence's copyright lines, with the earliest year. (roughly 9 lines)"""
    raise NotImplementedError


# %%
if is_written(people, licence):
    found = people(licence)
    for name, year in sorted(found.items(), key=lambda item: item[1]):
        print(year, name)
    for name in ("Adam Paszke", "Soumith Chintala", "Hugh Perkins"):
        print(f"{name}: {'since ' + str(found[name]) if name in found else 'not in the copyright lines'}")

readme = header.get_payload()
print("\nAnd the README inside the wheel says:")
for line in readme.splitlines():
    if line.startswith(("PyTorch is currently maintained", "Note: This project is unrelated")):
        print("*", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", line))

# %% [markdown]
# The lines from before 2016 come from the *old* Torch, whose C code was PyTorch's first backend.

# %%
lab.check("people")

# %% [markdown]
# ## 4. How do you install PyTorch?
#
# **People say:** "`conda install pytorch -c pytorch` with Python 3.6 and CUDA 9.0." That channel got its
# last release with 2.5; since 2.6 (January 2025) the project publishes only wheels. There is no single
# right command: it depends on the operating system, on Python and on the compute platform, and for some
# combinations the right answer is **no**.
#
# Here is an excerpt of what exists, as the project publishes it (x86-64 Linux and Windows, Apple-silicon
# macOS):

# %%
WHEELS: dict[str, dict[str, list[str]]] = {
    "2.9.1": {
        "python": ["3.10", "3.11", "3.12", "3.13", "3.14"],
        "linux": ["cpu", "cu126", "cu128", "cu130", "rocm6.4"],
        "windows": ["cpu", "cu126", "cu128", "cu130"],
        "macos": ["cpu"],
    },
    "2.10.0": {
        "python": ["3.10", "3.11", "3.12", "3.13", "3.14"],
        "linux": ["cpu", "cu126", "cu128", "cu130"],
        "windows": ["cpu", "cu126", "cu128", "cu130"],
        "macos": ["cpu"],
    },
    "2.8.0": {
        "python": ["3.9", "3.10", "3.11", "3.12", "3.13"],
        "linux": ["cpu", "cu126", "cu128", "cu129", "rocm6.4"],
        "windows": ["cpu", "cu126", "cu128", "cu129"],
        "macos": ["cpu"],
    },
    "2.7.1": {
        "python": ["3.9", "3.10", "3.11", "3.12", "3.13"],
        "linux": ["cpu", "cu118", "cu126", "cu128", "rocm6.3"],
        "windows": ["cpu", "cu118", "cu126", "cu128"],
        "macos": ["cpu"],
    },
    "2.6.0": {
        "python": ["3.9", "3.10", "3.11", "3.12", "3.13"],
        "linux": ["cpu", "cu118", "cu124", "cu126", "rocm6.1", "rocm6.2.4"],
        "windows": ["cpu", "cu118", "cu124", "cu126"],
        "macos": ["cpu"],
    },
}

# %% [markdown]
# Write `install_command(wheels, system, python, compute)` where `wheels` is a table like this one:
#
# * Take the **newest release** that has a wheel for all three. A project stuck on CUDA 11.8 still gets an
#   answer.
# * On Linux and Windows name the index of the compute platform: `pip install torch==2.7.1 --index-url
#   https://download.pytorch.org/whl/cu118`
# * On macOS there is only one build, and PyPI has it: `pip install torch==2.10.0`
# * If no release fits, raise `ValueError` with a message that contains the system, the Python and the
#   compute platform that were asked for. A system that the table has never heard of is such a case too.


# %% exercise="install_command"
def install_command(wheels: dict[str, dict[str, list[str]]], system: str, python: str, compute: str) -> str:
    """The pip command for a machine; ValueError if there is no wheel for it. (roughly 12 lines)"""
    raise NotImplementedError


# %%
if is_written(install_command, WHEELS, "linux", "3.12", "cpu"):
    for asked in (
        ("linux", "3.12", "cu130"),
        ("linux", "3.12", "cu118"),
        ("windows", "3.9", "cpu"),
        ("macos", "3.13", "cpu"),
        ("macos", "3.13", "cu128"),
        ("windows", "3.12", "rocm6.4"),
        ("linux", "3.6", "cu90"),
    ):
        try:
            print(f"{' '.join(asked):>24}  {install_command(WHEELS, *asked)}")
        except ValueError as refusal:
            print(f"{' '.join(asked):>24}  refused: {refusal}")

# %%
lab.check("install_command")

# %% [markdown]
# ## 5. Does PyTorch run on Windows?
#
# **People say:** "Only version 0.4.0 supports Windows." Instead of asking people, ask the files. A
# wheel's name says what it is for: `torch-2.10.0-3-cp313-cp313t-win_amd64.whl` would be release 2.10.0,
# build number 3 (usually left out), for CPython 3.13, for its free-threaded ABI (the `t`), on 64-bit
# Windows.
#
# These are real names, from PyPI and from the project's own index, thinned out:

# %%
FILES = """
torch-0.3.1-cp36-cp36m-linux_x86_64.whl
torch-0.4.0-cp35-cp35m-linux_x86_64.whl
torch-0.4.0-cp36-cp36m-win_amd64.whl
torch-1.0.0-cp27-cp27mu-manylinux1_x86_64.whl
torch-1.0.0-cp37-none-macosx_10_7_x86_64.whl
torch-1.7.0-cp38-cp38-manylinux1_x86_64.whl
torch-1.7.0-cp36-cp36m-win_amd64.whl
torch-1.7.0-cp37-cp37m-win_amd64.whl
torch-1.7.0-cp38-cp38m-win_amd64.whl
torch-1.13.1-cp310-cp310-win_amd64.whl
torch-1.13.1-cp37-cp37m-win_amd64.whl
torch-1.13.1-cp38-cp38-win_amd64.whl
torch-1.13.1-cp39-cp39-win_amd64.whl
torch-1.13.1-cp311-cp311-manylinux1_x86_64.whl
torch-2.0.0-1-cp311-cp311-manylinux2014_aarch64.whl
torch-2.0.0-cp311-cp311-win_amd64.whl
torch-2.5.1-cp313-cp313-manylinux1_x86_64.whl
torch-2.5.1-cp312-cp312-win_amd64.whl
torch-2.9.1+cu130-cp313-cp313-win_amd64.whl
torch-2.9.1-cp313-cp313-win_amd64.whl
torch-2.9.1-cp313-cp313t-win_amd64.whl
torch-2.10.0-2-cp310-none-macosx_11_0_arm64.whl
torch-2.10.0-3-cp313-cp313t-manylinux_2_28_x86_64.whl
torch-2.10.0-cp314-cp314t-win_amd64.whl
torch-2.10.0-cp314-cp314-win_amd64.whl
torch-2.15.0-cp311-cp311-win_amd64.whl
torch-2.15.0-cp315-cp315t-win_amd64.whl
torch-2.15.0-cp315-cp315-win_amd64.whl
torch-2.15.0-cp315-cp315-manylinux_2_28_aarch64.whl
torch_geometric-2.8.0.post1-py3-none-any.whl
pytorch-1.0.2.tar.gz
""".split()

name, version, build, tags = parse_wheel_filename("torch-2.9.1+cu130-cp313-cp313t-win_amd64.whl")
print(f"{name=!s} {version.public=} {version.local=} {build=}")
for tag in tags:
    print(f"{tag.interpreter=} {tag.abi=} {tag.platform=}")

# %% [markdown]
# Write `windows_builds(files)`: a dict from each release of **torch** with a Windows wheel to the list of
# Pythons it is built for on Windows.
#
# * A release is the version without `+cpu`, `+cu130`, …: builds of one release count together.
# * A Python is `"3.9"`, `"3.13"`, and `"3.13t"` for a free-threaded ABI; each once, in order: `["3.9",
#   "3.10", "3.13", "3.13t"]`. Windows is every platform tag that starts with `win` (`win32`, `win_amd64`,
#   `win_arm64`).
# * The list may hold other packages and files that are no wheels. Leave them out.


# %% exercise="windows_builds"
def windows_builds(files: list[str]) -> dict[str, list[str]]:
    """For each release of torch with Windows wheels, the Pythons they are for. (roughly 14 lines)"""
    raise NotImplementedError


# %%
if is_written(windows_builds, FILES):
    for release, pythons in windows_builds(FILES).items():
        print(f"{release:>8}  {' '.join(pythons)}")

# %% [markdown]
# Mind the gap: between 0.4.0 and 1.7.0 the Windows wheels were only on the project's own index, not on
# PyPI. "It was not on PyPI" and "it did not exist" are two claims. And *runs on* is not *does everything
# on*: the NCCL backend of `torch.distributed`, for one, is built for Linux only.

# %%
lab.check("windows_builds")

# %% [markdown]
# ## 6. Did pip or conda install it?
#
# The interview question is *"How do you get PyTorch into an Anaconda environment?"*
#
# **People say:** "Install Anaconda, then run the conda command from pytorch.org." The page offers none
# any more. Inside a conda environment you take `pytorch` from conda-forge, or you run pip: both end up in
# the same `site-packages`, and which one did it decides how to update it. Two things are worth knowing:
# an *import* only needs the kernel's interpreter to be the environment's, and every installer signs its
# work.
#
# Files that tell, relative to the environment's folder:
#
# | path | means |
# |---|---|
# | `conda-meta/history`, `conda-meta/*.json` | a conda environment; each JSON is the record of a package |
# | `pyvenv.cfg` | this is a virtual environment (of venv, virtualenv or uv) |
# | `…/site-packages/NAME-VERSION.dist-info/INSTALLER` | who installed it, one line: `pip`, `conda`, `uv` … |

# %%
EXAMPLE = {  # a conda environment in which pip then replaced conda's torch
    "conda-meta/history": "==> 2025-01-10 09:12:44 <==\n",
    "conda-meta/numpy-2.2.1-py312h72c5963_0.json": json.dumps(
        {"name": "numpy", "files": ["lib/python3.12/site-packages/numpy-2.2.1.dist-info/METADATA"]}
    ),
    "conda-meta/pytorch-2.5.1-cpu_mkl_py312_h01fbe9c_108.json": json.dumps(
        {"name": "pytorch", "files": ["lib/python3.12/site-packages/torch-2.5.1.dist-info/METADATA"]}
    ),
    "lib/python3.12/site-packages/numpy-2.2.1.dist-info/INSTALLER": "conda\n",
    "lib/python3.12/site-packages/torch-2.9.1.dist-info/INSTALLER": "pip\n",
    "lib/python3.12/site-packages/torch_geometric-2.7.0.dist-info/INSTALLER": "uv\n",
}

# %% [markdown]
# Write `origin(files, package)` with `files` a dict from path to text, as above. Return a dict:
#
# * `"environment"`: `"conda"` if there is anything in `conda-meta/`, else `"venv"` if there is a
#   `pyvenv.cfg` at the top, else `"system"`.
# * `"installer"`: what the package's own `INSTALLER` says, or `None` if there is no such file.
# * `"replaced"`: `True` if the installer is somebody other than conda while a conda record still lists a
#   `.dist-info` of that package, whatever the version: conda believes it owns what another tool has
#   written over. Else `False`.
#
# Names: `torch-geometric`, `torch_geometric` and `Torch.Geometric` are the same package
# (`packaging.utils.canonicalize_name`), but `torch` is another one. In a folder's name
# `NAME-VERSION.dist-info` neither part contains a `-`. Conda's own names may differ (`pytorch`): go by
# the files.


# %% exercise="origin"
def origin(files: dict[str, str], package: str) -> dict[str, Any]:
    """Which environment this is and who put the package there. (roughly 16 lines)"""
    raise NotImplementedError


# %%
if is_written(origin, EXAMPLE, "torch"):
    for package in ("torch", "numpy", "torch-geometric"):
        print(f"{package:>16}: {origin(EXAMPLE, package)}")


# %% [markdown]
# And this kernel? The first table says which interpreter runs; the shell's `CONDA_PREFIX` is only a
# variable.


# %%
def environment_files(prefix: Path) -> dict[str, str]:
    """The telling files of a real environment, as `origin` wants them."""
    patterns = ("pyvenv.cfg", "conda-meta/*", "lib/python*/site-packages/*.dist-info/INSTALLER")
    found = [path for pattern in patterns for path in prefix.glob(pattern) if path.is_file()]
    return {path.relative_to(prefix).as_posix(): path.read_text(encoding="utf-8") for path in found}


print("sys.executable  ", sys.executable)
print("sys.prefix      ", sys.prefix)
print("sys.base_prefix ", sys.base_prefix, "(differs from sys.prefix in a virtual environment)")
print("CONDA_PREFIX    ", os.environ.get("CONDA_PREFIX"))
print("torch.__file__  ", torch.__file__)
if is_written(origin, EXAMPLE, "torch"):
    print("torch here      ", origin(environment_files(Path(sys.prefix)), "torch"))

# %%
lab.check("origin")

# %% [markdown]
# ## 7. How do Anaconda and Miniconda differ?
#
# **People say:** "Anaconda is a set of about a hundred packages." Its maker's documentation says that the Anaconda
# Distribution installs more than 300; the list of any installation is a command away: `conda list --export` prints
# `name=version=build`, one a line, and comment lines that start with `#`. Below are two short lists in that form,
# written for this exercise: real package names, invented versions and builds.

# %%
MINICONDA = """
# This file may be used to create an environment
# platform: linux-64
archspec=0.3.0=py_0
bzip2=1.1.0=h5_0
certifi=2026.1=py_1
conda=26.2=py_0
conda-libmamba-solver=26.1=py_0
cryptography=46.0=py_2
openssl=3.5.1=h5_0
pip=26.0=py_0
pydantic=2.12=py_0
python=3.13.4=h9_100
requests=2.33=py_0
sqlite=3.51=h5_1
zstd=1.5.7=h5_0
"""

ANACONDA = """
# platform: linux-64
anaconda-navigator=2.7=py_0
  bokeh=3.8=py_0
bzip2=1.1.0=h5_4
certifi=2026.1=py_1
conda=26.1=py_0
conda-build=26.1=py_0
jupyterlab=4.5=py_0

matplotlib=3.10=py_1
numpy=2.3=py_0
openssl=3.5.1=h5_0
pandas=2.3=py_0
pip=26.0=py_0
pydantic=2.11=py_1
python=3.12.9=h9_100
scikit-learn=1.7=py_0
spyder=6.1=py_0
statsmodels=0.15=py_0
"""

print(MINICONDA)

# %% [markdown]
# Write `compare(first, second)` for two such texts. Return a dict:
#
# * `"only_first"`, `"only_second"`: the sorted names that only one of them has.
# * `"other_version"`: for names that both have in different versions, a pair: `{"pydantic": ("1.10.12",
#   "2.11.7")}`. The same version in another build is not a difference.
#
# Skip comments and empty lines; a text may have spaces around its lines.


# %% exercise="compare"
def compare(first: str, second: str) -> dict[str, Any]:
    """What distinguishes two outputs of `conda list --export`. (roughly 12 lines)"""
    raise NotImplementedError


# %%
if is_written(compare, ANACONDA, MINICONDA):
    difference = compare(ANACONDA, MINICONDA)
    print("only in the long list:", *difference["only_first"])
    print("only in the short list:", *difference["only_second"])
    print("in another version:", difference["other_version"])
installed = {canonicalize_name(one.metadata["Name"]) for one in importlib.metadata.distributions()}
print(f"installed in this environment: {len(installed)} distributions;", end=" ")
print("conda environment:", Path(sys.prefix, "conda-meta").is_dir())

# %% [markdown]
# The short list is what conda itself needs; the long one adds what people work with. What the two distributions
# share is the default channel, and with it the channel's terms of use.

# %%
lab.check("compare")
