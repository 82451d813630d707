"""All attacks on one judge: theme by theme, with a right answer between two attacks and another learner beside them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import psutil

from checker.engine import Judge, JudgeConfig
from checker.results import Result, Verdict
from checker.sandbox.config import SandboxConfig
from gradlab.settings import ROOT
from tests.attacks.attack import Attack, digits, pattern
from tests.attacks.corpus import THEMES
from tests.attacks.lab import MARKER, RIGHT, attacked_lab, attacks_notebook
from tests.sandboxes import marked
from tests.waiting import until

__all__ = ["POOL", "SEED", "Campaign", "containers", "sources"]

POOL = 2
SEED = 7_465_912_803_317_256
# What the server knows and learner code shall not find.
_SECRET = ("SERVER_ATTACKED_SECRET", "nobody-but-the-server-has-this")
_MARK = "ATTACKED_SERVER"  # the variable in which the server has the mark; no word of the name is suspicious
# Honest, and slow enough to be under way all the time.
_SLOW = "import time\ndef energy(x):\n    time.sleep(0.5)\n    return (x * x).sum()"
_KEYCTL = {"x86_64": 250, "aarch64": 219}


class Campaign:
    """A judge of its own under attack; :meth:`close` ends it and looks at what is left."""

    def __init__(self, config: SandboxConfig, folder: Path) -> None:
        self.mark = f"marked-{uuid.uuid4()}"
        self.exploded = Path(tempfile.gettempdir(), f"gradlab-exploded-{os.getpid()}")
        self.config = config
        self._folder = folder
        self._verdicts: dict[str, Verdict | Exception] = {}
        os.environ |= {_SECRET[0]: _SECRET[1], _MARK: self.mark}
        # For attacks to find: on all interfaces, so that a container's bridge would lead to it too.
        self.listener = socket.create_server(("", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0{self.mark}")
        self.abstract.listen()
        _join_session_keyring()
        self.judge = Judge(JudgeConfig(config, pool=POOL))
        self.judge.warm()

    @property
    def facts(self) -> dict[str, str]:
        searched = (
            MARKER.encode(),
            _SECRET[1].encode(),
            str(SEED).encode(),
            SEED.to_bytes(8, "little"),
            digits(SEED),
            b"leaves_its_argument_alone",
        )
        return {
            "PROJECT": str(ROOT),
            "JOBS": str(self.judge._workplace.path),
            "FORK": self.judge._kernels._nursery.sandboxes,
            "MARK": self.mark,
            "EXPLODED": str(self.exploded),
            "PORT": str(self.listener.getsockname()[1]),
            "SECRETS": "|".join(map(pattern, searched)),
        }

    def result(self, attack: Attack) -> Result:
        return self._verdict(attack).results[2 * self._place(attack)]

    def neighbour(self, attack: Attack) -> Result:
        """The right answer that stands behind the attack in the same notebook."""
        return self._verdict(attack).results[2 * self._place(attack) + 1]

    def check(self, *answers: str, seed: int = SEED, seconds: float = 30) -> Verdict:
        """A notebook with these answers, judged."""
        lab = attacked_lab(self._new_folder(), len(answers), seconds=[seconds] * len(answers))
        return self.judge.check(lab, attacks_notebook(answers), seed=seed)

    def warm(self) -> None:
        """Wait until as many judges wait as should."""
        until(lambda: self.judge._kernels._ready.qsize() == POOL, 120)

    def close(self) -> None:
        """End the judge; AssertionError for whatever the attacks have left on this machine."""
        place = str(self.judge._workplace.path)
        self.judge.close()
        until(lambda: not _running(place), 30)
        until(lambda: not marked(self.mark), 30)
        if self.config.method == "docker":
            until(lambda: not containers(self.config.installation), 30)
        assert not Path(place).exists()
        assert not self.exploded.exists()
        self.listener.close()
        self.abstract.close()
        del os.environ[_SECRET[0]], os.environ[_MARK]

    def _theme(self, attack: Attack) -> str:
        return next(theme for theme, attacks in THEMES.items() if attack in attacks)

    def _place(self, attack: Attack) -> int:
        return THEMES[self._theme(attack)].index(attack)

    def _verdict(self, attack: Attack) -> Verdict:
        theme = self._theme(attack)
        if theme not in self._verdicts:
            try:
                self._verdicts[theme] = self._attacked(THEMES[theme])
            except Exception as error:  # once is enough: it is the same for every attack of the theme
                self._verdicts[theme] = error
        verdict = self._verdicts[theme]
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def _attacked(self, attacks: list[Attack]) -> Verdict:
        programs = sources(attacks, self.facts)
        kinds = [kind for attack in attacks for kind in (attack.kind, "energy")]
        seconds = [limit for attack in attacks for limit in (attack.seconds, 30)]
        lab = attacked_lab(self._new_folder(), len(programs), seconds=seconds, kinds=kinds)
        with self._another_learner():
            return self.judge.check(lab, attacks_notebook(programs), seed=SEED)

    @contextmanager
    def _another_learner(self) -> Iterator[None]:
        """Somebody else's checks run all the while, and pass."""
        stop = Event()
        with ThreadPoolExecutor(1) as threads:
            theirs = threads.submit(self._one_after_another, stop.is_set)
            try:
                yield
            finally:
                stop.set()
        failed = [result for verdict in theirs.result() for result in verdict.results if result.points == 0]
        assert not failed, failed

    def _one_after_another(self, enough: Callable[[], bool]) -> list[Verdict]:
        verdicts = [self.check(_SLOW, _SLOW)]
        while not enough():
            verdicts.append(self.check(_SLOW, _SLOW))
        return verdicts

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))


def sources(attacks: list[Attack], facts: Mapping[str, str]) -> list[str]:
    """The answers of the notebook in which these attacks are run: a right one behind each."""
    return [text for attack in attacks for text in (attack.program(facts), RIGHT)]


def containers(installation: str) -> list[str]:
    """The ids of this installation's containers, running or not."""
    import docker

    client = docker.from_env()
    try:
        found = client.api.containers(all=True, filters={"label": f"gradlab.installation={installation}"})
        return [container["Id"] for container in found]
    finally:
        client.close()


def _running(place: str) -> list[psutil.Process]:
    """Processes of the judge whose folder this is; forked ones keep the command line of their fork server."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        if place in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _join_session_keyring() -> None:
    """As a service has it: one keyring that all processes of the server, and all it starts, have in common.

    Where the kernel refuses keys to this process, it refuses them to all that it starts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(_KEYCTL.get(platform.machine(), -1)), 1, None) < 0:
        assert ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), os.strerror(ctypes.get_errno())
