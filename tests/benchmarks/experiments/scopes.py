"""What the drafter looks at: scopes, own output, and a warm against a cold history, on recorded RL rollouts."""

from functools import partial

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import TablePolicy, by_live
from simulator.compare.bootstrap import interval, makespans, prompts_in, resampled
from simulator.compare.rl_step import RLStep
from simulator.cost.profiles import load_profile
from simulator.drafting.acceptance import count_each
from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from tests.benchmarks.experiments.parts import LLAMA, head, recorded, row, suffix
from traces.trace import Trace

Float64 = npt.NDArray[np.float64]

UNLIMITED = 255
RESAMPLES = 100
COUNT_RESAMPLES = 2000
SLOTS = (16, 256)
POLICIES = {"none": by_live([0]), "unlimited": by_live([UNLIMITED]), "fixed:4": by_live([4])}
SHOWN = ((0, 1), (0, 2), (1, 1), (1, 2))
"""Columns: which of SLOTS, which of POLICIES."""
COLUMNS = tuple(f"{list(POLICIES)[policy]}, {SLOTS[slots]} seqs" for slots, policy in SHOWN)
CASES = (
    ("step 1, problem + own", 1, suffix(scope="problem")),
    ("step 1, problem", 1, suffix(scope="problem", own=False)),
    ("step 1, global + own", 1, suffix(scope="global")),
    ("step 1, global", 1, suffix(scope="global", own=False)),
    ("step 1, request only (cold)", 1, suffix(scope="request")),
    ("step 0, problem + own (cold)", 0, suffix(scope="problem")),
)
PAIRS = ((0, 2), (1, 3), (0, 1), (2, 3), (0, 4), (2, 4))


class Case:
    """One drafter on one RL step: its acceptance by prompt, and its makespans over the same draws of prompts."""

    def __init__(self, trace: Trace, step: int, drafter: Suffix) -> None:
        rows = np.flatnonzero(trace.step == step)
        prompt = trace.prompt[rows].astype(np.int64)
        acceptance = drafter.accept(trace, rows, past_rows(trace, step, drafter.window))
        counts = count_each(acceptance, UNLIMITED)
        tokens = np.bincount(prompt, trace.output_tokens[rows])
        steps = np.bincount(prompt, counts[0])
        drawn = np.random.default_rng(0).integers(0, tokens.size, (COUNT_RESAMPLES, tokens.size))
        self.length = float(tokens.sum() / steps.sum())
        self.lengths: Float64 = tokens[drawn].sum(axis=1) / steps[drawn].sum(axis=1)
        self.rate = counts[2].sum() / counts[1].sum()
        workload = Workload(
            prompt, trace.sample[rows].astype(np.int64), trace.prompt_tokens[rows].astype(np.int64),
            trace.output_tokens[rows].astype(np.int64), acceptance,
        )  # fmt: skip
        rl_step = RLStep(step, 0, workload, {name: partial(_itself, policy) for name, policy in POLICIES.items()})
        cost = load_profile(LLAMA)
        setups = [Deployment(cost, slots, draft_cost=drafter.cost) for slots in SLOTS]
        self.prompts = prompts_in([rl_step])
        self.seconds = [makespans([rl_step], setup, list(POLICIES)) for setup in setups]
        self.resampled = [resampled([rl_step], setup, list(POLICIES), RESAMPLES) for setup in setups]


def _itself(policy: TablePolicy) -> TablePolicy:
    return policy


def spanned(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def faster(case: Case, other: Case, slots: int, policy: int, other_policy: int) -> str:
    """The other's makespan over the case's, with its interval over the same draws of prompts."""
    value = float(other.seconds[slots][other_policy] / case.seconds[slots][policy])
    found = interval(value, other.resampled[slots][:, other_policy] / case.resampled[slots][:, policy], case.prompts)
    return spanned(value, found.low, found.high)


def main() -> None:
    """Print both tables."""
    trace = recorded("llama3b_rl_math")
    cases = [Case(trace, step, drafter) for _, step, drafter in CASES]
    head(
        f"scopes: llama3b_rl_math, profile {LLAMA}; mean acceptance length without a limit, speed-up against none",
        "drafter", "mean acceptance length", "draft acceptance rate", *COLUMNS,
    )  # fmt: skip
    for (name, _, _), case in zip(CASES, cases, strict=True):
        length = spanned(case.length, *np.quantile(case.lengths, [0.025, 0.975]))
        row(name, length, f"{case.rate:.3f}", *(faster(case, case, slots, policy, 0) for slots, policy in SHOWN))
    head(
        "scopes: pairs, the same prompts in every resample",
        "step 1, first / second",
        "mean acceptance length",
        *COLUMNS,
    )
    for one, other in PAIRS:
        a, b = cases[one], cases[other]
        length = spanned(a.length / b.length, *np.quantile(a.lengths / b.lengths, [0.025, 0.975]))
        names = (CASES[i][0].removeprefix("step 1, ") for i in (one, other))
        row(" / ".join(names), length, *(faster(a, b, slots, policy, policy) for slots, policy in SHOWN))
