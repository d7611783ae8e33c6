"""Simulated against measured decoding: makespan, each step, the ranking of the policies and the regret of a choice by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from calibration.truth.chosen import Choice, chosen, workload_of
from calibration.truth.engine import StepTime
from calibration.truth.ground_truth import GroundTruth
from simulator.compare.sensitivity import effects, span, steps_of
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.errors import sources_of
from simulator.cost.model import Profile
from simulator.drafting.drafter import Target
from simulator.drafting.pricing import draft_cost, entry_of
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.log import Log
from simulator.engine.serving import Serving
from traces.errors import InputError
from traces.trace import Trace

Float64 = npt.NDArray[np.float64]

ALIKE = ("live", "query_tokens", "kv_tokens", "prefill_tokens", "drafted_tokens", "accepted_tokens", "emitted_tokens")
"""What must be the same in every step of both sides: whatever differs then is time."""
DURATION_S, DRAFT_S = StepTime._fields.index("duration_s"), StepTime._fields.index("draft_s")


@dataclass(frozen=True, eq=False)
class Comparison:
    """One policy on one set of rollouts. live_batch: slots; context_tokens: of a sequence, mean over steps.

    measured_s, simulated_s: makespans (measured: the median of the repeats); spread: largest over smallest repeat, less 1;
    error: simulated / measured - 1; low_s, high_s: where the true makespan lies in nine of ten cases;
    median_step_error: of the sizes of errors of single steps. Steps: float64[steps], their live sequences and contexts,
    durations of both sides. moved: what each source of error does to the makespan (`sensitivity.effects`).
    """

    policy: str
    live_batch: int
    context_tokens: int
    steps: int
    measured_s: float
    simulated_s: float
    error: float
    low_s: float
    high_s: float
    median_step_error: float
    spread: float
    outside_fraction: float
    drafting_measured_s: float
    drafting_simulated_s: float
    step_live: Float64
    step_context: Float64
    step_measured_s: Float64
    step_simulated_s: Float64
    moved: tuple[Float64, ...]

    def row(self) -> dict[str, Any]:
        """What is told of it in JSON."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, np.ndarray | tuple)}


@dataclass(frozen=True)
class Verdict:
    """Of several policies on the same rollouts: is the order right, and what does the simulator's choice cost?

    order_kept: no two policies whose measured makespans differ by more than their repeats do are simulated the other way
    round; kendall_tau: of all pairs; regret: measured makespan of the policy simulated fastest over the fastest, less 1.
    """

    live_batch: int
    context_tokens: int
    policies: int
    fastest: str
    chosen: str
    regret: float
    kendall_tau: float | None
    order_kept: bool


def compare(truth: GroundTruth, trace: Trace, profile: Profile) -> list[Comparison]:
    """Simulate what was measured, policy by policy. Raises InputError if the trace is another or steps do not agree."""
    about = truth.about
    if trace.sha256 != about["trace_sha256"]:
        raise InputError(
            f"{trace.source}: sha256 {trace.sha256[:12]}, the runs decoded {about['trace_sha256'][:12]}: give that trace"
        )
    choice, drafter = Choice(**about["choice"]), Suffix(**about["drafter"])
    part, rows, past = chosen(trace, choice, drafter.window)
    workload = workload_of(part, rows, past, choice, drafter)
    serving = Serving(cudagraph_capture_sizes=tuple(about["capture_sizes"]) or None)
    found, sources = [], sources_of(profile)
    for policy in about["policies"]:
        numbers = [i for i, run in enumerate(truth.runs) if run.policy == policy]
        table = truth.runs[numbers[0]].table()
        drafting = suffix_cost(profile) if table.budgets.any() else FREE
        deployment = Deployment(profile, about["max_num_seqs"], draft_cost=drafting, serving=serving)
        outcome = simulate(workload, table, deployment)
        log = outcome.logs[0][1 if choice.context_tokens is not None else 0 :]
        found.append(
            _held_together(
                policy,
                log,
                [truth.steps[i] for i in numbers],
                [truth.runs[i].makespan_s for i in numbers],
                about,
                tuple(effects(one, profile, steps_of([[Log([log])]])) for one in sources),
            )
        )
    return found


def suffix_cost(profile: Profile) -> DraftCost:
    """What suffix drafting costs on the profile's machine, or else as it was measured on the machine shipped."""
    entry = "suffix" if "suffix" in profile.drafter_costs else "suffix-epyc"
    return draft_cost(entry_of(Target(profile), entry).costs, False, f"drafter_costs.{entry}")


def verdicts(found: Sequence[Comparison]) -> list[Verdict]:
    """A verdict on each set of policies that decoded the same rollouts on as many slots; `found` holds one such set."""
    measured, simulated = (np.array([getattr(one, side) for one in found]) for side in ("measured_s", "simulated_s"))
    if len(found) < 2:
        return []
    best, pick = int(measured.argmin()), int(simulated.argmin())
    tau = float(kendalltau(measured, simulated).statistic)
    ambiguous = max(one.spread for one in found)
    kept = all(
        (measured[i] < measured[j]) == (simulated[i] < simulated[j])
        for i in range(len(found)) for j in range(i)
        if abs(np.log(measured[i] / measured[j])) > np.log1p(ambiguous)
    )  # fmt: skip
    contexts = int(np.median([one.context_tokens for one in found]))
    return [
        Verdict(
            found[0].live_batch, contexts, len(found), found[best].policy, found[pick].policy,
            float(measured[pick] / measured[best] - 1), None if np.isnan(tau) else tau, kept,
        )
    ]  # fmt: skip


def document(found: Sequence[Comparison], judged: Sequence[Verdict], about: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison as JSON."""
    return {
        "schema_version": 1,
        **about,
        "runs": [one.row() for one in found],
        "verdicts": [asdict(one) for one in judged],
    }


def _held_together(
    policy: str,
    log: npt.NDArray[Any],
    steps: Sequence[Float64],
    makespans_s: Sequence[float],
    about: Mapping[str, Any],
    moved: tuple[Float64, ...],
) -> Comparison:
    first = steps[0]
    for name in ALIKE:
        theirs = first[:, StepTime._fields.index(name)]
        if theirs.size != len(log) or (theirs != log[name]).any():
            at = 0 if theirs.size != len(log) else int(np.argmax(theirs != log[name]))
            raise InputError(
                f"policy {policy}: {theirs.size} steps were measured, {len(log)} simulated, and {name} differs first in step "
                f"{at}: the ground truth was made by another version; measure it again"
            )
    measured_s = np.median([one[:, DURATION_S] for one in steps], axis=0)
    simulated_s = log["duration_s"]
    makespan_s, total_s = float(np.median(makespans_s)), float(simulated_s.sum())
    context, factors = log["kv_tokens"] / log["live"], span(moved)
    return Comparison(
        policy, about["max_num_seqs"], round(float(context.mean())), len(log), makespan_s, total_s, total_s / makespan_s - 1,
        factors[0] * total_s, factors[1] * total_s,
        float(np.median(np.abs(simulated_s / measured_s - 1))), max(makespans_s) / min(makespans_s) - 1,
        float(simulated_s[log["extrapolated"] > 0].sum()) / total_s,
        float(np.median([one[:, DRAFT_S].sum() for one in steps])), float(log["draft_s"].sum()),
        log["live"], context, measured_s, simulated_s, moved,
    )  # fmt: skip
