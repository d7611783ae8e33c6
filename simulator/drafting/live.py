"""Drafting with live siblings: what a rollout emits is known to its siblings on the same replica from the next step on.

Drafts then depend on when things happen, so they are made inside the engine's loop. Every replica grows one automaton per
group (one for all, in global scope) from the history and from what its own rollouts of that group emit, and one per
rollout from its own prompt and output. Nothing is shared between replicas before the RL step ends.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
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
from simulator.drafting.history import LARGEST_BLOCK, Forest, transplant
from simulator.drafting.longest import LONGEST_DRAFT, continued, draft_along
from simulator.drafting.memory import address, load, store
from simulator.drafting.scored import best_draft
from simulator.drafting.suffix import Suffix
from traces.errors import InputError
from traces.trace import Trace

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# rows of `pupils`, by rollout: its group, addresses of its tokens, its prompt and its own automaton, lengths, and where it
# stands in the group's automaton
GROUP, TOKENS, LENGTH, PROMPT, PROMPT_LEN, OWN, SHARED_LAST, SHARED_ACTIVE, SHARED_LEN = range(9)
# rows of `groups`: address of the automaton, whether it is built, tokens and sequences it must hold, address of the
# frozen history that it starts as (0: none)
BLOCK, BUILT, HOLDS_TOKENS, HOLDS_SEQUENCES, HISTORY = range(5)
# fields of `rules`
DEPTH, FACTOR, MIN_PROB, SCORED, USE_OWN = range(5)


@compiled
def enrol(rollout, pupils, groups, rules):  # type: ignore[no-untyped-def]
    """Admit a rollout: build its group's automaton if it is the first, and its own from its prompt."""
    depth, group = int(rules[DEPTH]), pupils[GROUP, rollout]
    shared, own = groups[BLOCK, group], pupils[OWN, rollout]
    if groups[BUILT, group] == 0:
        groups[BUILT, group] = 1
        tokens, sequences = groups[HOLDS_TOKENS, group], groups[HOLDS_SEQUENCES, group]
        if groups[HISTORY, group] == 0:
            plant(shared, tokens, sequences)
        else:
            transplant(groups[HISTORY, group], shared, tokens, sequences)
    pupils[SHARED_LAST, rollout] = ROOT
    pupils[SHARED_ACTIVE, rollout] = ROOT
    pupils[SHARED_LEN, rollout] = 0
    if rules[USE_OWN]:
        plant(own, pupils[LENGTH, rollout] + pupils[PROMPT_LEN, rollout], 1)
        for p in range(pupils[PROMPT_LEN, rollout]):
            observe(own, load(pupils[PROMPT, rollout], p), 1, depth)


@compiled
def hear(rollout, emitted, count, pupils, groups, rules):  # type: ignore[no-untyped-def]
    """Append `count` tokens from position `emitted` on to the rollout's own automaton and to its group's."""
    depth, shared = int(rules[DEPTH]), groups[BLOCK, pupils[GROUP, rollout]]
    store(shared, LAST, pupils[SHARED_LAST, rollout])
    store(shared, ACTIVE, pupils[SHARED_ACTIVE, rollout])
    store(shared, ACTIVE_LEN, pupils[SHARED_LEN, rollout])
    for p in range(emitted, min(emitted + count, pupils[LENGTH, rollout])):
        token = load(pupils[TOKENS, rollout], p)
        observe(shared, token, 1, depth)
        if rules[USE_OWN]:
            observe(pupils[OWN, rollout], token, 1, depth)
    pupils[SHARED_LAST, rollout] = load(shared, LAST)
    pupils[SHARED_ACTIVE, rollout] = load(shared, ACTIVE)
    pupils[SHARED_LEN, rollout] = load(shared, ACTIVE_LEN)


@compiled
def speak(rollout, emitted, budget, pupils, groups, scratch, rules):  # type: ignore[no-untyped-def]
    """Draft for a rollout that has emitted `emitted` tokens: (drafted, accepted), cut at its end.

    The group's automaton has heard the rollout itself too, so it is the history and own output together; matches there
    begin with the rollout's first token, matches in its own automaton with its prompt.
    """
    if budget == 0:
        return 0, 0
    depth, factor, min_prob = int(rules[DEPTH]), rules[FACTOR], rules[MIN_PROB]
    shared, own = groups[BLOCK, pupils[GROUP, rollout]], pupils[OWN, rollout]
    left = pupils[LENGTH, rollout] - emitted
    actual = pupils[TOKENS, rollout] + 4 * emitted
    known = min(pupils[SHARED_LEN, rollout], depth - 1)
    state = shorten(shared, pupils[SHARED_ACTIVE, rollout], known) if known > 0 else ROOT
    own_state, own_known = ROOT, 0
    if rules[USE_OWN]:
        own_known = min(load(own, ACTIVE_LEN), depth - 1)
        own_state = shorten(own, load(own, ACTIVE), own_known) if own_known > 0 else ROOT
    if rules[SCORED]:
        longest = min(pupils[PROMPT_LEN, rollout] + emitted, depth) - 1
        n, score, draft = best_draft(
            shared, state, min(known, longest), own, ROOT, 0, budget, depth, factor, min_prob, scratch, scratch + 4 * depth
        )  # fmt: skip
        if rules[USE_OWN]:
            own_n, own_score, own_draft = best_draft(
                shared, ROOT, 0, own, own_state, min(own_known, longest), budget, depth, factor, min_prob,
                scratch + 8 * depth, scratch + 12 * depth,
            )  # fmt: skip
            if own_score >= score:
                n, draft = own_n, own_draft
        n = min(n, left)
        right = 0
        while right < n and load(draft, right) == load(actual, right):
            right += 1
        return n, right
    state, known = continued(shared, state, known)
    if rules[USE_OWN]:
        own_state, own_known = continued(own, own_state, own_known)
        if own_known >= known:
            shared, state, known = own, own_state, own_known
    if known == 0:
        return 0, 0
    limit = min(int(factor * known + 1e-9), LONGEST_DRAFT, budget)
    return draft_along(shared, state, known, limit, depth, min_prob, actual, left)


@dataclass(frozen=True, eq=False)
class Desk:
    """One replica's place to draft at: the arrays that compiled code reads, and the memory that they point into."""

    pupils: Int64
    groups: Int64
    scratch: Int32
    rules: Float64
    memory: tuple[Int32, ...]

    @property
    def packed(self) -> tuple[Int64, Int64, int, Float64]:
        """The arguments of the compiled functions after the rollout's."""
        return self.pupils, self.groups, address(self.scratch), self.rules


EMPTY_DESK = (np.empty((0, 0), np.int64), np.empty((0, 0), np.int64), 0, np.empty(0))


@dataclass(frozen=True, eq=False)
class Classroom:
    """The rollouts in `rows` of `trace`, in queue order, to be drafted for by `drafter`; `history` is what it learnt.

    Memory per replica grows to about 90 bytes per token of history and of output, twice that with own output.
    """

    drafter: Suffix
    trace: Trace
    rows: Int64
    history: Forest
    memory: dict[tuple[int, str], Int32] = field(default_factory=dict)

    def desk(self, replica: int = 0) -> Desk:
        """Return a fresh desk for a replica; its memory is touched only as rollouts arrive.

        A replica's memory is used again for the next policy: fresh pages cost as much as a third of the drafting.
        """
        trace, rows, drafter, history = self.trace, self.rows, self.drafter, self.history
        problem = drafter.scope == "problem"
        group = trace.prompt[rows].astype(np.int64) if problem else np.zeros(rows.size, np.int64)
        lengths = trace.output_tokens[rows].astype(np.int64)
        n_groups = history.at.size
        groups = np.zeros((5, n_groups), np.int64)
        known = history.at >= 0
        groups[HISTORY, known] = 4 * history.at[known]
        groups[HOLDS_TOKENS] = history.tokens_of + np.bincount(group, lengths, n_groups).astype(np.int64)
        groups[HOLDS_SEQUENCES] = history.sequences_of + np.bincount(group, minlength=n_groups)
        shared = self._blocks((replica, "shared"), groups[HOLDS_TOKENS], groups[HOLDS_SEQUENCES])
        groups[BLOCK] = shared[1]
        tokens = address(trace.tokens)
        pupils = np.zeros((9, rows.size), np.int64)
        pupils[GROUP], pupils[LENGTH] = group, lengths
        pupils[TOKENS] = tokens + 4 * trace.offsets[rows]
        memory = [shared[0], trace.tokens, *history.blocks.values()]
        if drafter.prompt and trace.has_prompts:
            memory.append(trace.prompt_token_ids_flat)
            pupils[PROMPT] = address(memory[-1]) + 4 * trace.prompt_offsets[rows]
            pupils[PROMPT_LEN] = trace.prompt_tokens[rows]
        if drafter.own:
            own = self._blocks((replica, "own"), lengths + pupils[PROMPT_LEN], np.ones(rows.size, np.int64))
            pupils[OWN] = own[1]
            memory.append(own[0])
        rules = np.array(
            [drafter.depth, drafter.factor, drafter.min_prob, drafter.match == "scored", drafter.own], np.float64
        )
        return Desk(pupils, groups, np.empty(4 * drafter.depth, np.int32), rules, tuple(memory))

    def _blocks(self, key: tuple[int, str], tokens: Int64, sequences: Int64) -> tuple[Int32, Int64]:
        """Reserve one block for each automaton: the memory, and their addresses."""
        sizes = np.array([block_size(int(n), int(s)) for n, s in zip(tokens, sequences, strict=True)], np.int64)
        if sizes.max(initial=0) > LARGEST_BLOCK:
            raise InputError(
                f"{int(tokens.max()):,} tokens of history and siblings in one suffix automaton: at most about 100 million fit; "
                "use a smaller --window, or --scope problem"
            )
        words = self.memory.setdefault(key, np.empty(int(sizes.sum()), np.int32))
        return words, address(words) + 4 * np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
