"""A live engine's seconds against the simulator's: costs out of some runs of a recording, and every other run predicted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.grids import errors_of
from calibration.live.recording import OURS, Recorded
from calibration.live.steps import drafting_of, simulated
from calibration.live.work import DRAFTING, work_of
from calibration.step_costs import held_out, identified, least_relative_errors
from simulator.compare.sensitivity import bar
from simulator.cost.document import document_of
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.errors import WHOLE_RUNS, sources_of
from simulator.cost.model import Profile
from simulator.cost.operators import Affine, Bounds, row
from simulator.engine.cluster import Outcome
from simulator.progress import each
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]
Columns = dict[str, Float64]

LEAST_LEFT_OUT = 3
"""Fitted runs from which on each of them is predicted from the others."""
WORK = ("constant", "live", "query_tokens", "kv_tokens", "pairs", "prefill_tokens")


@dataclass(frozen=True, eq=False)
class Repeated:
    """All repeats of one configuration at so many slots, and the seconds of each step.

    makespans_s: float64[repeats]; step_s, drafting_s: float64[steps], from a step's beginning to the next one's without what
    drafting took, and that. They are medians over the repeats, all times `stretch` to add up to the median makespan; those of
    the repeat with that makespan alone where repeats took other steps.
    """

    runs: Sequence[Recorded]
    makespans_s: Float64
    step_s: Float64
    drafting_s: Float64
    stretch: float

    @property
    def label(self) -> str:
        """How --fit names it."""
        return f"{self.runs[0].name}@{self.runs[0].slots}"

    @property
    def measured_s(self) -> float:
        """The median makespan."""
        return float(np.median(self.makespans_s))

    @property
    def spread(self) -> float:
        """Largest over smallest makespan, less 1."""
        return float(self.makespans_s.max() / self.makespans_s.min() - 1)

    @property
    def drafter(self) -> str | None:
        """The drafter whose costs it tells; None where nothing drafts."""
        drafter = drafting_of(self.runs[0]).drafter
        if drafter["kind"] == "none":
            return None
        name = f"{drafter['kind']}-{drafter['scope']}" if "scope" in drafter else str(drafter["kind"])
        return f"{OURS}-{name}" if self.runs[0].about.get(OURS) else name


@dataclass(frozen=True, eq=False)
class Costs:
    """What a step costs, what drafting adds to it by drafter, of that what making drafts takes on the host, and which runs tell
    that."""

    profile: Profile
    drafting: Mapping[str, DraftCost]
    making: Mapping[str, DraftCost]
    told_by: Mapping[str, Sequence[str]]
    borrowed: frozenset[str]
    notes: Sequence[str]


@dataclass(frozen=True, eq=False)
class Predicted:
    """One configuration on both sides. fitted: its seconds are what the costs are from; outside_fraction: of the simulated time,
    in steps outside the range that they were measured in; stretch: that of the fitted runs together; factors: true over simulated
    makespan in nine of ten cases."""

    run: Repeated
    simulated_s: float
    outside_fraction: float
    fitted: bool
    stretch: float
    factors: tuple[float, float]

    @property
    def error(self) -> float:
        """Simulated over measured makespan, less 1."""
        return self.simulated_s / self.run.measured_s - 1

    @property
    def error_by_steps(self) -> float:
        """The same where both sides have every step at its median, so that what held up single repeats counts on neither."""
        return (1 + self.error) * self.run.stretch / self.stretch - 1


def repeated(runs: Iterable[Recorded]) -> list[Repeated]:
    """The runs of a recording, repeats together; InputError where one was recorded without the time that drafting took."""
    return [_repeated(list(repeats)) for _, repeats in groupby(runs, lambda run: (run.name, run.slots))]


def fit(runs: Sequence[Repeated], fitted: Sequence[str], model: str) -> Costs:
    """Costs out of the runs of these labels; InputError for a label that there is not.

    Of a drafter in none of them the time it took to draft is taken from one other run of it, that on the fewest slots. Where
    there are at least 3, `held_out` of the profile says how far each makespan is off at costs from the others.
    """
    chosen = [_labelled(runs, label) for label in dict.fromkeys(fitted)]
    costs = _fit(runs, chosen, model)
    if len(chosen) < LEAST_LEFT_OUT:
        return costs
    simulated_s = np.array(
        [_at(_fit(runs, [one for one in chosen if one is not run], model), run).makespan_s for run in chosen]
    )
    errors = errors_of(simulated_s, np.array([run.measured_s for run in chosen]))
    return replace(costs, profile=replace(costs.profile, held_out={WHOLE_RUNS: errors}))


def _at(costs: Costs, run: Repeated) -> Outcome:
    """The run simulated at these costs."""
    drafting = FREE if run.drafter is None else costs.drafting[run.drafter]
    return simulated(run.runs[0], costs.profile, drafting)[1]


def _fit(runs: Sequence[Repeated], chosen: Sequence[Repeated], model: str) -> Costs:
    work, seconds = _stacked([_columns(run) for run in chosen]), np.concatenate([run.step_s for run in chosen])
    names, notes = identified(work)
    if not any(run.drafter for run in chosen):
        notes.append("No run that was fitted drafts: what verifying drafts costs beside their tokens is left out.")
    costs, errors = _costs(work, names, seconds)
    verifying = {name: cost for name, cost in costs.items() if name not in WORK}
    telling = {name: _telling(name, chosen) or _telling(name, runs)[:1] for name in _drafters(runs)}
    making = {name: _making(those) for name, those in telling.items()}
    drafting = {
        name: DraftCost.of({rate: cost + verifying.get(rate, 0.0) for rate, cost in alone.rates.items()})
        for name, alone in making.items()
    }
    about = chosen[0].runs[0].about
    profile = Profile(
        name=f"{model} on {about['device']}, from steps of vLLM", kind="affine", model=model,
        operators=(Affine("step", row(**{name: cost for name, cost in costs.items() if name in WORK})),),
        device=f"{about['device']}, threads: {about['threads']}",
        source=f"vLLM {about['settings']['vllm_version']}: {seconds.size:,} steps of {', '.join(run.label for run in chosen)}",
        uncertainty=f"steps left out of the fit are off by {np.median(errors):.1%} in the median",
        valid_range=_spans(work), relative_error=float(np.median(errors)), notes=" ".join(notes),
        drafter_costs={name: {k: v for k, v in cost.rates.items() if v} for name, cost in drafting.items() if cost != FREE},
    )  # fmt: skip
    told_by = {name: [run.label for run in those] for name, those in telling.items()}
    borrowed = frozenset(name for name, those in telling.items() if those[0] not in chosen)
    return Costs(profile, drafting, making, told_by, borrowed, notes)


def predict(costs: Costs, runs: Sequence[Repeated], fitted: Sequence[str]) -> list[Predicted]:
    """Simulate each run at these costs, from its own rollouts and settings."""
    chosen = [run for run in runs if run.label in fitted]
    stretch = sum(run.measured_s for run in chosen) / sum(run.measured_s / run.stretch for run in chosen)
    found = []
    for run in each(runs, "run"):
        outcome = _at(costs, run)
        outside = float(outcome.extrapolated_s.sum() / outcome.busy_s.sum())
        factors = bar(costs.profile, sources_of(costs.profile), [outcome.logs])
        found.append(Predicted(run, outcome.makespan_s, outside, run in chosen, stretch, factors))
    return found


def ordered(found: Sequence[Predicted]) -> tuple[int, int]:
    """(pairs of configurations on the same slots whose repeats do not overlap, those of them that are simulated in this order);
    not those of which both are what the costs are from."""
    pairs = right = 0
    for one, other in combinations(found, 2):
        a, b = one.run.makespans_s, other.run.makespans_s
        if one.run.runs[0].slots != other.run.runs[0].slots or (one.fitted and other.fitted):
            continue
        if a.max() < b.min() or b.max() < a.min():
            pairs += 1
            right += int((a.max() < b.min()) == (one.simulated_s < other.simulated_s))
    return pairs, right


def told(found: Sequence[Predicted], costs: Costs) -> dict[str, Any]:
    """The comparison as plain values, for JSON."""
    out = [one for one in found if not one.fitted]
    errors, by_steps = [abs(one.error) for one in out], [abs(one.error_by_steps) for one in out]
    pairs, right = ordered(found)
    return {
        "runs": [
            {
                "configuration": one.run.runs[0].name, "slots": one.run.runs[0].slots, "repeats": len(one.run.runs),
                "measured_s": one.run.measured_s, "makespans_s": one.run.makespans_s.tolist(), "spread": one.run.spread,
                "simulated_s": one.simulated_s, "error": one.error,
                "low_s": one.factors[0] * one.simulated_s, "high_s": one.factors[1] * one.simulated_s,
                "error_by_steps": one.error_by_steps, "outside_fraction": one.outside_fraction, "fitted": one.fitted,
            }
            for one in found
        ],
        "predicted": len(out),
        "median_error": float(np.median(errors)) if errors else None,
        "worst_error": max(errors, default=None),
        "median_error_by_steps": float(np.median(by_steps)) if out else None,
        "worst_error_by_steps": max(by_steps, default=None),
        "within_range": sum(one.factors[0] <= 1 / (1 + one.error) <= one.factors[1] for one in out),
        "within_spread": sum(abs(one.error) <= one.run.spread for one in out),
        "median_spread": float(np.median([one.run.spread for one in out])) if out else None,
        "pairs": {"separate": pairs, "ordered": right},
        "profile": document_of(costs.profile),
        "drafting_told_by": {name: list(labels) for name, labels in costs.told_by.items()},
        "drafting_borrowed": sorted(costs.borrowed),
        "notes": list(costs.notes),
    }  # fmt: skip


def draft_costs(costs: Costs) -> Iterator[dict[str, Any]]:
    """What drafting adds by drafter, as `simulator.drafting.cost.write_draft_cost` takes it.

    Named `-host` is what making drafts takes, which is the host's part wherever they are verified.
    """
    for drafter, cost in costs.drafting.items():
        told = f"time to draft: {', '.join(costs.told_by[drafter])}"
        about = {"drafter": drafter, "device": costs.profile.device, "source": f"{costs.profile.source}; {told}"}
        yield about | {"cost": cost.rates}
        if costs.making[drafter] != FREE:
            yield about | {"drafter": f"{drafter}-host", "cost": costs.making[drafter].rates}


def _repeated(runs: list[Recorded]) -> Repeated:
    for run in runs:
        if run.steps.column("drafting_s").null_count:
            raise InputError(f"{run.trace.source}: its steps do not say how long drafting took: record it again")
    makespans_s = np.array([run.about["seconds"] for run in runs])
    middle = int(np.argsort(makespans_s, kind="stable")[(len(runs) - 1) // 2])
    alike = [
        run
        for run in runs
        if run.steps.select(["tokens", "emitted"]) == runs[middle].steps.select(["tokens", "emitted"])
    ]
    alike = alike if len(alike) == len(runs) else [runs[middle]]
    drafting_s = np.median([run.steps.column("drafting_s").to_numpy() for run in alike], axis=0)
    whole_s = np.median([_periods_s(run) for run in alike], axis=0)
    stretch = float(np.median(makespans_s) / whole_s.sum())
    return Repeated(runs, makespans_s, (whole_s - drafting_s) * stretch, drafting_s * stretch, stretch)


def _periods_s(run: Recorded) -> Float64:
    """From each step's beginning to the next one's, the last one's to the end of the run."""
    return np.diff(np.append(run.steps.column("start_s").to_numpy(), run.about["seconds"]))


def _labelled(runs: Sequence[Repeated], label: str) -> Repeated:
    for run in runs:
        if run.label == label:
            return run
    raise InputError(f"--fit {label}: is no run of the recording: give {', '.join(run.label for run in runs)}")


def _drafters(runs: Sequence[Repeated]) -> list[str]:
    return list(dict.fromkeys(run.drafter for run in runs if run.drafter is not None))


def _telling(drafter: str, runs: Sequence[Repeated]) -> list[Repeated]:
    """Runs of a drafter, those on the fewest slots first."""
    return sorted((run for run in runs if run.drafter == drafter), key=lambda run: run.runs[0].slots)


def _columns(run: Repeated) -> Columns:
    """What a step costs by, drafting apart: its work, and, where drafts may have to be verified, once and for each sequence."""
    work = work_of(run.runs[0])
    asking = work["asking"]
    return {name: work[name] for name in WORK} | {"per_step_s": np.sign(asking), "per_query_s": asking}


def _making(runs: Sequence[Repeated]) -> DraftCost:
    """What the drafts of a step took to make in the step before it."""
    parts = []
    for run in runs:
        work = work_of(run.runs[0])
        asking, drafted, emitted = (work[name] for name in DRAFTING)
        asking, drafted = asking[1:], drafted[1:]
        parts.append({
            "per_step_s": np.sign(asking), "per_query_s": asking, "per_drafted_token_s": drafted,
            "per_emitted_token_s": emitted[:-1],
        })  # fmt: skip
    columns, seconds = _stacked(parts), np.concatenate([run.drafting_s[:-1] for run in runs])
    asked = (columns["per_step_s"] > 0) & (seconds > 0)
    if not asked.any():
        return FREE
    kept = {name: of[asked] for name, of in columns.items()}
    costs, _ = _costs(kept, list(kept), seconds[asked])
    return DraftCost.of(costs)


def _costs(columns: Columns, names: Sequence[str], seconds: Float64) -> tuple[dict[str, float], Float64]:
    """Costs >= 0 by name, and the sizes of relative errors of steps left out.

    They have the least mean relative error, which steps that something else held up do not move; all are then multiplied by
    what makes them add up to the seconds: whatever else runs on the machine takes its share of every cost.
    """
    table = np.stack([columns[name] for name in names], axis=1)
    costs = least_relative_errors(table, seconds)
    costs *= seconds.sum() / (table @ costs).sum()
    return dict(zip(names, costs.tolist(), strict=True)), np.abs(held_out(table, seconds))


def _stacked(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _spans(work: Columns) -> Bounds:
    """The range of each feature that was measured."""
    features = {name: work[name] for name in WORK[1:]}
    features["query_per_seq"], features["context_tokens"] = (
        work["query_tokens"] / work["live"],
        work["kv_tokens"] / work["live"],
    )
    return {name: (float(of.min()), float(of.max())) for name, of in features.items()}
