"""What happens to a replica between its decode steps: rollouts are placed on it, taken from it, and counted."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.choosing import NOTHING
from simulator.compiled import compiled, entry
from simulator.engine.blocks import release
from simulator.engine.coasting import withdraw
from simulator.engine.next_up import furthest_behind
from simulator.engine.schedule import expect, leave
from simulator.engine.state import (
    GOING,
    IDLE,
    TOLD,
    Core,
    Fleet,
    arrivals_of,
    common_of,
    core_at,
    cores_of,
    departures_of,
    emitted_of,
    finished_of,
    group_of,
    last_of,
    left_of,
    missing_of,
    on_the_way_of,
    pool_of,
    queue_of,
    rollouts_of,
    slots_of,
    told_of,
    turns_of,
    where_of,
)
from simulator.records import Array
from simulator.scheduling.placement import ANY, CANCELLED, FINISHED, HELD


@entry
def place(cores: Array[Core], number: int, time_s: float, stay_tokens: int, pulled: bool) -> bool:
    """Let a rollout join the replica's queue at `time_s`, for so many tokens (0: to its end); False where it has no room for it.

    pulled: whether the replica was sent its KV.
    """
    return join(cores[0], number, time_s, stay_tokens, int(pulled))


@compiled
def join(core: Core, number: int, time_s: float, stay_tokens: int, pulled: int) -> bool:
    """`place`; pulled: see `state.Rollout`."""
    rollouts, queue = rollouts_of(core), queue_of(core)
    if queue.size - core.tail - (arrivals_of(core).size - core.next_arrival) <= turns_of(core).size:
        return False
    withdraw(core, time_s)
    rollout = rollouts[number]
    rollout.stay_end = min(rollout.position + stay_tokens, rollout.end) if stay_tokens > 0 else rollout.end
    rollout.pulled, rollout.noted = pulled, NOTHING
    if core.plain:
        if core.live == 0 and core.head == core.tail:
            core.now_s = core.visible_s = max(core.now_s, time_s)
        if np.isnan(rollout.queued_s):
            rollout.queued_s = max(core.now_s, core.resume_s)
        queue[core.tail] = number
        core.tail += 1
    else:
        expect(core, number, time_s)
    next_s = max(core.now_s, core.resume_s, time_s)
    if core.reason == IDLE:
        core.reason, core.next_s = GOING, next_s
    elif core.live == 0:
        core.next_s = min(core.next_s, next_s)
    return True


@entry
def pause(cores: Array[Core], time_s: float, seconds: float) -> float:
    """Let nothing be decoded for so many seconds, from `time_s` on, or from when the step under way or a pause before is over.

    Returns when that is.
    """
    core = cores[0]
    withdraw(core, time_s)
    core.resume_s = max(core.now_s, core.resume_s, time_s) + seconds
    core.next_s = max(core.next_s, core.resume_s)
    return core.resume_s


@entry
def settle(cores: Array[Core], time_s: float) -> None:
    """Keep only steps that begin before `time_s`, when something happens to the replica."""
    withdraw(cores[0], time_s)


@entry
def take_out(cores: Array[Core], number: int, under_way: bool) -> bool:
    """Take a rollout out of the batch, the queue or the arrivals, with what it has emitted; whether it was there.

    under_way: whether a step is that counts it still; the replica tells when that ends, since the slot is free then.
    """
    return remove(cores[0], number, under_way)


@compiled
def remove(core: Core, number: int, under_way: bool) -> bool:
    """`take_out`."""
    slots, rollout = slots_of(core), rollouts_of(core)[number]
    for i in range(core.live):
        if slots[i].rollout == number:
            leave(core, slots[i], rollout)
            rollout.position = slots[i].position
            evict(core, i)
            if core.watched and under_way:
                core.reason = TOLD
            return True
    queue = queue_of(core)
    for i in range(core.head, core.tail):
        if queue[i] == number:
            for later in range(i + 1, core.tail):
                queue[later - 1] = queue[later]
            core.tail -= 1
            return True
    arrivals = arrivals_of(core)
    for i in range(core.next_arrival, arrivals.size):
        if arrivals[i] == number:
            for before in range(i, core.next_arrival, -1):
                arrivals[before] = arrivals[before - 1]
            core.next_arrival += 1
            return True
    return False


@compiled
def evict(core: Core, i: int) -> None:
    """Empty slot i and close the gap, keeping the order; its blocks are free as after a rollout's end."""
    slots, departures = slots_of(core), departures_of(core)
    line, held = slots[i].line, slots[i].held
    for later in range(i + 1, core.live):
        slots[later - 1] = slots[later]
    core.live -= 1
    core.decoding -= i < core.decoding
    core.evicted += 1
    core.stale = True
    if core.async_scheduling:
        departures[core.departed].line, departures[core.departed].held = line, held
        core.departed += 1
    elif core.paged:
        release(pool_of(core), line, held)


@entry
def count(fleets: Array[Fleet], time_s: float, heard: int, counts: "npt.NDArray[Any]") -> None:
    """What each replica has at `time_s`, int64[4, replicas]: rollouts in its batch, those that leave with a step under way
    included; in its queue, those that it has not looked at yet included; that it has slots for besides; KV blocks that nobody
    refers to. heard: up to which replica the ends of steps of this very moment have been told.
    """  # fmt: skip
    fleet = fleets[0]
    cores = cores_of(fleet)
    for i in range(cores.size):
        core = core_at(cores[i])
        running, waiting = load(core, time_s, i <= heard)
        counts[0, i], counts[1, i] = running, waiting
        counts[2, i] = core.max_num_seqs - running - waiting - on_the_way_of(fleet)[i]
        counts[3, i] = pool_of(core).free


@compiled
def load(core: Core, time_s: float, heard: bool) -> tuple[int, int]:
    """Rollouts in its batch and in its queue, as `count` says."""
    rollouts, arrivals = rollouts_of(core), arrivals_of(core)
    running, waiting, at = core.live, core.tail - core.head, core.next_arrival
    while at < arrivals.size and rollouts[arrivals[at]].arrival_s <= time_s:
        waiting += 1
        at += 1
    if core.now_s > time_s:
        running += core.completed + core.evicted
    elif core.now_s == time_s and not heard:
        running += core.completed + core.evicted
        waiting -= core.returned
    return running, waiting


@compiled
def room(fleet: Fleet, i: int, time_s: float, heard: int) -> int:
    """Slots that replica i has for others, those on their way to it counted."""
    core = core_at(cores_of(fleet)[i])
    running, waiting = load(core, time_s, i <= heard)
    return core.max_num_seqs - running - waiting - on_the_way_of(fleet)[i]


@entry
def served(fleets: Array[Fleet], preferred: int, time_s: float, heard: int) -> tuple[int, int]:
    """Take the head out of the common queue, if there is anybody for it: (who takes it, rollout); (ANY, ANY) where nobody can."""
    replica = taker(fleets[0], preferred, time_s, heard)
    return replica, (ANY if replica == ANY else popped(fleets[0]))


@compiled
def taker(fleet: Fleet, preferred: int, time_s: float, heard: int) -> int:
    """Who takes the head of the common queue: the preferred replica if it has room, else who has most; ANY where nobody can."""
    if fleet.queued == 0:
        fleet.full = False
        return ANY
    if preferred != ANY:
        if room(fleet, preferred, time_s, heard) > 0:
            return preferred
        if fleet.full:
            return ANY
    most, chosen = 0, ANY
    for i in range(cores_of(fleet).size):
        free = room(fleet, i, time_s, heard)
        if free > most:
            most, chosen = free, i
    fleet.full = chosen == ANY and not fleet.returning
    return chosen


@compiled
def popped(fleet: Fleet) -> int:
    """Take the head out of the common queue."""
    queue = common_of(fleet)
    number = queue[fleet.first]
    fleet.first = (fleet.first + 1) % queue.size
    fleet.queued -= 1
    return number


@entry
def look(fleets: Array[Fleet]) -> None:
    """Find who has to tell of a step's end first."""
    furthest_behind(fleets[0])


@entry
def hear(fleets: Array[Fleet]) -> tuple[int, int, int]:
    """Note what the fleet's teller has to tell: (its number, how many left, how many finished).

    Those cancelled meanwhile have not left. It may go on then, and the next one may tell.
    """
    fleet = fleets[0]
    number, leaving, _ = note_end(fleet)
    finishing, fleet.finishing = fleet.finishing, 0
    return number, leaving, finishing


@compiled
def note_end(fleet: Fleet) -> tuple[int, int, bool]:
    """Note what the teller has to tell, after what was noted before: (its number, how many left, whether a group is whole)."""
    number, whole = fleet.teller, False
    core = core_at(cores_of(fleet)[number])
    rollouts, news = rollouts_of(core), told_of(core)
    left, finished, where, emitted = left_of(fleet), finished_of(fleet), where_of(fleet), emitted_of(fleet)
    leaving = 0
    for i in range(core.telling):
        rollout = rollouts[news[i]]
        if not np.isnan(rollout.finished_s):
            emitted[news[i]], where[news[i]] = rollout.end - rollout.start, FINISHED
            finished[fleet.finishing] = news[i]
            fleet.finishing += 1
            if fleet.by_group:
                missing_of(fleet)[group_of(fleet)[news[i]]] -= 1
                whole |= missing_of(fleet)[group_of(fleet)[news[i]]] == 0
        elif where[news[i]] != CANCELLED:
            emitted[news[i]], where[news[i]] = rollout.position - rollout.start, HELD
            left[leaving] = news[i]
            leaving += 1
    core.telling, core.reason, core.due = 0, GOING, True
    furthest_behind(fleet)
    return number, leaving, whole


@compiled
def goes_on_unheard(fleet: Fleet) -> bool:
    """Note the steps that ended first and serve the common queue, as when each is told of, unless a group is whole by now."""
    time_s = fleet.told_s
    if not fleet.by_group or fleet.whole_s <= time_s or time_s >= fleet.until_s:
        return False
    while fleet.told_s <= time_s:
        number, _, whole = note_end(fleet)
        if whole:
            fleet.whole_s = time_s
        replica = taker(fleet, number, time_s, number)
        while replica != ANY:
            send_on(fleet, popped(fleet), replica, time_s)
            replica = taker(fleet, number, time_s, number)
    return fleet.whole_s > time_s


@compiled
def send_on(fleet: Fleet, number: int, replica: int, time_s: float) -> None:
    """Let a rollout from the common queue join a replica, to its end and without its KV; there is room for each to do so once."""
    where_of(fleet)[number] = last_of(fleet)[number] = replica
    join(core_at(cores_of(fleet)[replica]), number, time_s, 0, 0)
