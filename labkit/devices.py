"""``lab.gpu()`` and ``%gpu``: the GPUs that this learner has, and what of them is in use, by whom.

The portal is asked first: it knows whose the processes are, also those that a driver does not show in a container.
Where it does not know, NVML is asked here. Nothing here touches CUDA: looking takes no GPU memory.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

from labkit.client import Portal
from labkit.display import Card, Shown, interactive_shell
from labkit.driver import Driver, simulated_here
from labkit.errors import LabError
from labkit.gpucard import card_html, card_text, lines, read_at
from labkit.readings import Device, Reading, from_portal
from labkit.render import clean

__all__ = ["LONGEST_WATCH", "Devices", "Source", "print_lines", "show"]

LONGEST_WATCH = 3600
_PERIOD = 1.0
_PORTAL_SECONDS = 1.0
_DRIVER_SECONDS = 3.0
# A portal that did not answer is left alone for so long: while it is down, a live card goes on every second.
_PORTAL_PAUSE = 10.0
# A watch that is told to end does, except while the driver hangs.
_END_SECONDS = 0.5


class Devices(Shown):
    """One reading, or the latest of those that a live card shows.

    ``devices`` has one dict a GPU, with None for what is not known or not reported, in bytes, percent, °C and W; it is
    empty where there is none, and ``sentence`` says why, or what else is to be said.
    """

    def __init__(self, reading: Reading, shell: Any = None) -> None:
        super().__init__(shell)
        self.reading = reading
        self.live = ""

    @property
    def devices(self) -> list[Device]:
        return self.reading.devices

    @property
    def sentence(self) -> str:
        return " ".join(filter(None, (self.reading.message, *self._remarks())))

    def __repr__(self) -> str:
        return card_text(self.reading, self._remarks())

    def _repr_html_(self) -> str:
        return card_html(self.reading, self._remarks())

    def _remarks(self) -> list[str]:
        if not self.devices:
            return [self.live] if self.live else []
        return [part for part in (_torch(), " ".join(filter(None, (read_at(self.reading), self.live)))) if part]


class Source:
    """Where readings come from. As a context manager: the driver is given back at the end."""

    def __init__(self) -> None:
        self._driver = Driver()
        self._portal: Portal | None = None
        self._portal_again = 0.0
        try:
            self._portal = Portal.from_environment(patience=0.0)
        except LabError:  # not in a lab server
            self._portal_again = math.inf

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the driver back."""
        self._driver.close()

    def read(self) -> Reading:
        """One reading, within about four seconds whatever does not answer."""
        told = None if simulated_here() else self._ask_portal()  # it knows nothing of what a notebook makes up
        if told is not None and told.final:
            return told
        found = self._driver.read(_DRIVER_SECONDS)
        return told if told is not None and not found.devices else found

    def _ask_portal(self) -> Reading | None:
        if self._portal is None or time.monotonic() < self._portal_again:
            return None
        answer = _within(_PORTAL_SECONDS, self._portal.gpu)
        if answer is None:
            self._portal_again = time.monotonic() + _PORTAL_PAUSE
            return None
        return from_portal(answer)


def show(watch: float | None = None) -> Devices:
    """See :func:`labkit.gpu`."""
    seconds = _seconds(watch)
    _Watch.end_current()
    shell = interactive_shell()
    card = Card(shell)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(Source())
        found = Devices(source.read(), shell)
        if not seconds or found.reading.lasting:
            found.display(card)
        elif getattr(shell, "kernel", None) is None:
            found.display(card)
            _follow(found, source, seconds)
        else:
            stack.pop_all()  # it is the watch's now
            _Watch(found, card, source, seconds).start()
    return found


def print_lines(line: str = "") -> None:
    """Your GPUs, one line each: how busy, memory in use, yours and others', temperature, power."""
    if line.strip():
        from IPython.core.error import UsageError

        raise UsageError("%gpu takes nothing behind it. For a live card: lab.gpu(watch=60)")
    with Source() as source:
        print(lines(source.read()))


class _Watch:
    """A card that is read again every second, in a thread of its own: cells run meanwhile."""

    _current: _Watch | None = None

    def __init__(self, found: Devices, card: Card, source: Source, seconds: float) -> None:
        self._found, self._card, self._source, self._seconds = found, card, source, seconds
        self._over = threading.Event()
        # What the cell's context says is whose output this is, also while other cells run.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="labkit-gpu-watch", daemon=True)

    def start(self) -> None:
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + self._seconds))
        self._found.live = f"Live until {until}; `lab.gpu(watch=0)` ends it."
        self._found.display(self._card)
        _Watch._current = self
        self._thread.start()
        atexit.register(self.end)

    @classmethod
    def end_current(cls) -> None:
        """End the live card that there is, if there is one."""
        current, cls._current = cls._current, None
        if current is not None:
            current.end()

    def end(self) -> None:
        atexit.unregister(self.end)
        self._over.set()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        try:
            for _ in _ticks(self._seconds, self._over.wait):
                self._found.reading = self._source.read()
                if not self._over.is_set():
                    self._found.display(self._card)
        finally:
            atexit.unregister(self.end)
            self._source.close()
            self._found.live = "No longer live."
            with contextlib.suppress(Exception):  # the kernel may be ending
                self._found.display(self._card)


def _follow(found: Devices, source: Source, seconds: float) -> None:
    """In a terminal, which cannot change what it has shown: a line each second, until Ctrl+C."""
    with contextlib.suppress(KeyboardInterrupt):
        for _ in _ticks(seconds, threading.Event().wait):
            found.reading = source.read()
            print(lines(found.reading))


def _ticks(seconds: float, wait: Callable[[float], bool]) -> Iterator[None]:
    """Once a second for so long; a second that was missed is left out. ``wait`` says whether to end at once."""
    start = time.monotonic()
    tick = 0
    while (tick := max(tick + 1, math.floor((time.monotonic() - start) / _PERIOD))) * _PERIOD <= seconds:
        if wait(max(0.0, start + tick * _PERIOD - time.monotonic())):
            return
        yield
    wait(max(0.0, start + seconds - time.monotonic()))


def _seconds(watch: Any) -> float:
    """How long to watch; LabError says what is wrong with anything else."""
    if watch is None:
        return 0.0
    try:
        seconds = float(watch) if isinstance(watch, Real) and not isinstance(watch, bool) else math.nan
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds <= LONGEST_WATCH:
        given = clean(repr(watch))[:80]
        raise LabError(
            f"watch is the number of seconds to keep the card live, from 0 to {LONGEST_WATCH}, not {given}. "
            "For a minute: lab.gpu(watch=60)."
        )
    return seconds


def _within(seconds: float, ask: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """The answer, if it comes in time; a name that does not resolve can take longer than any timeout of sockets."""
    answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(ask())
        except Exception:  # whatever went wrong, the driver can still be asked
            answers.put(None)

    threading.Thread(target=work, name="labkit-portal", daemon=True).start()
    with contextlib.suppress(queue.Empty):
        return answers.get(timeout=seconds)
    return None


def _torch() -> str:
    """Whether the torch of this kernel could use a GPU; nothing while it is not imported, since that takes a second."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    if torch.version.cuda is None:
        return f"But torch {torch.__version__} is a CPU build and cannot use it."
    return f"torch {torch.__version__} is built for CUDA {torch.version.cuda}."
