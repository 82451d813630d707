"""Frames of all GPUs, once a second, from a process that may hang (``gradlab.gpu.sampler``): who starts and kills it.

A driver call can hang for ever and cannot be ended from inside. So the process that makes it is asked one thing at a
time, and killed when its answer is late; a new one is started after a pause that grows. One that hangs in the kernel
does not even die then, and no further one is started beside it until it does.

Meanwhile the frame is "silent": the GPUs are there with what they are, and without a figure, because the last ones say
nothing about now. A process keeps the library that it has loaded, so after a failure of the driver as a whole a new one
is started too: a driver that was repaired is seen without a restart of anything.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradlab.errors import LimitRefused
from gradlab.gpu.frames import unavailable

__all__ = ["Frame", "Sampling"]

log = logging.getLogger(__name__)

Frame = dict[str, Any]

# Times of `every`: without anything to see it is asked less often; and after failures less and less.
_IDLE_TIMES = 10
_LONGEST_TIMES = 30
_IDLE = frozenset(("no driver", "no gpu", "no permission"))
# States that a process of its own library does not come out of.
_REPLACED = frozenset(("mismatch", "not loaded", "too old", "failed"))
_GRACE_SECONDS = 0.3
_DEATH_SECONDS = 0.5
_CLOSE_SECONDS = 2.0
_EVENTS = 20

_REMEDY = "If it stays so, run `nvidia-smi`: when that hangs too, only a restart of the machine helps."
_STUCK = "The process that asked it hangs in the kernel and cannot be ended; until that ends no other is started."

# What stays true of a GPU that cannot be asked. Figures say nothing about now.
_IDENTITY = ("index", "uuid", "name", "pci", "driver_model", "memory_total", "max_clocks", "events", "memory_limits")
_INSTANCE = ("uuid", "name", "gpu_instance", "compute_instance", "memory_total")


class _LateError(Exception):
    """The answer did not come in time."""


class _EndedError(Exception):
    """The process ended, or its answer is none; the text says how."""


@dataclass
class _Wish:
    """A limit that somebody waits for. ``refused`` is None until it is answered."""

    request: dict[str, Any]
    done: threading.Event = field(default_factory=threading.Event)
    refused: str | None = None

    def answer(self, refused: str) -> None:
        self.refused = refused
        self.done.set()


class Sampling:
    """Asks from :meth:`start` to :meth:`close`; what others call answers at once.

    ``every`` is in seconds. An answer may take ``deadline`` seconds, and the first one of a new process ``starting``:
    without persistence mode a driver starts every GPU for it, which takes a second or more each. ``env`` are variables
    for the process beside ours, ``cgroups`` is the tree of cgroups for limits. ``on_frame`` is given every frame in the
    thread that asks, those of failures too. ``command`` and ``popen`` are for tests.
    """

    def __init__(
        self,
        *,
        every: float = 1.0,
        deadline: float = 5.0,
        starting: float = 30.0,
        env: Mapping[str, str] | None = None,
        cgroups: Path | None = None,
        on_frame: Callable[[Frame], None] | None = None,
        command: Sequence[str] | None = None,
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self._every = every
        self._deadline = deadline
        self._starting = starting
        self._on_frame = on_frame
        argv = [sys.executable, "-P", "-m", "gradlab.gpu.sampler", *([] if cgroups is None else [str(cgroups)])]
        self._command = list(command or argv)
        self._env = os.environ | dict(env or {})
        self._popen = popen
        self._child: _Child | None = None
        self._dying: _Child | None = None
        self._delay = 0.0
        self._start_at = 0.0
        self._began = time.monotonic()
        self._answered_at = self._began
        self._lock = threading.Lock()
        self._latest: Frame | None = None
        self._fresh_until = 0.0
        self._good: Frame | None = None
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._wishes: deque[_Wish] = deque()
        self._heard = threading.Event()
        self._ending = threading.Event()
        self._waking = os.pipe()
        self._thread = threading.Thread(target=self._run, name="gpu-sampling", daemon=True)

    def start(self) -> None:
        self._began = self._answered_at = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """End, within two seconds, whatever the driver does."""
        self._ending.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        else:
            self._close_pipe()

    def latest(self) -> Frame:
        """The latest frame, which is not to be changed; if it is too old to be true, a silent one."""
        with self._lock:
            if self._latest is not None and time.monotonic() <= self._fresh_until:
                return self._latest
            return self._silent()

    def first(self, timeout: float) -> Frame:
        """The latest frame, once there was an answer; after ``timeout`` seconds one that says that there is none."""
        self._heard.wait(timeout)
        return self.latest()

    def limit(self, gpu: str, group: Path, size: int | None) -> None:
        """Limit the memory that this cgroup may have of this GPU, in bytes, or lift the limit; LimitRefused if not."""
        wish = _Wish({"do": "limit", "gpu": gpu, "group": str(group), "bytes": size})
        self._wishes.append(wish)
        self._wake()
        if not wish.done.wait(self._deadline):
            with suppress(ValueError):
                self._wishes.remove(wish)
            raise LimitRefused(self._no_limit())
        if wish.refused:
            raise LimitRefused(wish.refused)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            pause = self._every
            try:
                frame = self._look()
                pause *= _IDLE_TIMES if frame["state"] in _IDLE else 1
                if not self._ending.is_set():
                    self._hear(frame, pause)
                # Counted from when it was due, so that no second is left out in the long run.
                due = max(due + pause, time.monotonic())
                self._rest(due)
            except Exception as error:  # a thread that ends would be taken for a driver that hangs
                log.exception("Sampling the GPUs failed.")
                said = f"Sampling the GPUs failed: {type(error).__name__}: {error}. The log has more."
                self._hear(unavailable("failed", said), pause)
                self._ending.wait(pause)
        if self._child is not None:
            self._child.end()
        self._close_pipe()

    def _look(self) -> Frame:
        """The next frame."""
        if self._dying is not None:
            if not self._dying.dead():
                return self._silent(stuck=True)
            self._dying = None
        if self._child is None:
            if time.monotonic() < self._start_at:
                return self._again()
            try:
                self._child = self._born()
            except OSError as error:
                self._back_off()
                return unavailable("failed", f"The process that reads the GPUs could not be started: {error}.")
        try:
            frame: Frame = self._ask({"do": "frame"})["frame"]
        except _LateError:
            return self._silent(stuck=self._dying is not None)
        except _EndedError as error:
            return self._failed(str(error))
        self._answered_at = time.monotonic()
        if frame["state"] in _REPLACED:
            self._replace()
        else:
            self._delay = 0.0
        return self._with_events(frame)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The process's answer. It is replaced if that is late or none."""
        assert self._child is not None
        child, now = self._child, time.monotonic()
        until = now + (self._starting if child.fresh else self._deadline)
        tick = now + self._every
        try:
            child.send(request)
            while (now := time.monotonic()) < until and not self._ending.is_set():
                answer = child.receive(min(until, tick) - now, self._waking[0])
                if answer is not None:
                    return answer
                if (now := time.monotonic()) >= tick:
                    tick = now + self._every
                    if now - self._answered_at > self._deadline:
                        self._hear(self._silent(), self._every)
        except _EndedError:
            self._replace()
            raise
        self._replace()
        raise _LateError

    def _rest(self, until: float) -> None:
        """Until the next frame is due, see to limits."""
        while not self._ending.is_set():
            with suppress(IndexError):  # there is none, or whoever waited for it has just given up
                while True:
                    self._fulfil(self._wishes.popleft())
            left = until - time.monotonic()
            if left <= 0:
                return
            _readable(self._waking[0], left)
            self._drain()

    def _fulfil(self, wish: _Wish) -> None:
        if self._child is None:
            latest = self.latest()
            wish.answer(self._no_limit() if latest["state"] == "silent" else latest["message"])
            return
        try:
            wish.answer(self._ask(wish.request)["refused"])
        except (_LateError, _EndedError):
            wish.answer(self._no_limit())

    def _hear(self, frame: Frame, pause: float) -> None:
        """This is the latest frame, and there is none to be expected for a while."""
        with self._lock:
            self._latest, self._fresh_until = frame, time.monotonic() + pause + self._deadline
            if frame["state"] != "silent" and frame["devices"]:
                self._good = frame
        if frame["state"] != "silent":
            self._heard.set()
        if self._on_frame is not None:
            try:
                self._on_frame(frame)
            except Exception:
                log.exception("A frame of the GPUs could not be taken in.")

    # -- processes -------------------------------------------------------------------------------------------------

    def _born(self) -> _Child:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return _Child(self._popen(self._command, env=self._env, **pipes))

    def _replace(self) -> None:
        """Kill the process. A new one follows after a while, if this one dies."""
        assert self._child is not None
        self._child.kill()
        self._dying, self._child = (None if self._child.dead(_DEATH_SECONDS) else self._child), None
        self._back_off()

    def _back_off(self) -> None:
        self._delay = min(max(self._every, 2 * self._delay), _LONGEST_TIMES * self._every)
        self._start_at = time.monotonic() + self._delay

    # -- frames without an answer ----------------------------------------------------------------------------------

    def _again(self) -> Frame:
        """Between two processes: what is wrong still is."""
        assert self._latest is not None
        return self._silent() if self._latest["state"] == "silent" else self._latest | {"at": time.time()}

    def _failed(self, said: str) -> Frame:
        found = self._silent()
        message = f"The process that reads the GPUs {said}, and is started again. If this goes on, see the log."
        return found | {"state": "failed", "message": message}

    def _silent(self, *, stuck: bool = False) -> Frame:
        """The GPUs that are known, without figures."""
        if self._good is None:
            waited = time.monotonic() - self._began >= self._deadline
            message = (
                f"The NVIDIA driver has not answered for {self._deadline:g} s."
                if waited
                else "Nothing has been heard of the NVIDIA driver yet."
            )
            return unavailable("silent", f"{message} {_STUCK if stuck else _REMEDY}")
        when = time.strftime("%H:%M:%S", time.localtime(self._good["at"]))
        message = f"The NVIDIA driver has not answered since {when}. {_STUCK if stuck else _REMEDY}"
        about = {name: self._good[name] for name in ("simulated", "driver_version", "nvml_version", "cuda_version")}
        return unavailable("silent", message, devices=[_unknown(one) for one in self._good["devices"]], **about)

    def _with_events(self, frame: Frame) -> Frame:
        """With those that an earlier process has heard of: the error that is followed by silence is the telling one."""
        for device in frame["devices"]:
            if uuid := device["uuid"]:
                known, new = self._events.get(uuid, []), device["events"]
                device["events"] = [one for one in known if one not in new][-_EVENTS:] + new
                device["events"] = self._events[uuid] = device["events"][-_EVENTS:]
        return frame

    def _no_limit(self) -> str:
        return f"The NVIDIA driver has not answered for {self._deadline:g} s, so no limit is known to be set."

    def _close_pipe(self) -> None:
        """Whoever is last: the thread, or who closes what was never started."""
        with self._lock:
            for end in self._waking:
                if end >= 0:
                    os.close(end)
            self._waking = -1, -1

    # -- waking ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._lock:
            if self._waking[1] >= 0:
                os.write(self._waking[1], b".")

    def _drain(self) -> None:
        if _readable(self._waking[0], 0):
            os.read(self._waking[0], 4096)


class _Child:
    """The process, by its pipes. It is ``fresh`` until its first answer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout
        self._read = bytearray()
        self.fresh = True

    def send(self, request: dict[str, Any]) -> None:
        try:
            self._in.write(json.dumps(request).encode() + b"\n")
            self._in.flush()
        except OSError:
            raise _EndedError(self._how()) from None

    def receive(self, seconds: float, waking: int) -> dict[str, Any] | None:
        """An answer; None if there is none by then, or if somebody wakes us."""
        until = time.monotonic() + seconds
        while b"\n" not in self._read:
            ready = _readable((self._out.fileno(), waking), max(0.0, until - time.monotonic()))
            if self._out.fileno() not in ready:
                if ready:
                    os.read(waking, 4096)
                return None
            found = os.read(self._out.fileno(), 1 << 16)
            if not found:
                raise _EndedError(self._how())
            self._read += found
        line, _, rest = self._read.partition(b"\n")
        self._read, self.fresh = bytearray(rest), False
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise _EndedError("answered what it should not") from None
        return answer

    def kill(self) -> None:
        self._process.kill()

    def dead(self, patience: float = 0.0) -> bool:
        """Whether it has ended; one that hangs in the kernel does not, though it is killed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        if self._process.poll() is None:
            return False
        self._close()
        return True

    def end(self) -> None:
        """Let it end by itself, or make it."""
        with suppress(OSError):
            self._in.close()
        if not self.dead(_GRACE_SECONDS):
            self.kill()
            self.dead(_DEATH_SECONDS)

    def _how(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DEATH_SECONDS)
        code = self._process.poll()
        if code is None:
            return "has closed its output"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def _close(self) -> None:
        for pipe in (self._in, self._out):
            with suppress(OSError):
                pipe.close()


def _unknown(device: Mapping[str, Any]) -> dict[str, Any]:
    """A device that nobody can ask: it is what it was, and what it does is not known."""
    found = {name: device[name] if name in _IDENTITY else _nothing(value) for name, value in device.items()}
    if device["mig"] is not None:
        instances = [{name: one[name] if name in _INSTANCE else None for name in one} for one in device["mig"]]
        found["mig"] = instances
    return found | {"state": "silent", "problems": {}, "busy": {}, "measured": False}


def _nothing(value: Any) -> Any:
    return dict.fromkeys(value) if isinstance(value, dict) else None


def _readable(files: int | tuple[int, ...], seconds: float) -> set[int]:
    """Which of these have something to read, by then."""
    poll = select.poll()
    for file in (files,) if isinstance(files, int) else files:
        poll.register(file, select.POLLIN)
    return {file for file, _ in poll.poll(max(0, int(seconds * 1000 + 0.999)))}
