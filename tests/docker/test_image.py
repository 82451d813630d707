"""What is in the images, what must never be, and that they start as they are started."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import docker
import pytest

from checker.sandbox.config import SandboxConfig
from gradlab.course import Course
from gradlab.settings import ROOT, Settings
from tests.conftest import Require

LAB, HUB, CHECKER = SandboxConfig().image, "gradlab-hub", "gradlab-checker"

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

# What an image says of itself.
DESCRIBE = """
import importlib.metadata, json, os, re
print(json.dumps({
    "packages": {
        re.sub("[-_.]+", "-", found.name).lower(): found.version.split("+")[0]
        for found in importlib.metadata.distributions()
    },
    "provisioners": [p.name for p in importlib.metadata.entry_points(group="jupyter_client.kernel_provisioners")],
    "ids": [os.getuid(), os.getgid()],
    "variables": dict(os.environ),
}))
"""

# A hub that knows one learner and one token, and beside it the server of that learner, as it is started in a class.
SERVE = """
import glob, http.server, json, os, subprocess, sys, threading, time, urllib.request
USER = {"kind": "user", "name": "ada", "groups": [], "scopes": ["access:servers!user=ada"], "session_id": None}

class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(USER if self.path.endswith("/user") else {"version": "6"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
    def log_message(self, *words):
        pass

def ask(path, method="GET"):
    request = urllib.request.Request("http://127.0.0.1:8888/user/ada" + path, method=method)
    request.add_header("Authorization", "token t")
    return json.loads(urllib.request.urlopen(request, timeout=30).read())

def names_of_children(pid):
    names = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        name, rest = open(path).read().split("(")[1].rsplit(")", 1)
        names += [name] if int(rest.split()[1]) == pid else []
    return names

hub = http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
names = {
    "API_TOKEN": "t", "CLIENT_ID": "c", "USER": "ada", "API_URL": "http://127.0.0.1:8081/hub/api", "BASE_URL": "/",
    "SERVICE_URL": "http://0.0.0.0:8888/user/ada/", "SERVICE_PREFIX": "/user/ada/", "DISABLE_USER_CONFIG": "1",
    "ACTIVITY_URL": "http://127.0.0.1:8081/hub/api/activity", "OAUTH_CALLBACK_URL": "/user/ada/oauth_callback",
    "OAUTH_ACCESS_SCOPES": json.dumps(["access:servers!user=ada"]), "OAUTH_SCOPES": "[]", "HOST": "",
}
variables = os.environ | {f"JUPYTERHUB_{name}": value for name, value in names.items()}
server = subprocess.Popen(["jupyterhub-singleuser"], env=variables, stdout=sys.stderr)
for attempt in range(600):
    try:
        ask("/api")
        break
    except OSError:
        assert server.poll() is None
        time.sleep(0.05)
ask("/api/terminals", "POST")
children = names_of_children(server.pid)
ask("/api/kernels", "POST")
print(json.dumps({
    "specs": ask("/api/kernelspecs"), "children": children, "kernels": len(ask("/api/kernels")),
    "loaded": open(f"/proc/{server.pid}/maps").read().count("sqlalchemy"),
}))
server.terminate()
server.wait()
"""


def inside(engine: docker.DockerClient, *command: str, image: str = LAB, **options: Any) -> str:
    options = {"network_mode": "none"} | options
    output: bytes = engine.containers.run(image, list(command), remove=True, **options)
    return output.decode()


@pytest.fixture(scope="module")
def lab(engine: docker.DockerClient) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inside(engine, "python", "-c", DESCRIBE))
    return found


@pytest.fixture(scope="module", params=[HUB, CHECKER])
def server_image(request: pytest.FixtureRequest, require: Require) -> str:
    require("images")
    name: str = request.param
    return name


def course() -> Course:
    settings = Settings()
    return Course.load(settings.labs_dir, settings.checks_dir)


def locked() -> dict[str, str]:
    """The lock's versions, for the Python that asks for the fewest; some names stand in it once for each Python."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ \n]+)", Path(ROOT, "requirements.lock").read_text(), re.MULTILINE))


def not_as_locked(packages: dict[str, str]) -> set[str]:
    versions = locked()
    differ = {name for name, version in packages.items() if versions.get(name) != version}
    return differ - {"contourpy", "networkx", "numpy", "soupsieve", "labkit", "gradlab"}


def secrets() -> dict[str, Path]:
    """Digests of what no learner may have: the judge, the server, the hidden checks; not of files too small to tell."""
    found = [path for name in ("checker", "gradlab") for path in Path(ROOT, name).rglob("*.*") if path.is_file()]
    large = [path for path in found if path.stat().st_size > 200 and path.parent.name != "__pycache__"]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in large}


def test_nothing_of_the_judge_or_the_server_is_in_it(engine: docker.DockerClient) -> None:
    ours = secrets()
    agent = Path(ROOT, "labkit", "agent.py")
    sizes = {path.stat().st_size for path in [*ours.values(), agent]}
    found = json.loads(inside(engine, "python", "-c", LOOK, json.dumps(sorted(sizes)), user="root"))
    assert hashlib.sha256(agent.read_bytes()).hexdigest() in found["digests"]  # files are found this way
    assert {path: ours[digest] for digest, path in found["digests"].items() if digest in ours} == {}
    names = {name for name in found["names"] if Path(name).name in ("checker", "gradlab", "labkit")}
    assert names == {"/opt/lab/labkit", "/opt/lab/labkit/labextensions/gradlab"}
    # What is there beside the packages: no wheel, no installer, no list of what was there while it was made.
    ours_there = {name.split("/")[3] for name in found["names"] if name.startswith("/opt/lab/")}
    made = {"bin", "etc", "include", "labkit", "labkit-0.1.0.dist-info", "labs", "lib", "lib64", "pyvenv.cfg", "share"}
    assert ours_there == made
    assert {name for name in found["names"] if Path(name).parent == Path("/opt")} == {"/opt/lab"}
    assert not [name for name in found["names"] if name.startswith("/build")]


def test_the_labs_in_it_are_the_courses(engine: docker.DockerClient) -> None:
    script = """
import json, os
found = {name: open("/opt/lab/labs/" + name).read() for name in os.listdir("/opt/lab/labs")}
print(json.dumps([found, os.access("/opt/lab/labs", os.W_OK)]))
"""
    found, writable = json.loads(inside(engine, "python", "-c", script))
    assert not writable
    index = json.loads(found.pop("labs.json"))
    labs = course().labs
    assert index == [{"slug": lab.slug, "filename": lab.filename, "version": lab.version} for lab in labs]
    assert found == {lab.filename: lab.notebook for lab in labs}
    for lab in labs:
        hidden = {line.strip() for line in lab.solution.read_text().splitlines() if len(line.strip()) > 30}
        given = Path(ROOT, "labs", f"{lab.stem}.py").read_text()
        assert not [line for line in hidden if line not in given and line in found[lab.filename]]


def test_the_lab_image_has_what_learners_work_in_at_the_locks_versions(lab: dict[str, Any]) -> None:
    packages = lab["packages"]
    assert {"jupyterhub", "jupyterlab", "torch", "numpy", "matplotlib", "nvidia-ml-py", "packaging"} <= packages.keys()
    assert not_as_locked(packages) == set()
    # Nothing of the hub's own, or of the judge.
    assert packages.keys().isdisjoint({"dockerspawner", "docker", "fastapi", "jupytext", "papermill", "uv", "pip"})


def test_a_container_of_the_lab_image_is_an_ordinary_users_and_gets_no_gpu_unasked(lab: dict[str, Any]) -> None:
    assert lab["ids"] == [1000, 1000]
    assert lab["variables"]["HOME"] == "/home/lab"
    assert lab["variables"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "gradlab-fork" in lab["provisioners"]


def test_what_learners_run_is_compiled(engine: docker.DockerClient) -> None:
    script = """
import importlib.util, json, os
names = ["json.decoder", "labkit.agent", "tornado.web", "jupyterhub", "torch"]
print([name for name in names if not os.path.exists(importlib.util.find_spec(name).cached)])
"""
    assert inside(engine, "python", "-c", script) == "[]\n"


def test_a_learners_server_starts_where_only_the_home_and_tmp_can_be_written_to(engine: docker.DockerClient) -> None:
    options = {
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m,mode=1777", "/home/lab": "uid=1000,gid=1000"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "init": True,
        "stderr": False,
    }
    found = json.loads(inside(engine, "python", "-c", SERVE, **options))
    spec = found["specs"]["kernelspecs"]["python3"]["spec"]
    assert found["specs"]["default"] == "python3"
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "gradlab-fork"
    assert "bash" in found["children"]  # the terminal's
    assert found["kernels"] == 1
    # images/lab/jupyterhub-singleuser: what takes as long to load as the server itself is left to the hub.
    assert found["loaded"] == 0


def test_the_server_images_import_what_they_run_and_have_the_course(
    engine: docker.DockerClient, server_image: str
) -> None:
    script = """
import importlib.util, json, os, stat, subprocess
from gradlab.course import Course
from gradlab.settings import ROOT, Settings
import gradlab.cli, gradlab.hub.config, gradlab.hub.spawner, gradlab.portal.app, gradlab.server, gradlab.service
settings = Settings.from_env({}, None)
folders = {name: os.stat(name) for name in ("/var/lib/gradlab", "/run/gradlab")}
print(json.dumps({
    "root": str(ROOT),
    "labs": [lab.version for lab in Course.load(settings.labs_dir, settings.checks_dir).labs],
    "torch": importlib.util.find_spec("torch") is not None,
    "command": subprocess.run(["gradlab", "--help"], capture_output=True).returncode,
    "folders": {name: [of.st_uid, of.st_gid, oct(stat.S_IMODE(of.st_mode))] for name, of in folders.items()},
    "writable": [name for name in ("/srv/gradlab", "/opt/gradlab", "/etc") if os.access(name, os.W_OK)],
}))
"""
    options = {"image": server_image, "read_only": True, "tmpfs": {"/tmp": ""}}
    found = json.loads(inside(engine, "python", "-c", script, **options))
    assert found["root"] == "/srv/gradlab"
    assert found["labs"] == [lab.version for lab in course().labs]
    assert found["torch"] == (server_image == CHECKER)
    assert found["command"] == 0
    assert found["folders"] == {"/var/lib/gradlab": [990, 990, "0o711"], "/run/gradlab": [990, 990, "0o700"]}
    assert found["writable"] == []
    about = json.loads(inside(engine, "python", "-c", DESCRIBE, image=server_image))
    assert about["ids"] == [990, 990]
    assert "gradlab-fork" in about["provisioners"]
    assert not_as_locked(about["packages"]) == set()


def test_the_hub_image_has_the_proxy_and_the_makers_of_containers(
    engine: docker.DockerClient, require: Require
) -> None:
    require("images")
    script = """
import subprocess
import dockerspawner, nativeauthenticator, oauthenticator, psycopg
from gradlab.hub.config import PROXY_SCRIPT, node
print(subprocess.run([node(), PROXY_SCRIPT, "--version"], capture_output=True, text=True, check=True).stdout)
"""
    wanted = json.loads(Path(ROOT, "package.json").read_text())["dependencies"]["configurable-http-proxy"]
    assert inside(engine, "python", "-c", script, image=HUB).strip() == wanted


def test_the_judge_is_loaded_in_the_checker_image(engine: docker.DockerClient, require: Require) -> None:
    require("images")
    script = (
        "import torch, checker.engine, checker.sandbox.docker; print(torch.ones(2).sum().item(), torch.__version__)"
    )
    found = inside(engine, "python", "-c", script, image=CHECKER, read_only=True, tmpfs={"/tmp": ""})
    assert found.split() == ["2.0", f"{locked()['torch']}+cpu"]


def test_hub_and_checker_are_made_alike_as_far_as_they_share_what_is_made() -> None:
    hub, checker = (Path(ROOT, "images", name, "Dockerfile").read_text() for name in ("hub", "checker"))
    end = "# From here on"
    assert hub.count(end) == checker.count(end) == 1
    shared = [text[text.index("ARG BASE_IMAGE") : text.index(end)] for text in (hub, checker)]
    assert shared[0].replace("../checker/", "../hub/") == shared[1]


def test_hadolint_has_nothing_to_say(require: Require) -> None:
    require("hadolint")
    folders = ("images", "bench/stock", "tests/docker/postgres")
    files = [str(path) for folder in folders for path in sorted(Path(ROOT, folder).rglob("Dockerfile"))]
    assert len(files) == 5
    assert subprocess.run(["hadolint", *files], capture_output=True, text=True).stdout == ""
