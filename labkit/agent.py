"""The sandbox's side: runs learners' programs and does what the judge asks of them, one call at a time.

Run as ``python -m labkit.agent``, confined. Frames of :mod:`labkit.wire` come in on standard input and go out on
standard output; both are moved away first, so that learner code finds an empty input and an output that is only shown.

The agent imports torch once and then forks a child per program, which answers until it is told to end or dies; the
agent reports how.
"""

from __future__ import annotations

import os
import signal

import torch

from labkit.frames import Frames
from labkit.program import Program
from labkit.wire import pack

__all__ = ["main"]


def main() -> None:
    """Serve programs until standard input ends."""
    # A parent that ran one multi-threaded operation leaves forked children that hang in their first one.
    torch.set_num_threads(1)
    _load_lazy_parts()
    frames = _claim_streams()
    frames.send(pack({"ready": os.getpid()}))
    while (request := frames.receive()) is not None:
        if request.get("op") != "start":
            continue  # a late word to a program that has died
        child = os.fork()
        if child == 0:
            try:
                Program(frames).serve(request)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        frames.send(pack({"ended": os.waitstatus_to_exitcode(status)}))


def _load_lazy_parts() -> None:
    """What torch loads at first use, loaded before any program waits for it."""
    layer = torch.nn.Linear(1, 1)
    layer(torch.zeros(1, 1)).sum().backward()


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
