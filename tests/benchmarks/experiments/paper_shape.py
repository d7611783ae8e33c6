"""DAS's own experiments on made-up rollouts of the shape it describes: budgets (Fig. 10, 12), scopes (6), windows (7)."""

from typing import Any

import numpy as np

from simulator.drafting.acceptance import count_each
from simulator.drafting.drafter import past_rows
from tests.benchmarks.experiments.parts import R1, head, made_up, replayed, row, suffix
from traces.synthesis import synth
from traces.trace import Trace

CLASSED = "das:budgets=0/8/24"
POLICIES = ("none", "unlimited", "das", "das:cap=8", CLASSED, "das:predictor=ema,budgets=0/8/24")
ONE_GPU: dict[str, Any] = {
    "prompts": 16, "samples": 16, "steps": 5, "median_tokens": 4000, "max_tokens": 16_384, "log_sigma": 0.85,
    "prompt_share": 0.5, "history_reuse": 0.91, "sibling_reuse": 0.0,
}  # fmt: skip
WORKLOADS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as stated", {}),
    ("history_reuse 0.80", {"history_reuse": 0.8}),
    ("prompt_share 0.8", {"prompt_share": 0.8}),
    ("median 2,500, log_sigma 1.2", {"median_tokens": 2500, "log_sigma": 1.2}),
)
MANY_STEPS = ONE_GPU | {"prompts": 128, "samples": 2, "steps": 20, "median_tokens": 500, "max_tokens": 2048}
LAST = [17, 18, 19]
SCOPES: tuple[dict[str, Any], ...] = (
    {"scope": "problem"}, {"scope": "problem", "own": False}, {"scope": "global"}, {"scope": "global", "own": False},
    {"scope": "request"},
)  # fmt: skip
WINDOWS = (1, 4, 16, 32)


def accepted_per_round(trace: Trace, steps: list[int], settings: dict[str, Any]) -> float:
    """Accepted drafts per sequence per decode step, the bonus not counted, with an unlimited budget."""
    drafter = suffix(**settings)
    total = np.zeros(3)
    for step in steps:
        rows = np.flatnonzero(trace.step == step)
        total += count_each(drafter.accept(trace, rows, past_rows(trace, step, drafter.window)), 255).sum(axis=1)
    return float(total[2] / total[0])


def budgets() -> None:
    """Print rollout time by policy for each workload, and how the policies compare on the first one."""
    head(
        f"paper_shape, budgets: 256 live, RL steps 1 to 4 together, profile {R1}; seconds (against none)",
        "workload", "at the cap", "accepted per round", *POLICIES,
    )  # fmt: skip
    for name, settings in WORKLOADS:
        trace = made_up(synth(**ONE_GPU | settings))
        steps = [1, 2, 3, 4]
        compare = None if settings else {"baseline": "unlimited", "bootstrap": 100}
        result = replayed(trace, R1, POLICIES, steps=steps, compare=compare)
        runs = result.runs.to_pylist()
        cut = float((trace.output_tokens == trace.output_tokens.max()).mean())
        cells = [f"{run['makespan_s']:.1f} ({1 / run['speedup'] - 1:+.1%})" for run in runs]
        row(name, f"{cut:.1%}", f"{accepted_per_round(trace, steps, {}):.2f}", *cells)
        if result.comparison is not None:
            comparison = result.comparison.table.to_pylist()
            facts = runs[POLICIES.index("das")]["facts"]
    head(
        "paper_shape, budgets: workload as stated, speed-up against unlimited",
        "policy", "speed-up", "95 % interval", "profile error ± 12 %", "gap closed", "verdict",
    )  # fmt: skip
    for found in comparison:
        span = "-" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
        around = f"{found['profile_low']:.3f} to {found['profile_high']:.3f}"
        row(found["policy"], f"{found['speedup']:.3f}", span, around, f"{found['closed']:.0%}", found["verdict"])
    print(f"\ndas says of itself: {facts}")


def scopes() -> None:
    """Print acceptance and rollout time by scope."""
    head(
        "paper_shape, scopes: accepted per round; seconds under unlimited",
        "drafter", "16 x 16 x 5 steps", "seconds", "128 x 2 x 20 steps, steps 17 to 19", "seconds",
    )  # fmt: skip
    cases = [(made_up(synth(**ONE_GPU)), [1, 2, 3, 4]), (made_up(synth(**MANY_STEPS)), LAST)]
    for settings in SCOPES:
        own = "" if settings.get("own", True) else ", own output off"
        row(settings["scope"] + own, *(cell for trace, steps in cases for cell in _drafted(trace, steps, settings)))


def windows() -> None:
    """Print acceptance and rollout time by window."""
    head(
        "paper_shape, windows: 128 x 2 x 20 steps, steps 17 to 19, problem + own",
        "window", "accepted per round", "seconds, unlimited", f"seconds, {CLASSED}",
    )  # fmt: skip
    trace = made_up(synth(**MANY_STEPS))
    for window in WINDOWS:
        classed = replayed(trace, R1, ["none", CLASSED], steps=LAST, drafter={"window": window}).runs.to_pylist()[1]
        row(window, *_drafted(trace, LAST, {"window": window}), f"{classed['makespan_s']:.2f}")


def _drafted(trace: Trace, steps: list[int], settings: dict[str, Any]) -> tuple[str, str]:
    run = replayed(trace, R1, ["unlimited"], steps=steps, drafter=settings).runs.to_pylist()[0]
    return f"{accepted_per_round(trace, steps, settings):.3f}", f"{run['makespan_s']:.2f}"


def main() -> None:
    """Print all tables."""
    budgets()
    scopes()
    windows()
