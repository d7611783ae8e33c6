"""DAS's own experiments on made-up rollouts of the shape it describes: budgets (Fig. 10, 12), scopes (6), windows (7)."""

import json
from typing import Any

from tests.benchmarks.experiments.parts import R1, head, made_up, replayed, row
from traces.synthesis import synth

CLASSED = "das:budgets=0/8/24"
POLICIES = ("none", "unlimited", "das", "das:cap=8", CLASSED, "das:predictor=ema,budgets=0/8/24")
ONE_GPU: dict[str, Any] = {
    "prompts": 16, "samples": 16, "steps": 6, "median_tokens": 4000, "max_tokens": 16_384, "log_sigma": 0.85,
    "prompt_share": 0.5, "history_reuse": 0.91, "sibling_reuse": 0.0,
}  # fmt: skip
WORKLOADS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as stated", {}),
    ("history_reuse 0.80", {"history_reuse": 0.8}),
    ("prompt_share 0.8", {"prompt_share": 0.8}),
    ("median 2,500, log_sigma 1.2", {"median_tokens": 2500, "log_sigma": 1.2}),
)
MANY_STEPS = ONE_GPU | {"prompts": 128, "samples": 2, "steps": 20, "median_tokens": 500, "max_tokens": 2048}
WARM = [2, 3, 4, 5]
"""RL step 1 is left out: its history, RL step 0, shares nothing within itself, so policies that fit learn nothing of it."""
LAST = [18, 19]
RESAMPLES = 50
SCOPES: tuple[dict[str, Any], ...] = (
    {"scope": "problem"}, {"scope": "problem", "own": False}, {"scope": "global"}, {"scope": "global", "own": False},
    {"scope": "request"},
)  # fmt: skip
WINDOWS = (1, 4, 16, 32)


def accepted_per_round(run: dict[str, Any]) -> float:
    """Accepted drafts per sequence per decode step, neither bonus tokens nor prefills counted."""
    return float(run["accepted_tokens"] / (run["sequence_steps"] - run["rollouts"]))


def budgets() -> None:
    """Print rollout time by policy for each workload, and the length-aware policies against unlimited."""
    traces = [(name, made_up(synth(**ONE_GPU | settings))) for name, settings in WORKLOADS]
    head(
        f"paper_shape, budgets: 256 live, RL steps {WARM[0]} to {WARM[-1]} together, profile {R1}; seconds (against none)",
        "workload", "at the cap", "accepted per round, unlimited", *POLICIES,
    )  # fmt: skip
    budgets_of_das = []
    for name, trace in traces:
        runs = replayed(trace, R1, POLICIES, steps=WARM).runs.to_pylist()
        cut = float((trace.output_tokens == ONE_GPU["max_tokens"]).mean())
        cells = [f"{run['makespan_s']:.1f} ({1 / run['speedup'] - 1:+.1%})" for run in runs]
        row(name, f"{cut:.1%}", f"{accepted_per_round(runs[1]):.2f}", *cells)
        facts = json.loads(runs[2]["facts"]).values()
        budgets_of_das.append(sorted({f"0/{fact['budget_medium']}/{fact['budget_long']}" for fact in facts}))
    head(
        f"paper_shape, budgets: speed-up against unlimited, {RESAMPLES} resamples of 16 prompts",
        "workload", "policy", "speed-up", "95 % interval", "profile error ± 12 %", "gap closed", "unlimited's", "verdict",
    )  # fmt: skip
    for (name, trace), chosen in zip(traces, budgets_of_das, strict=True):
        compare = {"baseline": "unlimited", "bootstrap": RESAMPLES}
        comparison = replayed(trace, R1, ["unlimited", "das", CLASSED], steps=WARM, compare=compare).comparison
        base, *others = comparison.table.to_pylist()  # type: ignore[union-attr]
        for found in others:
            policy = found["policy"] if found["policy"] != "das" else f"das (chose {', '.join(chosen)})"
            row(name, policy, f"{found['speedup']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}",
                f"{found['profile_low']:.3f} to {found['profile_high']:.3f}", f"{found['closed']:.1%}",
                f"{base['closed']:.1%}", found["verdict"])  # fmt: skip


def scopes() -> None:
    """Print acceptance and rollout time by scope."""
    head(
        "paper_shape, scopes: accepted per round; seconds under unlimited",
        "drafter", "workload as stated", "seconds", "128 x 2 x 20 steps, steps 18 and 19", "seconds",
    )  # fmt: skip
    cases = [(made_up(synth(**ONE_GPU)), WARM), (made_up(synth(**MANY_STEPS)), LAST)]
    for settings in SCOPES:
        own = "" if settings.get("own", True) else ", own output off"
        runs = [
            replayed(trace, R1, ["unlimited"], steps=steps, drafter=settings).runs.to_pylist()[0]
            for trace, steps in cases
        ]
        cells = [(f"{accepted_per_round(run):.3f}", f"{run['makespan_s']:.2f}") for run in runs]
        row(settings["scope"] + own, *(cell for pair in cells for cell in pair))


def windows() -> None:
    """Print acceptance and rollout time by window."""
    head(
        "paper_shape, windows: 128 x 2 x 20 steps, steps 18 and 19, problem + own",
        "window", "accepted per round, unlimited", "seconds, unlimited", f"seconds, {CLASSED}",
    )  # fmt: skip
    trace = made_up(synth(**MANY_STEPS))
    for window in WINDOWS:
        runs = replayed(trace, R1, ["unlimited", CLASSED], steps=LAST, drafter={"window": window}).runs.to_pylist()
        row(window, f"{accepted_per_round(runs[0]):.3f}", *(f"{run['makespan_s']:.2f}" for run in runs))


def main() -> None:
    """Print all tables."""
    budgets()
    scopes()
    windows()
