"""Lookahead Reasoning in compiled code: a draft runs ahead step by step, the target follows in several lanes, a judge decides.

Draft, target and judge are replicas of one fleet, each with costs of its own; a step that is drafted, expanded or judged is a
sequence of theirs. Here is what happens between their decode steps. What is told at one moment is dealt with at once, rollout by
rollout in queue order.
"""

import numpy as np

from simulator.compiled import compiled, entry
from simulator.engine.coasting import withdraw
from simulator.engine.lookahead_begin import DRAFT, JUDGE, TARGET, begin_rollouts, core_of, go_on, start
from simulator.engine.lookahead_state import (
    ASKED,
    GIVEN,
    NEVER,
    WANTED,
    Look,
    bounds_of,
    chains_of,
    lanes_of,
    touched_of,
)
from simulator.engine.moves import hear, remove
from simulator.engine.state import NOBODY, Fleet, finished_of, rollouts_of
from simulator.engine.together import advance
from simulator.records import Array


@entry
def play(fleets: Array[Fleet], looks: Array[Look]) -> int:
    """Play until all rollouts are finished (NOBODY), or return the number of a replica whose log is full."""
    fleet, look = fleets[0], looks[0]
    if not look.begun:
        look.begun = True
        begin_rollouts(fleet, look)
    while True:
        number = advance(fleets, None)
        if number != NOBODY or fleet.told_s == np.inf:
            return number
        look.now_s = fleet.told_s
        names, touched = finished_of(fleet), touched_of(look)
        while fleet.told_s <= look.now_s:
            _, _, finished = hear(fleets)
            for i in range(finished):
                note(look, names[i])
        in_order(touched, look.touching)
        for i in range(look.touching):
            chains_of(look)[touched[i]].touched = False
            react(fleet, look, touched[i])
        look.touching = 0
        begin_rollouts(fleet, look)


@compiled
def in_order(numbers: Array[int], count: int) -> None:
    """Sort the first so many, which are few."""
    for i in range(1, count):
        number, at = numbers[i], i
        while at > 0 and numbers[at - 1] > number:
            numbers[at] = numbers[at - 1]
            at -= 1
        numbers[at] = number


# What is told ---------------------------------------------------------------------------------------------------------


@compiled
def note(look: Look, number: int) -> None:
    """Note that a sequence of a target, a draft or a judge has finished, unless it was cancelled in its last step."""
    chains, lanes = chains_of(look), lanes_of(look)
    if number < look.drafts:
        if not lanes[number].active:
            return
        lanes[number].done, rollout = True, number // look.width
    elif number < look.verdicts:
        rollout = number - look.drafts
        if not chains[rollout].drafting:
            return
        end_draft(look, rollout)
    else:
        lane = lanes[number - look.verdicts]
        if lane.verdict != ASKED:
            return
        lane.verdict, rollout = GIVEN, (number - look.verdicts) // look.width
    if not chains[rollout].touched:
        chains[rollout].touched = True
        touched_of(look)[look.touching] = rollout
        look.touching += 1


@compiled
def end_draft(look: Look, number: int) -> None:
    """A step has been drafted; the KV of its last token is computed with the next."""
    chain, bounds = chains_of(look)[number], bounds_of(look)
    lane = lanes_of(look)[number * look.width + chain.drafted % look.width]
    if chain.drafted < chain.mismatch:
        chain.computed = bounds[chain.first + chain.drafted + 1] - 1
    else:
        chain.computed = max(chain.computed, bounds[chain.first + chain.mismatch])
    chain.draft_at = min(chain.draft_at + lane.draft_tokens, chain.tokens - 1)
    chain.drafting = False
    chain.drafts += 1
    chain.drafted += 1


# What is done about it ------------------------------------------------------------------------------------------------


@compiled
def react(fleet: Fleet, look: Look, number: int) -> None:
    """Judge what can be judged, keep what is decided, and go on."""
    ask_verdicts(fleet, look, number)
    if look.waits:
        decide_cycle(fleet, look, number)
    else:
        decide_front(fleet, look, number)
    chain = chains_of(look)[number]
    if chain.front < chain.steps:
        go_on(fleet, look, number)


@compiled
def ask_verdicts(fleet: Fleet, look: Look, number: int) -> None:
    """Have the judge compare each draft with the target's step, as soon as both are there."""
    chain, lanes = chains_of(look)[number], lanes_of(look)
    for step in range(chain.front, min(chain.launched, chain.drafted)):
        at = number * look.width + step % look.width
        lane = lanes[at]
        if not lane.done or lane.verdict != WANTED:
            continue
        chain.verdicts += 1
        lane.verdict = GIVEN
        if look.judged:
            lane.verdict = ASKED
            core = core_of(fleet, look, JUDGE, chain.replica)
            rollout = rollouts_of(core)[look.verdicts + at]
            rollout.start, rollout.position, rollout.end = 0, 0, 1
            rollout.prompt_tokens = lane.draft_tokens + lane.target_tokens
            start(core, look, look.verdicts + at, 0)


@compiled
def decide_front(fleet: Fleet, look: Look, number: int) -> None:
    """Keep accepted drafts, as far as all before them were; where one was rejected, or is not there, the target's own step."""
    chain, lanes = chains_of(look)[number], lanes_of(look)
    while chain.front < chain.launched:
        lane = lanes[number * look.width + chain.front % look.width]
        if not lane.done:
            return
        if chain.drafted <= chain.front:
            keep_own(fleet, look, number)
            return
        if lane.verdict != GIVEN:
            return
        if chain.front == chain.mismatch:
            keep_own(fleet, look, number)
            return
        keep_draft(fleet, look, number)


@compiled
def decide_cycle(fleet: Fleet, look: Look, number: int) -> None:
    """Once every lane is done and judged: keep drafts up to the first rejected one, and the target's own step there."""
    chain, lanes = chains_of(look)[number], lanes_of(look)
    if chain.launched < min(chain.base + look.width, chain.steps):
        return
    for step in range(chain.front, chain.launched):
        lane = lanes[number * look.width + step % look.width]
        if not lane.done or (step < chain.drafted and lane.verdict != GIVEN):
            return
    while chain.front < min(chain.drafted, chain.mismatch):
        keep_draft(fleet, look, number)
    keep_own(fleet, look, number)


@compiled
def keep_draft(fleet: Fleet, look: Look, number: int) -> None:
    """The draft of the front is text now."""
    chain = chains_of(look)[number]
    end_lane(fleet, look, number, chain.front)
    chain.accepted += 1
    chain.front += 1


@compiled
def keep_own(fleet: Fleet, look: Look, number: int) -> None:
    """The target's own step of the front is text now; whatever goes on from the draft's is given up."""
    chain, bounds = chains_of(look)[number], bounds_of(look)
    for step in range(chain.front, chain.launched):
        end_lane(fleet, look, number, step)
    if chain.drafting:
        give_up_draft(fleet, look, number)
    place = chain.first + chain.front
    chain.own_tokens += bounds[place + 1] - bounds[place]
    chain.front += 1
    chain.base = chain.drafted = chain.launched = chain.front
    chain.draft_at, chain.mismatch = bounds[place + 1], NEVER
    if chain.front == chain.steps:
        chain.finished_s = look.now_s


@compiled
def end_lane(fleet: Fleet, look: Look, number: int, step: int) -> None:
    """Free a lane: what the target or the judge is still at is cancelled."""
    chain, at = chains_of(look)[number], number * look.width + step % look.width
    lane, core = lanes_of(look)[at], core_of(fleet, look, TARGET, chain.replica)
    rollout = rollouts_of(core)[at]
    if not lane.done:
        chain.cancelled += 1
        withdraw(core, look.now_s)
        remove(core, at, look.left > 0 and core.now_s > look.now_s)  # somebody may begin when its step ends
    if lane.verdict == ASKED:
        judge = core_of(fleet, look, JUDGE, chain.replica)
        withdraw(judge, look.now_s)
        remove(judge, look.verdicts + at, False)
    if not np.isnan(rollout.admitted_s):
        chain.new_tokens += lane.new_tokens
        if step == 0:
            chain.admitted_s = rollout.admitted_s
    lane.active, lane.verdict = False, WANTED


@compiled
def give_up_draft(fleet: Fleet, look: Look, number: int) -> None:
    """Cancel the draft under way; what it has computed of kept text stays."""
    chain, bounds, core = (
        chains_of(look)[number],
        bounds_of(look),
        core_of(fleet, look, DRAFT, chains_of(look)[number].replica),
    )
    withdraw(core, look.now_s)
    remove(core, look.drafts + number, False)
    if not np.isnan(rollouts_of(core)[look.drafts + number].admitted_s):
        chain.computed = max(chain.computed, bounds[chain.first + min(chain.drafted, chain.mismatch)])
    chain.drafting = False
