"""A live engine's steps against the simulator's, one by one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from calibration.live.recording import Recorded
from calibration.replay_run import decode
from calibration.runs.facts import NAMES, EngineFacts, checked
from calibration.runs.measured import Drafting, Rollouts
from simulator.cost import load_profile
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.model import Profile
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import Outcome
from simulator.prepared import Phase
from traces import io
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

ANY_PROFILE = "h100-llama-3.1-8b-published"
"""Which steps follow on each other is no question of seconds."""
COMPARED = ("sequences", "tokens", "drafted", "accepted", "emitted", "preempted")
"""Of each step: sequences and tokens scheduled, drafts among them, drafts accepted, tokens that stay, and preemptions."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What each step did: int64[steps] for each of `COMPARED`."""

    columns: Mapping[str, Int64]

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
    """Both sides of a run, and how many steps are equal from the first on, and at all.

    decisions: (how often a sequence decoded, how often what the simulator would have drafted for it there, and had accepted, is
    what the engine did); None where that depends on what others emitted. One that differs shifts all steps after it.
    """

    run: Recorded
    measured: Steps
    simulated: Steps
    decisions: tuple[int, int] | None

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
    phase, outcome, budget = simulated(run, load_profile(ANY_PROFILE))
    log = outcome.logs[0]
    names = {"sequences": "live", "tokens": "query_tokens", "drafted": "drafted_tokens", "accepted": "accepted_tokens",
             "emitted": "emitted_tokens", "preempted": "preempted"}  # fmt: skip
    shares, simulation = shares_of(run), Steps({name: log[ours].astype(np.int64) for name, ours in names.items()})
    alone = phase.workload.siblings is None and drafting_of(run).policy in ("none", f"fixed:{budget}")
    decisions = shares.decisions(phase.workload.acceptance, budget) if alone else None
    return Compared(run, shares.steps(run), simulation, decisions)


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
        "decisions": None if found.decisions is None else dict(zip(("all", "equal"), found.decisions, strict=True)),
        "first_difference": None if first is None else {
            "step": first, "measured": sides[0].row(first), "simulated": sides[1].row(first),
        },
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shares:
    """What each rollout had of each step, int64[shares] in order of steps.

    position: tokens that it had emitted before. accepted, emitted: up to its end, beyond which a sampler returns tokens too,
    because an engine cannot know that a rollout will end within a draft.
    """

    step: Int64
    rollout: Int64
    position: Int64
    tokens: Int64
    drafted: Int64
    accepted: Int64
    emitted: Int64

    def steps(self, run: Recorded) -> Steps:
        """Summed over each step."""
        n = run.steps.num_rows
        summed = {
            name: np.bincount(self.step, getattr(self, name), n).astype(np.int64)
            for name in ("tokens", "drafted", "accepted", "emitted")
        }
        preempted = run.steps.column("preempted").to_numpy().astype(np.int64)
        return Steps({"sequences": np.bincount(self.step, minlength=n), **summed, "preempted": preempted})

    def decisions(self, acceptance: Acceptance, budget: int) -> tuple[int, int]:
        """(how many decode steps of a sequence, how many as the table of a budget has them)."""
        acceptance.serve([budget])
        table = acceptance.tables[acceptance.table_of[budget]].astype(np.int64)
        decoding = self.position > 0
        ours = np.minimum(table[acceptance.offsets[self.rollout[decoding]] + self.position[decoding]], budget)
        equal = (ours[:, 0] == self.accepted[decoding]) & (ours[:, 1] == self.drafted[decoding])
        return int(decoding.sum()), int(equal.sum())


def shares_of(run: Recorded) -> Shares:
    """What the engine did for each rollout in each step; InputError where nobody saw its steps."""
    if run.requests is not None:
        raise InputError(
            f"{run.trace.source}: was recorded of a server that was there, whose steps nobody sees: compare its requests' times, "
            "with --profile and --model in place of --steps"
        )
    table = run.steps
    rollout, tokens, drafted, sampled = (flat(table, name) for name in ("rollout", "tokens", "drafted", "emitted"))
    step = np.repeat(np.arange(table.num_rows), pc.list_value_length(table.column("rollout")).to_numpy())
    lengths = run.trace.output_tokens.astype(np.int64)
    position = np.empty_like(sampled)
    gone = np.zeros_like(lengths)
    for i in np.lexsort((step, rollout)).tolist():
        position[i] = gone[rollout[i]]
        gone[rollout[i]] += min(sampled[i], lengths[rollout[i]] - position[i])
    if (gone < lengths).any():
        raise InputError(f"{run.trace.source}: steps and rollouts are not of one run: record it again")
    left = lengths[rollout] - position
    emitted = np.minimum(sampled, left)
    accepted = np.minimum(np.maximum(sampled - 1, 0), emitted)
    return Shares(step, rollout, position, tokens, drafted, accepted, emitted)


def simulated(run: Recorded, cost: Profile, drafting: DraftCost = FREE) -> tuple[Phase, Outcome, int]:
    """The run's rollouts, their simulation under its settings at these costs, and the largest budget."""
    rollouts, facts = rollouts_of(run), replace(facts_of(run), max_num_seqs=run.slots)
    phase, outcome = decode(rollouts, facts, cost, drafting=drafting)
    return phase, outcome, rollouts.drafting.most


def facts_of(run: Recorded) -> EngineFacts:
    """The settings that the engine ran with."""
    settings = {"scheduler_reserve_full_isl": True} | run.about["settings"]
    return EngineFacts(**{name: checked(name, settings.get(name), run.name) for name in NAMES if name in settings})


def drafting_of(run: Recorded) -> Drafting:
    """The drafter and the budget policy that a run's speculative_config stands for; InputError where none does."""
    config = run.about["speculative"]
    if config is None:
        return Drafting({"kind": "none"}, "none", 0)
    most, ours = int(config["num_speculative_tokens"]), run.about.get("rolloutsim")
    if ours is not None:
        settings = ours["settings"]
        return Drafting(settings["drafter"], settings["policy"], most, settings["profile"], settings["seed"])
    ranges = config.get("num_speculative_tokens_per_batch_size")
    policy = f"fixed:{most}" if not ranges else "schedule:" + ",".join(f"{a}-{b}={min(k, most)}" for a, b, k in ranges)
    if config["method"] == "ngram":
        names = ("prompt_lookup_min", "prompt_lookup_max")
        return Drafting({"kind": "ngram"} | {name: config[name] for name in names}, policy, most)
    if config["method"] == "suffix":
        alone = config["suffix_decoding_max_cached_requests"] == 0
        return Drafting({
            "kind": "suffix", "scope": "request" if alone else "global", "own": True, "match": "scored", "prompt": True,
            "depth": config["suffix_decoding_max_tree_depth"], "factor": config["suffix_decoding_max_spec_factor"],
            "min_prob": config["suffix_decoding_min_token_prob"], "siblings": "next-step" if alone else "live", "cost": "none",
        }, policy, most)  # fmt: skip
    raise InputError(
        f"{run.name}: method {config['method']!r}: steps are compared for none, ngram, suffix and rolloutsim's proposer"
    )


def rollouts_of(run: Recorded) -> Rollouts:
    """The run's rollouts and what drafted for them; InputError where the history that they were drafted from is not there."""
    return Rollouts(_after_history(run), drafting_of(run))


def _after_history(run: Recorded) -> Trace:
    """The run's rollouts, as an RL step after those that its drafter had as history, where it had any."""
    ours = run.about.get("rolloutsim") or {"settings": {"history": None}}
    settings = ours["settings"]
    if settings["history"] is None:
        return run.trace
    past = io.read(settings["history"])
    if past.sha256 != ours["history_sha256"]:
        raise InputError(f"{past.source}: is not the history that {run.name} drafted from: its SHA-256 is another")
    if settings["step"] is not None:
        past = past.select(past.step < settings["step"])
    steps = pa.array(np.full(len(run.trace), past.steps[-1] + 1), pa.int32())
    table = run.trace.table
    table = table.set_column(table.column_names.index("step"), table.schema.field("step"), steps)
    names = [name for name in table.column_names if name in past.table.column_names]
    return io.from_table(pa.concat_tables([past.table.select(names), table.select(names)]), run.trace.source)


def flat(table: pa.Table, name: str) -> Int64:
    """A list column of a step table, share by share; int64[shares]."""
    values: Int64 = pc.list_flatten(table.column(name)).to_numpy().astype(np.int64)
    return values
