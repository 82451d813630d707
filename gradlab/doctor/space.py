"""The disk of a hosted server: what is free, what Docker fills, and how large learners' homes are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gradlab.doctor.finding import Finding

__all__ = ["disk", "homes", "usage"]

_LEAST = 2 << 30
_ENOUGH = 20 << 30
_FREE_IT = (
    "Give the disk more room. `docker system df` says what fills it: `docker builder prune` and `docker image prune` "
    "touch nobody's work."
)


def disk(folder: Path) -> Finding:
    """``folder`` lies on the disk where Docker has its volumes."""
    free = shutil.disk_usage(folder).free
    value = f"{_gib(free)} free where Docker keeps volumes and images"
    if free < _LEAST:
        return Finding("disk", "failed", value, _FREE_IT)
    if free < _ENOUGH:
        return Finding("disk", "warning", value, _FREE_IT)
    return Finding("disk", "ok", value)


def usage(df: dict[str, Any]) -> Finding:
    """What Docker's own account (``docker system df``) says."""
    cache = sum(item.get("Size", 0) for item in df.get("BuildCache") or () if not item.get("InUse"))
    volumes = sum(_size(volume) for volume in df.get("Volumes") or ())
    containers = sum(item.get("SizeRw", 0) or 0 for item in df.get("Containers") or ())
    value = f"images {_gib(df.get('LayersSize') or 0)}, volumes {_gib(volumes)}, containers {_gib(containers)}"
    return Finding("Docker's disk", "ok", f"{value}, caches of builds {_gib(cache)}")


def homes(df: dict[str, Any], installation: str) -> Finding:
    """Learners' homes, the largest by name: Docker bounds no volume."""
    begin = f"{installation}-home-"
    sizes = {v["Name"].removeprefix(begin): _size(v) for v in df.get("Volumes") or () if v["Name"].startswith(begin)}
    if not sizes:
        return Finding("homes", "ok", "none yet")
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
    of_them = ", ".join(f"{name} {_gib(sizes[name])}" for name in largest)
    return Finding("homes", "ok", f"{len(sizes)} with {_gib(sum(sizes.values()))} in all; the largest: {of_them}")


def _size(volume: dict[str, Any]) -> int:
    """-1 of a volume that Docker cannot measure counts as nothing."""
    return max(0, int((volume.get("UsageData") or {}).get("Size", 0)))


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
