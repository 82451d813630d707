"""``python -m labkit.nursery DESCRIPTOR [module:function ...]``: a fork server with torch loaded.

The descriptor is that of its listening socket. What torch loads at first use is loaded too; the functions named are
called to load more.

A request names what its child runs, ``{"run": "module:function"}``; the function gets the request and its descriptors.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from labkit.forkserver import ForkServer

__all__ = ["main", "run"]


def main() -> None:
    """Load, then fork until standard input ends."""
    server = ForkServer(int(sys.argv[1]), run)

    import torch

    import labkit.agent  # noqa: F401  (loaded for the children that serve programs)
    from labkit.rehearsal import load_lazy_parts

    # A parent that ran one multi-threaded operation leaves children that hang in their first one.
    torch.set_num_threads(1)
    load_lazy_parts()
    for name in sys.argv[2:]:
        _function(name)()
    server.serve()


def run(request: dict[str, Any], descriptors: list[int]) -> int:
    """The function that the request names, in this process."""
    status: int = _function(request["run"])(request, descriptors)
    return status


def _function(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    main()
