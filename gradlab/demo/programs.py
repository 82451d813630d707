"""Real processes that the simulated GPUs are used by, so that whose they are is found out as with real GPUs.

A learner's server is a shell, and programs are processes that sleep below it. The kernel ends a shell with the process
that started it, and what sleeps with its shell, however that ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

__all__ = ["Programs"]

# With the death of its parent each gets SIGKILL. A program says its number when that is so, if its parent still lives.
_TIED = ("setpriv", "--pdeathsig", "KILL")
_PROGRAM = '[ "$PPID" = "$0" ] && echo $$ && exec sleep infinity >/dev/null'
# The shell waits for those that it ends, so that it collects no zombies.
_SERVER = f"""
while read -r word pid; do
  case $word in
    start) {" ".join(_TIED)} sh -c '{_PROGRAM}' $$ </dev/null & ;;
    end) kill -KILL "$pid"; wait "$pid" ;;
  esac
done
"""


class Programs:
    """Use it from one thread that lives as long as the programs: they end with the thread that started them."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}

    @property
    def servers(self) -> dict[str, int]:
        """The number of the first process of each learner's server."""
        return {learner: server.pid for learner, server in self._servers.items()}

    @property
    def pids(self) -> dict[int, int]:
        """The process of each program."""
        return {number: pid for server in self._servers.values() for number, pid in server.pids.items()}

    def keep(self, wanted: Mapping[str, Sequence[int]]) -> None:
        """From now on these learners' servers run, each with these programs, and no others."""
        for learner in [one for one, server in self._servers.items() if one not in wanted or server.ended]:
            self._servers.pop(learner).close()
        for learner, numbers in wanted.items():
            if learner not in self._servers:
                self._servers[learner] = _Server()
            self._servers[learner].keep(numbers)

    def close(self) -> None:
        """End them all."""
        self.keep({})


class _Server:
    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self._shell = subprocess.Popen(
            [*_TIED, "sh", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self.pid = self._shell.pid

    @property
    def ended(self) -> bool:
        return self._shell.poll() is not None

    def keep(self, numbers: Sequence[int]) -> None:
        try:
            for number in [one for one in self.pids if one not in numbers]:
                self._tell(f"end {self.pids.pop(number)}")
            for number in numbers:
                if number not in self.pids:
                    self._tell("start")
                    self.pids[number] = int(self._answer())
        except (OSError, ValueError):  # somebody has ended it; it is begun anew with the next look
            self._shell.kill()

    def close(self) -> None:
        self._shell.kill()
        with suppress(BrokenPipeError), self._shell:  # waits, and closes its pipes
            pass

    def _tell(self, words: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{words}\n")

    def _answer(self) -> str:
        assert self._shell.stdout is not None
        return self._shell.stdout.readline()
