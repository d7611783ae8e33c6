"""What a system run is made of before anything moves: rollouts, their drafts, and what policies and placements know."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.policy import BudgetPolicy, Chooses, TablePolicy
from simulator.budgets.resolve import resolve_policy
from simulator.draft_cache import DraftCache, key_of
from simulator.drafting.acceptance import Acceptance, no_drafts
from simulator.drafting.drafter import (
    Asked,
    Drafter,
    DraftsAhead,
    LiveDrafter,
    accepted,
    accepted_each,
    offsets_of,
    past_rows,
    strategies_of,
)
from simulator.drafting.draws import rollout_keys
from simulator.drafting.growing import Growing
from simulator.drafting.live import SiblingIndex
from simulator.drafting.measure import DraftCurve, asked_for_curve, curve_of
from simulator.drafting.nothing import Nothing
from simulator.engine.deployment import Deployment, profile_of
from simulator.engine.workload import Workload, workload_of
from simulator.plugins import calling
from simulator.resumed import resumed
from simulator.scenario import Scenario
from simulator.scheduling.placement import KnowsLengths
from simulator.scheduling.resolve import FIRST_COME, resolve_placement
from simulator.training.stream import Stream
from simulator.transforms.prefixes import KeepsPrefixes, Kept, kept_of
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

AHEAD = 16
"""RL steps of which drafts are made together, where the drafter gains by it: 2 bytes for each of their tokens."""
POLICY_WINDOW = 16
"""RL steps of history that policies learn lengths from, or the drafter's window where that is longer."""


@dataclass(frozen=True, eq=False)
class Phase:
    """An RL step's generation before it begins.

    step: of the trace; numbers: int64[n], rollouts of the stream that may be submitted, in that order, the first `carried` of
    them begun earlier; past: rows of the history that is drafted from; growing: makes drafts as they are submitted; alone: makes
    those without live siblings, where the engine's loop drafts. kept: what they begin with; the workload is then of those that
    have something left.
    """

    step: int
    numbers: Int64
    carried: int
    past: Int64
    workload: Workload
    context: Context
    growing: Growing | None = None
    alone: Callable[[], Acceptance] | None = None
    kept: Kept | None = None

    def reach(self, count: int) -> None:
        """See to it that the first `count` of its rollouts have drafts."""
        if self.growing:
            self.growing.reach(count)

    @property
    def acceptances(self) -> Sequence[Acceptance]:
        """The acceptance of those that were submitted."""
        if self.alone:
            return [self.alone()]
        return self.growing.parts if self.growing else [self.workload.acceptance]


@dataclass
class Shared:
    """What systems that draft alike from the same rollouts need not make twice; cache: nor other runs."""

    made: dict[Any, Any] = field(default_factory=dict)
    cache: DraftCache | None = None
    ahead: dict[Any, list[Acceptance]] = field(default_factory=dict)
    """Of RL steps to come, as often as it will be asked for."""
    foreseen: set[Any] = field(default_factory=set)
    """What was made ahead by any of them, and is in use or was."""

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made under this key, or make it."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


class Preparing:
    """Makes the phases of one system.

    scenario: as it is for this system; shared: with the others, cleared between RL steps; keeps: what its rollouts begin with.
    """

    def __init__(
        self, scenario: Scenario, trace: Trace, steps: list[int], drafter: Drafter, deployment: Deployment,
        placement: str | None, shared: Shared, keeps: KeepsPrefixes | None = None,
    ) -> None:  # fmt: skip
        self.scenario, self.trace, self.steps, self.drafter, self.shared = scenario, trace, steps, drafter, shared
        self.deployment, self._placement = deployment, placement or scenario.engine.dispatch
        self.policy_spec, self._keeps = scenario.policies[0], keeps
        self._version = 0
        self._measures = self._foresees = False
        self._foreseen = 0
        self.stream = Stream(trace, steps)

    def phase(self, j: int, watched: bool, learnt: Bool) -> Phase:
        """RL step j of the run; watched: rollouts are submitted one by one, from those carried over to the end of the trace.

        learnt: bool[n], which rollouts of the stream the drafter may draft from.
        """
        return self._watched(j, learnt) if watched else self._whole(j, learnt)

    def policy(self, phase: Phase, previous: BudgetPolicy | None) -> BudgetPolicy:
        """The budget policy for a phase; previous: that of the RL step before."""
        policy = resolve_policy(self.policy_spec, phase.context, previous)
        if isinstance(policy, TablePolicy | Chooses):
            phase.workload.acceptance.serve(np.unique(policy.budgets))
        return policy

    def teach(self, drafter: Drafter) -> None:
        """Draft with another version of the drafter from now on."""
        self.drafter, self._version = drafter, self._version + 1

    def placed(self, phase: Phase) -> Deployment:
        """The deployment with its placement prepared for a phase."""
        spec = self._placement
        if spec in FIRST_COME:
            return replace(self.deployment, placement=spec)
        placement = resolve_placement(spec, phase.context)
        if isinstance(placement, KnowsLengths):
            numbers = phase.numbers if phase.kept is None else phase.numbers[phase.kept.left]
            rows, workload = self.stream.rows[numbers], phase.workload
            keys = rollout_keys(self.trace, rows, self.scenario.seed, "placement")
            with calling(f"placement {spec!r}: shown", "mend the placement"):
                placement = placement.shown(workload.output_tokens - workload.begun_tokens, keys)
        return replace(self.deployment, placement=placement)

    def workload(self, rows: Int64, past: Int64, seed: int) -> Workload:
        """These rows of the trace, drafted for from those past."""
        key = (
            "workload",
            id(self.trace),
            self._drafts,
            self.scenario.engine.arrivals,
            rows.tobytes(),
            past.tobytes(),
            seed,
        )

        def make() -> Workload:
            siblings = self._siblings(rows, past)
            if siblings is None:
                acceptance = self.accepted(rows, past, seed)
            else:  # the engine reads no table
                acceptance, siblings = no_drafts(offsets_of(self.trace, rows)), replace(siblings, ahead=True)
            return workload_of(self.trace, rows, acceptance, siblings, self.scenario.engine.arrivals)

        found: Workload = self.shared.get(key, make)
        return found

    def accepted(self, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """What is drafted and accepted for these rows."""

        def make() -> Acceptance:
            ahead = self.shared.ahead.get(self._asked(rows, past, seed))
            return ahead.pop() if ahead else accepted(self.drafter, self.trace, rows, past, seed)

        if (cache := self._cache) is None:
            return make()
        return cache.acceptance(self._key("accepted", rows, past, seed), self._tokens(past), make)

    def _siblings(self, rows: Int64, past: Int64) -> SiblingIndex | None:
        """What drafts in the engine's loop, where siblings learn from each other."""
        drafter, cache = self.drafter, self._cache
        if not isinstance(drafter, LiveDrafter):
            return None
        if cache is None:
            return drafter.sibling_index(self.trace, rows, past)
        found: SiblingIndex | None = cache.history(
            self._key("siblings", rows, past), self._tokens(past), lambda: drafter.sibling_index(self.trace, rows, past)
        )
        return found

    @property
    def _cache(self) -> DraftCache | None:
        """Where drafts for this trace are kept from run to run; nowhere once the drafter has been taught."""
        cache = self.shared.cache
        return cache if cache is not None and not self._version and cache.knows(self.trace) else None

    def _key(self, what: str, *parts: Any) -> str:
        """Name what follows from the trace, the drafter's settings and these; a drafter of somebody's own may look at costs."""
        own = profile_of(self.deployment).sha256 if self.scenario.drafter.kind == "custom" else ""
        arrays = (part.tobytes() if isinstance(part, np.ndarray) else part for part in parts)
        return key_of(what, self.trace.sha256, self._drafts, own, *arrays)

    def _tokens(self, rows: Int64) -> int:
        return int(self.trace.output_tokens[rows].sum(dtype=np.int64))

    def _asked(self, rows: Int64, past: Int64, seed: int) -> str:
        return key_of(id(self.trace), self._drafts, rows.tobytes(), past.tobytes(), seed)

    @property
    def _drafts(self) -> str:
        version = f" {id(self)} {self._version}" if self._version else ""
        return f"{self.scenario.drafter.model_dump_json()}{version}"

    def _whole(self, j: int, learnt: Bool) -> Phase:
        step, stream = self.steps[j], self.stream
        numbers = np.arange(stream.ends[j - 1] if j else 0, stream.ends[j])
        past = past_rows(self.trace, step, self.drafter.window)
        past = past[~np.isin(past, stream.rows[~learnt])]
        known = past_rows(self.trace, step, max(self.drafter.window, POLICY_WINDOW))
        known = known[~np.isin(known, stream.rows[~stream.finished])]
        rows = stream.rows[numbers]
        self._look_ahead(j, past)
        workload = self.workload(rows, past, self.scenario.seed)
        if self._keeps is None:
            live = workload.siblings is not None
            alone = partial(self.accepted, rows, past, self.scenario.seed) if live else None
            return Phase(step, numbers, 0, past, workload, self._context(j, rows.size, known), alone=alone)
        kept = kept_of(self._keeps, self.trace, rows, self.scenario.seed)
        context = self._context(j, max(kept.left.size, 1), known)
        return Phase(step, numbers, 0, past, resumed(workload, self.trace, rows, kept), context, kept=kept)

    def _look_ahead(self, j: int, past: Int64) -> None:
        """Have drafts made for RL steps to come, too, as they are if all before them will have finished.

        Not before it has been seen whether the policy measures drafts on the history, which is then drafted for as well.
        """
        if not isinstance(self.drafter, DraftsAhead):
            return
        trace, seed = self.trace, self.scenario.seed
        learnt_all = np.array_equal(past, past_rows(trace, self.steps[j], self.drafter.window))
        if not (self._foresees and learnt_all) or j < self._foreseen:
            self._foresees |= past.size > 0
            return
        self._foreseen, asked = min(j + AHEAD, len(self.steps)), list[Asked]()
        for step in self.steps[j : self._foreseen]:
            asked.append(Asked(np.flatnonzero(trace.step == step), past_rows(trace, step, self.drafter.window)))
            if self._measures:
                asked.append(asked_for_curve(trace, past_rows(trace, step, max(self.drafter.window, POLICY_WINDOW))))
        if (drafts := self._cache) is not None:
            asked = [one for one in asked if not drafts.has(self._key("accepted", *one, seed))]
        keys = [self._asked(*one, seed) for one in asked]
        uses = Counter(key for key in keys if key not in self.shared.foreseen)
        each = {key: one for key, one in zip(keys, asked, strict=True) if key in uses}
        made = (accepted_each(self.drafter, trace, [*each.values()], seed) or []) if each else []
        self.shared.ahead |= {key: [found] * uses[key] for key, found in zip(each, made, strict=False)}
        self.shared.foreseen |= each.keys()

    def _watched(self, j: int, learnt: Bool) -> Phase:
        step, stream, trace = self.steps[j], self.stream, self.trace
        carried = stream.carried()
        numbers = np.concatenate([carried, np.arange(stream.next, len(stream))])
        rows = stream.rows[numbers]
        past = self._rows_of(learnt, step, self.drafter.window)
        known = self._rows_of(stream.finished, step, max(self.drafter.window, POLICY_WINDOW))
        seed = self.scenario.seed

        def make(first: int, end: int) -> Any:
            return self.accepted(rows[first:end], past, seed)

        offsets = offsets_of(trace, rows)
        cuts = np.searchsorted(numbers[carried.size :], stream.ends) + carried.size
        nothing = isinstance(self.drafter, Nothing)
        growing = Growing(make, offsets, np.concatenate([[0], cuts[cuts < rows.size]]), nothing)
        workload = workload_of(trace, rows, growing.acceptance, self._siblings(rows, past), arrivals=False)
        workload = replace(workload, begun=stream.emitted[numbers])
        ahead = int(stream.ends[j]) - (int(stream.ends[j - 1]) if j else 0)
        return Phase(step, numbers, carried.size, past, workload, self._context(j, ahead, known), growing)

    def _rows_of(self, mine_known: Bool, step: int, window: int) -> Int64:
        """Rows of the history that this run has: those recorded before it, and of its own those that are known."""
        trace, stream = self.trace, self.stream
        before = [s for s in trace.steps if s < step][-window:] if window else []
        mine = np.zeros(len(trace), np.bool_)
        mine[stream.rows] = True
        done = np.zeros(len(trace), np.bool_)
        done[stream.rows[mine_known]] = True
        recent = np.isin(trace.step, before) & (~mine | done)
        if window:
            recent |= done & (trace.step >= step)
        rows = np.flatnonzero(recent)
        return rows[np.lexsort((trace.sample[rows], trace.prompt_rank[trace.prompt[rows]], trace.step[rows]))]

    def _context(self, j: int, rollouts: int, known: Int64) -> Context:
        trace, deployment, seed = self.trace, self.deployment, self.scenario.seed
        # the first may get one more than others
        filled = min(deployment.max_num_seqs, -(-rollouts // deployment.replicas))
        curve = self.shared.get(
            ("curve", id(self.trace), self._drafts, known.tobytes(), seed),
            lambda: self._curve(known, seed),
        )
        return Context(
            len(trace.prompt_ids), trace.prompt[known].astype(np.int64), trace.output_tokens[known].astype(np.int64),
            deployment.cost, filled, curve, self.drafter.cost, seed, strategies_of(self.drafter), j,
        )  # fmt: skip

    def _curve(self, past: Int64, seed: int) -> Callable[[], DraftCurve | None]:
        drafts = self._cache

        @cache
        def measure() -> DraftCurve | None:
            if not past.size:
                return None
            self._measures = True
            asked = asked_for_curve(self.trace, past)
            return curve_of(self.trace, asked, self.accepted(*asked, seed))

        if drafts is None:
            return measure
        key = self._key("curve", past, seed)
        return lambda: drafts.plain(key, measure)
