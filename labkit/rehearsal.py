"""What libraries load only at first use, found by using them once in a child that is thrown away.

A fork server imports what the rehearsal came to import, and so children find it loaded. Only modules are taken over:
the rehearsal itself may start threads and touch CUDA, which the parent of forks must never do.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable

from labkit.forkserver import die_with_parent

__all__ = ["load_lazy_parts", "load_what_it_loads"]

_LONGEST_SECONDS = 60


def load_what_it_loads(rehearsal: Callable[[], None]) -> list[str]:
    """Import here what ``rehearsal`` imports when it runs in a child; the names."""
    read, write = os.pipe()
    server, child = os.getpid(), os.fork()
    if child == 0:
        # It has the server's listening socket, too: who asks a server that was killed would wait for this child's end.
        die_with_parent()
        if os.getppid() != server:
            os._exit(0)
        _rehearse(rehearsal, read, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    loaded = []
    for name in json.loads(told or b"[]"):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
            loaded.append(name)
    return loaded


def _rehearse(rehearsal: Callable[[], None], read: int, write: int) -> None:
    """In the child, never to return: run it, and tell the names of the new modules in the order they came."""
    try:
        os.close(read)
        signal.alarm(_LONGEST_SECONDS)
        before = set(sys.modules)
        try:
            rehearsal()
        except Exception:
            traceback.print_exc(file=sys.__stderr__)  # the rehearsal may have put something else in place of the other
        new = [name for name, module in sys.modules.items() if name not in before and hasattr(module, "__spec__")]
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps([name for name in new if name != "__mp_main__"]).encode())
    finally:
        os._exit(0)


def load_lazy_parts() -> None:
    """Import what torch loads only when it is used."""
    before = dict(os.environ)
    # An optimiser's first step loads it, by far the largest part; here first, so that it is not loaded twice.
    import torch._dynamo  # noqa: F401

    load_what_it_loads(_use_torch)
    # torch notes a cache folder there, which is nothing to a learner's program.
    os.environ.clear()
    os.environ.update(before)


def _use_torch() -> None:
    """The common calls whose first use loads something: testing, training, modules, data, printing."""
    import numpy as np
    import torch

    torch.testing.assert_close(torch.ones(2), torch.ones(2))
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(1))
    net(torch.ones(1, 1, 4, 4)).sum().backward()
    for kind in (torch.optim.SGD, torch.optim.Adam):
        optimizer = kind(net.parameters(), lr=0.1)
        optimizer.step()
        optimizer.zero_grad()
    torch.nn.LSTM(1, 1)(torch.ones(1, 1, 1))
    torch.nn.MultiheadAttention(2, 1)(*[torch.ones(1, 1, 2)] * 3)
    list(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 1)), batch_size=1))
    torch.func.vmap(torch.func.grad(torch.sin))(torch.ones(2))
    torch.autograd.gradcheck(torch.sin, torch.ones(1, dtype=torch.float64, requires_grad=True))
    torch.einsum("ij,jk", torch.ones(1, 1), torch.ones(1, 1))
    torch.linalg.svd(torch.ones(2, 2))
    torch.fft.fft(torch.ones(2))
    torch.distributions.Normal(0.0, 1.0).sample()  # type: ignore[no-untyped-call]
    repr(torch.ones(2, 2).numpy()), repr(torch.ones(2, 2)), repr(net), np.random.default_rng(0).normal()
