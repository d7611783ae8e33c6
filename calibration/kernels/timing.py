"""Seconds of a call: warmed up, the median of several, on a GPU by its own clock and without launches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

LEAST, MOST, AIM_S = 4, 25, 0.08
"""Samples of a point, and how long they should take together."""
LEAST_SAMPLE_S = 2e-4
"""A shorter call is repeated within a sample."""


@dataclass(frozen=True)
class Timed:
    """Median seconds of a call; spread: interquartile range over the median; how many samples."""

    median_s: float
    spread: float
    samples: int


def timed(call: Callable[[], object], device: torch.device) -> Timed:
    """Time a call. On a GPU it is captured in a graph, so that what it costs to launch its kernels does not count."""
    sample = _graph_sampler(call) if device.type == "cuda" else plain_sampler(call)
    once_s = sample(1)[0]
    inner = max(1, round(LEAST_SAMPLE_S / max(once_s, 1e-7)))
    count = int(np.clip(AIM_S / max(once_s * inner, 1e-7), LEAST, MOST))
    return summary([seconds for _ in range(count) for seconds in sample(inner)])


def summary(samples_s: list[float]) -> Timed:
    """Median and spread of samples."""
    low, median, high = np.quantile(samples_s, [0.25, 0.5, 0.75])
    return Timed(float(median), float((high - low) / median), len(samples_s))


def plain_sampler(call: Callable[[], object]) -> Callable[[int], list[float]]:
    """What takes one sample of a call repeated so many times: a list of seconds of one."""
    call()

    def sample(inner: int) -> list[float]:
        start_s = time.perf_counter()
        for _ in range(inner):
            call()
        return [(time.perf_counter() - start_s) / inner]

    return sample


def _graph_sampler(call: Callable[[], object]) -> Callable[[int], list[float]]:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()

    def sample(inner: int) -> list[float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(inner):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 / inner]

    return sample
