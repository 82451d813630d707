"""Command lines that confine a program with what the machine offers: bubblewrap, util-linux ``unshare``, or limits
only.

The judge confines learner code with it (no network, no home), the trial hub learners' servers (own home, network).
Everything is a pure function from a :class:`Confinement` to an argument list, except :func:`detect`, which tries the
methods for real: an installed ``bwrap`` still fails where the kernel or AppArmor forbids unprivileged namespaces.

Limits are ``prlimit``'s. RLIMIT_DATA bounds memory: unlike RLIMIT_AS it ignores read-only mappings, of which torch has
gigabytes. RLIMIT_NPROC counts per user and namespace, and never binds root: therefore every confined program has a uid
of its own where we are root.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Confinement", "Limits", "Method", "command", "describe", "detect", "holder"]

Method = Literal["bubblewrap", "unshare", "plain"]
_PROBE_SECONDS = 20
_SEAL = Path(__file__).resolve().parent.parent.parent / "labkit" / "seal.py"
# Says when its namespaces are complete, then does nothing until its input ends; with no right that it does not need.
# Under `unshare` it is the first process in them, and the dead are its to bury: who ignores their signals need not.
_HOLD: dict[Method, list[str]] = {
    "bubblewrap": ["--cap-drop", "ALL", "/bin/sh", "-c", "echo; read end"],
    "unshare": [
        *("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
        *("/bin/sh", "-c", "echo; exec env --ignore-signal=CHLD cat"),
    ],
}
METHODS: tuple[Method, ...] = ("bubblewrap", "unshare", "plain")

# What a program needs of /etc to start, resolve names and users; not the host's configuration or keys.
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "hosts", "resolv.conf",
    "host.conf", "gai.conf", "localtime", "alternatives", "ssl", "ca-certificates", "fonts", "mime.types",
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Bounds of each confined process (memory, files) and of its user (processes). None means unbounded."""

    memory_mb: int | None = None
    processes: int | None = None
    file_mb: int | None = None
    open_files: int | None = None

    def bounds(self) -> dict[str, int]:
        """What is bounded, under ``prlimit``'s names, in bytes or numbers; core dumps are always off."""
        found = {
            "data": None if self.memory_mb is None else self.memory_mb << 20,
            "nproc": self.processes,
            "fsize": None if self.file_mb is None else self.file_mb << 20,
            "nofile": self.open_files,
        }
        return {"core": 0} | {name: value for name, value in found.items() if value is not None}

    def argv(self) -> list[str]:
        """The ``prlimit`` prefix."""
        return ["prlimit", *(f"--{name}={value}" for name, value in self.bounds().items())]


@dataclass(frozen=True)
class Confinement:
    """What a confined program sees and may use.

    ``read_only`` and ``writable`` are ``(outside, inside)`` paths bound over a read-only root that otherwise holds only
    the system, this Python and ``/tmp`` (a tmpfs of ``scratch_mb``). ``shm_mb`` sizes ``/dev/shm``; 0 leaves it
    unwritable. ``uid`` is the user the program runs as where we are root.
    """

    limits: Limits
    scratch_mb: int
    uid: int
    shm_mb: int = 0
    network: bool = False
    read_only: tuple[tuple[Path, Path], ...] = ()
    writable: tuple[tuple[Path, Path], ...] = ()
    chdir: Path = Path("/tmp")


def command(method: Method, confinement: Confinement, argv: list[str]) -> list[str]:
    """The argument list that runs ``argv`` confined by ``method``. The environment is the caller's to clear and set."""
    inner = [*confinement.limits.argv(), *_drop_privileges(confinement.uid, method), *_sealed(), *argv]
    return [*_namespaces(method, confinement), *inner]


def holder(method: Method, confinement: Confinement) -> list[str]:
    """The argument list of a process that only holds the namespaces, for others to enter; empty if there are none.

    It prints an empty line when they are complete, and ends when its standard input does.
    """
    found = _namespaces(method, confinement)
    return [*found, *_HOLD[method]] if found else []


def _namespaces(method: Method, confinement: Confinement) -> list[str]:
    if method == "bubblewrap":
        return _bubblewrap(confinement)
    return _unshare(confinement) if method == "unshare" else []


def describe(method: Method) -> str:
    """One sentence: what protects learners (and the judge) from each other's code on this machine."""
    own_uid = " and a user id of its own" if os.getuid() == 0 else ""
    return {
        "bubblewrap": f"bubblewrap: own namespaces, own home, read-only system{own_uid}",
        "unshare": f"util-linux unshare: own namespaces, own home, read-only system{own_uid}",
        "plain": f"limits only{own_uid}; files that others may read are visible. Install bubblewrap for more",
    }[method]


@functools.cache
def detect(preference: str = "auto") -> Method:
    """The first method that really confines a program here, or ``preference`` itself if it works.

    RuntimeError names each method that was tried and its own words, if none works.
    """
    trials = METHODS if preference == "auto" else tuple(m for m in METHODS if m == preference)
    failures = {} if trials else {preference: "no such method"}
    for method in trials:
        if not (failure := _failure(method)):
            return method
        failures[method] = failure
    told = [f"The sandbox method {m!r} does not work on this machine: {failure}." for m, failure in failures.items()]
    remedy = "Install bubblewrap or allow unprivileged user namespaces."
    if preference != "auto":
        remedy = "Install bubblewrap, allow unprivileged user namespaces, or set GRADLAB_SANDBOX=auto."
    raise RuntimeError(" ".join([*told, remedy]))


def _failure(method: Method) -> str:
    """Why the method does not confine a program here; empty if it does."""
    probe = Confinement(Limits(processes=64), scratch_mb=1, uid=65_000)
    argv = command(method, probe, ["/bin/sh", "-c", "echo ok"])
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except OSError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_PROBE_SECONDS} s"
    return "" if done.stdout == "ok\n" else done.stderr.strip() or f"exit status {done.returncode}"


def python_paths() -> tuple[Path, ...]:
    """This interpreter's environment and its base installation, outside /usr."""
    found = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return tuple(sorted(path for path in found if not path.is_relative_to("/usr")))


def _drop_privileges(uid: int, method: Method) -> list[str]:
    strip = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    if os.getuid() == 0:
        return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *strip]
    # `unshare` leaves us root of our own namespace, which could undo the read-only mounts; bwrap drops that itself.
    return ["setpriv", *strip] if method == "unshare" else []


def _sealed() -> list[str]:
    """Without this, a program under a uid of its own could still make a user namespace and mount memory in it."""
    return [sys.executable, "-I", "-S", "-c", _SEAL.read_text(encoding="utf-8")]


def _system_paths() -> tuple[list[tuple[str, str]], list[Path]]:
    """The system's symbolic links at the root, as (target, link), and the folders and files to bind read-only."""
    links, binds = [], [Path("/usr")]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            links.append((os.readlink(path), str(path)))
        elif path.exists():
            binds.append(path)
    binds += [path for name in _ETC if (path := Path("/etc", name)).exists()]
    return links, binds


def _bubblewrap(confinement: Confinement) -> list[str]:
    argv = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    argv += ["--new-session", "--hostname", "lab"]
    if os.getuid() != 0:
        argv += ["--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    if not confinement.network:
        argv += ["--unshare-net"]
    links, binds = _system_paths()
    argv += [word for target, link in links for word in ("--symlink", target, link)]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    if confinement.shm_mb:
        argv += ["--perms", "1777", "--size", str(confinement.shm_mb << 20), "--tmpfs", "/dev/shm"]
    argv += ["--perms", "1777", "--size", str(confinement.scratch_mb << 20), "--tmpfs", "/tmp"]
    pairs = [(path, path) for path in (*binds, *python_paths())]
    made: set[Path] = {Path("/"), Path("/tmp"), Path("/dev"), Path("/proc")}
    for flag, bound in (("--ro-bind", (*pairs, *confinement.read_only)), ("--bind", confinement.writable)):
        for outside, inside in bound:
            # bwrap makes missing parents for its own user only; learner code has another.
            for parent in reversed(inside.parents):
                if parent not in made:
                    argv += ["--perms", "0755", "--dir", str(parent)]
                    made.add(parent)
            argv += [flag, str(outside), str(inside)]
    return [*argv, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(confinement.chdir)]


def _unshare(confinement: Confinement) -> list[str]:
    """A new root built by a shell inside new namespaces: what bubblewrap does, with util-linux alone."""
    links, binds = _system_paths()
    pairs = [(path, path) for path in (*binds, *python_paths())]
    root = _mount_point([outside for outside, _ in (*pairs, *confinement.read_only, *confinement.writable)])
    steps = [
        "set -e",
        "umask 022",  # the server's own is stricter, and learner code has another user id than the folders made here
        "PATH=$PATH:/usr/sbin:/sbin",  # pivot_root
        "mount --make-rprivate /",
        f"mount -t tmpfs -o size=1m,mode=755 gradlab {root}",
        f"mkdir {root}/proc {root}/dev {root}/dev/shm {root}/tmp {root}/.old",
        f"mount -t proc proc {root}/proc",
        f"mount -t tmpfs -o size={confinement.scratch_mb}m,mode=1777 scratch {root}/tmp",
    ]
    if confinement.shm_mb:
        steps += [f"mount -t tmpfs -o size={confinement.shm_mb}m,mode=1777 shm {root}/dev/shm"]
    steps += [f"ln -s {shlex.quote(target)} {root}{shlex.quote(link)}" for target, link in links]
    steps += [_bind(root, *pair, read_only=True) for pair in (*pairs, *confinement.read_only)]
    steps += [_bind(root, *pair, read_only=False) for pair in confinement.writable]
    devices = ("null", "zero", "full", "random", "urandom")
    steps += [_bind(root, Path("/dev", name), Path("/dev", name), read_only=False) for name in devices]
    steps += [
        f"mount -o remount,bind,ro {root}",
        f"cd {root}",
        "pivot_root . .old",
        "umount -l /.old",
        f"cd {shlex.quote(str(confinement.chdir))}",
        'exec "$@"',
    ]
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
    if not confinement.network:
        argv += ["--net"]
    if os.getuid() != 0:
        argv += ["--user", "--map-root-user"]
    return [*argv, "--", "/bin/sh", "-c", "\n".join(steps), "sandbox"]


def _mount_point(sources: list[Path]) -> str:
    """A folder to mount the new root over (in our mount namespace only); it must hide nothing that is bound into it."""
    for name in ("/mnt", "/media", "/srv", "/opt", "/tmp"):
        if Path(name).is_dir() and not any(source.is_relative_to(name) for source in sources):
            return name
    return "/tmp"


def _bind(root: str, outside: Path, inside: Path, *, read_only: bool) -> str:
    source, target = shlex.quote(str(outside)), shlex.quote(f"{root}{inside}")
    parent = shlex.quote(f"{root}{inside.parent}")
    kind = f"mkdir -p {target}" if outside.is_dir() else f"touch {target}"
    mount = f"mount --bind {source} {target}"
    # A bind takes read-only only in a second step, and a locked mount keeps its other flags.
    lock = f" && mount -o remount,bind,ro {target}" if read_only else ""
    return f"mkdir -p {parent} && {kind} && {mount}{lock}"
