"""What Docker's health checks run."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from gradlab.hub.health import healthy
from gradlab.settings import ROOT


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path asks for."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def address_string(self) -> str:
        return "somebody"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "well"), [(200, True), (302, True), (403, True), (500, False), (503, False)])
def test_any_answer_but_a_fault_is_well(port: int, status: int, well: bool) -> None:
    assert healthy(f"http://127.0.0.1:{port}/{status}") is well


def test_no_answer_is_not_well(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    assert not healthy(f"http://127.0.0.1:{port}/")
    assert not healthy(f"unix:{tmp_path}/nothing.sock", "/health")


def test_a_socket_is_asked_too(tmp_path: Path) -> None:
    server = UnixStreamServer(str(tmp_path / "a.sock"), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        assert healthy(f"unix:{tmp_path}/a.sock", "/200")
        assert not healthy(f"unix:{tmp_path}/a.sock", "/500")
    finally:
        server.shutdown()
        server.server_close()


def test_as_a_command_it_loads_next_to_nothing(port: int) -> None:
    code = f"import runpy, sys; sys.argv = ['health', 'http://127.0.0.1:{port}/%d']\n"
    code += "try: runpy.run_module('gradlab.hub.health', run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code, {'pydantic', 'jupyterhub', 'docker'} & set(sys.modules))"
    for status, prints in ((200, "0 set()"), (500, "1 set()")):
        done = subprocess.run([sys.executable, "-c", code % status], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.strip() == prints, done.stderr
