"""The profiles of docker-compose.yml: a server on PostgreSQL, backed up and restored, and one that Prometheus asks."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from docker.models.containers import Container

from gradlab.hub.environment import Ports
from gradlab.hub.hosting import METRICS_SCOPES
from tests.conftest import Require
from tests.hosted import Hosted, hosted
from tests.operating import backup, equip, script, write_env
from tests.postgres import postgres_image
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("networks")

# Asks as the real one does what its configuration names, with the token from the file.
PROMETHEUS = """#!/usr/bin/env python
import json, pathlib, sys, time, urllib.error, urllib.request
import yaml
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
config = yaml.safe_load(pathlib.Path(options["config.file"]).read_text())
pathlib.Path(options["storage.tsdb.path"], "probe").touch()
def ask(url, token):
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return [answer.status, answer.headers["Content-Type"], answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, "", ""]
    except OSError as error:
        return [0, "", str(error)]
while True:
    for job in config["scrape_configs"]:
        token = pathlib.Path(job["authorization"]["credentials_file"]).read_text()
        for target in job["static_configs"][0]["targets"]:
            base = "http://" + target
            print(json.dumps([job["job_name"], ask(base + job["metrics_path"], token),
                              ask(base + job["metrics_path"], ""), ask(base + "/hub/api/users", token),
                              ask(base + "/services/portal/api/class", token)]), flush=True)
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[Hosted]:
    require("images")
    require("postgres-image")
    with hosted(tmp_path_factory.mktemp("profiles") / "source") as server:
        equip(server.folder)
        image = f"{server.name}-prometheus"
        server.engine.images.build(fileobj=context(), custom_context=True, tag=image, rm=True, forcerm=True)
        write_env(
            server.folder,
            COMPOSE_PROFILES="postgres,metrics",
            POSTGRES_IMAGE=postgres_image(),
            PROMETHEUS_IMAGE=image,
            PROMETHEUS_PORT=str(Ports.choose().hub),
        )
        try:
            server.up()
            server.log_in("ada").api("GET", "/services/portal/api/labs").raise_for_status()
            yield server
        finally:
            server.destroy()
            server.engine.images.remove(image, force=True)


def context() -> io.BytesIO:
    """What the image with that program is built from; users and folders are as in Prometheus' own."""
    dockerfile = "FROM gradlab-hub\nUSER 0\nCOPY prometheus /usr/local/bin/\n"
    dockerfile += "RUN chmod 755 /usr/local/bin/prometheus && install -d -o nobody /prometheus\nUSER nobody\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in (("Dockerfile", dockerfile), ("prometheus", PROMETHEUS)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    packed.seek(0)
    return packed


def ask(container: Container, database: str, query: str) -> list[str]:
    """Lines of an answer of PostgreSQL."""
    done = container.exec_run(["psql", "-U", "postgres", "-d", database, "-Atc", query])
    assert done.exit_code == 0, done.output.decode()
    return str(done.output.decode()).split()


# -- postgres ----------------------------------------------------------------------------------------------------------


def test_hub_and_store_have_a_database_each(server: Hosted) -> None:
    postgres = server.service("postgres")
    assert ask(postgres, "jupyterhub", "SELECT name FROM users") == ["ada"]
    assert ask(postgres, "jupyterhub", "SELECT username FROM users_info") == ["ada"]
    assert ask(postgres, "gradlab", "SELECT name FROM learner") == ["ada"]
    listed = server.service("portal").exec_run(["ls", "/var/lib/gradlab"]).output.decode()
    assert ".sqlite" not in listed
    assert "StoreError" not in server.compose("logs", "--no-color", "hub").partition("is now running at")[2]


def test_only_the_two_that_need_it_reach_it_and_with_the_password_alone(server: Hosted) -> None:
    postgres = server.service("postgres")
    networks = postgres.attrs["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{server.name}_data"]
    assert postgres.attrs["HostConfig"]["PortBindings"] == {}
    others = server.engine.networks.get(f"{server.name}_data").attrs["Containers"].values()
    assert {one["Name"] for one in others} == {server.service(role).name for role in ("postgres", "hub", "portal")}
    login = "import psycopg; psycopg.connect('host=postgres user={} dbname=gradlab')"
    portal = server.service("portal")
    assert portal.exec_run(["python", "-c", login.format("gradlab")]).exit_code == 0
    assert (
        b"no password supplied"
        in portal.exec_run(["env", "-u", "PGPASSWORD", "python", "-c", login.format("gradlab")]).output
    )
    assert b"password authentication failed" in portal.exec_run(["python", "-c", login.format("postgres")]).output
    assert ask(postgres, "gradlab", "SELECT rolsuper FROM pg_roles WHERE rolname = 'gradlab'") == ["f"]


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scraped(server: Hosted) -> Any:
    """By job, answers to what Prometheus asks: with the token, without it, and what the token is not for."""
    prometheus = server.service("prometheus")

    def last() -> Any:
        lines = prometheus.logs(stdout=True, stderr=False).decode().splitlines()
        found = {name: answers for name, *answers in map(json.loads, lines) if answers[0][0]}
        return found if len(found) == 2 else None

    return until(last, what="answers to Prometheus")


def test_prometheus_reads_the_metrics_of_hub_and_portal_with_its_token(scraped: Any) -> None:
    status, kind, text = scraped["jupyterhub"][0]
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert "\njupyterhub_total_users 1.0\n" in text
    status, kind, text = scraped["gradlab"][0]
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert "\ngradlab_gpu_up " in text


def test_without_the_token_nobody_does_and_it_is_good_for_nothing_else(server: Hosted, scraped: Any) -> None:
    _, without, users, _ = scraped["jupyterhub"]
    assert (without[0], users[0]) == (403, 403)
    _, without, _, table = scraped["gradlab"]
    assert (without[0], table[0]) == (401, 403)
    assert httpx.get(f"{server.url}/hub/metrics").status_code == 403
    assert httpx.get(f"{server.url}/services/portal/metrics").status_code == 401
    assert METRICS_SCOPES == ["read:metrics"]


def test_the_token_is_in_no_command_line_and_prometheus_on_no_other_machine(server: Hosted) -> None:
    prometheus = server.service("prometheus")
    commands = " ".join(" ".join(row) for row in prometheus.top()["Processes"])
    assert "prometheus --config.file=/etc/prometheus/prometheus.yml" in commands
    assert server.env["GRADLAB_METRICS_TOKEN"] not in commands
    (bound,) = prometheus.attrs["HostConfig"]["PortBindings"].values()
    assert [one["HostIp"] for one in bound] == ["127.0.0.1"]
    token = prometheus.exec_run(["stat", "-c", "%a %U", "/tmp/token"]).output.decode().strip()
    assert token == "600 nobody"


# -- and a backup of it ------------------------------------------------------------------------------------------------


def test_databases_of_postgres_are_put_back_over_newer_ones(server: Hosted) -> None:
    file = backup(server.folder)
    with tarfile.open(file) as archive:
        assert {"databases/gradlab.dump", "databases/jupyterhub.dump"} < set(archive.getnames())
    before = people(server)
    assert before == ["ada"] * 2 + before[2:]
    server.log_in("newer").api("GET", "/services/portal/api/labs").raise_for_status()
    assert len(people(server)) > len(before)
    assert script(server.folder, "down").returncode == 0
    done = script(server.folder, "restore", file)
    assert (done.returncode, f"the volumes {server.name}_postgres\n" in done.stdout) == (1, True), done.stdout
    done = script(server.folder, "restore", "--force", file)
    assert done.returncode == 0, done.stdout
    label = {"label": f"gradlab.installation={server.name}"}
    assert server.engine.containers.list(all=True, filters=label) == []
    server.compose("up", "--detach", "--no-build", "postgres")
    until(lambda: server.service("postgres").exec_run(READY).exit_code == 0, what="PostgreSQL's start")
    assert people(server) == before


READY = ["pg_isready", "--quiet", "--host", "127.0.0.1", "--username", "gradlab"]


def people(server: Hosted) -> list[str]:
    """Who is known to the store and to the hub, and the hashes of their passwords."""
    postgres = server.service("postgres")
    found = ask(postgres, "gradlab", "SELECT name FROM learner ORDER BY name")
    found += ask(postgres, "jupyterhub", "SELECT name FROM users ORDER BY name")
    return found + ask(postgres, "jupyterhub", "SELECT password FROM users_info ORDER BY username")
