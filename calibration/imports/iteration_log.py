"""Step times from vLLM's own log (`--enable-logging-iteration-details`), fitted by costs per sequence and per token.

A line, since vLLM 0.14, reads `Iteration(515): 0 context requests, 0 context tokens, 20 generation requests, 20 generation
tokens, iteration elapsed time: 10.99 ms`; later ones add ` (dummy)` for a step without work that data parallelism asks for,
and `, GPU KV cache usage: 3.1%`, which counts tokens where the log says `GPU KV cache size: 512,000 tokens` at its start.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.step_costs import held_out, identified, least_relative_errors
from simulator.cost.model import Profile
from simulator.cost.operators import Affine, Bounds, row
from traces.errors import InputError
from traces.files import check_is_no_device

Float64 = npt.NDArray[np.float64]

COUNT, DECIMAL = r"(\d{1,9})", r"(\d{1,9}(?:\.\d{1,18})?)"
ITERATION = re.compile(
    rf"Iteration\(\d+\): {COUNT} context requests, {COUNT} context tokens, {COUNT} generation requests, {COUNT} generation "
    rf"tokens, iteration elapsed time: {DECIMAL} ms( \(dummy\))?(?:, GPU KV cache usage: {DECIMAL}%)?"
)
CACHE = re.compile(r"GPU KV cache size: (\d[\d,]{0,14}) tokens")
FEWEST = 50
"""Steps below which there is nothing to fit."""
MILLI = 1e-3


def import_iteration_log(path: Path, model: str, device: str) -> Profile:
    """Profile with a cost per step, sequence, query token, prefill token and, where the log counts them, token of KV.

    The costs are >= 0 and have the least mean relative error, which a few stalled steps do not move. `relative_error` is the
    mean over steps left out: the log is cut into five stretches, each predicted from the other four. Raises InputError.
    """
    steps, seconds, skipped = _read(path)
    if seconds.size < FEWEST:
        raise InputError(
            f"{path}: {seconds.size} steps with work: a fit needs {FEWEST}; log a run with --enable-logging-iteration-details"
        )
    names, dropped = _identified(steps)
    columns = np.stack([steps[name] for name in names], axis=1)
    costs = least_relative_errors(columns, seconds)
    errors = np.abs(held_out(columns, seconds))
    bias = seconds.sum() / (columns @ costs).sum() - 1
    fitted = {name: cost for name, cost in zip(names, costs, strict=True) if cost > 0}
    valid: Bounds = {name: (float(steps[name].min()), float(steps[name].max())) for name in names if name != "constant"}
    valid["query_per_seq"] = _span(steps["query_tokens"] / steps["live"])
    if "kv_tokens" in steps:
        valid["context_tokens"] = _span(steps["kv_tokens"] / steps["live"])
    return Profile(
        name=f"{model} on {device}, from {path.stem}",
        kind="affine",
        operators=(Affine("step", row(**fitted)),),
        model=model,
        device=device,
        source=f"vLLM iteration log {path.name}: {seconds.size:,} steps",
        uncertainty=f"steps left out of the fit are off by {errors.mean():.1%} on average, {np.median(errors):.1%} in the "
        f"median and {np.quantile(errors, 0.95):.1%} one time in twenty; all steps together took {bias:+.1%} of what the "
        "fit says; time between steps is not in the log",
        valid_range=valid,
        relative_error=float(errors.mean()),
        notes=" ".join([*dropped, *skipped]),
    )


def _identified(steps: dict[str, Float64]) -> tuple[list[str], list[str]]:
    """Features to fit, and in words what was left out because the log cannot tell it from another."""
    names, told = identified(steps)
    if "kv_tokens" not in steps:
        told.append(
            "No cost per kv_tokens: the log does not count KV, so what its contexts cost is in the other costs."
        )
    return names, told


def _span(values: Float64) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _read(path: Path) -> tuple[dict[str, Float64], Float64, list[str]]:
    """Features by name and seconds of every step with work, and in words what was left out."""
    check_is_no_device(path)
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): give the log of a vLLM server") from None
    found, dummies, idle, cache_tokens = [], 0, 0, 0.0
    for number, line in enumerate(lines, start=1):
        if cached := CACHE.search(line):
            cache_tokens = float(cached[1].replace(",", ""))
        if "Iteration(" not in line:
            continue
        match = ITERATION.search(line)
        if match is None:
            shown = line[line.index("Iteration(") :][:80]
            raise InputError(f"{path}, line {number}: {shown!r} is no step as vLLM logs it: remove the line")
        *counts, elapsed, dummy, usage = match.groups()
        context, prompt, generating, generated = map(float, counts)
        if dummy or not prompt + generated or not context + generating or not float(elapsed):
            dummies, idle = dummies + bool(dummy), idle + (not dummy)
            continue
        share = np.nan if usage is None else float(usage) / 100
        found.append((context + generating, prompt + generated, prompt, share * cache_tokens, float(elapsed) * MILLI))
    table = np.array(found).reshape(-1, 5)
    steps = {
        "constant": np.ones(len(table)),
        "live": table[:, 0],
        "query_tokens": table[:, 1],
        "prefill_tokens": table[:, 2],
    }
    if cache_tokens and not np.isnan(table[:, 3]).any():
        steps["kv_tokens"] = table[:, 3]
    left_out = [(dummies, "dummy steps"), (idle, "steps without tokens or time")]
    return steps, table[:, 4], [f"{count:,} {what} are left out." for count, what in left_out if count]
