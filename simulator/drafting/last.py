"""The previous rollout of the same prompt slot as the draft: what it said next is proposed (the reuse of SPEC-RL, 2509.23232).

While the current rollout repeats the previous one from its first token on, the draft continues at the same position.
Afterwards the place to continue is found again (`resync`): the longest suffix of the current output that occurs in the
previous rollout with something after it, and of its occurrences the one whose end is nearest to the current position, on a
tie the earlier. A smaller budget gets a prefix of the same draft.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled, entry
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.automaton import (
    LAST,
    LEN,
    LINK,
    N_STATES,
    NONE,
    ROOT,
    STATE,
    block_size,
    extend,
    follow,
    plant,
)
from simulator.drafting.drafter import Source, offsets_of
from simulator.drafting.layout import each_part
from simulator.drafting.memory import address, load
from simulator.limits import LARGEST_BUDGET
from simulator.records import as_int
from traces.trace import Trace

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Last:
    """Last-rollout drafter, lossless: every token is verified, none is reused unseen.

    window: RL steps of history, of which the latest that has the slot (prompt_id and sample) counts; a slot in none of
    them gets no drafts. resync: whether to go on drafting once the rollouts have diverged. min_match: the shortest suffix,
    in tokens, to do so by.
    """

    window: int = 1
    resync: bool = True
    min_match: int = 2

    lossless = True
    learns_from: frozenset[Source] = frozenset({"history"})
    needs_tokens = True
    cost = DraftCost()

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        resync = f"resync, min_match={self.min_match}" if self.resync else "no resync"
        return f"last(window={self.window}, {resync})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int = 0) -> Acceptance:
        """Draft at every position of the rollouts in `rows`, each from the latest rollout of its slot in `past`."""
        offsets = offsets_of(trace, rows)
        return Acceptance(offsets, lambda budget: self._table(trace, rows, past, offsets), prefix=True)

    def _table(self, trace: Trace, rows: Int64, past: Int64, offsets: Int64) -> UInt8:
        table = np.zeros((int(offsets[-1]), 2), np.uint8)
        starts, ends = trace.offsets[rows], trace.offsets[rows + 1]
        sources = latest_of_slot(trace, rows, past)
        known = sources >= 0
        past_starts = np.where(known, trace.offsets[sources], 0)
        past_ends = np.where(known, trace.offsets[sources + 1], 0)

        def run(part: Int64) -> int:
            longest = int((past_ends - past_starts)[part].max())
            automaton = np.empty(block_size(longest, 1), np.int32)
            _accept_last(
                trace.tokens, starts[part], ends[part], past_starts[part], past_ends[part], address(automaton),
                self.resync, self.min_match, offsets[part], table,
            )  # fmt: skip
            return 0

        each_part(offsets, run)
        return table


def latest_of_slot(trace: Trace, rows: Int64, past: Int64) -> Int64:
    """Return, for each rollout in `rows`, the last of the rows in `past` with its prompt and sample; -1 for none."""
    latest = {(int(trace.prompt[row]), int(trace.sample[row])): int(row) for row in past}
    return np.array([latest.get((int(trace.prompt[row]), int(trace.sample[row])), -1) for row in rows], np.int64)


@compiled
def _subtrees(at: int, ends: Int64, order: Int64, leaf: Int64, first: Int64, count: Int64) -> None:
    """Number the ends of a sequence so that those of each state are first[state] to first[state] + count[state].

    ends: the state of each prefix, by its length from 1 on. Fills leaf (by length of prefix), first and count (by state);
    order: scratch. A state's ends are its own, if it is a prefix, and those of the states that link to it.
    """
    states, longest = load(at, N_STATES), ends.size - 1
    by_len = np.zeros(longest + 2, np.int64)
    for state in range(states):
        by_len[load(at, STATE * state + LEN) + 1] += 1
        count[state] = 0
    for length in range(longest + 1):
        by_len[length + 1] += by_len[length]
    for state in range(states):
        length = load(at, STATE * state + LEN)
        order[by_len[length]] = state
        by_len[length] += 1
    for end in range(1, longest + 1):
        count[ends[end]] = 1
    for i in range(states - 1, 0, -1):
        count[load(at, STATE * order[i] + LINK)] += count[order[i]]
    free = first[states:]  # by state: the next number to give away within its range
    first[ROOT] = free[ROOT] = 0
    for i in range(1, states):
        link = load(at, STATE * order[i] + LINK)
        first[order[i]] = free[link]
        free[link] += count[order[i]]
        free[order[i]] = first[order[i]]
    # a prefix's own end comes last in its range, after those of all states that link to it
    for end in range(1, longest + 1):
        leaf[end] = first[ends[end]] + count[ends[end]] - 1


@compiled
def _sweep(
    state: Int64, leaf: Int64, first: Int64, count: Int64, longest: int, forward: bool, marks: Int64, found: Int64
) -> None:
    """Find, for each position p with a state, the nearest end of that state at p or before, or (backward) after p.

    A segment tree over the numbered ends holds in each node the end that was passed last. Writes the end, 0 for none.
    """
    marks[: 2 * longest] = 0
    n = state.size
    beyond = longest + 1
    for i in range(max(n, beyond)):
        p = i if forward else max(n, beyond) - 1 - i
        end = p if forward else p + 1
        if 1 <= end <= longest:
            node = leaf[end] + longest
            passed = end if forward else beyond - end  # rises with i
            while node > 0:
                marks[node] = passed
                node >>= 1
        if p >= n or state[p] == NONE:
            continue
        low, high = first[state[p]] + longest, first[state[p]] + count[state[p]] + longest
        latest = 0
        while low < high:
            if low & 1:
                latest = max(latest, marks[low])
                low += 1
            if high & 1:
                high -= 1
                latest = max(latest, marks[high])
            low >>= 1
            high >>= 1
        found[p] = latest if forward or latest == 0 else beyond - latest


@entry
def _accept_last(
    tokens: Int32, starts: Int64, ends: Int64, past_starts: Int64, past_ends: Int64, at: int, resync: bool, min_match: int,
    offsets: Int64, table: UInt8,
) -> None:  # fmt: skip
    """Fill the table, uint8[positions, 2]. at: address of room for the automaton of the longest previous rollout."""
    longest, most = (past_ends - past_starts).max(), (ends - starts).max()
    order, count = np.empty(2 * longest + 2, np.int64), np.empty(2 * longest + 2, np.int64)
    first, leaf = np.empty(4 * longest + 4, np.int64), np.empty(longest + 1, np.int64)
    marks, prefix = np.empty(2 * longest + 2, np.int64), np.empty(longest + 1, np.int64)
    states, before, after = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    for i in range(starts.size):
        now, past = tokens[starts[i] : ends[i]], tokens[past_starts[i] : past_ends[i]]
        same = 0
        while same < min(now.size, past.size) and now[same] == past[same]:
            same += 1
        again = resync and same < now.size and past.size > 1
        if again:
            followed = past.size - 1  # a match must leave a token to draft
            plant(at, followed, 1)
            for end in range(followed):
                extend(at, as_int(past[end]))
                prefix[end + 1] = load(at, LAST)
            _subtrees(at, prefix[: followed + 1], order, leaf, first, count)
            state, length = ROOT, 0
            for p in range(now.size):
                states[p] = state if length >= min_match else NONE
                state, length = follow(at, state, length, as_int(now[p]), past.size)
            _sweep(states[: now.size], leaf, first, count, followed, True, marks, before)
            _sweep(states[: now.size], leaf, first, count, followed, False, marks, after)
        source = right = 0
        for p in range(now.size):
            previous = source
            if p <= same and p < past.size:
                source = p
            elif again and states[p] != NONE:
                nearer = before[p] > 0 and (after[p] == 0 or p - before[p] <= after[p] - p)
                source = before[p] if nearer else after[p]
            else:
                source = right = 0
                continue
            drafted = min(LARGEST_BUDGET, past.size - source)
            most = min(drafted, now.size - p)
            right = right - 1 if source == previous + 1 and right > 0 else 0  # what was right one token ago still is
            while right < most and past[source + right] == now[p + right]:
                right += 1
            table[offsets[i] + p, 0] = right
            table[offsets[i] + p, 1] = drafted
