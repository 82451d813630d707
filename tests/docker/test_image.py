"""What is in the lab image, and what must never be."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import docker

from checker.sandbox.config import SandboxConfig
from gradlab.settings import ROOT

# All names in the image, and the digests of files that have one of the sizes given; run as root, to see all.
LOOK = """
import hashlib, json, os, sys
sizes, names, digests = set(json.loads(sys.argv[1])), [], {}
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
    for name in [*folders, *files]:
        names.append(os.path.join(folder, name))
    for name in files:
        path = os.path.join(folder, name)
        if not os.path.islink(path) and os.path.getsize(path) in sizes:
            digests[hashlib.sha256(open(path, "rb").read()).hexdigest()] = path
print(json.dumps({"digests": digests, "names": names}))
"""


def inside(engine: docker.DockerClient, *command: str, user: str | None = None) -> str:
    image = SandboxConfig().image
    output: bytes = engine.containers.run(image, list(command), user=user, network_mode="none", remove=True)
    return output.decode()


def secrets() -> dict[str, Path]:
    """Digests of what no learner may have: the judge, the server, the hidden checks; not of files too small to tell."""
    found = [path for name in ("checker", "gradlab") for path in Path(ROOT, name).rglob("*.py")]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in found if path.stat().st_size > 200}


def test_nothing_of_the_judge_or_the_server_is_in_it(engine: docker.DockerClient) -> None:
    ours = secrets()
    agent = Path(ROOT, "labkit", "agent.py")
    sizes = {path.stat().st_size for path in [*ours.values(), agent]}
    found = json.loads(inside(engine, "python", "-c", LOOK, json.dumps(sorted(sizes)), user="root"))
    assert hashlib.sha256(agent.read_bytes()).hexdigest() in found["digests"]  # files are found this way
    assert {path: ours[digest] for digest, path in found["digests"].items() if digest in ours} == {}
    names = {name for name in found["names"] if Path(name).name in ("checker", "gradlab", "labkit")}
    assert names == {"/opt/lab/labkit", "/opt/lab/labkit/labextensions/gradlab"}


def test_it_has_what_exercises_import_at_the_locks_versions_and_an_ordinary_user(engine: docker.DockerClient) -> None:
    script = """
import importlib.metadata, json, os
import labkit, matplotlib, numpy, packaging, pynvml, torch
found = {d.name.lower().replace("_", "-"): d.version.split("+")[0] for d in importlib.metadata.distributions()}
print(json.dumps([found, os.getuid(), torch.version.cuda]))
"""
    found, uid, cuda = json.loads(inside(engine, "python", "-c", script))
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ \n]+)", Path(ROOT, "requirements.lock").read_text(), re.MULTILINE))
    assert {"torch", "numpy", "matplotlib", "packaging", "nvidia-ml-py"} <= found.keys()
    # Some names stand in the lock once for each Python.
    differ = {name: version for name, version in found.items() if locked.get(name) != version}
    assert differ.keys() <= {"contourpy", "networkx", "numpy", "atheris"}
    assert uid == 1000
    assert cuda is None
