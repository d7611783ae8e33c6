"""compare(...) -> Comparison: speed-ups with intervals, verdicts and regret, as a table and as text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.budgets.policy import by_live
from simulator.compare.bootstrap import Interval, interval, prompts_in, resampled
from simulator.compare.bound import lower_bound
from simulator.compare.oracle import oracle
from simulator.compare.regret import Scale
from simulator.compare.rl_step import RLStep
from simulator.compare.sensitivity import effects, span, steps_of
from simulator.compare.speedups import decoding_s, geometric_mean, mean
from simulator.cost.errors import UNKNOWN_ERROR, Source, in_words, sources_of
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment, profile_of
from simulator.limits import RESAMPLES
from simulator.progress import each
from simulator.report.grid import Column, grid, marked
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

COMPARISON = pa.schema([
    pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in (
        ("policy", pa.string(), "budget policy, as it was named"),
        ("baseline", pa.string(), "the policy that it is compared with"),
        ("makespan_s", pa.float64(), "seconds, summed over RL steps and seeds"),
        ("makespan_low_s", pa.float64(), "90 % of true makespans, as far as costs are off, are between this and the next"),
        ("makespan_high_s", pa.float64(), "its upper end"),
        ("speedup", pa.float64(), "makespan of the baseline / this makespan"),
        ("step_speedup", pa.float64(), "geometric mean over RL steps and seeds of the baseline's makespan / this one"),
        ("rollout_speedup", pa.float64(), "the same over rollouts, of seconds from admission to last token"),
        ("rollout_speedup_mean", pa.float64(), "arithmetic mean of the same ratios over rollouts"),
        ("low", pa.float64(), "95 % interval of speedup over prompts and seeds; null without resampling"),
        ("high", pa.float64(), "its upper end"),
        ("profile_low", pa.float64(), "speedup where costs are off, 90 % range: what all policies share cancels"),
        ("profile_high", pa.float64(), "its upper end"),
        ("verdict", pa.string(), "faster, slower, no detectable difference, undecided, not tested, or baseline"),
        ("closed", pa.float64(), "share of the gap from no speculation to the lower bound that it closes"),
        ("closed_of_oracle", pa.float64(), "the same share of the gap to the oracle"),
        ("lossless", pa.bool_(), "whether outputs keep the target model's distribution"),
        ("none_s", pa.float64(), "makespan without speculation"),
        ("oracle_s", pa.float64(), "makespan of the oracle, which knows lengths and acceptance; no policy to deploy"),
        ("bound_s", pa.float64(), "lower bound on every policy's makespan"),
        ("resamples", pa.int64(), "resamples behind the interval"),
        ("profile_error", pa.float64(), "relative error of the profile, given or stated; null where it is another"),
    )
])  # fmt: skip

WIDEST = 130
"""Letters of a line of text unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A row of COMPARISON per policy, and what a reader must know."""

    table: pa.Table
    notes: list[str]

    def text(self, width: int = WIDEST) -> str:
        """The table for people, within `width` letters: a row per policy, the ends of the gap, then the notes."""
        rows = self.table.to_pylist()
        lines, one = grid(_columns(rows), width), rows[0]
        ends = [
            ("no speculation", "none_s"),
            ("oracle (knows lengths and acceptance)", "oracle_s"),
            ("bound", "bound_s"),
        ]
        gap = ", ".join(f"{name} {one[column]:.2f} s" for name, column in ends if one[column] is not None)
        return "\n".join([*lines, *([f"gap: {gap}"] if gap else []), *(f"note: {note}" for note in self.notes)])


def compare(
    rl_steps: Sequence[RLStep],
    deployment: Deployment,
    baseline: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    profile_error: float | None = None,
    gap: bool = True,
    lossy: Collection[str] = (),
) -> Comparison:
    """Hold every policy of the rl_steps against `baseline` (default: the first named).

    resamples: most bootstrap resamples, 0 for none. profile_error: instead of the profile's own. gap: whether to find
    the oracle and the bound. lossy: policies under which outputs do not keep the target's distribution. The verdict
    is that of the interval; where it says faster or slower and costs within their errors say otherwise, it is undecided.
    Raises InputError for an unknown baseline.
    """
    names = list(rl_steps[0].policies)
    first = names[0] if baseline is None else baseline
    if first not in names:
        raise InputError(f"baseline {first!r} is none of the policies: use one of {', '.join(names)}")
    order = [first, *(name for name in names if name != first)]
    cost = profile_of(deployment)
    sources = sources_of(cost, profile_error, deployment.serving.step_overhead_s)
    simulated = [_under_errors(rl_steps, deployment, name, sources) for name in each(order, "policy")]
    seconds, moved = np.array([sum(one.makespans_s) for one in simulated]), [one.moved for one in simulated]
    speedups, error = seconds[0] / seconds, cost.relative_error if profile_error is None else profile_error
    draws = resampled(rl_steps, deployment, order, resamples, seed) if resamples > 1 and len(order) > 1 else None
    notes = [
        f"{cost.name}: {line}; give --profile-error 0.1 to see what 10 % does"
        for line in in_words(sources)
        if UNKNOWN_ERROR in line
    ]
    scale = _scale(rl_steps, deployment, notes) if gap else Scale(float("nan"), float("nan"), float("nan"))
    rows = {}
    for i, name in enumerate(order):
        draw = None if draws is None else draws[:, 0] / draws[:, i]
        sampled = None if draw is None else interval(float(speedups[i]), draw, prompts_in(rl_steps))
        whole, ratio = span(moved[i]), span([base - own for base, own in zip(moved[0], moved[i], strict=True)])
        around = float(speedups[i]) * ratio[0], float(speedups[i]) * ratio[1]
        rows[name] = {
            "policy": name, "baseline": first, "makespan_s": float(seconds[i]),
            "makespan_low_s": whole[0] * float(seconds[i]), "makespan_high_s": whole[1] * float(seconds[i]),
            "speedup": float(speedups[i]), **_other_speedups(simulated[0], simulated[i]), "lossless": name not in lossy,
            "low": _known(sampled.low if sampled else None), "high": _known(sampled.high if sampled else None),
            "profile_low": around[0], "profile_high": around[1],
            "verdict": "baseline" if i == 0 else verdict(sampled, around),
            "closed": _known(scale.closed(float(seconds[i]))),
            "closed_of_oracle": _known(scale.closed_of_oracle(float(seconds[i]))),
            "none_s": _known(scale.none_s), "oracle_s": _known(scale.oracle_s), "bound_s": _known(scale.bound_s),
            "resamples": 0 if draws is None else len(draws), "profile_error": error,
        }  # fmt: skip
    return Comparison(pa.Table.from_pylist([rows[name] for name in names], schema=COMPARISON), notes)


def verdict(sampled: Interval | None, around: tuple[float, float]) -> str:
    """Join the interval's verdict with the range of the speed-up within the errors of the costs."""
    if sampled is None:
        return "not tested"
    if sampled.verdict == "faster" and around[0] <= 1:
        return "undecided"
    if sampled.verdict == "slower" and around[1] >= 1:
        return "undecided"
    return sampled.verdict


@dataclass(frozen=True, eq=False)
class _Simulated:
    """A policy's makespan of each RL step and seed, its rollouts' seconds of decoding, and what each source does to the sum."""

    makespans_s: list[float]
    decoding_s: Float64
    moved: list[Float64]


def _under_errors(
    rl_steps: Sequence[RLStep], deployment: Deployment, name: str, sources: Sequence[Source]
) -> _Simulated:
    """Simulate a policy; it believes the profile also where costs are off."""
    outcomes = [simulate(one.workload, one.policy(name), deployment) for one in rl_steps]
    steps = steps_of([outcome.logs for outcome in outcomes])
    moved = [effects(one, profile_of(deployment), steps) for one in sources]
    each_s = np.concatenate([decoding_s(outcome.rollouts) for outcome in outcomes])
    return _Simulated([outcome.makespan_s for outcome in outcomes], each_s, moved)


def _other_speedups(base: _Simulated, own: _Simulated) -> dict[str, float | None]:
    """The means of `speedups` beside the ratio of sums."""
    return {
        "step_speedup": geometric_mean(base.makespans_s, own.makespans_s),
        "rollout_speedup": geometric_mean(base.decoding_s, own.decoding_s),
        "rollout_speedup_mean": mean(base.decoding_s, own.decoding_s),
    }


def _scale(rl_steps: Sequence[RLStep], deployment: Deployment, notes: list[str]) -> Scale:
    none_s = oracle_s = bound_s = 0.0
    for rl_step in each(rl_steps, "bound of RL step"):
        bound = lower_bound(rl_step.workload, deployment)
        if np.isnan(bound.makespan_s) and bound.why not in notes:
            notes.append(bound.why)
        bound_s += bound.makespan_s
        none_s += simulate(rl_step.workload, by_live([0]), deployment).makespan_s
        try:
            oracle_s += simulate(rl_step.workload, oracle(rl_step.workload, deployment), deployment).makespan_s
        except InputError as error:
            oracle_s = float("nan")
            if str(error) not in notes:
                notes.append(str(error))
    return Scale(none_s, oracle_s, bound_s)


def _known(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _columns(rows: list[dict[str, Any]]) -> list[Column]:
    def number(name: str, digits: str = ".3f") -> list[str]:
        return ["-" if row[name] is None else f"{row[name]:{digits}}" for row in rows]

    def between(low: str, high: str) -> list[str]:
        ends = zip(number(low), number(high), strict=True)
        return ["-" if "-" in pair else " to ".join(pair) for pair in ends]

    return [
        Column("policy", [marked(row["policy"], row["lossless"]) for row in rows], number=False),
        Column("speed-up", number("speedup")),
        Column("95 % interval", between("low", "high")),
        Column("cost error", between("profile_low", "profile_high")),
        Column("gap closed", number("closed", ".0%")),
        Column("by RL step,\ngeom. mean", number("step_speedup")),
        Column("by rollout,\ngeom. mean", number("rollout_speedup")),
        Column("by rollout,\nmean", number("rollout_speedup_mean")),
        Column("verdict", [row["verdict"] for row in rows], number=False),
    ]
