"""Where the simulated machine is written by the process that plays it, and read by the portal's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradlab.roster import Roster, RosterFile
from gradlab.settings import Settings

__all__ = ["Rosters", "scenario_file", "servers_file"]


def scenario_file(settings: Settings) -> Path:
    """What the simulated driver answers."""
    return settings.state_dir / "simulated-gpus.txt"


def servers_file(settings: Settings) -> Path:
    """Which servers simulated learners have, as the hub writes of others in ``settings.roster_file``."""
    return settings.state_dir / "simulated-servers.json"


class Rosters:
    """Call it for the servers of both files; how GPUs are given out, only the simulation knows."""

    def __init__(self, hub: Path, simulation: Path) -> None:
        self._hub = RosterFile(hub)
        self._simulation = RosterFile(simulation)
        self._parts: tuple[Roster, Roster] | None = None
        self._whole = Roster()

    def __call__(self) -> Roster:
        """The same object as long as nothing has changed: what is known by it need not be found out again."""
        hub, simulation = parts = self._hub(), self._simulation()
        if self._parts is None or any(one is not other for one, other in zip(parts, self._parts, strict=True)):
            simulated = {server.key for server in simulation.servers}
            people = (server for server in hub.servers if server.key not in simulated)
            self._whole, self._parts = replace(simulation, servers=(*simulation.servers, *people)), parts
        return self._whole
