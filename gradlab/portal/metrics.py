"""GPU use in Prometheus's text format: by GPU, learner, server and lab, never by process.

What hardware does not report has no sample, and neither has a GPU that cannot be read: 0 would be an answer.
docs/metrics.md lists the names; a test compares the two. Seconds that were held and used come from the store, so these
counters do not fall when the GPU monitor is started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from gradlab.store import GpuUsage

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

View = Mapping[str, Any]

# By metric: the field of a device, what it is multiplied with, and what is said of it.
_DEVICE = {
    "gradlab_gpu_utilisation_ratio": ("utilisation", 0.01, "Share of time in which a kernel ran on the GPU."),
    "gradlab_gpu_memory_used_bytes": ("memory_used", 1, "GPU memory in use, without what the driver keeps."),
    "gradlab_gpu_memory_total_bytes": ("memory_total", 1, "GPU memory there is."),
    "gradlab_gpu_memory_unattributed_bytes": ("unattributed", 1, "GPU memory in use that no process accounts for."),
    "gradlab_gpu_temperature_celsius": ("temperature", 1, "Temperature of the GPU."),
    "gradlab_gpu_power_watts": ("power", 1, "Power drawn."),
    "gradlab_gpu_power_limit_watts": ("power_limit", 1, "Power that the GPU may draw."),
}
_PART = {
    "gradlab_learner_gpu_memory_bytes": ("memory", 1, "GPU memory of a learner's processes."),
    "gradlab_learner_gpu_utilisation_ratio": ("utilisation", 0.01, "Share of time in which their kernels ran."),
}
_WHOLE = {
    "gradlab_gpu_slots": ("slots", "Places on GPUs that can be given out."),
    "gradlab_gpu_slots_free": ("free", "Places that nobody has."),
}
_LEARNER = ("learner", "server", "lab", "gpu")


def exposition(view: View, usage: Iterable[GpuUsage], now: float) -> bytes:
    """The metrics of one view, and of all usage there ever was."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(list(_metrics(view, list(usage), now))))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def _metrics(view: View, usage: Sequence[GpuUsage], now: float) -> Iterator[Metric]:
    up = GaugeMetricFamily("gradlab_gpu_up", "1 if the GPUs can be read, 0 if not; then nothing is known of them.")
    up.add_metric([], float(view["available"]))
    yield up
    yield _value("gradlab_gpu_last_sample_timestamp_seconds", "When the GPUs were last asked.", view["at"])
    devices = [one for one in view["devices"] if view["available"]]
    yield from _of_devices(view, devices)
    yield from _of_parts(devices)
    yield from _of_the_line(view, now)
    yield from _of_usage(usage)


def _of_devices(view: View, devices: Sequence[View]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "gradlab_gpu_info", "1; the labels say what GPU it is.", labels=("gpu", "uuid", "name", "driver", "simulated")
    )
    healthy = GaugeMetricFamily("gradlab_gpu_healthy", "1 if this GPU can be read, 0 if not.", labels=("gpu",))
    for one in devices:
        simulated = "true" if view["simulated"] else "false"
        about = (one["uuid"] or "", one["name"] or "", view["driver_version"] or "", simulated)
        info.add_metric([_gpu(one), *about], 1.0)
        healthy.add_metric([_gpu(one)], float(not one["error"]))
    yield info
    yield healthy
    for name, (field, factor, said) in _DEVICE.items():
        yield _gauge(name, said, ("gpu",), (([_gpu(one)], _scaled(one[field], factor)) for one in devices))
    yield _counter(
        "gradlab_gpu_energy_joules", "Energy since the driver was loaded.", (([_gpu(o)], o["energy"]) for o in devices)
    )
    yield _counter(
        "gradlab_gpu_ecc_uncorrected",
        "Uncorrected errors of GPU memory since the driver was loaded.",
        (([_gpu(one)], (one["ecc"] or {}).get("uncorrected")) for one in devices),
    )
    latest: dict[tuple[str, str], float] = {}
    for one in devices:
        for event in one["events"] or ():
            key = _gpu(one), str(event["xid"])
            latest[key] = max(event["at"], latest.get(key, 0.0))
    said = "When the driver last reported this error (Xid)."
    rows = ((list(key), at) for key, at in sorted(latest.items()))
    yield _gauge("gradlab_gpu_last_xid_timestamp_seconds", said, ("gpu", "xid"), rows)


def _of_parts(devices: Sequence[View]) -> Iterator[Metric]:
    """A learner with several slices of a GPU has one sample of it: their sum."""
    for name, (field, factor, said) in _PART.items():
        sums: dict[tuple[str, ...], float | None] = {}
        for one in devices:
            for part in one["parts"]:
                key = part["learner"], part["server"], part["lab"], _gpu(one)
                value, before = _scaled(part[field], factor), sums.get(key, 0.0)
                sums[key] = None if value is None or before is None else before + value
        yield _gauge(name, said, _LEARNER, ((list(key), value) for key, value in sorted(sums.items())))


def _of_the_line(view: View, now: float) -> Iterator[Metric]:
    for name, (field, said) in _WHOLE.items():
        yield _value(name, said, view[field])
    yield _value("gradlab_gpu_queue_length", "Learners who wait for a GPU.", len(view["queue"]))
    longest = max((now - one["since"] for one in view["queue"]), default=0.0)
    yield _value("gradlab_gpu_queue_longest_wait_seconds", "How long the first of them has waited.", max(0.0, longest))
    idle = len(view["idle"]) if view["available"] else None
    yield _value("gradlab_gpu_idle_holders", "Servers that hold a GPU and have not used it for a minute.", idle)


def _of_usage(usage: Sequence[GpuUsage]) -> Iterator[Metric]:
    for name, said in (("held", "GPU-seconds held."), ("busy", "GPU-seconds used.")):
        sums: dict[tuple[str, str], float] = {}
        for one in usage:
            key = one.learner, one.lab
            sums[key] = sums.get(key, 0.0) + getattr(one, name)
        rows = ((list(key), seconds) for key, seconds in sorted(sums.items()))
        yield _counter(f"gradlab_learner_gpu_{name}_seconds", said, rows, labels=("learner", "lab"))


def _gpu(device: View) -> str:
    return str(device["index"])


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _value(name: str, said: str, value: float | None) -> Metric:
    return _gauge(name, said, (), [([], value)])


def _gauge(name: str, said: str, labels: Sequence[str], rows: Iterable[tuple[list[str], float | None]]) -> Metric:
    family = GaugeMetricFamily(name, said, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _counter(
    name: str, said: str, rows: Iterable[tuple[list[str], float | None]], labels: Sequence[str] = ("gpu",)
) -> Metric:
    family = CounterMetricFamily(name, said, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family
