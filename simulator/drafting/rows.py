"""Drafting for a live engine: which sequence each row of its batch is, what that emitted, and tokens to be verified for it.

An engine shows rows of tokens and no names. A row is the sequence whose tokens it begins with: as a rule the one that it was a
step ago, else one that has left (preempted, resumed, or in its next turn), else a new one. Sequences with equal tokens are alike
in all that is drafted, so it does not matter which of them is which. Learning and drafting are those of `live`.
"""

from simulator.budgets.view import Seen
from simulator.compiled import compiled, entry
from simulator.drafting.history import transplant
from simulator.drafting.live import SIBLINGS, Group, Siblings, begin, draft, groups_of, learn, rollouts_of
from simulator.drafting.memory import load, store
from simulator.records import INT, INT32, Array, array_field, layout, record_field

NOBODY = -1
SAME_AT_ONCE = 64
"""Tokens compared between two looks at the outcome."""


class Sequence(Seen):
    """A sequence, by its place; `rollout` is its number, `position` how many tokens are known of prompt and output."""

    place: int
    tokens: int  # address of those tokens
    prompt_tokens: int
    emitting: int  # steps in which it emitted
    proposed: int  # tokens drafted for its next step
    ended: bool
    entered: int  # which entry into the batch was its last
    seen_at: int  # the last step that it was in


class Batch:
    """The rows of a step, and all sequences that are remembered."""

    steps: int
    entries: int  # how often a sequence came into the batch
    done: int  # rows learnt
    counts: Array[int]  # int32: tokens known of each row, those that it just emitted included
    emitted: Array[int]  # tokens that it just emitted; 0: its prompt is being computed
    rows: int  # address of their tokens,
    stride: int  # so many int32 words each
    sequences: Array[Sequence]
    of_row: Array[int]  # place of each row's sequence
    order: Array[int]  # rows as their sequences came into the batch, in which they are learnt, as in the simulator
    learnt: Array[int]  # tokens of each group
    stops: Array[int]  # tokens that end a sequence
    max_tokens: int  # tokens that a sequence emits at most
    max_model_len: int  # and can have, its prompt included
    most: int  # tokens that are drafted at most
    drafts: int  # address of room for all drafts, one after another
    ends: Array[int]  # where each ends
    siblings: Siblings


SEQUENCE, BATCH = layout(Sequence), layout(Batch)
sequences_of, of_row_of, order_of = (
    array_field("sequences", SEQUENCE),
    array_field("of_row", INT),
    array_field("order", INT),
)
counts_of, emitted_of = array_field("counts", INT32), array_field("emitted", INT)
learnt_of, stops_of, ends_of = array_field("learnt", INT), array_field("stops", INT), array_field("ends", INT)
siblings_of = record_field("siblings", SIBLINGS)


@compiled
def same(one: int, other: int, tokens: int) -> bool:
    """Whether so many tokens at two addresses are equal."""
    at = 0
    while at < tokens:
        end, difference = min(at + SAME_AT_ONCE, tokens), 0
        for i in range(at, end):
            difference |= load(one, i) ^ load(other, i)
        if difference != 0:
            return False
        at = end
    return True


@entry
def recognise(batches: Array[Batch]) -> int:
    """Begin a step: find each row's sequence, or NOBODY; returns how many rows have none.

    It is that of the step before where it has the same tokens, else of those in no row the longest that the row goes on from.
    """
    batch, unknown = batches[0], 0
    of_row, counts, emitted = of_row_of(batch), counts_of(batch), emitted_of(batch)
    batch.steps += 1
    batch.done = 0
    for i in range(counts.size):
        place, before = of_row[i], counts[i] - emitted[i]
        if place != NOBODY and (sequences_of(batch)[place].position != before or not goes_on(batch, place, i, before)):
            of_row[i] = NOBODY
    for i in range(counts.size):
        if of_row[i] == NOBODY:
            of_row[i] = longest(batch, i, counts[i] - emitted[i])
            unknown += of_row[i] == NOBODY
    return unknown


@compiled
def longest(batch: Batch, row: int, before: int) -> int:
    """The place of the longest sequence in no row that a row goes on from, of which so many tokens are not new; or NOBODY."""
    sequences, found, least = sequences_of(batch), NOBODY, 0
    for place in range(sequences.size):
        one = sequences[place]
        longer = least < one.position <= before and one.seen_at < batch.steps
        if longer and same(batch.rows + 4 * batch.stride * row, one.tokens, one.position):
            found, least = place, one.position
    if found != NOBODY:
        goes_on(batch, found, row, before)
    return found


@compiled
def goes_on(batch: Batch, place: int, row: int, before: int) -> bool:
    """Whether a row, of which so many tokens are not new, goes on from a sequence that is in no other; if so, it is in it."""
    one = sequences_of(batch)[place]
    if one.seen_at == batch.steps or one.position > before:
        return False
    if not same(batch.rows + 4 * batch.stride * row, one.tokens, one.position):
        return False
    if one.seen_at < batch.steps - 1:
        batch.entries += 1
        one.entered = batch.entries
    one.seen_at = batch.steps
    return True


@entry
def learn_rows(batches: Array[Batch]) -> int:
    """Learn what rows that are not `done` have emitted; returns a place whose group must get room first, or NOBODY."""
    batch = batches[0]
    order, of_row, counts, siblings = order_of(batch), of_row_of(batch), counts_of(batch), siblings_of(batch)
    learnt, groups, rollouts = learnt_of(batch), groups_of(siblings), rollouts_of(siblings)
    while batch.done < counts.size:
        row = order[batch.done]
        place = of_row[row]
        one, group = sequences_of(batch)[place], rollouts[place].group
        if learnt[group] + counts[row] - one.position > groups[group].tokens:
            return place
        if counts[row] > one.position:
            learnt[group] += continue_with(batch, one, batch.rows + 4 * batch.stride * row, counts[row])
        batch.done += 1
    return NOBODY


@compiled
def continue_with(batch: Batch, one: Sequence, row: int, count: int) -> int:
    """Let a sequence emit the tokens of its row up to `count`, or to its end; returns how many."""
    stops, before, one.ended = stops_of(batch), one.position, False
    while one.position < count and not one.ended:
        token = load(row, one.position)
        store(one.tokens, one.position, token)
        one.position += 1
        one.ended = one.position - one.prompt_tokens >= batch.max_tokens
        for i in range(stops.size):
            one.ended |= token == stops[i]
    learn(siblings_of(batch), one.place, before - one.prompt_tokens, one.position - before)
    one.emitting += 1
    one.drafted += one.proposed
    one.proposed = 0
    return one.position - before


@entry
def draft_rows(batches: Array[Batch]) -> int:
    """Draft for every row that has just emitted, within its budget; returns how many tokens."""
    batch = batches[0]
    sequences, of_row, counts, emitted = sequences_of(batch), of_row_of(batch), counts_of(batch), emitted_of(batch)
    siblings, ends, drafted = siblings_of(batch), ends_of(batch), 0
    for i in range(counts.size):
        one = sequences[of_row[i]]
        most = min(one.budget, batch.most, batch.max_model_len - counts[i] - 1)
        if emitted[i] > 0 and not one.ended and most > 0:
            one.proposed, tokens = draft(siblings, one.place, one.position - one.prompt_tokens, most)
            for j in range(one.proposed):
                store(batch.drafts, drafted + j, load(tokens, j))
            drafted += one.proposed
        ends[i] = drafted
    return drafted


@entry
def begin_one(siblings: Array[Siblings], place: int) -> None:
    """Admit the sequence in a place (`live.begin`)."""
    begin(siblings[0], place)


@entry
def move(groups: Array[Group], group: int, to: int, tokens: int, sequences: int) -> None:
    """Let a group's automaton go on in a larger block."""
    one = groups[group]
    transplant(one.automaton, to, tokens, sequences)
    one.automaton, one.tokens, one.sequences = to, tokens, sequences
