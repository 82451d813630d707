"""The process of all that is simulated: ``python -m gradlab.demo.crowd``. It runs beside hub and portal until SIGTERM.

The learners talk to the server as people do. The machine is written once a second where the portal's GPU monitor looks:
a scenario for the simulated driver, and which learner has which server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence

from gradlab.course import Course
from gradlab.credentials import Credentials
from gradlab.demo import learners
from gradlab.demo.files import scenario_file, servers_file
from gradlab.demo.machine import Machine
from gradlab.demo.programs import Programs
from gradlab.demo.students import names
from gradlab.errors import GradlabError
from gradlab.gpu.simulator import write as write_scenario
from gradlab.hub.config import public_url
from gradlab.roster import Roster
from gradlab.roster import write as write_roster
from gradlab.settings import Settings

__all__ = ["Stage", "main"]

log = logging.getLogger(__name__)

# Always the same class, so that who has seen a demonstration knows the next one.
_SEED = 8
_STEP_SECONDS = 1.0


class Stage:
    """The machine with real processes on it, written where the GPU monitor looks."""

    def __init__(self, settings: Settings, machine: Machine) -> None:
        self._scenario = scenario_file(settings)
        self._servers = servers_file(settings)
        self._machine = machine
        self._programs = Programs()
        self._roster: Roster | None = None

    def step(self, now: float) -> None:
        """Go on to ``now``, in seconds since the epoch."""
        self._machine.step(now)
        self._programs.keep(
            {one.learner: [program.number for program in one.programs] for one in self._machine.sessions}
        )
        roster = self._machine.roster(self._programs.servers)
        if roster != self._roster:  # before their programs are on a GPU, or those would be the machine's for a moment
            write_roster(self._servers, roster)
            self._roster = roster
        write_scenario(self._scenario, self._machine.scenario(self._programs.pids))

    def close(self) -> None:
        """End the processes; nobody has a server any more."""
        self._programs.close()
        self._servers.unlink(missing_ok=True)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.step(time.time())
            await asyncio.sleep(_STEP_SECONDS)


async def _perform(settings: Settings, count: int, pace: float) -> None:
    course = Course.load(settings.labs_dir, settings.checks_dir)
    site = learners.Site(public_url(settings), Credentials.ensure(settings.credentials_file).learner_password)
    people = learners.made(names(count), course, site, pace=pace, seed=_SEED)
    at = {one.name: one.student for one in people}
    stage = Stage(settings, Machine(list(at), seed=_SEED, lab_of=lambda name: at[name].lab.slug))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.run(), name="machine")
            group.create_task(learners.play(people, site, pace=pace), name="learners")
    finally:
        stage.close()


async def _until_told(settings: Settings, count: int, pace: float) -> None:
    task = asyncio.create_task(_perform(settings, count, pace))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learners", type=int, required=True)
    parser.add_argument("--pace", type=float, required=True)
    given = parser.parse_args(arguments)
    settings = Settings.from_env()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(_until_told(settings, given.learners, given.pace))
    except GradlabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
