"""GPUs as the GPU monitor describes them, and pools of their slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradlab.gpu_mode import Mode
from gradlab.hub.gpus import Pool, slots_of

__all__ = ["EXCLUSIVE", "GIB", "MIG", "MINUTE", "check_estimates", "gpu", "held", "line", "pool_of", "shared"]

GIB = 1 << 30
MINUTE = 60.0
EXCLUSIVE, MIG = Mode("exclusive"), Mode("mig")


def shared(shares: int) -> Mode:
    return Mode("shared", shares)


def gpu(name: str, *, error: str | None = None, mig: Sequence[str] | None = None, hard: bool = False) -> dict[str, Any]:
    """A device as the GPU monitor describes it; ``hard`` is whether its memory can be limited."""
    instances = [{"uuid": f"MIG-{one}", "name": "1g.10gb", "memory_total": 10 * GIB} for one in mig or ()]
    return {
        "uuid": f"GPU-{name}",
        "name": "NVIDIA H200",
        "memory_total": 140 * GIB,
        "error": error,
        "mig": None if mig is None else instances,
        "memory_limits": {"hard": hard, "why": "" if hard else "This driver has none."},
    }


def pool_of(*names: str, shares: int = 1, lasted: Sequence[float] = ()) -> Pool:
    """The slots of GPUs with these names."""
    return Pool(slots_of(shared(shares), [gpu(name) for name in names]), lasted=lasted)


def line(pool: Pool) -> list[str]:
    """Who waits, in order."""
    return [waiter["holder"] for waiter in pool.snapshot()["line"]]


def held(pool: Pool) -> dict[str, str]:
    """Holder to slot id."""
    return {holder["holder"]: slot["id"] for slot in pool.snapshot()["slots"] for holder in slot["holders"]}


def check_estimates(pool: Pool, waiters: Sequence[str], now: float) -> None:
    """Those who wait, in this order, all have an estimate or none has; it is a number, and grows with the place."""
    estimates = [pool.estimate(waiter, now) for waiter in waiters]
    numbers = [estimate for estimate in estimates if estimate is not None]
    assert len(numbers) in (0, len(estimates))
    assert all(number >= 0 for number in numbers)  # NaN is not
    assert numbers == sorted(numbers)
