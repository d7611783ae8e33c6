"""Decode steps in which nobody drafts and nothing happens: a loop over steps, not over sequences."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
from simulator.engine.blocks import extend
from simulator.engine.pricing import book, price
from simulator.engine.schedule import known_tokens, publish_until
from simulator.engine.state import Core, Pool, Step, arrivals_of, log_of, padding_of, pool_of, rollouts_of, slots_of
from simulator.engine.switching import wait_on


@compiled
def coast(core: Core) -> int:
    """Decode on without drafts up to the step before something happens; returns how many steps that were.

    While nobody may draft every sequence emits one token a step, so a step costs no loop over the batch but when somebody
    needs a KV block. Prices, log rows and the clock are those of `kernel.decode`, bit for bit.
    """
    log, pool, first = log_of(core), pool_of(core), core.logged
    last, next_s, ahead = first + quiet_steps(core) - 1, quiet_until_s(core), goes_ahead(core)
    if ahead:
        last = min(last, first + core.reach)
        core.settled_s = core.extrapolated_s
    due = blocks_due(core, pool) if core.paged else np.empty((2, 1), np.int64)
    core.asking = core.longest_draft = 0
    at = 0
    while core.logged < last and core.now_s < next_s:
        if core.paged and core.logged > first:
            at = at + 1 if at + 1 < due.shape[1] else 0
            if due[0, at] > pool.free:
                break
            if due[0, at] > 0:
                give_blocks(core, pool, due[1, at], core.logged - first)
        step = log[core.logged]
        fill_in(core, step)
        price(core, step)
        book(core, step)
        core.context_tokens += core.live
        core.longest_context += core.uneven
    done = core.logged - first
    if done > 0 and not core.on:
        wait_on(core, done)
    if done > 0:
        move_on(core, pool, done)
    if ahead:
        core.ahead = done
        core.reach += core.reach * (done == core.reach)
    return done


@compiled
def goes_ahead(core: Core) -> bool:
    """Whether it may take steps that begin after `until_s`, too: only news could disturb them, after which it withdraws."""
    return core.watched and core.plain and core.until_s < np.inf


@compiled
def withdraw(core: Core, time_s: float) -> None:
    """Take back the steps that it took ahead and that do not begin before `time_s`, when something happens to it."""
    log, slots, steps = log_of(core), slots_of(core), 0
    while steps < core.ahead and log[core.logged - 1 - steps].start_s >= time_s:
        steps += 1
    kept, core.ahead = core.ahead - steps, 0
    if steps == 0:
        return
    core.reach = kept  # at least one: the first of them had begun before anything could happen
    core.logged -= steps
    core.steps -= steps
    core.now_s, core.visible_s = log[core.logged].start_s, log[core.logged - 1].start_s
    core.next_s = max(core.now_s, core.resume_s)
    core.context_tokens -= steps * core.live
    core.longest_context -= steps * core.uneven
    core.extrapolated_s = core.settled_s
    for i in range(core.logged - kept, core.logged):
        if log[i].extrapolated:
            core.extrapolated_s += log[i].duration_s
    if not core.on and core.live <= core.few:
        core.calm -= steps
    for i in range(core.live):
        slots[i].position -= steps


@compiled
def fill_in(core: Core, step: Step) -> None:
    """Count a step in which every live sequence emits one token."""
    padding, live = padding_of(core), core.live
    step.live = step.query_tokens = step.emitted_tokens = live
    step.kv_tokens = step.pairs = core.context_tokens
    step.padded_tokens = step.expert_tokens = padding[live] if live < padding.size else live
    step.longest_context = core.longest_context
    step.prefill_tokens = step.prefill_seqs = step.prefill_kv_tokens = step.prefill_pairs = 0.0
    step.drafted_tokens = step.accepted_tokens = 0.0


@compiled
def quiet_steps(core: Core) -> int:
    """Steps until a sequence reaches its limit, the policy must be asked or begins to draft, or the log is full."""
    slots = slots_of(core)
    steps = log_of(core).size - core.logged
    if core.on and core.asked and core.every > 0:
        steps = min(steps, core.every - (core.steps - core.asked_at))
    if not core.on and core.live <= core.few:
        steps = min(steps, core.patience - core.calm + 1)  # the step to come is counted already
    for i in range(core.live):
        steps = min(steps, slots[i].limit - slots[i].position)
    return steps


@compiled
def quiet_until_s(core: Core) -> float:
    """When the next rollout arrives, or somebody else must know."""
    arrivals = arrivals_of(core)
    until_s = np.inf if goes_ahead(core) else core.until_s
    if core.next_arrival == arrivals.size:
        return until_s
    return min(until_s, rollouts_of(core)[arrivals[core.next_arrival]].arrival_s)


@compiled
def blocks_due(core: Core, pool: Pool) -> "npt.NDArray[Any]":
    """Who needs a KV block in which of the next steps if everybody emits one token in each: int64[2, block size].

    Row 0 has how many do, row 1 the first slot, whose `next_due` is the next one, -1 for none. After as many steps as a block
    has tokens, the same ones need one again.
    """
    slots, block_size = slots_of(core), pool.block_size
    due = np.zeros((2, block_size), np.int64)
    due[1] = -1
    for i in range(core.live - 1, -1, -1):
        slot = slots[i]
        at = slot.held * block_size - pool.lookahead - known_tokens(slot) + 1
        while at >= block_size:  # rarely more than once, and a division takes longer than all the rest
            at -= block_size
        due[0, at] += 1
        slot.next_due = due[1, at]
        due[1, at] = i
    return due


@compiled
def give_blocks(core: Core, pool: Pool, i: int, done: int) -> None:
    """Give a block to slot i, and to those that need one in the same step; `done` steps were taken since positions moved."""
    slots = slots_of(core)
    while i >= 0:
        slot = slots[i]
        extend(pool, slot.line, slot.held, slot.held + 1)
        slot.held += 1
        publish_until(core, pool, slot, known_tokens(slot) + done)
        i = slot.next_due


@compiled
def move_on(core: Core, pool: Pool, done: int) -> None:
    """Let every sequence be `done` tokens further, its blocks published as by the last of those steps."""
    slots = slots_of(core)
    for i in range(core.live):
        slots[i].position += done
        if core.paged:
            publish_until(core, pool, slots[i], known_tokens(slots[i]) - 1)
