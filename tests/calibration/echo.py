"""A simulation made from a measured run: its own times, stretched or shifted, with a step log that fits them."""

import numpy as np

from calibration.runs.measured import MeasuredRun
from calibration.validation import SimulatedRun, StepLog


def echo(
    run: MeasuredRun, stretch: float = 1.0, delay_s: float = 0.0, step_s: float = 0.05, outside_fraction: float = 0.0
) -> SimulatedRun:
    """Every time after the anchor `stretch` times as far from it, and `delay_s` later; steps of equal length."""
    requests, anchor_s = run.requests, run.anchor_s
    first_s = anchor_s + stretch * (requests.first_token_s - anchor_s) + delay_s
    last_s = anchor_s + stretch * (requests.last_token_s - anchor_s) + delay_s
    start_s = np.arange(0.0, last_s.max() + step_s, step_s)
    decode_s = np.maximum(last_s - first_s, 1e-9)

    def cumulative(t_s: float, weights: np.ndarray) -> float:
        share = np.clip((t_s - first_s) / decode_s, 0.0, 1.0)
        return float(((weights > 1) * (weights - 1) * share + (t_s >= first_s)).sum())

    edges_s = np.append(start_s, start_s[-1] + step_s)
    output = np.diff(np.round([cumulative(edge_s, requests.output_tokens) for edge_s in edges_s])).astype(np.int64)
    middle_s = start_s + step_s / 2
    admitted_s = np.minimum(np.nan_to_num(requests.scheduled_s, nan=0.0), first_s)
    steps = StepLog(
        start_s=start_s,
        duration_s=np.full(start_s.size, step_s),
        running=_present(middle_s, np.maximum(admitted_s, anchor_s), last_s),
        waiting=_present(middle_s, anchor_s, np.maximum(admitted_s, anchor_s)),
        output_tokens=output,
        replica=np.zeros(start_s.size, np.int64),
    )
    return SimulatedRun(anchor_s.copy(), first_s, last_s, steps, outside_fraction)


def _present(t_s: np.ndarray, from_s: np.ndarray, until_s: np.ndarray) -> np.ndarray:
    return ((from_s <= t_s[:, None]) & (t_s[:, None] < until_s)).sum(axis=1)
