"""The Docker sandbox: the agent in a container of the lab image, on this machine or on a remote Docker host.

Nothing of the host is in the container: no volume, no network, no descriptor. It is talked to over its attached
standard streams, which Docker carries interleaved on one connection. Docker is where ``DOCKER_HOST`` says.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Ulimit
from requests.exceptions import RequestException

from checker.sandbox.base import CHUNK, Sandbox
from checker.sandbox.config import VARIABLES, SandboxConfig

__all__ = ["DockerSandbox", "sweep"]

# Of one request to Docker; a daemon that is silent for longer than this is hung.
_REQUEST_SECONDS = 30
_ROLE, _INSTALLATION, _HOLDER = "gradlab.role", "gradlab.installation", "gradlab.holder"
# Below 65536, so that they exist where Docker itself maps user ids (rootless, userns-remap).
_FIRST_UID, _UIDS = 10_000, 50_000
_numbers = itertools.count()

# The header before each piece of output: which stream it is of, and its length (Docker Engine API, "Attach").
_PIECE = struct.Struct(">BxxxI")
_STDOUT, _STDERR = 1, 2


class DockerSandbox(Sandbox):
    """The agent as the first process of a container, which is removed when that ends."""

    def __init__(self, config: SandboxConfig) -> None:
        super().__init__(output_limit=config.output_kb << 10)
        self._config = config
        self._docker: docker.APIClient | None = None
        self._container = ""
        self._attached: Any = None
        self._socket: socket.socket | None = None
        self._pieces = _Pieces()
        self._killed = False

    def start(self) -> None:
        with _explained(self._config):
            self._docker = _connect()
            name = f"gradlab-check-{secrets.token_hex(4)}"  # for those who list containers; ours find it by its labels
            made = self._docker.create_container_from_config(_container(self._docker, self._config), name)
            self._container = made["Id"]
            self._attach()
            self._docker.start(self._container)

    def _attach(self) -> None:
        """Connect to the container's streams; before it is started, so that its first word is not missed."""
        assert self._docker is not None
        parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        # A file object over the connection; over TLS the connection itself.
        self._attached = self._docker.attach_socket(self._container, params=parameters)
        self._socket = getattr(self._attached, "_sock", self._attached)
        self._socket.setblocking(False)

    def kill(self) -> None:
        if self._docker is None or not self._container or self._killed:
            return
        self._killed = True
        # First, because Docker waits for the end of output that nobody reads. What has come can still be taken.
        self._hang_up()
        # It answers when the last process is dead. If it does not answer, the container is found at the next sweep.
        with contextlib.suppress(DockerException, RequestException):
            self._docker.kill(self._container)

    def close(self) -> None:
        """The agent ends when its input does; no verdict waits for its removal by force."""
        if self._socket is not None:
            self._hang_up()
            # All that hold the connection, or it stays open until they are collected.
            for holder in (self._attached._response, self._attached, self._socket):
                holder.close()
            self._socket = None
        if self._docker is not None:
            threading.Thread(target=_remove, args=(self._docker, self._container), name="remove-container").start()
            self._docker = None

    def _hang_up(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not its own method, which over TLS makes what is still to be read unreadable.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _descriptors(self) -> tuple[tuple[int, ...], int]:
        if self._socket is None:
            return (), -1
        return (self._socket.fileno(),), self._socket.fileno()

    def _read(self, descriptor: int) -> tuple[bytes, bytes]:
        assert self._socket is not None
        try:
            data = self._socket.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b"", b""
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._pieces.sort(data)

    def _write(self, data: memoryview) -> int:
        assert self._socket is not None
        try:
            return self._socket.send(data[:CHUNK])
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            raise BrokenPipeError from None


class _Pieces:
    """Takes apart what Docker interleaves on one connection."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def sort(self, data: bytes) -> tuple[bytes, bytes]:
        """What of ``data`` came from standard output and what from standard error; pieces may continue in the next."""
        found: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
        rest = memoryview(data)
        while rest:
            if not self._left:
                missing = _PIECE.size - len(self._header)
                self._header += rest[:missing]
                rest = rest[missing:]
                if len(self._header) < _PIECE.size:
                    break
                self._stream, self._left = _PIECE.unpack(self._header)
                self._header = b""
            piece = rest[: self._left]
            found.setdefault(self._stream, []).append(bytes(piece))
            self._left -= len(piece)
            rest = rest[len(piece) :]
        return b"".join(found[_STDOUT]), b"".join(found[_STDERR])


def sweep(installation: str, unwanted: Callable[[str], bool] = lambda holder: True) -> int:
    """Remove the checks' containers of this installation whose holder is ``unwanted``; returns how many there were.

    OSError if Docker does not answer.
    """
    if not installation:
        raise ValueError("Containers are found by their installation: give SandboxConfig.installation a name.")
    removed = 0
    labels = [f"{_ROLE}=check", f"{_INSTALLATION}={installation}"]
    with _explained(None), contextlib.closing(_connect()) as client:
        for container in client.containers(all=True, filters={"label": labels}):
            if unwanted(container["Labels"].get(_HOLDER, "")):
                _force(client, container["Id"])
                removed += 1
    return removed


def _connect() -> docker.APIClient:
    return docker.from_env(timeout=_REQUEST_SECONDS).api


def _container(client: docker.APIClient, config: SandboxConfig) -> dict[str, Any]:
    """What Docker is asked to create. Nothing is left to the daemon's or the image's defaults that could open it."""
    uid = _FIRST_UID + (os.getpid() * 64 + next(_numbers) % 64) % _UIDS
    # RLIMIT_DATA ends an allocation with Python's MemoryError, as in a process sandbox. The container's limit counts
    # all that is in it, scratch space too, and is enforced by SIGKILL.
    memory = (config.memory_mb + config.scratch_mb) << 20
    # Processes are counted by container: a user id may be another container's, too.
    limits = replace(config.limits, processes=None).bounds()
    host = client.create_host_config(
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": f"size={config.scratch_mb}m,mode=1777,nosuid,nodev"},
        # Private, and without /dev/shm: another place to write to would not count as scratch.
        ipc_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        privileged=False,
        pids_limit=config.processes,
        mem_limit=memory,
        memswap_limit=memory,
        nano_cpus=int(config.cpus * 1e9),
        ulimits=[Ulimit(name=name, soft=value, hard=value) for name, value in limits.items()],
        # What learner code prints must not fill the host's disk.
        log_config=LogConfig(type="none"),
        auto_remove=True,
        device_requests=[DeviceRequest(driver="nvidia", device_ids=list(config.gpus), capabilities=[["gpu"]])]
        if config.gpus
        else None,
    )
    return {
        "Image": config.image,
        "Entrypoint": [],
        # -P: nothing is imported from the working directory, which learner code may write to.
        "Cmd": ["python", "-P", "-m", "labkit.agent", "--warm", "--alone"],
        "WorkingDir": "/tmp",
        "User": f"{uid}:{uid}",
        "Hostname": "lab",
        "Env": [f"{name}={value}" for name, value in _environment(config).items()],
        "Labels": {_ROLE: "check", _INSTALLATION: config.installation, _HOLDER: config.holder},
        "Healthcheck": {"Test": ["NONE"]},
        "OpenStdin": True,
        # The agent's input ends with our connection, however that ends.
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": host,
    }


def _environment(config: SandboxConfig) -> dict[str, str]:
    """Where Python is and finds labkit is the image's to say."""
    # Always named: the NVIDIA runtime gives every device to a container that says nothing, and the image says "void".
    return VARIABLES | {"NVIDIA_VISIBLE_DEVICES": ",".join(config.gpus) or "void"}


def _remove(client: docker.APIClient, container: str) -> None:
    with contextlib.closing(client), contextlib.suppress(DockerException, RequestException):
        if container:
            _force(client, container)


def _force(client: docker.APIClient, container: str) -> None:
    """Kill and remove; what is gone already, or is being removed by Docker itself, is as good."""
    try:
        client.remove_container(container, force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:
            raise


@contextlib.contextmanager
def _explained(config: SandboxConfig | None) -> Iterator[None]:
    """Whatever Docker refuses becomes an OSError that says what is missing where, and what to do."""
    try:
        yield
    except ImageNotFound:
        name = config.image if config else "?"
        text = f"The image {name!r} is not on the Docker host {_host()}. Build it there: scripts/images lab"
        raise OSError(text) from None
    except APIError as error:
        text = f"The Docker host {_host()} refused a container: {error.explanation or error}"
        if config and config.gpus:
            text += f" (GPUs asked for: {', '.join(config.gpus)}; they need the nvidia-container-toolkit there)"
        raise OSError(text) from error
    except (DockerException, RequestException) as error:
        if "PermissionError" in str(error):
            text = f"This user may not use Docker at {_host()}. Add the user to the group docker and log in again"
        else:
            text = f"Docker does not answer at {_host()} ({error}). Start it there (sudo systemctl start docker)"
        raise OSError(f"{text}, or set DOCKER_HOST to another Docker host.") from error


def _host() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
