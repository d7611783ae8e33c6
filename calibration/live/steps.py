"""A live engine's steps against the simulator's, one by one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from calibration.live.recording import Recorded
from calibration.replay_run import serving_of
from calibration.runs.facts import NAMES, EngineFacts, checked
from simulator.cost import load_profile
from simulator.deployed import deployment_of, drafter_of
from simulator.engine.cluster import Outcome, simulate
from simulator.prepared import Preparing, Shared
from simulator.scenario import Scenario
from simulator.validated import made
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]

ANY_PROFILE = "h100-llama-3.1-8b-published"
"""Which steps follow on each other is no question of seconds."""
COMPARED = ("sequences", "tokens", "drafted", "accepted", "emitted", "preempted")
"""Of each step: sequences and tokens scheduled, drafts among them, drafts accepted, tokens that stay, and preemptions."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What each step did: int64[steps] for each of `COMPARED`; and how many drafts lay past the end of a rollout, not counted."""

    columns: Mapping[str, Int64]
    past_end: int = 0

    def __len__(self) -> int:
        """Number of steps."""
        return int(next(iter(self.columns.values())).size)

    def row(self, i: int) -> str:
        """Step i in words."""
        if i >= len(self):
            return "no such step"
        return ", ".join(f"{self.columns[name][i]} {name}" for name in COMPARED)


@dataclass(frozen=True, eq=False)
class Compared:
    """Both sides of a run, and how many steps are equal from the first on, and at all."""

    run: Recorded
    measured: Steps
    simulated: Steps
    outcome: Outcome

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Whether each step that both have is equal."""
        n = min(len(self.measured), len(self.simulated))
        parts = [self.measured.columns[name][:n] == self.simulated.columns[name][:n] for name in COMPARED]
        same: npt.NDArray[np.bool_] = np.all(parts, axis=0)
        return same

    @property
    def equal_fraction(self) -> float:
        """Equal steps over those of the side that has more."""
        return float(self.same.sum()) / max(len(self.measured), len(self.simulated))

    @property
    def first_difference(self) -> int | None:
        """The first step that differs, or that one side alone has."""
        n = int(self.same.size)
        if not self.same.all():
            return int(np.flatnonzero(~self.same)[0])
        return None if len(self.measured) == len(self.simulated) else n


def compare(run: Recorded) -> Compared:
    """Simulate a run from its own rollouts and settings, and set both sides side by side."""
    outcome = simulated(run)
    log = outcome.logs[0]
    names = {"sequences": "live", "tokens": "query_tokens", "drafted": "drafted_tokens", "accepted": "accepted_tokens",
             "emitted": "emitted_tokens", "preempted": "preempted"}  # fmt: skip
    return Compared(
        run, measured(run), Steps({name: log[ours].astype(np.int64) for name, ours in names.items()}), outcome
    )


def told(found: Compared) -> dict[str, Any]:
    """A comparison as plain values, for JSON: how many steps are equal, sums of both sides, and the first difference."""
    run, first = found.run, found.first_difference
    sides = (found.measured, found.simulated)
    sums = {
        name: {"measured": int(sides[0].columns[name].sum()), "simulated": int(sides[1].columns[name].sum())}
        for name in COMPARED
    }
    return {
        "configuration": run.name, "slots": run.slots, "repeat": run.repeat,
        "steps": {"measured": len(sides[0]), "simulated": len(sides[1])}, "equal_fraction": found.equal_fraction, **sums,
        "drafted_past_end": found.measured.past_end,
        "first_difference": None if first is None else {
            "step": first, "measured": sides[0].row(first), "simulated": sides[1].row(first),
        },
    }  # fmt: skip


def measured(run: Recorded) -> Steps:
    """What the engine did; drafts past a rollout's end, and what its sampler returned there, are left out.

    An engine cannot know that a rollout will end within a draft, and has all of it verified; the simulator cuts it there.
    """
    table = run.steps
    rollout, tokens, drafted, sampled = (_flat(table, name) for name in ("rollout", "tokens", "drafted", "emitted"))
    step = np.repeat(np.arange(table.num_rows), pc.list_value_length(table.column("rollout")).to_numpy())
    order = np.lexsort((step, rollout))
    emitted = np.empty_like(sampled)
    useful = np.empty_like(drafted)
    left = run.trace.output_tokens.astype(np.int64)
    for i in order.tolist():
        useful[i] = min(drafted[i], left[rollout[i]])
        emitted[i] = min(sampled[i], left[rollout[i]])
        left[rollout[i]] -= emitted[i]
    if left.any():
        raise InputError(f"{run.trace.source}: steps and rollouts are not of one run: record it again")
    accepted = np.minimum(np.maximum(sampled - 1, 0), emitted)
    counts = {"tokens": tokens - drafted + useful, "drafted": useful, "accepted": accepted, "emitted": emitted}
    n = table.num_rows
    summed = {name: np.bincount(step, values, n).astype(np.int64) for name, values in counts.items()}
    return Steps({
        "sequences": np.bincount(step, minlength=n), **summed,
        "preempted": table.column("preempted").to_numpy().astype(np.int64),
    }, int((drafted - useful).sum()))  # fmt: skip


def simulated(run: Recorded) -> Outcome:
    """The simulation of the run's rollouts under its settings; seconds are those of no particular machine."""
    facts = facts_of(run)
    serving = serving_of(facts)
    drafter, policy = drafting_of(run)
    engine = {"max_num_seqs": run.slots, **serving.model_dump(exclude_defaults=True)}
    scenario = made(Scenario, {
        "trace": run.trace.source, "profile": ANY_PROFILE, "drafter": drafter, "policies": [policy], "engine": engine,
    })  # fmt: skip
    cost = load_profile(ANY_PROFILE)
    found = drafter_of(scenario, run.trace, cost)
    preparing = Preparing(
        scenario, run.trace, run.trace.steps, found, deployment_of(scenario, cost, found), None, Shared()
    )
    phase = preparing.phase(0, False, np.ones(len(run.trace), np.bool_))
    return simulate(phase.workload, preparing.policy(phase, None), preparing.placed(phase))


def facts_of(run: Recorded) -> EngineFacts:
    """The settings that the engine ran with."""
    settings = run.about["settings"]
    return EngineFacts(**{name: checked(name, settings.get(name), run.name) for name in NAMES if name in settings})


def drafting_of(run: Recorded) -> tuple[dict[str, Any], str]:
    """The drafter and the budget policy that a run's speculative_config stands for; InputError where none does."""
    config = run.about["speculative"]
    if config is None:
        return {"kind": "none"}, "none"
    policy = f"fixed:{config['num_speculative_tokens']}"
    if config["method"] == "ngram":
        return {
            "kind": "ngram", "prompt_lookup_min": config["prompt_lookup_min"], "prompt_lookup_max": config["prompt_lookup_max"],
        }, policy  # fmt: skip
    if config["method"] == "suffix":
        alone = config["suffix_decoding_max_cached_requests"] == 0
        return {
            "kind": "suffix", "scope": "request" if alone else "global", "own": True, "match": "scored", "prompt": True,
            "depth": config["suffix_decoding_max_tree_depth"], "factor": config["suffix_decoding_max_spec_factor"],
            "min_prob": config["suffix_decoding_min_token_prob"], "siblings": "next-step" if alone else "live", "cost": "none",
        }, policy  # fmt: skip
    raise InputError(f"{run.name}: method {config['method']!r}: steps are compared for none, ngram and suffix")


def _flat(table: pa.Table, name: str) -> Int64:
    values: Int64 = pc.list_flatten(table.column(name)).to_numpy().astype(np.int64)
    return values
