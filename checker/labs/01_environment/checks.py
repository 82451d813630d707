# %% tags=["parameters"]
job = ""

# %%
import email
import functools
import importlib.metadata
import json
import re
from pathlib import Path

import torch
from checker.compare import difference
from checker.spec import Failure, begin
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

check, student, draw = begin(job)


# %%
def texts(value):
    """Whether it is a list of plain texts, which can be compared and sorted; anything may have been returned."""
    return type(value) is list and all(type(one) is str for one in value)


# %% [markdown]
# ## running_build
#
# The judge's torch is the one in the sandbox, so every fact is compared with the live package.


# %%
@check("running_build")
def tells_the_version():
    """The version, taken apart into release and build, is that of the torch that runs, as plain strings."""
    full = str(torch.__version__)
    release, _, build = full.partition("+")
    parts = {"version": full, "release": release, "build": build}
    answer = student.running_build().as_dict(parts)
    for key, want in parts.items():
        if key not in answer:
            raise Failure(f"running_build() returned a dict without the key {key!r}.")
        got = answer[key]
        if type(got) is not str:
            raise Failure(f"running_build()[{key!r}] is {got!r}, not a str.")
        if got != want:
            raise Failure(f"running_build()[{key!r}] is {got!r}; the torch that runs here has {want!r}.")


# %%
@check("running_build")
def tells_what_it_was_built_from():
    """The commit and the CUDA version are those that were frozen into this build."""
    facts = {"commit": torch.version.git_version, "cuda": torch.version.cuda}
    answer = student.running_build().as_dict(facts)
    for key in facts:
        if key not in answer:
            raise Failure(f"running_build() returned a dict without the key {key!r}.")
    if type(answer["cuda"]) is bool:
        raise Failure(
            "running_build()['cuda'] is a bool: whether a GPU can be used now. Asked is the CUDA version the package "
            "was built with, which is there without any GPU."
        )
    for key, want in facts.items():
        if type(answer[key]) is not type(want) or answer[key] != want:
            raise Failure(f"running_build()[{key!r}] is {answer[key]!r}; this build says {want!r}.")
    for key in answer:
        if key not in ("version", "release", "build", "commit", "cuda"):
            raise Failure(f"running_build() returned a dict with the key {key!r}, which nobody asked for.")


# %% [markdown]
# ## passport
#
# Asked are distributions that are wherever torch and a notebook are: the judge may have others than the learner's
# environment. They are sorted by what makes them interesting.


# %%
def requirements_of(header):
    return [Requirement(line) for line in header.get_all("Requires-Dist") or ()]


def needed_here(header):
    """Names, as METADATA has them, whose marker is true in this interpreter without any extra."""
    found = requirements_of(header)
    return [one.name for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def passport_of(name):
    header = importlib.metadata.metadata(name)
    parts = re.split(r"\bAND\b|\bOR\b|[()]", header["License-Expression"] or "")
    return {
        "summary": header["Summary"],
        "python": header["Requires-Python"],
        "needs": sorted(set(needed_here(header))),
        "licences": sorted({part.strip() for part in parts if part.strip()}),
    }


def ask_passport(name):
    """Compare one passport field by field, with a word on what usually goes wrong there."""
    answer, want = student.passport(name), passport_of(name)
    header = importlib.metadata.metadata(name)
    got = answer.as_dict(want)
    for key in ("needs", "licences"):
        if texts(got.get(key)) and got[key] != want[key] and set(got[key]) == set(want[key]):
            raise Failure(f"{answer.call}[{key!r}] has the right names, but not sorted and each once.")
    needs = got.get("needs")
    if texts(needs) and needs != want["needs"]:
        named = [r.name for r in requirements_of(header)]
        if set(needs) == set(named):
            raise Failure(
                f"{answer.call}['needs'] lists every requirement, also those whose marker is false here. "
                "Most belong to extras, which are installed only on request."
            )
        if len(needs) == 1 < len(want["needs"]):
            raise Failure(
                f"{answer.call}['needs'] has one name, but METADATA has {len(named)} lines Requires-Dist. Square "
                "brackets give the first line of that name only; look for the method that gets all of them."
            )
    licences = got.get("licences")
    if texts(licences) and any(one.startswith(("WITH", "LLVM")) for one in licences):
        raise Failure(
            f"{answer.call}['licences'] has torn 'X WITH Y' apart: an exception is no licence of its own, it belongs to "
            "the licence before it."
        )
    answer.equals(want)


@functools.cache
def headers():
    """The headers of torch, numpy, ipykernel and all they need, by name, where there is a summary.

    Only that part is parsed: most of METADATA is a README.
    """
    found, names = {}, ["torch", "numpy", "ipykernel"]
    while names:
        name = canonicalize_name(names.pop())
        if name not in found:
            text = importlib.metadata.distribution(name).read_text("METADATA")
            found[name] = email.message_from_string(text.partition("\n\n")[0] + "\n\n")
            names += needed_here(found[name])
    return {name: header for name, header in found.items() if header["Summary"]}


def names_where(wanted):
    """Distributions, by name, whose METADATA satisfies a predicate; sorted so that a seed gives the same draw."""
    return sorted(name for name, header in headers().items() if wanted(header))


# %%
@check("passport")
def reads_torch():
    """PyTorch's own passport: what it is, which Python it needs, what it depends on, under which licences."""
    ask_passport("torch")


# %%
@check("passport")
def reads_packages_with_one_licence():
    """Packages with a single licence."""
    single = names_where(lambda h: re.fullmatch(r"[\w.+-]+", h["License-Expression"] or ""))
    for name in draw.sample(single, min(3, len(single))):
        ask_passport(name)


# %%
@check("passport")
def reads_packages_with_several_licences():
    """Packages with a licence expression: AND, OR."""
    several = names_where(lambda h: re.search(r" (AND|OR) ", h["License-Expression"] or ""))
    for name in draw.sample(several, min(3, len(several))):
        ask_passport(name)


# %%
@check("passport")
def reads_packages_that_say_little():
    """Packages that declare no licence expression, no requirement, or requirements for extras only."""
    silent = names_where(lambda h: h["License-Expression"] is None)
    needless = names_where(lambda h: h["Requires-Dist"] is None)
    extras = names_where(lambda h: h["Requires-Dist"] and all("extra" in line for line in h.get_all("Requires-Dist")))
    for group in (silent, needless, extras):
        for name in draw.sample(group, min(2, len(group))):
            ask_passport(name)


# %% [markdown]
# ## people


# %%
BSD = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR
CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF
SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS)
SUCH DAMAGE, 2012 EDITION (SEE ABOVE)
"""


def person():
    return f"{draw.word(draw.integer(3, 7)).title()} {draw.word(draw.integer(4, 9)).title()}"


def family(count):
    """A licence with ``count`` copyright lines, and the earliest year of everybody in it."""
    crowd = [person() for _ in range(4)]
    lines, earliest = [], {}
    for _ in range(count):
        year = draw.integer(1991, 2019)
        years = draw.choice([f"{year}-", f"{year}-{year + 5}", f"{year}", f"{year}, {year + 2}-{year + 4}"])
        names = draw.sample(crowd, draw.integer(1, 3))
        owner = draw.choice(["Facebook, Inc", "Idiap Research Institute", "NYU", "NEC Laboratories America"])
        sign = draw.choice(["Copyright (c)", "Copyright(c)", "Copyright"])
        lines.append(f"{sign} {years:<9} {owner:<24} ({', '.join(names)})")
        for name in names:
            earliest[name] = min(year, earliest.get(name, 9999))
    return lines, earliest


def latest_of(lines):
    """The mistake of the last line winning."""
    last = {}
    for line in lines:
        year = int(re.search(r"\d{4}", line)[0])
        last.update({name.strip(): year for name in re.search(r"\(([^()]*)\)\s*$", line)[1].split(",")})
    return last


def first_of(lines):
    """The mistake of the first line winning."""
    return latest_of(lines[::-1])


def no_people(answer, want):
    """No name is from a bracket that holds none, and each is one name without blanks."""
    got = answer.as_dict(want)
    if "c" in got or any("(c" in str(name) or ")" in str(name) for name in got):
        raise Failure(f"{answer.call}: the brackets of '(c)' hold nobody's name; only those at the end of a line do.")
    if any(name != name.strip() for name in got if type(name) is str):
        raise Failure(f"{answer.call}: some names still have blanks around them.")
    if any("," in name for name in got if type(name) is str):
        raise Failure(f"{answer.call}: several people share one pair of brackets; a comma separates them.")


# %%
@check("people")
def reads_the_licence_of_torch():
    """Everybody in the LICENSE file inside torch's wheel, from whatever brackets stand there."""
    text = importlib.metadata.distribution("torch").read_text("licenses/LICENSE")
    lines = [line for line in text.splitlines() if line.startswith("Copyright") and line.rstrip().endswith(")")]
    want = {}
    for line in lines:
        year = int(re.search(r"\d{4}", line)[0])
        for name in re.search(r"\(([^()]*)\)\s*$", line)[1].split(","):
            want[name.strip()] = min(year, want.get(name.strip(), 9999))
    answer = student.people(text)
    no_people(answer, want)
    answer.equals(want, diagnose={"Of several lines the earliest year counts, not the first one.": first_of(lines)})


# %%
@check("people")
def keeps_the_earliest_year():
    """Somebody on several lines keeps the earliest year, in whatever order the lines come."""
    for _ in range(6):
        lines, want = family(draw.integer(2, 7))
        answer = student.people("From PyTorch:\n\n" + "\n".join(lines) + "\n\nAll rights reserved.\n")
        no_people(answer, want)
        answer.equals(
            want,
            diagnose={
                "Of several lines the earliest year counts, not the last one.": latest_of(lines),
                "Of several lines the earliest year counts, not the first one.": first_of(lines),
            },
        )


# %%
@check("people")
def leaves_out_what_is_no_name():
    """Companies without brackets, '(c)', and brackets in the licence's own text give no people."""
    year = draw.integer(2012, 2020)
    for line in (f"Copyright (c) {year} Facebook Inc.", f"Copyright(c) {year}, {year + 1} the respective contributors"):
        answer = student.people(f"All contributions by Kakao Brain:\n{line}\nAll rights reserved.\n")
        no_people(answer, {})
        answer.equals({})
    lines, want = family(1)
    answer = student.people(BSD + lines[0] + "   \n" + BSD)
    no_people(answer, want)
    got = answer.value
    shouted = [name for name in got if "NOT LIMITED" in str(name) or str(name).isupper()]
    if shouted:
        raise Failure(f"{answer.call}: {shouted[0]!r} is from the licence's own text. Look at copyright lines only.")
    if not got:
        raise Failure(f"{answer.call} found nobody, but there is {lines[0]!r}, with blanks at its end.")
    answer.equals(want)
    student.people("").equals({})


# %% [markdown]
# ## install_command
#
# Every table is drawn anew, so the releases of the notebook are of no use.


# %%
INDEX = "https://download.pytorch.org/whl/"


def wheels_table():
    """Releases in random order, the newer ones with 2.10-like minors and newer CUDA; every platform is non-empty."""
    minors = draw.shuffled([9, 10, *draw.sample([6, 7, 8, 11, 12, 13, 14], 4)])
    table = {}
    for minor in minors:
        oldest = 9 if minor < 9 else 10
        cuda = draw.sample(["cu118", "cu121", "cu124", "cu126", "cu128", "cu129", "cu130"], 3)
        table[f"2.{minor}.{draw.integer(0, 2)}"] = {
            "python": [f"3.{n}" for n in range(oldest, draw.integer(12, 15))],
            "linux": ["cpu", *cuda, f"rocm6.{draw.integer(0, 4)}"],
            "windows": ["cpu", *cuda],
            "macos": ["cpu"],
        }
    return table


def fitting(table, system, python, compute):
    return [r for r, row in table.items() if python in row["python"] and compute in row.get(system, ())]


def command_for(release, system, compute):
    command = f"pip install torch=={release}"
    return command if system == "macos" else f"{command} --index-url {INDEX}{compute}"


def combinations(table):
    computes = sorted({c for row in table.values() for system in ("linux", "windows") for c in row[system]})
    return [(s, f"3.{n}", c) for s in ("linux", "windows", "macos") for n in range(9, 15) for c in computes]


# %%
@check("install_command")
def names_the_newest_that_fits():
    """The newest release with a wheel for the system, the Python and the compute platform, and its index."""
    for _ in range(2):
        table = wheels_table()
        possible = [one for one in combinations(table) if one[0] != "macos" and fitting(table, *one)]
        for system, python, compute in draw.sample(possible, min(8, len(possible))):
            releases = fitting(table, system, python, compute)
            want = command_for(max(releases, key=Version), system, compute)
            alphabetical = command_for(max(releases), system, compute)
            bare = want.partition(" --")[0]
            hints = {"That is the newest in the alphabet. As a version, 2.10 is newer than 2.9.": alphabetical}
            hints["Without an index pip takes PyPI's default build, which may be for another platform."] = bare
            hints = {message: value for message, value in hints.items() if value != want}
            answer = student.install_command(table, system, python, compute)
            if answer.error is not None and answer.error.type == "ValueError":
                raise Failure(
                    f"{answer.call} refused, though release {max(releases, key=Version)} has that wheel. A newer "
                    "release that lacks it is no reason: keep looking for an older one."
                )
            answer.equals(want, diagnose=hints)


# %%
@check("install_command")
def names_no_index_on_macos():
    """On macOS the command has no index: PyPI has the only build there is."""
    table = wheels_table()
    possible = [one for one in combinations(table) if one[0] == "macos" and fitting(table, *one)]
    for system, python, compute in draw.sample(possible, min(3, len(possible))):
        newest = max(fitting(table, system, python, compute), key=Version)
        answer = student.install_command(table, system, python, compute)
        with_index = f"pip install torch=={newest} --index-url {INDEX}cpu"
        answer.equals(
            command_for(newest, system, compute),
            diagnose={"On macOS there is one build, and PyPI has it: no index is named.": with_index},
        )


# %%
@check("install_command")
def refuses_what_does_not_exist():
    """No wheel, no command: a ValueError that names the system, the Python and the compute platform."""
    table = wheels_table()
    impossible = [one for one in combinations(table) if not fitting(table, *one)]
    refused = [
        *draw.sample(impossible, min(4, len(impossible))),
        ("macos", "3.11", "cu128"),
        ("windows", "3.11", "rocm6.4"),
        ("linux", "3.6", "cu90"),
        ("linux", "3.1", "cpu"),
        (draw.choice(["solaris", "freebsd", "python"]), "3.11", "cpu"),
    ]
    for system, python, compute in refused:
        answer = student.install_command(table, system, python, compute)
        unknown = system not in ("linux", "windows", "macos")
        answer.raises(
            "ValueError",
            otherwise=f"The table knows no system {system!r}: that is a refusal too." if unknown else "",
        )
        missing = [word for word in (system, python, compute) if word not in answer.error.message]
        if missing:
            raise Failure(
                f"{answer.call} refuses with {answer.error.message!r}. Who reads that in a log wants to know what was "
                f"asked for: {missing[0]!r} is not in it."
            )


# %%
@check("install_command")
def leaves_the_table_alone():
    """An empty table refuses, and no table is changed."""
    table = wheels_table()
    student.install_command({}, "linux", "3.12", "cpu").raises("ValueError", otherwise="The table is empty.")
    release = max(table, key=Version)
    student.install_command(table, "linux", table[release]["python"][0], "cpu").left_alone(
        table, "linux", table[release]["python"][0], "cpu"
    )


# %% [markdown]
# ## windows_builds
#
# Names with the tags of real releases, as PyPI and the project's index list them.


# %%
def wheel(version, python, platform, build="", free=False, none=False):
    """A wheel's file name as torch's releases have them: cp36-cp36m, cp38-cp38, cp313-cp313t, cp37-none."""
    interpreter = f"cp{python.replace('.', '')}"
    abi = interpreter + ("t" if free else "mu" if python == "2.7" else "m" if python in ("3.5", "3.6", "3.7") else "")
    parts = ["torch", version, *([build] if build else []), interpreter, "none" if none else abi, platform]
    return "-".join(parts) + ".whl"


def pythons_sorted(pythons):
    return sorted(pythons, key=lambda text: (int(text.rstrip("t").split(".")[1]), text.endswith("t")))


# %%
@check("windows_builds")
def finds_the_windows_wheels():
    """Releases with Windows wheels and the Pythons they are for; releases without are not there."""
    for _ in range(3):
        files, want = [], {}
        for version in draw.sample(["0.4.0", "1.6.0", "1.7.1", "1.13.1", "2.0.1", "2.9.1", "2.10.0", "2.15.0"], 5):
            pythons = draw.sample(["3.6", "3.7", "3.8", "3.9", "3.10", "3.12", "3.14"], 4)
            for python in pythons:
                files.append(wheel(version, python, draw.choice(["linux_x86_64", "manylinux_2_28_x86_64"])))
                files.append(wheel(version, python, "macosx_10_9_x86_64", none=True))
            if draw.boolean():
                files += [wheel(version, python, "win_amd64") for python in pythons]
                want[version] = pythons_sorted(pythons)
        answer = student.windows_builds(draw.shuffled(files))
        for release, pythons in answer.as_dict(want).items():
            known = release in want and texts(pythons) and pythons != want[release]
            if known and sorted(pythons) == sorted(want[release]):
                raise Failure(
                    f"{answer.call}: the Pythons of {release} are not in order: {pythons}. 3.9 comes before 3.10; "
                    "the alphabet says otherwise."
                )
        answer.equals(want)


# %%
@check("windows_builds")
def understands_every_part_of_a_name():
    """Build numbers, free-threaded Pythons and 32-bit or ARM Windows are understood."""
    release, number = f"2.{draw.integer(10, 15)}.0", str(draw.integer(1, 9))
    numbered = [wheel(release, "3.13", "win_amd64", build=number)]
    hint = f"The {number!r} in that name is a build number: most names have none, and here the Python comes after it."
    answer = student.windows_builds(numbered)
    if answer.error is not None or difference(answer.value, {release: ["3.13"]}) is not None:
        raise Failure(f"{answer.call} is wrong. {hint}")
    free = [wheel(release, "3.13", "win_amd64", free=True)]
    hint = "A t at the end of the ABI means free-threaded: another Python than the one without."
    student.windows_builds(free).equals({release: ["3.13t"]}, diagnose={hint: {release: ["3.13"]}})
    for platform in ("win_arm64", "win32"):
        hint = f"{platform} is Windows, too: every platform tag that starts with win."
        answer = student.windows_builds([wheel(release, "3.12", platform)])
        answer.equals({release: ["3.12"]}, diagnose={hint: {}})
    old = [wheel("1.0.0", "2.7", "win_amd64")]
    student.windows_builds(old).equals({"1.0.0": ["2.7"]})
    three = (("3.14", True), ("3.9", False), ("3.14", False))
    mixed = [wheel(release, python, "win_amd64", free=free) for python, free in three]
    student.windows_builds(mixed).equals({release: ["3.9", "3.14", "3.14t"]})


# %%
@check("windows_builds")
def counts_builds_of_a_release_together():
    """Builds for several compute platforms are one release, and no Python is listed twice."""
    minor = draw.integer(4, 14)
    labels = ["", "+cpu", *draw.sample(["+cu118", "+cu126", "+cu128", "+cu130"], 2)]
    files = [wheel(f"2.{minor}.1{label}", python, "win_amd64") for label in labels for python in ("3.11", "3.12")]
    separate = {f"2.{minor}.1{label}": ["3.11", "3.12"] for label in labels}
    student.windows_builds(draw.shuffled(files)).equals(
        {f"2.{minor}.1": ["3.11", "3.12"]},
        diagnose={"What follows the + is the build, not the release: count them together.": separate},
    )


# %%
@check("windows_builds")
def leaves_out_everything_else():
    """Other packages and files that are no wheels do not count."""
    others = [
        "torchvision-0.24.1-cp313-cp313-win_amd64.whl",
        "torchaudio-2.9.1+cpu-cp312-cp312-win_amd64.whl",
        "torch_geometric-2.8.0.post1-py3-none-any.whl",
        "pytorch-1.0.2.tar.gz",
        "torch-2.9.1-cp313-cp313-win_amd64.whl.metadata",
    ]
    own = wheel("2.8.0", "3.11", "win_amd64")
    answer = student.windows_builds(draw.shuffled([*others, own]))
    want = {"2.8.0": ["3.11"]}
    if {"0.24.1", "2.9.1", "2.9.1+cpu"} & set(answer.as_dict(want)):
        raise Failure(f"{answer.call}: only wheels of the package torch count, and there is a neighbour's in it.")
    answer.equals(want)
    student.windows_builds([]).equals({})


# %% [markdown]
# ## origin
#
# Small environments made of paths and texts, and the real one that the judge's torch is in.


# %%
def site(python="3.12"):
    return draw.choice([f"lib/python{python}/site-packages", "Lib/site-packages"])


def installed(folder, name, version, by):
    """What an installer leaves behind in site-packages."""
    home = f"{folder}/{name.replace('-', '_')}-{version}.dist-info"
    return {f"{home}/METADATA": f"Name: {name}\nVersion: {version}\n", f"{home}/INSTALLER": f"{by}\n"}


def recorded(folder, conda_name, name, version):
    """The record of one conda package."""
    home = f"{folder}/{name.replace('-', '_')}-{version}.dist-info"
    files = [f"{folder}/{name.replace('-', '_')}/__init__.py", f"{home}/METADATA", f"{home}/INSTALLER"]
    text = json.dumps({"name": conda_name, "version": version, "channel": "conda-forge", "files": files})
    return {f"conda-meta/{conda_name}-{version}-py312_{draw.integer(0, 9)}.json": text}


def shuffled(*parts):
    together = {path: text for part in parts for path, text in part.items()}
    return {path: together[path] for path in draw.shuffled(list(together))}


def ask_origin(files, package, environment, installer, replaced, mistakes=()):
    answer = student.origin(files, package)
    want = {"environment": environment, "installer": installer, "replaced": replaced}
    got = answer.as_dict(want)
    if isinstance(got.get("installer"), str) and got["installer"] != got["installer"].strip():
        raise Failure(f"{answer.call}['installer'] is {got['installer']!r}: the file ends its line, the name does not.")
    for key, value, message in mistakes:
        if key in got and type(got[key]) is type(value) and got[key] == value:
            raise Failure(f"{answer.call}[{key!r}] is {value!r}. {message}")
    answer.equals(want)


HISTORY = {"conda-meta/history": "==> 2025-01-10 09:12:44 <==\n"}
VENV = {"pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.12.3\n"}
SIGNED = "An environment of conda's does not make the package conda's: its INSTALLER says who put it there."
NEIGHBOUR = "That is another package's signature, whose name only begins the same."
RECORD = "A conda record still lists this package's dist-info. Conda's name for it may differ: go by its files."


# %%
@check("origin")
def tells_environments_apart():
    """Conda environments, virtual environments and plain installations are told apart by their files."""
    folder = site()
    torch_files = installed(folder, "torch", "2.9.1", "pip")
    ask_origin(shuffled(VENV, torch_files), "torch", "venv", "pip", False)
    ask_origin(shuffled(torch_files), "torch", "system", "pip", False)
    ask_origin(shuffled(HISTORY, torch_files), "torch", "conda", "pip", False, [("installer", "conda", SIGNED)])
    ask_origin(shuffled(HISTORY), "torch", "conda", None, False, [("installer", "conda", SIGNED)])
    below = {f"{folder}/somewhere/pyvenv.cfg": VENV["pyvenv.cfg"]}
    ask_origin(shuffled(below, torch_files), "torch", "system", "pip", False)
    ask_origin({}, "torch", "system", None, False)


# %%
@check("origin")
def reads_the_signature():
    """The installer is what the package's own INSTALLER says: pip, conda, uv, or nobody."""
    by = draw.shuffled(["pip", "conda", "uv", "poetry 1.8.3"])
    folder = site()
    packages = dict(zip(draw.shuffled(["torch", "torchvision", "torch-geometric", "pytorch-metric-learning"]), by))
    version = f"{draw.integer(0, 3)}.{draw.integer(0, 20)}.0"
    parts = [installed(folder, name, version, who) for name, who in packages.items()]
    files = shuffled(VENV, *parts)
    for name, who in packages.items():
        others = [("installer", other, NEIGHBOUR) for other in packages.values() if other != who]
        ask_origin(files, name, "venv", who, False, others)
    spelled = draw.choice(["torch_geometric", "Torch.Geometric", "TORCH-geometric"])
    ask_origin(files, spelled, "venv", packages["torch-geometric"], False)
    unsigned = {f"{folder}/torchaudio-2.9.1.dist-info/METADATA": "Name: torchaudio\n"}
    ask_origin(shuffled(files, unsigned), "torchaudio", "venv", None, False)


# %%
@check("origin")
def sees_what_was_replaced():
    """A package that conda recorded and another tool replaced is found, whatever conda calls it."""
    folder, old, new = site(), f"2.{draw.integer(1, 5)}.1", f"2.{draw.integer(6, 9)}.0"
    record = recorded(folder, "pytorch", "torch", old)
    vision = recorded(folder, "torchvision", "torchvision", "0.20.1")
    bystander = {**vision, **recorded(folder, "numpy", "numpy", "2.2.1")}
    numpy_files = installed(folder, "numpy", "2.2.1", "conda")
    who = draw.choice(["pip", "uv"])
    over = shuffled(HISTORY, record, bystander, numpy_files, installed(folder, "torch", new, who))
    ask_origin(over, "torch", "conda", who, True, [("installer", "conda", SIGNED), ("replaced", False, RECORD)])
    owned = "Conda installed it and still owns it: nothing was replaced."
    ask_origin(over, "numpy", "conda", "conda", False, [("replaced", True, owned)])
    kept = shuffled(HISTORY, record, bystander, installed(folder, "torch", old, "conda"))
    ask_origin(kept, "torch", "conda", "conda", False, [("replaced", True, owned)])
    never = shuffled(HISTORY, bystander, installed(folder, "torch", new, who))
    foreign = "Conda's records list other packages only; nothing of this one was replaced."
    ask_origin(never, "torch", "conda", who, False, [("replaced", True, foreign)])
    gone = shuffled(HISTORY, record, bystander)
    nobody = "There is no installer: nothing is in its place."
    ask_origin(gone, "torch", "conda", None, False, [("replaced", True, nobody)])


# %%
@check("origin")
def reads_a_real_environment():
    """A real environment: a virtual one, with all that is installed beside torch."""
    folder = Path(torch.__file__).parents[1]
    signed = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.glob("*.dist-info/INSTALLER")}
    inside = site()
    files = VENV | {f"{inside}/{path}": text for path, text in signed.items()}
    by = importlib.metadata.distribution("torch").read_text("INSTALLER")
    ask_origin(files, "torch", "venv", by.strip() if by else None, False)


# %% [markdown]
# ## compare


# %%
def manifests(count):
    """Two manifests as dicts from name to (version, build), with something in every class."""
    endings = ["", "-core", "_abi", ".json"]
    names = sorted({draw.word(draw.integer(4, 8)) + draw.choice(endings) for _ in range(4 * count)})
    first, second = {}, {}
    for index, name in enumerate(draw.shuffled(names)):
        number = f"{draw.integer(0, 30)}.{draw.integer(0, 9)}.{draw.integer(0, 9)}"
        build = f"py31{draw.integer(0, 3)}h06a4308_{draw.integer(0, 4)}"
        if index % 4 != 0:
            first[name] = (number, build)
        if index % 4 == 1:
            second[name] = (number, draw.choice([build, "py313h5eee18b_7", "pypi_0"]))
        if index % 4 == 2:
            second[name] = (f"{number}.{draw.integer(1, 5)}", build)
        if index % 4 == 0:
            second[name] = (number, build)
    return first, second


def exported(manifest, noise=True):
    """The text `conda list --export` would print."""
    lines = [f"{name}={version}={build}" for name, (version, build) in sorted(manifest.items())]
    head = ["# This file may be used to create an environment using:"]
    head += ["# $ conda create --name <env> --file <this file>"]
    blank = ["", "  # platform: linux-64", *(f"  {line} " for line in lines[:2]), *lines[2:], ""]
    return "\n".join([*head, "# created-by: conda 25.7.0", *blank] if noise else lines)


def compared(first, second):
    both = first.keys() & second.keys()
    return {
        "only_first": sorted(first.keys() - second.keys()),
        "only_second": sorted(second.keys() - first.keys()),
        "other_version": {n: (first[n][0], second[n][0]) for n in both if first[n][0] != second[n][0]},
    }


def ask_compare(first, second, noise=(False, False)):
    answer = student.compare(exported(first, noise[0]), exported(second, noise[1]))
    want = compared(first, second)
    got = answer.as_dict(want)
    other = got.get("other_version")
    parts = (got.get("only_first"), got.get("only_second"), list(other) if type(other) is dict else other)
    found = [name for part in parts if type(part) is list for name in part]
    if any(str(name).startswith("#") or "platform" in str(name) or not str(name).strip() for name in found):
        raise Failure(f"{answer.call}: a comment or an empty line was taken for a package.")
    if any("=" in str(name) for name in found):
        raise Failure(f"{answer.call}: whole lines are compared. The name of a package ends at the first '='.")
    if any(str(name) != str(name).strip() for name in found):
        raise Failure(f"{answer.call}: some names still have blanks around them.")
    for key in ("only_first", "only_second"):
        if texts(got.get(key)) and got[key] != want[key] and sorted(got[key]) == want[key]:
            raise Failure(f"{answer.call}[{key!r}] has the right names, but they are not sorted.")
    for extra in other if type(other) is dict else ():
        if extra in first and extra in second and first[extra][0] == second[extra][0]:
            raise Failure(
                f"{answer.call}['other_version'] has {extra!r}, which both have in version {first[extra][0]}: another "
                "build of the same version is no difference."
            )
    answer.equals(want)


# %%
@check("compare")
def finds_what_only_one_has():
    """Names that only one of the two has, sorted."""
    first, second = manifests(draw.integer(3, 8))
    for name in [name for name in first if name in second]:
        second[name] = first[name]
    ask_compare(first, second)


# %%
@check("compare")
def finds_other_versions():
    """The same name in another version is a pair; the same version in another build is no difference."""
    for _ in range(3):
        first, second = manifests(draw.integer(3, 8))
        ask_compare(first, second)
        ask_compare(second, first)


# %%
@check("compare")
def skips_comments():
    """Comments, empty lines and blanks around a line are no packages."""
    for noise in ((True, False), (False, True), (True, True)):
        ask_compare(*manifests(draw.integer(3, 8)), noise)


# %%
@check("compare")
def handles_the_empty_manifest():
    """An empty text has no packages, and a text compared with itself has no difference."""
    first, _ = manifests(3)
    ask_compare(first, {})
    ask_compare({}, first, (True, True))
    ask_compare(first, first, (True, True))
