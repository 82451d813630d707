"""The websocket between a browser and a kernel, without waiting for acknowledgements.

A cell's answer is several small messages: busy, the input, the result, idle. TCP holds each back until the one before
is acknowledged (Nagle's algorithm), which the other side puts off for 40 ms (delayed acknowledgement). jupyter_server
leaves it at that; here the socket is told to send at once.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

__all__ = ["PromptConnection"]


class PromptConnection(ZMQChannelsWebsocketConnection):
    """For ``ServerApp.kernel_websocket_connection_class``."""

    def connect(self) -> Any:
        self.websocket_handler.set_nodelay(True)
        return super().connect()
