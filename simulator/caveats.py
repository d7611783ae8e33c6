"""What a reader of a result must know before believing it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simulator.cost.model import Profile
from simulator.decoded import Ends, ends
from simulator.drafting.drafter import LosslessIf
from simulator.drafting.pricing import Defaults
from simulator.engine.serving import Serving
from simulator.played import Played
from simulator.training.stage import TrainsOnline
from simulator.transforms.prefixes import KeepsPrefixes
from traces.trace import Trace


def caveats(
    runs: Sequence[dict[str, Any]],
    played: Sequence[Played],
    trace: Trace,
    steps: Sequence[int],
    cost: Profile,
    serving: Serving,
) -> list[str]:
    """Return one line for each reservation: extrapolated and derived costs, what is not shared, missing history, no drafts."""
    notes = []
    found = ends(step.decoded for one in played for step in one.steps)
    if (most := max(run["extrapolated_fraction"] for run in runs)) > 0:
        share = f"{most:.0%}" if most >= 0.005 else "0.5%"
        notes.append(
            f"up to {share} of decoding time lies outside the valid range of profile {cost.name}, so extrapolated: "
            + "; ".join(beyond(found, cost))
        )
    if steps[0] == trace.steps[0]:
        notes.append(f"RL step {steps[0]} has no recorded step before it: no history to draft or to predict from")
    notes += derived(found, cost)
    if "block_hashes" in trace.table.column_names and not serving.enable_prefix_caching:
        notes.append("prefix caching is off: equal block_hashes share nothing; set engine.enable_prefix_caching")
    notes += [
        f"engine.{name} = {getattr(serving, name)} has no effect: KV blocks are not counted; give engine.num_gpu_blocks"
        for name in ("block_size", "scheduler_reserve_full_isl")
        if not serving.paged and getattr(serving, name) != Serving.model_fields[name].default
    ]
    if any("siblings" in one.drafter.learns_from for one in played):
        notes.append("acceptance by position is that of the frozen history: live drafts depend on when they are made")
    drafts = {run["system"] for run in runs if run["drafted_tokens"] > 0}
    told = {
        one.drafter.told_default: None
        for one in played
        if one.system.name in drafts and isinstance(one.drafter, Defaults)
    }
    notes += filter(None, told)
    notes += [
        f"{one.system.name}: drafts are lossless {one.drafter.lossless_if}: sampled tokens may come from another distribution"
        for one in played
        if one.system.name in drafts and isinstance(one.drafter, LosslessIf) and one.drafter.lossless_if
    ]
    by_host = [
        one.system.name for one in played if one.system.name in drafts and "model" not in one.drafter.learns_from
    ]
    if serving.async_scheduling and by_host:
        notes.append(
            f"async scheduling is on under {', '.join(by_host)}: vLLM switches it off where the host drafts (ngram, suffix, "
            "custom_class), and keeps it for the others: compare with async_scheduling=false, too"
        )
    idle = [run["system"] for run in runs if run["policy"] != "none" and run["drafted_tokens"] == 0]
    if idle:
        notes.append(f"nothing was drafted under {', '.join(idle)}: the drafter had nothing to propose, or no budget")
    notes += (f"{one.system.name}: {told}" for one in played for told in _of_system(one, len(steps)))
    return [*notes, *assumed([(one.system.name, one.assumes) for one in played])]


def assumed(each: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Yield what systems assume, by name, a line for those that assume the same."""
    who: dict[str, list[str]] = {}
    for name, told in each:
        for line in told:
            who.setdefault(line, []).append(name)
    lines: dict[tuple[str, ...], list[str]] = {}
    for line, names in who.items():
        lines.setdefault(tuple(names), []).append(line)
    for systems, same in lines.items():
        everyone = len(systems) == len(each) and len(each) > 1
        yield f"{'all systems' if everyone else ', '.join(systems)}: {'; '.join(same)}"


def _of_system(one: Played, steps: int) -> Iterator[str]:
    """Yield what concerns one system that was to play so many RL steps."""
    outcomes = [step.episode.outcome for step in one.steps]
    if (waited_s := sum(float(outcome.waited_s.sum()) for outcome in outcomes)) > 0:
        share = waited_s / (one.replicas * sum(outcome.makespan_s for outcome in outcomes))
        yield f"ranks that share experts step together: {share:.0%} of their time goes by in waiting, or without work"
    if any(isinstance(transform, KeepsPrefixes) for transform in one.transforms) and not any(
        step.reused_tokens for step in one.steps
    ):
        yield "nothing of an earlier response is reused: prompts do not come back, or their responses are rejected at once"
    ahead = [step.episode.facts["lookahead"] for step in one.steps if "lookahead" in step.episode.facts]
    if (beside_s := sum(facts["extrapolated_beside_s"] for facts in ahead)) > 0:
        yield f"{beside_s:.3g} s of drafts and judges lie outside the valid range of their costs, so extrapolated"
    told = {fact: value for step in one.steps for fact, value in step.episode.facts.items()}
    for stage in (stage for stage in one.stages if isinstance(stage, TrainsOnline) and told["versions"] == 0):
        yield (
            f"a version of the drafter takes {stage.batch * stage.sync:,} samples, and {told['trained_samples']:,} were learnt: "
            "it never changed; lower sync, or give a share of an RL step's rollouts"
        )
    if len(one.steps) < steps:
        yield f"the trace has rollouts for {len(one.steps)} of {steps} RL steps: the rest were dropped"
    if any(step.carried for step in one.steps):
        yield "rollouts that are carried over keep their recorded lengths; nobody knows what newer weights would have written"


def derived(found: Ends, cost: Profile) -> list[str]:
    """A line if any step within these ends leaned on costs that were derived and not measured."""
    over = {name: most for name, most in cost.derived.items() if found[name][1] > most}
    told = ", ".join(f"{name} up to {found[name][1]:.3g} (measured up to {most:g})" for name, most in over.items())
    return [f"derived, not measured: {told}: {cost.derivation}"] if over else []


def beyond(found: Ends, cost: Profile) -> list[str]:
    """Each feature that leaves the valid range, with both."""
    told = []
    for name, (low, high) in found.items():
        least, most = cost.valid_range.get(name, (-np.inf, np.inf))
        if low < least or high > most:
            told.append(f"{name} {low:,.0f} to {high:,.0f}, valid {least:,.0f} to {most:,.0f}")
    return told
