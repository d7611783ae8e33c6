"""Drafting with live siblings: what a rollout emits is known to its siblings on the same replica from the next step on.

Drafts then depend on when things happen, so they are made inside the engine's loop. Every replica grows one automaton per
group (one for all, in global scope) from the history and from what its own rollouts of that group emit, and one per
rollout from its own prompt and output. Nothing is shared between replicas before the RL step ends.

With siblings `everywhere` all replicas have one index. What a rollout emits is in it from when its replica begins its next
decode step; tokens of its last step there, from when it goes on elsewhere. Replicas begin steps in the order of the clock, so
none of them learns what is yet to be emitted.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
from simulator.drafting.ahead import drafted_alone
from simulator.drafting.automaton import (
    ACTIVE,
    ACTIVE_LEN,
    LAST,
    ROOT,
    block_size,
    observe,
    plant,
    shorten,
)
from simulator.drafting.drafter import offsets_of
from simulator.drafting.history import LARGEST_BLOCK, Forest, transplant
from simulator.drafting.longest import draft_along, right_of
from simulator.drafting.memory import address, load, store
from simulator.drafting.scored import best_draft
from simulator.drafting.standing import continued
from simulator.limits import LARGEST_BUDGET
from simulator.records import Array, Pointing, array_field, layout, records
from traces.errors import InputError
from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.drafting.suffix import Suffix

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


ALONE = -1
"""In place of how many tokens are drafted: as many as from own output alone."""


class Sibling:
    """A rollout of the index; what is at an address are int32 words."""

    group: int
    tokens: int  # address of its output
    length: int
    prompt: int  # address of its prompt
    prompt_length: int
    own: int  # address of the automaton of its own prompt and output, or
    alone: int  # of what is drafted from it at every position (`ahead.drafted_alone`); 0: it is not known before
    begun: bool
    learnt: int  # tokens of its output that the index has
    last: int  # where it stands in the group's automaton
    active: int
    active_length: int


class Group:
    """Rollouts that learn from each other, and the automaton of what they have emitted."""

    automaton: int  # its address
    built: bool
    tokens: int  # that it must hold
    sequences: int
    history: int  # address of the frozen history that it starts as; 0: none


class Siblings:
    """The index of one replica, and the drafter's settings."""

    depth: int
    factor: float
    min_prob: float
    scored: bool
    use_own: bool
    everywhere: bool
    scratch: int  # address of room for a draft of the largest budget, and for four of at most `depth` tokens
    rollouts: Array[Sibling]
    groups: Array[Group]


SIBLING, GROUP, SIBLINGS = layout(Sibling), layout(Group), layout(Siblings)
rollouts_of, groups_of = array_field("rollouts", SIBLING), array_field("groups", GROUP)


@compiled
def begin(siblings: Siblings, rollout: int) -> None:
    """Admit a rollout: build its group's automaton if it is the first, and its own from its prompt."""
    one, depth = rollouts_of(siblings)[rollout], siblings.depth
    one.begun = True
    group = groups_of(siblings)[one.group]
    if not group.built:
        group.built = True
        if group.history == 0:
            plant(group.automaton, group.tokens, group.sequences)
        else:
            transplant(group.history, group.automaton, group.tokens, group.sequences)
    one.last, one.active, one.active_length = ROOT, ROOT, 0
    if siblings.use_own and one.alone == 0:
        plant(one.own, one.length + one.prompt_length, 1)
        for p in range(one.prompt_length):
            observe(one.own, load(one.prompt, p), 1, depth)


@compiled
def learn(siblings: Siblings, rollout: int, emitted: int, count: int) -> None:
    """Append `count` tokens from position `emitted` on to the rollout's own automaton and to its group's."""
    one, depth = rollouts_of(siblings)[rollout], siblings.depth
    shared = groups_of(siblings)[one.group].automaton
    store(shared, LAST, one.last)
    store(shared, ACTIVE, one.active)
    store(shared, ACTIVE_LEN, one.active_length)
    for p in range(emitted, min(emitted + count, one.length)):
        token = load(one.tokens, p)
        observe(shared, token, 1, depth)
        if siblings.use_own and one.alone == 0:
            observe(one.own, token, 1, depth)
    one.last, one.active, one.active_length = load(shared, LAST), load(shared, ACTIVE), load(shared, ACTIVE_LEN)
    one.learnt = min(emitted + count, one.length)


@compiled
def catch_up(siblings: Siblings, rollout: int, emitted: int) -> None:
    """Learn what a rollout emitted before it came to this replica, where it has just been prefilled."""
    one = rollouts_of(siblings)[rollout]
    if not one.begun:
        begin(siblings, rollout)
    if one.learnt < emitted:
        learn(siblings, rollout, one.learnt, emitted - one.learnt)


@compiled
def propose(siblings: Siblings, rollout: int, emitted: int, budget: int) -> tuple[int, int]:
    """Draft for a rollout that has emitted `emitted` tokens: (drafted, accepted)."""
    one = rollouts_of(siblings)[rollout]
    alone = matched = 0
    if one.alone != 0:
        alone = load(one.alone, emitted)
        matched = alone >> 16
    drafted, tokens = draft(siblings, rollout, emitted, budget, matched)
    if drafted == ALONE:
        return min((alone >> 8) & 255, budget), min(alone & 255, budget)
    return drafted, right_of(tokens, one.tokens + 4 * emitted, min(drafted, one.length - emitted))


@compiled
def draft(siblings: Siblings, rollout: int, emitted: int, budget: int, alone: int = 0) -> tuple[int, int]:
    """Draft at most `budget` tokens for a rollout that has emitted `emitted`: (how many, their address in the scratch).

    alone: tokens that its own prompt and output match, where that is known before: ALONE where no match is longer.
    The group's automaton has learnt the rollout itself too, so it is the history and own output together; matches there
    begin with the rollout's first token, matches in its own automaton with its prompt.
    """
    scratch = siblings.scratch
    if budget == 0:
        return 0, scratch
    one, depth = rollouts_of(siblings)[rollout], siblings.depth
    shared, own = groups_of(siblings)[one.group].automaton, one.own
    known = min(one.active_length, depth - 1)
    state = shorten(shared, one.active, known) if known > 0 else ROOT
    own_state, own_known = ROOT, 0
    if siblings.use_own and one.alone == 0:
        own_known = min(load(own, ACTIVE_LEN), depth - 1)
        own_state = shorten(own, load(own, ACTIVE), own_known) if own_known > 0 else ROOT
    if siblings.scored:
        longest = min(one.prompt_length + emitted, depth) - 1
        return _draft_scored(
            siblings, shared, state, min(known, longest), own, own_state, min(own_known, longest), budget
        )
    state, known = continued(shared, state, known)
    if alone >= known and alone > 0:
        return ALONE, scratch
    if siblings.use_own and one.alone == 0:
        own_state, own_known = continued(own, own_state, own_known)
        if own_known >= known:
            shared, state, known = own, own_state, own_known
    if known == 0:
        return 0, scratch
    limit = min(int(siblings.factor * known + 1e-9), LARGEST_BUDGET, budget)
    return draft_along(shared, state, known, limit, depth, siblings.min_prob, scratch), scratch


@compiled
def _draft_scored(
    siblings: Siblings, shared: int, state: int, known: int, own: int, own_state: int, own_known: int, budget: int
) -> tuple[int, int]:
    """The better of the drafts from the group and from own output: (tokens, their address)."""
    depth, scratch = siblings.depth, siblings.scratch
    n, score, tokens = best_draft(
        shared, state, known, own, ROOT, 0, budget, depth, siblings.factor, siblings.min_prob, scratch, scratch + 4 * depth
    )  # fmt: skip
    if siblings.use_own:
        own_n, own_score, own_tokens = best_draft(
            shared, ROOT, 0, own, own_state, own_known, budget, depth, siblings.factor, siblings.min_prob,
            scratch + 8 * depth, scratch + 12 * depth,
        )  # fmt: skip
        if own_score >= score:
            n, tokens = own_n, own_tokens
    return n, tokens


def siblings_record(drafter: "Suffix", rollouts: "npt.NDArray[Any]", groups: "npt.NDArray[Any]") -> Pointing:
    """The index of these rollouts, as `drafter` drafts for them."""
    made = Pointing(
        SIBLINGS, depth=drafter.depth, factor=drafter.factor, min_prob=drafter.min_prob, scored=drafter.match == "scored",
        use_own=drafter.own, everywhere=drafter.siblings == "everywhere",
    )  # fmt: skip
    made.point(rollouts=rollouts, groups=groups, scratch=np.empty(max(4 * drafter.depth, LARGEST_BUDGET), np.int32))
    return made


@dataclass(frozen=True, eq=False)
class SiblingIndex:
    """The rollouts in `rows` of `trace`, in queue order, to be drafted for by `drafter`; `history` is what it learnt.
    ahead: all of them will be drafted for, so that the longest matches in own output can be found before.

    Memory per replica grows to about 90 bytes per token of history and of output, twice that with own output that is not known
    ahead.
    """

    drafter: "Suffix"
    trace: Trace
    rows: Int64
    history: Forest
    ahead: bool = False
    memory: dict[tuple[int, str], Int32] = field(default_factory=dict)
    shared: list[Pointing] = field(default_factory=list)

    @property
    def everywhere(self) -> bool:
        """Whether all replicas have one index."""
        return self.drafter.siblings == "everywhere"

    def of_replica(self, number: int = 0) -> Pointing:
        """Return a fresh `Siblings` for a replica, `everywhere` the one of replica 0, which is made first.

        Its memory is touched only as rollouts arrive, and used again for the next policy: fresh pages cost as much as a third of
        the drafting.
        """
        if not self.everywhere:
            return self._made(number)
        if number == 0:
            self.shared[:] = [self._made(0)]
        return self.shared[0]

    def _made(self, number: int) -> Pointing:
        trace, rows, drafter = self.trace, self.rows, self.drafter
        group_of = trace.prompt[rows] if drafter.scope == "problem" else np.zeros(rows.size, np.int64)
        lengths = trace.output_tokens[rows].astype(np.int64)
        ones = records(SIBLING, rows.size)
        ones["group"], ones["length"] = group_of, lengths
        ones["tokens"] = address(trace.tokens) + 4 * trace.offsets[rows]
        if drafter.prompt and trace.has_prompts:
            ones["prompt"] = address(trace.prompt_token_ids_flat) + 4 * trace.prompt_offsets[rows]
            ones["prompt_length"] = trace.prompt_tokens[rows]
        if self._alone is not None:
            ones["alone"] = address(self._alone) + 4 * offsets_of(trace, rows)[:-1]
        elif drafter.own:
            ones["own"] = self._blocks((number, "own"), lengths + ones["prompt_length"], np.ones(rows.size, np.int64))
        return siblings_record(drafter, ones, self._groups(number, ones))

    @cached_property
    def _alone(self) -> Int32 | None:
        """What is drafted from own output alone, where that does not depend on the budget."""
        known = self.ahead and self.drafter.own and self.drafter.match == "longest"
        return drafted_alone(self.drafter, self.trace, self.rows) if known else None

    def _groups(self, number: int, ones: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
        """The groups of the rollouts, each with room for its history and for all that they will emit."""
        history = self.history
        groups = records(GROUP, history.at.size)
        known = history.at >= 0
        groups["history"][known] = 4 * history.at[known]
        groups["tokens"] = history.tokens_of + np.bincount(ones["group"], ones["length"], groups.size).astype(np.int64)
        groups["sequences"] = history.sequences_of + np.bincount(ones["group"], minlength=groups.size)
        groups["automaton"] = self._blocks((number, "shared"), groups["tokens"], groups["sequences"])
        return groups

    def _blocks(self, key: tuple[int, str], tokens: Int64, sequences: Int64) -> Int64:
        """Reserve one block for each automaton, and return their addresses."""
        sizes = np.array([block_size(int(n), int(s)) for n, s in zip(tokens, sequences, strict=True)], np.int64)
        if sizes.max(initial=0) > LARGEST_BLOCK:
            raise InputError(
                f"{int(tokens.max()):,} tokens of history and siblings in one suffix automaton: at most about 100 million fit; "
                "use a smaller --window, or --scope problem"
            )
        words = self.memory.setdefault(key, np.empty(int(sizes.sum()), np.int32))
        return address(words) + 4 * np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
