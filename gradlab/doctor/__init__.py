"""What keeps a server from working on this machine, found by trying, each finding with its remedy.

Here is what a trial needs; ``gradlab.doctor.hosting`` has what a hosted server needs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from checker.sandbox.confinement import Method, describe, detect
from gradlab.credentials import Credentials
from gradlab.doctor.finding import Finding, cards, careful
from gradlab.errors import CourseError, GradlabError, SettingsError
from gradlab.hub.login import check as check_login
from gradlab.hub.processes import port_fault
from gradlab.settings import ROOT, Settings

__all__ = ["Finding", "examine"]

OLDEST_PYTHON = (3, 11)
KEY_PACKAGES = ("jupyterhub", "papermill", "torch")
DISK_LEAST = 1 << 30
DISK_ENOUGH = 5 << 30


def examine(load: Callable[[], Settings] = Settings.from_env, root: Path = ROOT) -> Iterator[Finding]:
    """All findings, one after another, cheap ones first; the last is a real check of a real notebook."""
    try:
        settings = load()
        check_login(settings)
    except SettingsError as error:
        yield python(sys.version_info[:3])
        yield Finding("settings", "failed", str(error), "Correct the setting, then run `gradlab doctor` again.")
        return
    if settings.spawner == "docker":
        from gradlab.doctor import hosting

        yield from hosting.examine(settings, hosting.Place.here(settings))
    else:
        yield from _examine_trial(settings, root)


def _examine_trial(settings: Settings, root: Path) -> Iterator[Finding]:
    yield python(sys.version_info[:3])
    yield _careful("packages", lambda: packages(root / "requirements.lock"))
    yield _careful("proxy", proxy)
    yield Finding("settings", "ok", f"{len(Settings.model_fields)} read")
    yield _careful("port", lambda: port(settings))
    yield _careful("sandbox", lambda: sandbox(settings.sandbox, settings.confined_checks))
    yield _careful("Docker", lambda: docker(settings.check_image if settings.confined_checks == "docker" else None))
    yield _careful("GPU", gpu)
    yield _careful("disk", lambda: disk(settings.state_dir))
    yield _careful("state folder", lambda: state_folder(settings.state_dir))
    yield _careful("passwords", lambda: credentials(settings.credentials_file))
    yield _careful("a real check", lambda: real_check(settings))


def _careful(name: str, look: Callable[[], Finding]) -> Finding:
    remedy = "Delete .venv and node_modules and run `make up`; if it stays so, report this line."
    return careful(name, look, remedy)


def python(version: tuple[int, ...]) -> Finding:
    text = f"{'.'.join(map(str, version))} at {sys.executable}"
    if version[:2] < OLDEST_PYTHON:
        return Finding("Python", "failed", text, "Install Python 3.11 or newer, delete .venv and run `make up`.")
    return Finding("Python", "ok", text)


def packages(lock: Path) -> Finding:
    """The environment against the lock: everything there, in the locked version, and no CUDA by accident."""
    remedy = "Delete .venv and run `make up`, which installs what the lock says."
    try:
        wanted = [Requirement(line) for line in _locked_lines(lock)]
    except OSError as error:
        return Finding(
            "packages", "failed", f"{lock} cannot be read: {error.strerror}", "Restore it from version control."
        )
    installed = {canonicalize_name(dist.name): dist.version for dist in metadata.distributions()}
    wrong = []
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate():
            found = installed.get(canonicalize_name(requirement.name))
            if found is None:
                wrong.append(f"{requirement.name} is missing")
            elif not requirement.specifier.contains(found, prereleases=True):
                wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return Finding("packages", "failed", "; ".join(wrong[:5]) + more, remedy)
    heavy = sorted(name for name in installed if name.startswith("nvidia-") and name != "nvidia-ml-py")
    if heavy:
        value = f"{len(heavy)} CUDA packages, such as {heavy[0]}, are installed; the server never uses them"
        return Finding("packages", "warning", value, "Delete .venv and run `make up`: several GB come back.")
    keys = ", ".join(f"{name} {installed[name]}" for name in map(canonicalize_name, KEY_PACKAGES) if name in installed)
    return Finding("packages", "ok", f"{len(wanted)} as locked, among them {keys}")


def proxy() -> Finding:
    """The proxy, started with the Node that runs it in earnest."""
    from gradlab.hub.config import PROXY_SCRIPT, node

    if not PROXY_SCRIPT.is_file():
        return Finding("proxy", "failed", f"{PROXY_SCRIPT} is missing", "Delete node_modules and run `make up`.")
    done = _run([str(node()), str(PROXY_SCRIPT), "--version"], seconds=30)
    if isinstance(done, str):
        remedy = "Delete .venv and node_modules, then run `make up`."
        return Finding("proxy", "failed", f"configurable-http-proxy does not start: {done}", remedy)
    return Finding("proxy", "ok", f"configurable-http-proxy {done.stdout.strip()}")


def port(settings: Settings) -> Finding:
    """The public port is free, or it is this very server that has it."""
    where = f"port {settings.port} of {settings.host}"
    fault = port_fault(settings.host, settings.port)
    if not fault:
        return Finding("port", "ok", f"{where} is free")
    if _server_runs(settings.state_dir):
        return Finding("port", "ok", f"{where} is in use; a server runs on {settings.state_dir}")
    remedy = f"End that program, or choose another port: PORT={settings.port + 1} make up."
    return Finding("port", "failed", f"{where}: {fault}", remedy)


def sandbox(preference: str, checks: str) -> Finding:
    """What confines learners' code, in their servers and in checks: tried, not only looked for."""
    found = _confinement(preference)
    if found.status == "failed" or checks == preference:
        return found
    if checks == "docker":
        return replace(found, value=f"{found.value}; checks: in containers")
    judged = _confinement(checks)
    value = f"{found.value}; checks: {judged.value}"
    if checks == "plain":
        remedy = "Leave GRADLAB_CHECK_SANDBOX empty, or set it to docker: this one hides neither files nor the network."
        return Finding("sandbox", "warning", value, remedy)
    if judged.status == "ok":
        return replace(found, value=value)
    return replace(judged, value=value, remedy=judged.remedy.replace("GRADLAB_SANDBOX", "GRADLAB_CHECK_SANDBOX"))


def _confinement(preference: str) -> Finding:
    try:
        method = detect(preference)
    except RuntimeError as error:
        what, _, remedy = str(error).partition(". Install")
        return Finding("sandbox", "failed", f"{what}.", f"Install{remedy}")
    if method == "bubblewrap" or preference != "auto":
        return Finding("sandbox", "ok", describe(method))
    why, remedy = "bwrap is not on PATH", "Install bubblewrap (apt install bubblewrap)."
    if shutil.which("bwrap") is not None:
        why = _why_not("bubblewrap")
        remedy = (
            "bwrap is there but does not work: allow unprivileged user namespaces (on Ubuntu, an AppArmor profile for "
            "bwrap, or sysctl kernel.apparmor_restrict_unprivileged_userns=0)."
        )
    return Finding("sandbox", "warning", f"used instead of bubblewrap: {describe(method)}. {why}", remedy)


def _why_not(method: Method) -> str:
    try:
        detect(method)
    except RuntimeError as error:
        return str(error).partition(" Install bubblewrap")[0]
    return ""


def docker(image: str | None) -> Finding:
    """Docker is optional, unless checks run in containers: then in those of ``image``."""
    if image is not None:
        return _docker_of_checks(image)
    if shutil.which("docker") is None:
        value = "not installed; only hosting with containers needs it"
        return Finding("Docker", "warning", value, "Ignore this, or install Docker Engine.")
    done = _run(["docker", "version", "--format", "{{.Server.Version}}"], seconds=10)
    if isinstance(done, str):
        remedy = "Start it (systemctl start docker), let this user use it (group docker), or ignore this."
        return Finding("Docker", "warning", f"installed but not usable: {done}", remedy)
    return Finding("Docker", "ok", f"engine {done.stdout.strip()}")


def _docker_of_checks(image: str) -> Finding:
    """Asked as the judge asks, which needs no command `docker` and knows nothing of that command's contexts."""
    from docker import from_env
    from docker.errors import DockerException, ImageNotFound
    from requests.exceptions import RequestException

    where = os.environ.get("DOCKER_HOST") or "this machine"
    try:
        with closing(from_env(timeout=10)) as client:
            engine = f"engine {client.version()['Version']} at {where}"
            try:
                client.images.get(image)
            except ImageNotFound:
                value = f"{engine} has no image {image!r}, which checks run in (GRADLAB_CHECK_SANDBOX=docker)"
                remedy = "Build it there (`make images` makes gradlab-lab), or name another in GRADLAB_CHECK_IMAGE."
                return Finding("Docker", "failed", value, remedy)
    except (DockerException, RequestException) as error:
        value = f"checks run in containers (GRADLAB_CHECK_SANDBOX=docker), but Docker at {where} is not usable: {error}"
        remedy = (
            "Start it (systemctl start docker), let this user use it (group docker), name another in DOCKER_HOST, or "
            "leave GRADLAB_CHECK_SANDBOX empty."
        )
        return Finding("Docker", "failed", value, remedy)
    return Finding("Docker", "ok", f"{engine}, with the image {image!r} for checks")


def gpu(read: Callable[[], dict[str, Any]] | None = None) -> Finding:
    """GPUs are optional: exercises that need one are skipped without."""
    if read is None:
        from gradlab.gpu.look import read as read_here

        read = read_here
    reading = read()
    if not reading["available"]:
        what, _, remedy = reading["message"].partition(". ")
        return Finding("GPU", "warning", f"{what}.", remedy or "Run `gradlab gpu`.")
    value = cards(reading)
    errors = [f"GPU {device['index']}: {device['error']}" for device in reading["devices"] if device["error"]]
    if errors:
        return Finding("GPU", "warning", value, " ".join(errors))
    return Finding("GPU", "ok", value)


def disk(folder: Path) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free
    value = f"{free / (1 << 30):.1f} GiB free for {folder}"
    if free < DISK_LEAST:
        return Finding("disk", "failed", value, "Free at least 1 GiB, or set GRADLAB_STATE_DIR to a larger disk.")
    if free < DISK_ENOUGH:
        return Finding("disk", "warning", value, "Free some space: homes and the database grow with the class.")
    return Finding("disk", "ok", value)


def state_folder(folder: Path) -> Finding:
    """Writable, tried with a file that is written through to the disk and removed."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"gradlab doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = "Make it writable for this user, or choose another folder with GRADLAB_STATE_DIR."
        return Finding("state folder", "failed", f"{place} cannot be written: {error.strerror}", remedy)
    made = "writable" if place == folder.absolute() else "not there yet; it can be made"
    return Finding("state folder", "ok", f"{folder} is {made}")


def credentials(path: Path) -> Finding:
    if not path.exists():
        return Finding("passwords", "ok", f"{path} is made at the first start")
    try:
        Credentials.ensure(path)
    except (SettingsError, OSError) as error:
        remedy = f"Restore {path} from a backup and `chmod 600` it, or delete it to get new passwords."
        return Finding("passwords", "failed", str(error), remedy)
    return Finding("passwords", "ok", f"{path} is complete and readable by its owner alone")


def real_check(settings: Settings) -> Finding:
    """The first lab's reference solution through the judge: extraction, sandbox, checker notebook, verdict."""
    from checker.engine import Judge
    from gradlab.course import Course
    from gradlab.doctor.judging import judged
    from gradlab.judging import assignment, judge_config
    from gradlab.verification import solved_notebook

    try:
        lab = Course.load(settings.labs_dir, settings.checks_dir).labs[0]
        notebook = solved_notebook(lab).encode()
        judge = Judge(replace(judge_config(settings), pool=0))
    except GradlabError as error:
        remedy = "Correct the course in GRADLAB_LABS_DIR and GRADLAB_CHECKS_DIR, or restore both folders."
        remedy = remedy if isinstance(error, CourseError) else "Follow the remedy of the sandbox above."
        return Finding("a real check", "failed", str(error), remedy)
    try:
        verdict = judge.check(assignment(lab), notebook, seed=1)
    finally:
        judge.close()
    return judged(lab, verdict, "from a cold start")


def _locked_lines(lock: Path) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _run(argv: list[str], seconds: float) -> subprocess.CompletedProcess[str] | str:
    """The finished command, or in a few words what went wrong."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    if done.returncode:
        return (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
    return done


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _server_runs(state_dir: Path) -> bool:
    """Whether a server holds the state folder's lock."""
    try:
        with (state_dir / "server.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
