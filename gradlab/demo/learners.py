"""Simulated learners at a real server: they log in, look at their labs, hand in notebooks and read the verdicts.

How fast that goes is one number for all of them, the seconds between two submissions of anybody. It grows while the
judge is slow to answer, so that a small machine is kept busy and not buried.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
import time
from collections.abc import Sequence
from typing import Any

import httpx

from gradlab.course import Course
from gradlab.demo.students import Student
from gradlab.errors import GradlabError

__all__ = ["Learner", "Rate", "Site", "Unwelcome", "made", "play"]

log = logging.getLogger(__name__)

_PORTAL = "/services/portal/"
_XSRF_FIELD = re.compile(r'name="_xsrf" value="([^"]+)"')
_XSRF_OF_PAGE = re.compile(r'data-xsrf="([^"]+)"')

# Between two submissions of anybody, at pace 1; and when a verdict is late or soon enough to change that.
_SPACING, _MOST_SPACING = 1.5, 30.0
_LATE_SECONDS, _SOON_SECONDS = 3.0, 1.5
# Nobody thinks less than this; a class of one would type faster than people do.
_LEAST_THOUGHT = 2.0
_VERDICT_SECONDS, _VERDICTS = 20, 6
_LOGINS_AT_ONCE = 3
_SPAN_OF_ARRIVAL = 20.0
_RETRY_SECONDS, _MOST_RETRY_SECONDS = 2.0, 30.0
_READY_LOOK_SECONDS = 0.5


class Unwelcome(GradlabError):
    """The server answered something else than a learner expects."""


class Rate:
    """How long learners think, so that all of them together hand in something every ``spacing`` seconds."""

    def __init__(self, learners: int, pace: float) -> None:
        self._learners = learners
        self._least = _SPACING / pace
        self._least_thought = _LEAST_THOUGHT / pace
        self.spacing = self._least

    def took(self, seconds: float) -> None:
        """A verdict came after so many seconds."""
        if seconds > _LATE_SECONDS:
            self.spacing = min(_MOST_SPACING, self.spacing * 1.3)
        elif seconds < _SOON_SECONDS:
            self.spacing = max(self._least, self.spacing * 0.95)

    def thought(self, dice: random.Random) -> float:
        """Seconds until the next submission of one learner."""
        mean = max(self._least_thought, self.spacing * self._learners)
        return dice.expovariate(1 / mean)


class Site:
    """The server that they all come to."""

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        self.password = password
        self.logins = asyncio.Semaphore(_LOGINS_AT_ONCE)
        # Made once, because reading the certificates of the system takes long; and http needs none.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def client(self) -> httpx.AsyncClient:
        """A browser of somebody's own."""
        return httpx.AsyncClient(base_url=self.url, timeout=60.0, trust_env=False, verify=self._tls)

    async def ready(self) -> None:
        """Return when the portal answers through the proxy."""
        async with self.client() as client:
            while not await self._answers(client):
                await asyncio.sleep(_READY_LOOK_SECONDS)

    async def _answers(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(_PORTAL)).is_redirect
        except httpx.HTTPError:
            return False


class Learner:
    """One of them, by ``name``; works until cancelled, and comes back when the server was away."""

    def __init__(self, name: str, site: Site, student: Student, rate: Rate, dice: random.Random) -> None:
        self.name = name
        self.student = student
        self._site = site
        self._rate = rate
        self._dice = dice
        self._xsrf = ""
        self._complained = False

    async def live(self) -> None:
        retry = _RETRY_SECONDS
        while True:
            try:
                async with self._site.client() as client:
                    await self._log_in(client)
                    retry = _RETRY_SECONDS
                    while True:
                        await self._work(client)
            except (httpx.HTTPError, Unwelcome) as error:
                self._complain(error)
            await asyncio.sleep(retry * self._dice.uniform(0.5, 1))
            retry = min(_MOST_RETRY_SECONDS, 2 * retry)

    def _complain(self, error: Exception) -> None:
        """Once, until it works again."""
        if not self._complained:
            log.warning("%s is kept from working, and tries again: %s", self.name, error or type(error).__name__)
        self._complained = True

    async def _log_in(self, client: httpx.AsyncClient) -> None:
        """As a browser does: the hub's form, then the portal, which sends it to the hub and back."""
        async with self._site.logins:
            page = await client.get("/hub/login")
            found = _XSRF_FIELD.search(page.text)
            if found is None:
                raise Unwelcome(f"the login page ({page.status_code}) has no form.")
            filled = {"_xsrf": found[1], "username": self.name, "password": self._site.password}
            answer = await client.post("/hub/login", data=filled)
            if not answer.is_redirect:
                raise Unwelcome(f"the login answered {answer.status_code}.")
            await self._look(client)
        standings = (await self._api(client, "GET", "api/labs")).json()
        self.student.remember(
            (lab["slug"], exercise["name"]) for lab in standings for exercise in lab["exercises"] if exercise["passed"]
        )

    async def _look(self, client: httpx.AsyncClient) -> None:
        """Open the labs page; it has the token that the portal's API wants beside the cookies."""
        page = await client.get(_PORTAL, follow_redirects=True)
        found = _XSRF_OF_PAGE.search(page.text)
        if not page.is_success or found is None:
            raise Unwelcome(f"the labs page answered {page.status_code}.")
        self._xsrf = found[1]

    async def _work(self, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(self._rate.thought(self._dice))
        attempt = self.student.attempt()
        asked = time.monotonic()
        outcomes = await self._hand_in(client, attempt.lab, attempt.only, attempt.notebook)
        self._rate.took(time.monotonic() - asked)
        self._complained = False
        hint = self.student.take(outcomes)
        if hint is not None:
            await self._api(client, "POST", f"api/labs/{attempt.lab}/exercises/{hint}/hints")
        await self._look(client)

    async def _hand_in(self, client: httpx.AsyncClient, lab: str, only: str | None, notebook: bytes) -> dict[str, str]:
        """Hand in and wait; how it ended by exercise, nothing if there was no verdict in all that time."""
        path = f"api/labs/{lab}/checks" + (f"?only={only}" if only else "")
        accepted = (await self._api(client, "POST", path, notebook)).json()
        for _ in range(_VERDICTS):
            path = f"api/submissions/{accepted['id']}?wait={_VERDICT_SECONDS}"
            found: dict[str, Any] = (await self._api(client, "GET", path)).json()
            if found["verdict"] is not None:
                return {result["exercise"]: result["outcome"] for result in found["verdict"]["results"]}
        return {}

    async def _api(
        self, client: httpx.AsyncClient, method: str, path: str, content: bytes | None = None
    ) -> httpx.Response:
        headers = {"X-XSRF-Token": self._xsrf, "Content-Type": "application/json"}
        answer = await client.request(method, _PORTAL + path, content=content, headers=headers)
        if not answer.is_success:
            raise Unwelcome(f"{method} {path} answered {answer.status_code}: {answer.text[:200]}")
        return answer


def made(names: Sequence[str], course: Course, site: Site, *, pace: float, seed: int) -> list[Learner]:
    """The learners of these names, each always the same with the same seed."""
    rate = Rate(len(names), pace)
    return [
        Learner(name, site, Student(course, seed=f"{seed} {name}"), rate, random.Random(f"{seed} {name} dice"))
        for name in names
    ]


async def play(learners: Sequence[Learner], site: Site, *, pace: float) -> None:
    """They come one after the other, and work until this is cancelled."""
    await site.ready()
    between = min(1.0, _SPAN_OF_ARRIVAL / len(learners)) / pace
    async with asyncio.TaskGroup() as group:
        for learner in learners:
            group.create_task(learner.live(), name=learner.name)
            await asyncio.sleep(between)
