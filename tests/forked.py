"""What tests have children of a fork server run. Each returns its exit status, or writes to the descriptor it got."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

Request = dict[str, Any]


def _say(descriptor: int, value: object) -> int:
    os.write(descriptor, json.dumps(value).encode())
    return 0


def status(request: Request, _descriptors: list[int]) -> int:
    value: int = request["status"]
    return value


def signalled(request: Request, _descriptors: list[int]) -> int:
    os.kill(os.getpid(), request["signal"])
    time.sleep(60)
    return 0


def fails(_request: Request, _descriptors: list[int]) -> int:
    raise ValueError("as it was told to")


def sleeps(_request: Request, descriptors: list[int]) -> int:
    """Says its process id and that of a child of its own, then both wait."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child:
        _say(descriptors[0], [os.getpid(), child])
    os.closerange(0, 100)
    time.sleep(60)
    return 0


def sees(_request: Request, descriptors: list[int]) -> int:
    """Its descriptors, session, and where an interrupt goes."""
    listing = os.open("/proc/self/fd", os.O_RDONLY)
    found = {int(name) for name in os.listdir(listing)} - {listing}
    os.close(listing)
    open_now = [number for number in sorted(found) if _is_open(number)]
    leader = os.getsid(0) == os.getpid()
    interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return _say(descriptors[0], {"open": open_now, "mine": descriptors, "leader": leader, "interrupt": interrupt})


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def draws(_request: Request, descriptors: list[int]) -> int:
    import random

    import numpy as np

    return _say(descriptors[0], [random.random(), float(np.random.rand())])


def torch_state(_request: Request, descriptors: list[int]) -> int:
    """What the parent left behind, as a child finds it; and whether two threads work here."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    total = float(torch.ones(2_000_000).mul(2).sum())
    return _say(
        descriptors[0],
        {
            "threads": threads,
            "cuda": torch.cuda.is_initialized(),
            "bad fork": torch.cuda._is_in_bad_fork(),
            "sum": total,
        },
    )


def lazy_parts(_request: Request, descriptors: list[int]) -> int:
    """The modules that common calls of torch still load here."""
    import torch

    before = set(sys.modules)
    torch.testing.assert_close(torch.ones(2), torch.ones(2))
    net = torch.nn.Linear(2, 1)
    net(torch.ones(1, 2)).sum().backward()
    torch.optim.Adam(net.parameters()).step()
    repr(net), repr(torch.ones(3))
    return _say(descriptors[0], sorted(set(sys.modules) - before))
