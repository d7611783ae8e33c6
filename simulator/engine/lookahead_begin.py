"""What begins in Lookahead Reasoning: rollouts, steps of the target, and steps that are drafted."""

import numpy as np

from simulator.compiled import compiled
from simulator.engine.lookahead_state import (
    WANTED,
    Look,
    accepted_of,
    bounds_of,
    chains_of,
    draft_tokens_of,
    heads_of,
    lanes_of,
    order_of,
    tails_of,
    target_tokens_of,
)
from simulator.engine.moves import join, load
from simulator.engine.state import NOBODY, Core, Fleet, core_at, cores_of, queue_of, rollouts_of, slots_of

TARGET, DRAFT, JUDGE = range(3)
"""Which of a replica's three."""


@compiled
def go_on(fleet: Fleet, look: Look, number: int) -> None:
    """Give the target the next steps, as far as drafts lead and lanes are free, and have the next one drafted."""
    chain = chains_of(look)[number]
    while chain.launched < min(chain.front + look.width, chain.steps) and chain.launched <= chain.drafted:
        launch(fleet, look, number)
    ahead = chain.front + look.width - look.waits
    if not chain.drafting and chain.drafted < min(ahead, chain.steps - 1):
        draft(fleet, look, number)


@compiled
def launch(fleet: Fleet, look: Look, number: int) -> None:
    """Have the target write the next step, after what is kept and drafted before it."""
    chain, bounds, step = chains_of(look)[number], bounds_of(look), chains_of(look)[number].launched
    at, place = number * look.width + step % look.width, chain.first + step
    lane, core = lanes_of(look)[at], core_of(fleet, look, TARGET, chain.replica)
    before = chain.draft_at if step == chain.drafted else lane.draft_at
    right = step <= chain.mismatch
    tokens = bounds[place + 1] - bounds[place] if right else target_tokens_of(look)[place]
    rollout = rollouts_of(core)[at]
    lane.target_tokens = min(tokens, chain.tokens - before)
    lane.new_tokens = max(before - chain.launched_at, 1) if step > chain.base else min(step, 1)
    rollout.start, rollout.position = chain.start, chain.start + before
    rollout.end = rollout.position + lane.target_tokens
    if look.block_size > 0:
        own = step == chain.steps - 1 or (look.waits and step == chain.base + look.width - 1)
        last = place + int(own or accepted_of(look)[place] == 0) if right else chain.first + chain.mismatch
        rollout.kept_blocks = (max(rollout.prompt_tokens, 1) + bounds[last]) // look.block_size
    lane.active, lane.done, lane.verdict = True, False, WANTED
    chain.launched_at = before
    chain.launches += 1
    chain.launched += 1
    start(core, look, at, lane.new_tokens)


@compiled
def draft(fleet: Fleet, look: Look, number: int) -> None:
    """Have the draft model write the next step; what it has not seen of the kept text it computes first."""
    chain, bounds, step = chains_of(look)[number], bounds_of(look), chains_of(look)[number].drafted
    place, core = chain.first + step, core_of(fleet, look, DRAFT, chain.replica)
    lane = lanes_of(look)[number * look.width + step % look.width]
    tokens = draft_tokens_of(look)[place]
    if step <= chain.mismatch:
        if accepted_of(look)[place]:
            tokens = bounds[place + 1] - bounds[place]
        else:
            chain.mismatch = step
    lane.draft_at, lane.draft_tokens = chain.draft_at, min(tokens, chain.tokens - chain.draft_at)
    rollout = rollouts_of(core)[look.drafts + number]
    rollout.position = chain.start + chain.draft_at
    rollout.end = rollout.position + lane.draft_tokens
    new = 1 if step > chain.base else chain.draft_at - chain.computed
    chain.drafting = True
    start(core, look, look.drafts + number, 0 if chain.computed < 0 else max(new, 1))


@compiled
def start(core: Core, look: Look, number: int, new_tokens: int) -> None:
    """Let a sequence join a replica's queue; new_tokens: at its end that are still to be computed, 0 for all."""
    rollout = rollouts_of(core)[number]
    rollout.finished_s = rollout.admitted_s = np.nan
    if not join(core, number, look.now_s, 0, new_tokens):
        close_up(core)
        join(core, number, look.now_s, 0, new_tokens)


@compiled
def close_up(core: Core) -> None:
    """Move the queue to the beginning of its array, with room for those who are preempted."""
    queue, first = queue_of(core), slots_of(core).size if core.paged or core.reprefill else 0
    for i in range(core.tail - core.head):
        queue[first + i] = queue[core.head + i]
    core.head, core.tail = first, first + core.tail - core.head


@compiled
def begin_rollouts(fleet: Fleet, look: Look) -> None:
    """Begin rollouts where there is room: on each replica its own, then those of the common queue, where there is most."""
    if look.left == 0:
        return
    order = order_of(look)
    for replica in range(look.replicas):
        begin_own(fleet, look, replica)
    for _ in range(order.size - look.head):
        replica = roomiest(fleet, look)
        if replica == NOBODY:
            return
        begin(fleet, look, order[look.head], replica)
        look.head += 1


@compiled
def begin_own(fleet: Fleet, look: Look, replica: int) -> None:
    """Begin those that were given to a replica beforehand, while it has room."""
    order, heads, tails = order_of(look), heads_of(look), tails_of(look)
    core = core_of(fleet, look, TARGET, replica)
    for _ in range(tails[replica] - heads[replica]):
        if room(core, look.now_s) <= 0:
            return
        begin(fleet, look, order[heads[replica]], replica)
        heads[replica] += 1


@compiled
def roomiest(fleet: Fleet, look: Look) -> int:
    """Which replica has the most room, NOBODY where none has any."""
    most, chosen = 0, NOBODY
    for replica in range(look.replicas):
        free = room(core_of(fleet, look, TARGET, replica), look.now_s)
        if free > most:
            most, chosen = free, replica
    return chosen


@compiled
def begin(fleet: Fleet, look: Look, number: int, replica: int) -> None:
    """Begin a rollout."""
    chains_of(look)[number].replica = replica
    look.left -= 1
    go_on(fleet, look, number)


@compiled
def room(core: Core, now_s: float) -> int:
    """Slots that neither the batch nor the queue needs; those who leave with a step under way hold theirs to its end."""
    running, waiting = load(core, now_s, True)
    return core.max_num_seqs - running - waiting


@compiled
def core_of(fleet: Fleet, look: Look, part: int, replica: int) -> Core:
    """The target, the draft or the judge of a replica."""
    cores = cores_of(fleet)
    if part == TARGET:
        return core_at(cores[replica])
    return core_at(cores[look.replicas + (part - DRAFT) * look.beside + replica // look.share])
