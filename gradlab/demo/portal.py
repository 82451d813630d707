"""The portal's process in a demonstration: ``python -m gradlab.demo.portal``.

It differs from another one's in two things: its GPU monitor asks the simulated driver, and beside the servers that the
hub has started, it knows those of simulated learners.
"""

from __future__ import annotations

import os

from gradlab.demo.files import Rosters, scenario_file, servers_file
from gradlab.gpu.simulator import environment
from gradlab.service import run
from gradlab.settings import Settings

__all__ = ["main"]


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings.from_env()
    os.environ.update(environment(scenario_file(settings)))
    run(settings, roster=Rosters(settings.roster_file, servers_file(settings)))


if __name__ == "__main__":
    main()
