"""The sandbox's side: runs learners' programs and does what the judge asks of them, one call at a time.

Started as ``python -m labkit.agent``, confined, or forked from a process that has torch loaded (:func:`forked`), which
confines itself first. Frames of :mod:`labkit.wire` come in on standard input and go out on standard output; both are
moved away, so that learner code finds an empty input and an output that is only shown.

The agent forks a child per program, which answers until it is told to end or dies; the agent reports how.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from labkit import enclosure
from labkit.forkserver import die_with_parent
from labkit.frames import Frames
from labkit.program import Program
from labkit.rehearsal import load_lazy_parts
from labkit.seal import seal
from labkit.wire import PREFIX, pack, prefix_lengths, unpack

__all__ = ["forked", "main"]

_CLEARINGS = 1000


def main() -> None:
    """Serve programs until standard input ends.

    ``--warm``: load first what a program would wait for later. ``--alone``: in a PID namespace with nobody else.
    """
    mode = os.fstat(0).st_mode
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        sys.exit(
            "labkit.agent is started by the judge, which speaks to it through a pipe. To check a notebook: lab.check"
        )
    # A parent that ran one multi-threaded operation leaves forked children that hang in their first one.
    torch.set_num_threads(1)
    if "--warm" in sys.argv:
        load_lazy_parts()
    seal(os.uname().machine)  # where the sandbox has not done so already
    serve(alone="--alone" in sys.argv)


def forked(request: dict[str, Any], descriptors: list[int]) -> int:
    """Confine this process as the request says, then serve: what a fork server runs in its child.

    ``descriptors``: standard input, output and error, and, to ``enter`` namespaces, a pidfd of who holds them.
    ``request``: ``enter``; ``limits``, ``uid``, ``environment``, ``network`` and ``user`` of :mod:`labkit.enclosure`.
    """
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request["enter"]:
        enclosure.enter(descriptors[3], user=request["user"], network=request["network"])
        os.close(descriptors[3])
        # Only a child is inside the PID namespace; this process waits outside, where nobody inside can see it.
        child = os.fork()
        if child:
            os.closerange(0, 3)
            return abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.setsid()
    os.chdir("/tmp")
    os.environ.clear()
    os.environ.update(request["environment"])
    enclosure.limit(request["limits"])
    enclosure.give_up_privileges(request["uid"])
    die_with_parent()  # last: a new user id takes it off
    serve(alone=request["enter"])
    return 0


def serve(*, alone: bool) -> None:
    """Run one program after another until standard input ends, or nobody is left to read what a program answers.

    The process of the next program is forked before there is a request for it, which it then reads itself. Where the
    agent is ``alone`` with its programs, what one leaves behind is ended before the next.
    """
    frames = _claim_streams()
    ours = set(_processes())
    spare = _Spare(frames)
    frames.send(pack({"ready": True}))
    while _comes(frames):
        kills = _memory_kills()
        child, spare = spare.released(), _Spare(frames)
        status = os.waitstatus_to_exitcode(_wait(child, frames))
        if alone:
            _end_all_but({*ours, spare.pid})
        frames.send(pack({"ended": status, "out_of_memory": status == -9 and _memory_kills() > kills}))


class _Spare:
    """A process that waits to be the next program's."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        waiting, self._gate = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._gate)
                _touch()
                if os.read(waiting, 1):
                    os.close(waiting)
                    _run_next(frames)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(0)
        os.close(waiting)

    def released(self) -> int:
        """Its process id, from when on it reads requests; another's, if an earlier program has killed it."""
        try:
            os.write(self._gate, b"x")
        except BrokenPipeError:
            with contextlib.suppress(ChildProcessError):  # buried already
                os.waitpid(self.pid, 0)
            return _Spare(self._frames).released()
        finally:
            os.close(self._gate)
        return self.pid


def _touch() -> None:
    """Do what every program does, before it is waited for: at the first write each page is copied from the parent's."""
    rows = torch.arange(6.0).reshape(2, 3)
    answer = {"n": 0, "value": ((rows @ rows.T).softmax(-1) + rows.mean(), [rows])}
    frame = pack(answer)
    body = PREFIX.size + prefix_lengths(frame[: PREFIX.size])[0]
    unpack(frame[PREFIX.size : body], frame[body:])
    exec(compile("def f(x):\n    return [x * y for y in range(3)]\nf(1.0)", "<touch>", "exec"), {})


def _run_next(frames: Frames) -> None:
    """Serve the next program; what comes before it are late words to one that has died."""
    while (request := frames.receive()) is not None:
        if request.get("op") == "start":
            with contextlib.suppress(OSError):  # where memory runs out, the program goes and the agent stays to tell
                Path("/proc/self/oom_score_adj").write_text("1000")
            Program(frames).serve(request)
            return


def _comes(frames: Frames) -> bool:
    """Wait for a request without reading it; False at the end of the requests."""
    poll = select.poll()
    poll.register(frames.requests, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll())


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _end_all_but(spared: set[int]) -> None:
    """Kill what a program left behind, again and again while it forks; a sandbox that cannot be cleared is given up."""
    for _ in range(_CLEARINGS):
        strays = [pid for pid in _processes() if pid not in spared and _runs(pid)]
        if not strays:
            _bury()
            return
        for pid in strays:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    os._exit(1)


def _bury() -> None:
    """Wait for the dead: as the first process of a container the agent inherits them, and they count as processes."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _memory_kills() -> int:
    """How often the kernel has killed here for want of memory: it counts for each control group, so for a container."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            words = Path(path).read_text().split()
            return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0
    return 0


def _wait(child: int, frames: Frames) -> int:
    """The wait status of a program; the agent ends with it if the judge hangs up meanwhile."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(frames.requests, 0)  # no event but the hang-up: what there is to read is the program's
    if ended not in dict(poll.poll()):
        os._exit(0)
    os.close(ended)
    return os.waitpid(child, 0)[1]


def _claim_streams() -> Frames:
    """Take standard input and output for frames; learner code gets an empty input, and its output goes to stderr."""
    frames = Frames(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return frames


if __name__ == "__main__":
    main()
