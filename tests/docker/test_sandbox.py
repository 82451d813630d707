"""What is the Docker sandbox's own: what Docker was asked for, where Docker is, and whose containers are whose."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import docker
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from checker.answer import ProgramEnded
from checker.engine import Judge, JudgeConfig
from checker.results import Outcome
from checker.sandbox.config import SandboxConfig
from checker.sandbox.docker import DockerSandbox, _container, _Pieces, sweep
from checker.workplace import Workplace
from tests.sandboxes import CONFIG, program, run, start
from tests.waiting import until

DOCKER = replace(CONFIG, method="docker")


@pytest.fixture
def installation(engine: docker.DockerClient) -> Iterator[str]:
    """The name of an installation that nothing else has."""
    name = f"test-{uuid.uuid4()}"
    yield name
    sweep(name)


def containers(engine: docker.DockerClient, installation: str) -> list[docker.models.containers.Container]:
    label = f"gradlab.installation={installation}"
    return engine.containers.list(all=True, filters={"label": label}, ignore_removed=True)


# -- what is asked of Docker ---------------------------------------------------------------------------------------


def test_a_container_has_nothing_of_the_host_and_goes_when_it_is_closed(
    engine: docker.DockerClient, installation: str
) -> None:
    sandbox = DockerSandbox(replace(DOCKER, installation=installation, holder="kernel-1"))
    sandbox.start()
    (container,) = containers(engine, installation)
    found, host = container.attrs["Config"], container.attrs["HostConfig"]
    assert container.attrs["Mounts"] == []
    assert not host["Binds"]
    assert not host["Devices"]
    assert not host["DeviceRequests"]
    assert (host["NetworkMode"], host["IpcMode"], host["PidMode"]) == ("none", "none", "")
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"]
    assert host["Memory"] == host["MemorySwap"] == (CONFIG.memory_mb + CONFIG.scratch_mb) << 20
    assert host["NanoCpus"] == 10**9
    assert host["PidsLimit"] == CONFIG.processes
    assert host["LogConfig"]["Type"] == "none"
    assert int(found["User"].split(":")[0]) >= 10_000
    assert "NVIDIA_VISIBLE_DEVICES=void" in found["Env"]
    assert found["Labels"]["gradlab.holder"] == "kernel-1"
    assert re.fullmatch(r"gradlab-check-[0-9a-f]{8}", container.name)
    sandbox.close()
    until(lambda: containers(engine, installation) == [])


def test_two_sandboxes_have_two_users(engine: docker.DockerClient, installation: str) -> None:
    both = [DockerSandbox(replace(DOCKER, installation=installation)) for _ in range(2)]
    for sandbox in both:
        sandbox.start()
    users = {container.attrs["Config"]["User"] for container in containers(engine, installation)}
    for sandbox in both:
        sandbox.close()
    assert len(users) == 2


def test_gpus_are_asked_for_by_name(engine: docker.DockerClient, installation: str) -> None:
    config = replace(DOCKER, installation=installation, gpus=("GPU-1234", "GPU-5678"))
    engine.api.create_container_from_config(_container(engine.api, config))
    (container,) = containers(engine, installation)
    (request,) = container.attrs["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 0, [["gpu"]])
    assert request["DeviceIDs"] == ["GPU-1234", "GPU-5678"]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-1234,GPU-5678" in container.attrs["Config"]["Env"]


def test_gpus_that_are_not_there_are_named_with_the_remedy(engine: docker.DockerClient, installation: str) -> None:
    if "nvidia" in engine.info()["Runtimes"]:
        pytest.skip("this Docker host has the runtime for GPUs")
    text = refusal(replace(DOCKER, installation=installation, gpus=("GPU-1234",)))
    assert text.endswith("(GPUs asked for: GPU-1234; they need the nvidia-container-toolkit there)")
    until(lambda: containers(engine, installation) == [])


def test_memory_of_many_processes_is_bounded_together() -> None:
    sandbox = start("docker", memory_mb=700)
    source = """
        import os, signal
        def main():
            for _ in range(8):
                if os.fork() == 0:
                    held = bytearray(os.urandom(1)) * (200 << 20)
                    signal.pause()
            held = bytearray(os.urandom(1)) * (200 << 20)
            while True:
                try:
                    pid, status = os.wait()
                except ChildProcessError:
                    return "all ended"
                if status == 9:
                    return "killed"
    """
    try:
        found = run(sandbox, source)
    except ProgramEnded as end:
        found = str(end.outcome)
    finally:
        sandbox.close()
    assert found in ("killed", Outcome.KILLED, Outcome.OUT_OF_MEMORY)


# -- where Docker is -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["tcp", "tls"])
def remote(
    request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The same Docker behind a TCP address, as on another machine, in the clear or with certificates."""
    target = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    if not Path(target).is_socket():
        pytest.skip(f"Docker is remote already: {target}")
    context = None
    if request.param == "tls":
        context = certified(tmp_path)
        # These would go before the authority that DOCKER_CERT_PATH names.
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server, target, context), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        yield os.environ["DOCKER_HOST"]
        # Wakes the thread, which close() alone would leave waiting.
        server.shutdown(socket.SHUT_RDWR)


def certified(folder: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1, its own authority and the client's too, where Docker's client looks for them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    for file in ("ca.pem", "cert.pem"):
        (folder / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def serve(server: socket.socket, target: str, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):
        while True:
            ours, _ = server.accept()
            if context is not None:
                ours = context.wrap_socket(ours, server_side=True)
            theirs = socket.socket(socket.AF_UNIX)
            theirs.connect(target)
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=forward, args=pair, daemon=True).start()


def forward(source: socket.socket, target: socket.socket) -> None:
    with source:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def test_docker_on_another_machine_is_talked_to_over_the_same_connection(
    remote: str, engine: docker.DockerClient, installation: str
) -> None:
    sandbox = start("docker", installation=installation)
    assert run(sandbox, "def main(x):\n    print('far')\n    return x + 1", 2) == 3
    assert sandbox.take_output() == "far\n"
    student = program(sandbox, "def main():\n    while True: print('flood')")
    with pytest.raises(ProgramEnded, match="printed more than is allowed"):
        student.main().value  # noqa: B018
    output = sandbox.take_output()
    assert len(output) == CONFIG.output_kb << 10
    assert set(output.splitlines()[:-1]) == {"flood"}  # the last line is cut where the limit is
    sandbox.close()
    until(lambda: containers(engine, installation) == [])


def refusal(config: SandboxConfig) -> str:
    sandbox = DockerSandbox(config)
    try:
        with pytest.raises(OSError, match="Docker") as error:
            sandbox.start()
    finally:
        sandbox.close()
    return str(error.value)


def test_an_image_that_is_not_there_is_named_with_the_remedy() -> None:
    text = refusal(replace(DOCKER, image="gradlab-nowhere"))
    assert text.startswith("The image 'gradlab-nowhere' is not on the Docker host ")
    assert text.endswith("Build it there: scripts/images lab")


def test_a_daemon_that_is_not_there_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    text = refusal(DOCKER)
    assert text.startswith(f"Docker does not answer at unix://{tmp_path}/nothing (")
    assert text.endswith("or set DOCKER_HOST to another Docker host.")
    with pytest.raises(OSError, match="Docker does not answer at"):
        sweep("anybody")


def test_a_user_without_permission_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        before = os.geteuid()
        try:
            if before == 0:
                os.seteuid(65_000)
            text = refusal(DOCKER)
        finally:
            os.seteuid(before)
    assert text.startswith(f"This user may not use Docker at unix://{path}.")
    assert "Add the user to the group docker and log in again, or set DOCKER_HOST" in text


# -- whose containers they are -------------------------------------------------------------------------------------


def leave(engine: docker.DockerClient, installation: str, holder: str, *, role: str = "check") -> None:
    """A container as somebody of this installation might have left it."""
    labels = {"gradlab.role": role, "gradlab.installation": installation, "gradlab.holder": holder}
    engine.containers.create(DOCKER.image, labels=labels, network_mode="none")


def holders(engine: docker.DockerClient, installation: str) -> set[str]:
    return {container.labels["gradlab.holder"] for container in containers(engine, installation)}


def test_a_sweep_takes_what_is_left_and_nothing_else(engine: docker.DockerClient, installation: str) -> None:
    other = f"{installation}-other"
    leave(engine, installation, "old")
    leave(engine, installation, "alive")
    leave(engine, installation, "", role="server")
    leave(engine, other, "old")
    try:
        assert sweep(installation, lambda holder: holder == "nobody") == 0
        assert sweep(installation, lambda holder: holder != "alive") == 1
        assert holders(engine, installation) == {"alive", ""}
        assert sweep(installation, lambda holder: holder == "alive") == 1
        assert len(containers(engine, other)) == 1
    finally:
        for name in (installation, other):
            for container in containers(engine, name):
                container.remove(force=True)


@pytest.mark.parametrize("pool", [0, 1])
def test_a_judge_that_starts_removes_what_dead_judges_left_and_spares_the_living(
    pool: int, engine: docker.DockerClient, installation: str
) -> None:
    with contextlib.closing(Workplace()) as living:
        dead, alive = "gradlab-judge-of-yesterday/kernel-1", f"{living.name}/kernel-1"
        leave(engine, installation, dead)
        leave(engine, installation, alive)
        # Its close waits until the sweep has come to its end.
        with contextlib.closing(Judge(JudgeConfig(replace(DOCKER, installation=installation), pool=pool))) as judge:
            judge.warm()
            until(lambda: dead not in holders(engine, installation))
        assert alive in holders(engine, installation)


def test_a_sweep_of_nobody_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"give SandboxConfig\.installation a name"):
        sweep("")


# -- what Docker interleaves ---------------------------------------------------------------------------------------


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=200),
)
def test_the_two_streams_come_apart_wherever_the_bytes_are_cut(
    pieces: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for stream, text in pieces)
    parts, found = _Pieces(), {1: b"", 2: b""}
    cut = iter(cuts)
    while data:
        size = next(cut, len(data))
        replies, printed = parts.sort(data[:size])
        found[1] += replies
        found[2] += printed
        data = data[size:]
    assert found == {stream: b"".join(text for s, text in pieces if s == stream) for stream in (1, 2)}
