"""How busy a MIG instance is, by GPM: counters that the driver reads from Hopper on.

Everything else that tells utilisation is not there in MIG mode. GPM compares two samples, at least a tenth of a second
apart, so the first frame has no figure. It counts for a GPU instance; compute instances within one share the figure.
"""

from __future__ import annotations

import math
import time
from typing import Any

import pynvml

from gradlab.gpu.nvml.calls import FAILURES, optional

__all__ = ["Gpm"]

_APART_SECONDS = 0.1


class Gpm:
    """The counters of one GPU's instances."""

    def __init__(self) -> None:
        self._samples: dict[int, tuple[float, Any]] = {}
        self._figures: dict[int, int | None] = {}
        self._spare: list[Any] = []
        self._question: Any = None

    @staticmethod
    def supported(handle: Any) -> bool:
        """Whether the GPU has such counters."""
        found = optional(pynvml.nvmlGpmQueryDeviceSupport, handle)
        return found is not None and bool(found.isSupportedDevice)

    def utilisation(self, handle: Any, instance: int) -> int | None:
        """Percent of the time since the last call in which the GPU instance computed; None if that is not known."""
        now = time.monotonic()
        before = self._samples.get(instance)
        if before is not None and now - before[0] < _APART_SECONDS:
            return self._figures.get(instance)
        sample = self._take(handle, instance)
        if sample is None:
            self.forget(instance)
            return None
        self._samples[instance] = now, sample
        figure = None
        if before is not None:
            figure = self._compare(before[1], sample)
            self._spare.append(before[1])
        self._figures[instance] = figure
        return figure

    def forget(self, instance: int) -> None:
        """The instance is no more, or cannot be asked: its last sample is not to be compared with a later one."""
        if instance in self._samples:
            self._spare.append(self._samples.pop(instance)[1])
        self._figures.pop(instance, None)

    def keep(self, instances: set[int]) -> None:
        """Forget all others."""
        for gone in self._samples.keys() - instances:
            self.forget(gone)

    def end(self) -> None:
        """Give the samples' memory back, while the library is there."""
        self.keep(set())
        while self._spare:
            optional(pynvml.nvmlGpmSampleFree, self._spare.pop())

    def _take(self, handle: Any, instance: int) -> Any:
        try:
            sample = self._spare.pop() if self._spare else pynvml.nvmlGpmSampleAlloc()
        except FAILURES:
            return None
        try:
            return pynvml.nvmlGpmMigSampleGet(handle, instance, sample)
        except FAILURES:
            self._spare.append(sample)
            return None

    def _compare(self, before: Any, after: Any) -> int | None:
        if self._question is None:  # it is large
            self._question = pynvml.c_nvmlGpmMetricsGet_t()
        question = self._question
        question.version, question.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 1
        question.sample1, question.sample2 = before, after
        metric = question.metrics[0]
        metric.metricId, metric.nvmlReturn = pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL, pynvml.NVML_SUCCESS
        if optional(pynvml.nvmlGpmMetricsGet, question) is None or metric.nvmlReturn != pynvml.NVML_SUCCESS:
            return None
        return round(metric.value) if math.isfinite(metric.value) and 0 <= metric.value <= 100.5 else None
