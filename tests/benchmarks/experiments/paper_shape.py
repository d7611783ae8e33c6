"""DAS's own experiments on made-up rollouts of the shape it describes: budgets (Fig. 10, 12), scopes (6), windows (7)."""

import json
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from tests.benchmarks.experiments.parts import R1, head, made_up, replayed, row
from traces.synthesis import synth

CLASSED = "das:budgets=0/8/24"
EARLY = "das:short=2000,long=8000,budgets=0/8/24"
POLICIES = ("none", "unlimited", "das", "das:cap=8", CLASSED, "das:predictor=ema,budgets=0/8/24", EARLY)
ONE_GPU: dict[str, Any] = {
    "prompts": 16, "samples": 16, "steps": 4, "median_tokens": 4000, "max_tokens": 16_384, "log_sigma": 0.85,
    "prompt_share": 0.5, "history_reuse": 0.91, "sibling_reuse": 0.0,
}  # fmt: skip
AWARE = (2, 3, 4, 5, 6)
"""Which of POLICIES are held against unlimited."""
WORKLOADS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as stated", {}),
    ("history_reuse 0.80", {"history_reuse": 0.8}),
    ("prompt_share 0.8", {"prompt_share": 0.8}),
    ("median 2,500, log_sigma 1.2", {"median_tokens": 2500, "log_sigma": 1.2}),
)
MANY_STEPS = ONE_GPU | {"prompts": 128, "samples": 2, "steps": 20, "median_tokens": 500, "max_tokens": 2048}
WARM = [2, 3]
"""RL step 1 is left out: its history, RL step 0, shares nothing within itself, so policies that fit learn nothing of it."""
LAST = [18, 19]
SEEDS = range(8)
"""Each is one GPU's share: 16 of the 128 prompts."""
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
    shape = f"256 live, {len(SEEDS)} seeds, RL steps {WARM[0]} and {WARM[-1]}, profile {R1}"
    head(
        f"paper_budgets: {shape}; seconds of all (against none)",
        "workload", "at the cap", "accepted per round, unlimited", *POLICIES,
    )  # fmt: skip
    against = []
    for name, settings in WORKLOADS:
        seconds, cut, accepted, chosen = [], 0.0, 0.0, set()
        for seed in SEEDS:
            trace = made_up(synth(**ONE_GPU | settings | {"seed": seed}))
            runs = replayed(trace, R1, POLICIES, steps=WARM).runs.to_pylist()
            seconds.append([run["makespan_s"] for run in runs])
            cut += float((trace.output_tokens == ONE_GPU["max_tokens"]).mean()) / len(SEEDS)
            accepted += accepted_per_round(runs[1]) / len(SEEDS)
            facts = json.loads(runs[POLICIES.index("das")]["facts"]).values()
            chosen |= {f"0/{fact['budget_medium']}/{fact['budget_long']}" for fact in facts}
        found = np.array(seconds)
        total = found.sum(axis=0)
        row(name, f"{cut:.1%}", f"{accepted:.2f}", *(f"{s:.0f} ({s / total[0] - 1:+.1%})" for s in total))
        against.append((name, np.log(found[:, [1]] / found), chosen))
    head(
        f"paper_budgets: speed-up against unlimited, paired over {len(SEEDS)} seeds (95 % interval)",
        "workload", *(POLICIES[i] for i in AWARE), "chosen by das",
    )  # fmt: skip
    for name, logs, chosen in against:
        reach = student_t.ppf(0.975, len(SEEDS) - 1) * logs.std(axis=0, ddof=1) / np.sqrt(len(SEEDS))
        mean = logs.mean(axis=0)
        spans = [np.exp([mean[i], mean[i] - reach[i], mean[i] + reach[i]]) for i in AWARE]
        row(name, *("{:.3f} ({:.3f} to {:.3f})".format(*span) for span in spans), ", ".join(sorted(chosen)))


def scopes() -> None:
    """Print acceptance and rollout time by scope."""
    head(
        "paper_scopes: accepted per round; seconds under unlimited",
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
        "paper_windows: 128 x 2 x 20 steps, steps 18 and 19, problem + own",
        "window", "accepted per round, unlimited", "seconds, unlimited", f"seconds, {CLASSED}",
    )  # fmt: skip
    trace = made_up(synth(**MANY_STEPS))
    for window in WINDOWS:
        runs = replayed(trace, R1, ["unlimited", CLASSED], steps=LAST, drafter={"window": window}).runs.to_pylist()
        row(window, f"{accepted_per_round(runs[0]):.3f}", *(f"{run['makespan_s']:.2f}" for run in runs))
