"""The websocket between browser and kernel sends at once."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from gradlab.settings import ROOT
from labkit.websocket import PromptConnection


def test_the_socket_is_told_to_send_at_once_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connection,
    ):
        told = []

        def set_nodelay(value: bool) -> None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, value)

        def connect(self: ZMQChannelsWebsocketConnection) -> str:
            told.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            return "connecting"

        monkeypatch.setattr(ZMQChannelsWebsocketConnection, "connect", connect)
        prompt = PromptConnection.__new__(PromptConnection)
        handler = SimpleNamespace(set_nodelay=set_nodelay)
        monkeypatch.setattr(PromptConnection, "websocket_handler", handler)
        assert prompt.connect() == "connecting"
        assert told == [1]


def test_learners_servers_use_it() -> None:
    config = json.loads((ROOT / "labkit" / "config" / "jupyter_server_config.json").read_text())
    assert config["ServerApp"]["kernel_websocket_connection_class"] == "labkit.websocket.PromptConnection"
