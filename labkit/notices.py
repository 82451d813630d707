"""What this server tells its learner in JupyterLab: the portal's notices, handed on to the page that shows them.

The page asks here every half minute, as long as somebody can see it, and only then is the portal asked. So a server
that nobody looks at asks nothing, several windows cost one question, and there is nothing to start or to end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest

__all__ = ["Notices", "add_notices"]

log = logging.getLogger(__name__)

Notice = dict[str, Any]

# One answer is for all windows that ask at about the same time.
_FRESH_SECONDS = 10.0
# A portal that does not answer is asked after twice the time, and again twice, but not less often than this.
_LONGEST_PAUSE_SECONDS = 300.0
_ANSWER_SECONDS = 5.0


class Notices:
    """The notices of whoever the token belongs to. While the portal is down they are what it said last, until their
    time is over; a learner has no use for news of that."""

    def __init__(self, portal: str, token: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = f"{portal.rstrip('/')}/api/notices"
        self._token = token
        self._clock = clock
        self._asking = asyncio.Lock()
        self._pause = _FRESH_SECONDS
        self._again = float("-inf")
        self._told: list[Notice] = []

    async def current(self) -> list[Notice]:
        """What the learner is to be told now: ``key``, ``text``, ``at`` and ``until`` of each, oldest first."""
        async with self._asking:
            if self._clock() >= self._again:
                await self._ask()
        now = time.time()
        return [notice for notice in self._told if notice["until"] > now]

    async def _ask(self) -> None:
        request = HTTPRequest(
            self._address,
            headers={"Authorization": f"token {self._token}"},
            connect_timeout=_ANSWER_SECONDS,
            request_timeout=_ANSWER_SECONDS,
            follow_redirects=False,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request)
            self._told = [_notice(data) for data in json.loads(answer.body)]
            self._pause = _FRESH_SECONDS
        except (HTTPError, OSError, ValueError, LookupError, TypeError) as error:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            log.debug("No notices from %s for %.0f s: %s", self._address, self._pause, error)
        self._again = self._clock() + self._pause


def _notice(data: Any) -> Notice:
    """What a page needs of it, and no more."""
    return {
        "key": str(data["key"]),
        "text": str(data["text"]),
        "at": float(data["at"]),
        "until": float(data["until"]),
    }


class _NoticesHandler(APIHandler):
    """``GET labkit/notices``, for the server's owner like everything here. It is no use of the server."""

    auth_resource = "labkit"
    _track_activity = False

    def initialize(self, notices: Notices) -> None:
        self._notices = notices

    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.finish(json.dumps(await self._notices.current()))


def add_notices(server: Any, portal: str, token: str) -> None:
    """Let the pages of this Jupyter server ask for the notices."""
    address = url_path_join(server.base_url, "labkit", "notices")
    server.web_app.add_handlers(".*$", [(address, _NoticesHandler, {"notices": Notices(portal, token)})])
