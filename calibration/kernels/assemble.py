"""From measured points to a profile: a table for each operator, what whole steps take beyond them, and how far off that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import nnls

from calibration.grids import errors_of, filled, gridded, held_out
from calibration.kernels.fits import fits
from calibration.kernels.grid import (
    DENSE_OPERATORS,
    MOST_SAMPLED,
    SAMPLED_OPERATORS,
    TOKEN_OPERATORS,
    Limits,
)
from calibration.kernels.journal import Key
from simulator.cost.model import Profile
from simulator.cost.operators import Affine, Operator, Table, row
from simulator.cost.shape import ModelShape
from simulator.cost.work import StepWork

Float64 = npt.NDArray[np.float64]
Points = Mapping[Key, Mapping[str, Any]]

MICRO = 1e-6
BEYOND = "beyond operators"
AXES = ("decode_seqs", "decode_context", "decode_width")


def profile_of(
    points: Points, shape: ModelShape, limits: Limits, about: Mapping[str, Any], graph_sizes: Sequence[int], name: str
) -> Profile:
    """The profile of all measured points; `about`: what they were measured on.

    Of the whole steps, even ones tell what operators miss, odd ones how far off the profile is.
    """
    operators, errors = _operators(points, shape, bool(graph_sizes))
    profile = Profile(
        name=name,
        kind="table",
        operators=tuple(operators),
        model=f"{about['model']} {about['dtype']}, random weights",
        device=str(about["device"]),
        source=f"rolloutsim calibrate kernels: {', '.join(f'{key} {value}' for key, value in about.items())}",
        uncertainty="see below",
        valid_range=_range(limits, points),
        parallel={"tensor_parallel_size": 1, "expert_parallel_size": 1},
    )
    steps = [points[key] for key in sorted(points) if key[0] == "step"]
    work, seconds = _work(steps, graph_sizes), np.array([step["median_s"] for step in steps])
    fitted = np.arange(seconds.size) % 2 == 0
    alone_s = profile.step_time_s(work)
    if (beside := _beside(work, seconds, alone_s, fitted)) is not None:
        profile = replace(profile, operators=(*profile.operators, beside))
    mixed = [points[key] for key in sorted(points) if key[0] == "mixed"]
    mixed_work, mixed_s = _work(mixed, ()), np.array([one["median_s"] for one in mixed])
    more_s = float(np.median(mixed_s - profile.step_time_s(mixed_work)))
    if more_s > 0:
        span = np.array([0.0, float(limits.max_num_batched_tokens)])
        more = Table(f"{BEYOND}, prefill", ("padded_tokens",), (span,), np.full(2, more_s), when="any_prefill")
        profile = replace(profile, operators=(*profile.operators, more))
    errors["whole steps"] = errors_of(profile.step_time_s(work)[~fitted], seconds[~fitted])
    errors["mixed steps"] = errors_of(profile.step_time_s(mixed_work), mixed_s)
    measured, seen = _facts(points, shape), errors["whole steps"]
    return replace(
        profile,
        uncertainty=f"whole steps not used for the profile: median error {seen['median']:.2%}, 95 % below {seen['p95']:.2%}",
        relative_error=seen["median"],
        notes=f"{shape.parameters:,} parameters. Operators alone make {np.median(alone_s / seconds):.1%} of a whole step.",
        held_out=errors,
        spread=_spread(points),
        fits=fits(work, seconds, shape, measured),
        measured=measured,
        drafter_costs=_drafters(points),
    )


def _operators(points: Points, shape: ModelShape, graphs: bool) -> tuple[list[Operator], dict[str, dict[str, float]]]:
    operators: list[Operator] = []
    errors = {}
    layered = dict.fromkeys(TOKEN_OPERATORS, shape.layers) | dict.fromkeys(DENSE_OPERATORS, shape.dense_layers)
    layered |= {"embed": 1, "experts": shape.moe_layers}
    for operator, layers in layered.items():
        if (frame := _frame(points, operator, ("tokens",))) is None:
            continue
        grid, values = gridded(frame, ("tokens",))
        errors[operator] = held_out(grid, values, 0)
        operators.append(Table(operator, ("padded_tokens",), grid, values * MICRO / layers, layers))
    for operator in SAMPLED_OPERATORS:
        frame = _frame(points, operator, ("tokens",))
        assert frame is not None, "always measured"
        grid, values = gridded(frame, ("tokens",))
        errors[operator] = held_out(grid, values, 0)
        if graphs:  # a graph samples every token that it runs on
            operators.append(Table(operator, ("padded_tokens",), grid, values * MICRO, when="decode_only"))
            operators.append(
                Table(f"{operator}, prefill", ("sampled_tokens",), grid, values * MICRO, when="any_prefill")
            )
        else:
            operators.append(Table(operator, ("sampled_tokens",), grid, values * MICRO))
    frame = _frame(points, "attention", AXES)
    assert frame is not None, "always measured"
    grid, values = gridded(frame, AXES)
    for axis, over in enumerate(("sequences", "context", "width")):
        errors[f"attention over {over}"] = held_out(grid, values, axis)
    values = filled(grid, values, (1, 0, 2)) * MICRO / shape.layers
    operators.append(Table("attention", AXES, grid, values, shape.layers, "any_decode"))
    frame = _frame(points, "prefill", ("prefill_chunk", "prefill_context"))
    if frame is not None and len(set(frame["prefill_chunk"])) > 1:
        axes: tuple[str, ...] = ("prefill_chunk", "prefill_context")
        grid, values = gridded(frame, axes)
        if grid[1].size == 1:
            axes, grid, values = axes[:1], grid[:1], values[:, 0]
        errors["prefill attention over chunk"] = held_out(grid, values, 0)
        values = filled(grid, values, range(values.ndim)) * MICRO / shape.layers
        operators.append(Table("prefill attention", axes, grid, values, shape.layers, "any_prefill", "prefill_seqs"))
    return operators, errors


def _frame(points: Points, operator: str, columns: Sequence[str]) -> pd.DataFrame | None:
    rows = [(*at, 1e6 * point["median_s"]) for (name, at), point in points.items() if name == operator]
    return pd.DataFrame(rows, columns=[*columns, "time_us"]) if rows else None


def _work(steps: Sequence[Mapping[str, Any]], graph_sizes: Sequence[int]) -> StepWork:
    did = {name: np.array([step["work"][name] for step in steps], np.float64) for name in steps[0]["work"]}
    padded = did["query_tokens"]
    if graph_sizes:
        sizes = np.array([*graph_sizes, np.inf])
        padded = np.minimum(sizes[np.searchsorted(sizes, padded)], np.maximum(padded, graph_sizes[-1]))
    return StepWork(**did, padded_tokens=padded, prefill_kv_tokens=did["prefill_tokens"])


def _beside(work: StepWork, seconds: Float64, alone_s: Float64, used: npt.NDArray[np.bool_]) -> Affine | None:
    """What steps take beyond their operators, by step, sequence and token, each at least 0; None where that is nothing.

    Least squares of errors relative to the step, so that long steps do not decide alone.
    """
    columns = np.stack([np.ones_like(seconds), np.asarray(work.live), np.asarray(work.padded_tokens)], 1)
    found, _ = nnls((columns / seconds[:, None])[used], (1 - alone_s / seconds)[used])
    if not found.any():
        return None
    return Affine(BEYOND, row(constant=found[0], live=found[1], padded_tokens=found[2]))


def _range(limits: Limits, points: Points) -> dict[str, tuple[float, float]]:
    tokens = max(at[0] for name, at in points if name == "qkv_proj")
    bounds = {
        "padded_tokens": (1.0, float(tokens)),
        "kv_tokens": (0.0, float(limits.kv_tokens)),
        "sampled_tokens": (1.0, float(min(tokens, MOST_SAMPLED))),
        "decode_seqs": (0.0, float(limits.max_num_seqs)),
        "decode_context": (0.0, float(limits.max_model_len)),
        "decode_width": (1.0, float(limits.max_width)),
    }
    chunks = [at for name, at in points if name == "prefill"]
    if chunks:
        bounds["prefill_chunk"] = (0.0, float(max(chunk for chunk, _ in chunks)))
        bounds["prefill_context"] = (0.0, float(max(before for _, before in chunks)))
    return bounds


def _spread(points: Points) -> dict[str, dict[str, float]]:
    by_operator: dict[str, list[float]] = {}
    for (operator, _), point in points.items():
        by_operator.setdefault(operator, []).append(point["spread"])
    return {
        operator: {
            "points": float(len(found)),
            "median": float(np.median(found)),
            "p95": float(np.quantile(found, 0.95)),
        }
        for operator, found in sorted(by_operator.items())
    }


def _facts(points: Points, shape: ModelShape) -> dict[str, float]:
    """What is good to know beside the operators: bandwidth, peak, a weight's way to the device, log-probabilities, attention."""
    copy, matmul, load = (points[name, ()] for name in ("copy", "matmul", "weight_load"))
    facts = {
        "copy_bandwidth_bytes_per_s": 2 * copy["bytes"] / copy["median_s"],
        "matmul_flops_per_s": 2 * matmul["size"] ** 3 / matmul["median_s"],
        "weight_load_s_per_byte": load["median_s"] / load["bytes"],
    }
    passes = [(at[0], point["median_s"]) for (name, at), point in points.items() if name == "logprob"]
    if passes:
        tokens, seconds = max(passes)
        facts |= {"logprob_pass_tokens": float(tokens), "logprob_pass_s_per_token": seconds / tokens}
    reached = {
        at: at[0] * at[1] * shape.kv_bytes_per_token / point["median_s"] / facts["copy_bandwidth_bytes_per_s"]
        for (name, at), point in points.items()
        if name == "attention" and at[2] == 1
    }
    far = {at: share for at, share in reached.items() if at[1] >= min(8192, max(at[1] for at in reached))}
    facts["attention_bandwidth_over_copy_median"] = float(np.median(list(far.values())))
    facts["attention_bandwidth_over_copy_best"] = max(far.values())
    return facts


def _drafters(points: Points) -> dict[str, dict[str, float]]:
    """Seconds that drafters add: of a pass over the batch, and by KV token of it; of suffix drafting on the host."""
    costs = {}
    for name in ("eagle", "draft_model"):
        found = [(batch * context, point["median_s"]) for (what, (batch, context, *_)), point in _of(points, name)]
        if found:
            kv, seconds = np.array(found).T
            per, _ = nnls(np.stack([1 / seconds, kv / seconds], 1), np.ones(seconds.size))
            costs[name] = {"per_pass_s": float(per[0]), "per_pass_kv_token_s": float(per[1])}
    suffix: dict[str, float] = {}
    for name, key in (("propose", "per_query_s"), ("learn", "per_emitted_token_s")):
        batch, seconds = np.array([(at[0], point["median_s"]) for (_, at), point in _of(points, name)]).T
        per, _ = nnls(np.stack([1 / seconds, batch / seconds], 1), np.ones(seconds.size))
        suffix["per_step_s"] = suffix.get("per_step_s", 0.0) + float(per[0])
        suffix[key] = float(per[1])
    return costs | {"suffix": suffix}


def _of(points: Points, operator: str) -> list[tuple[Key, Mapping[str, Any]]]:
    return [(key, point) for key, point in sorted(points.items()) if key[0] == operator]
