"""Seconds of a decode step from its five features, in plain Python."""

from collections.abc import Sequence

from tests.reference.engine import Cost

Grid = float | Sequence["Grid"]  # nested as deep as there are axes left

FEATURES = ("live", "query_tokens", "kv_tokens", "pairs", "prefill_tokens")


def affine(
    constant: float, live: float = 0.0, query: float = 0.0, kv: float = 0.0, pairs: float = 0.0, prefill: float = 0.0
) -> Cost:
    """A constant and one coefficient per feature, summed from left to right."""

    def step_time_s(n: int, query_tokens: int, kv_tokens: int, n_pairs: int, prefill_tokens: int) -> float:
        return constant + live * n + query * query_tokens + kv * kv_tokens + pairs * n_pairs + prefill * prefill_tokens

    return step_time_s


def roofline(
    *,
    weight_bytes: float,
    kv_bytes_per_token: float,
    flops_per_token: float,
    flops_per_pair: float,
    bandwidth_bytes_per_s: float,
    peak_flops_per_s: float,
) -> Cost:
    """The slower of reading weights and KV and of computing: max(bytes/bandwidth, flops/peak)."""

    def step_time_s(n: int, query_tokens: int, kv_tokens: int, n_pairs: int, prefill_tokens: int) -> float:
        read_bytes = weight_bytes + kv_bytes_per_token * kv_tokens
        flops = flops_per_token * query_tokens + flops_per_pair * n_pairs
        return max(read_bytes / bandwidth_bytes_per_s, flops / peak_flops_per_s)

    return step_time_s


def interpolate(axes: Sequence[Sequence[float]], values: Grid, point: Sequence[float]) -> float:
    """Multilinear in the cell of the point; outside the grid the nearest cell goes on. A one-point axis is flat."""
    if not axes:
        assert not isinstance(values, Sequence), "values are nested deeper than there are axes"
        return values
    assert isinstance(values, Sequence), "values are nested less deep than there are axes"
    assert len(values) == len(axes[0]), "an axis and its values differ in length"
    axis, x = axes[0], point[0]
    if len(axis) == 1:
        return interpolate(axes[1:], values[0], point[1:])
    cell = max(i for i in range(len(axis) - 1) if i == 0 or axis[i] <= x)
    share = (x - axis[cell]) / (axis[cell + 1] - axis[cell])
    low, high = (interpolate(axes[1:], values[i], point[1:]) for i in (cell, cell + 1))
    return (1.0 - share) * low + share * high


def gridded(features: Sequence[str], axes: Sequence[Sequence[float]], values: Grid) -> Cost:
    """A measured table over the named features, one axis each."""
    chosen = [FEATURES.index(name) for name in features]

    def step_time_s(*work: int) -> float:
        return interpolate(axes, values, [work[i] for i in chosen])

    return step_time_s
