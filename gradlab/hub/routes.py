"""The hub's side of a proxy that is a service of its own: one that was started again is told its routes at once.

The proxy keeps them in memory. JupyterHub looks after those of a proxy that it did not start itself once a minute, and
until then nobody reaches anything, each time that the proxy takes over a new certificate.

Of all that is ours in a hub it is the only one that is there from the start, so it also has the hub begin what does not
wait for the first learner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jupyterhub.proxy import ConfigurableHTTPProxy
from tornado.ioloop import PeriodicCallback
from traitlets import Any as AnyTrait

__all__ = ["LastingProxy"]

_LOOK_MS = 500


class LastingProxy(ConfigurableHTTPProxy):  # type: ignore[misc]
    """Looks at the socket of the proxy's API: each start of the proxy makes it anew."""

    begin = AnyTrait(None, help="Awaited once when the hub listens and knows all servers.").tag(config=True)

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._socket = Path(unquote(urlsplit(self.api_url).netloc))
        self._told = self._made()
        self._looking = PeriodicCallback(self.look, _LOOK_MS)
        self._looking.start()

    def _made(self) -> tuple[int, int]:
        try:
            found = self._socket.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_ino, found.st_ctime_ns)

    async def _begin(self, begin: Callable[[], Awaitable[None]]) -> None:
        try:
            await begin()
        except Exception as error:
            self.log.warning("What the hub begins with failed, and is tried again with the next server: %s", error)

    async def look(self) -> None:
        """Tell a proxy that is not the one of the last look. If it cannot be told yet, the next look will."""
        # Before the hub listens it does not know all routes either; then it tells them itself.
        if getattr(self.app, "http_server", None) is None:
            return
        if self.begin is not None:
            self._beginning, self.begin = asyncio.ensure_future(self._begin(self.begin)), None
        made = self._made()
        if made in ((0, 0), self._told):
            return
        try:
            await self.check_routes(self.app.users, self.app._service_map)
        except Exception as error:
            self.log.warning("The proxy was started again and cannot be told its routes yet: %s", error)
        else:
            self._told = made
