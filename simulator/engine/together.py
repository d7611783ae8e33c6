"""Replicas that one clock moves: whoever is furthest behind decodes next, and data-parallel ranks step as one.

Ranks that share the experts of a model meet in every layer of every step. So all of them begin a step together, a rank with
nothing to do runs a dummy step, all tokens are padded to those of the largest where each fits a CUDA graph, experts compute the
tokens of all ranks, and the slowest says how long the step takes. As in vLLM 0.32: `DPEngineCoreProc.run_busy_loop`
(v1/engine/core.py), `Worker.execute_dummy_batch` (v1/worker/gpu_worker.py), `coordinate_batch_across_dp` (v1/worker/dp_utils.py)
and `AgRsAll2AllManager` (distributed/device_communicators/all2all.py).
"""

import numpy as np

from simulator.compiled import compiled, entry
from simulator.engine.choosing import gives_shares, lacks_choice
from simulator.engine.kernel import begin_step, decode, end_step, looks_again, run_step
from simulator.engine.moves import goes_on_unheard
from simulator.engine.next_up import furthest_behind, next_start
from simulator.engine.pricing import book, price
from simulator.engine.schedule import release_departed
from simulator.engine.state import (
    ASK,
    GOING,
    IDLE,
    LOG_FULL,
    NOBODY,
    Core,
    Fleet,
    Step,
    arrivals_of,
    core_at,
    cores_of,
    log_of,
    padding_of,
)
from simulator.engine.switching import switch_off, switch_on
from simulator.records import Array


@entry
def advance(fleets: Array[Fleet], live: bool | None) -> int:
    """Let replicas decode, whoever is furthest behind first, until somebody must know or all have reached `until_s`.

    Where nobody is watched each goes ahead by itself. Else none begins a step after one that somebody must know of has ended (one
    that makes a group whole, where only those are told of), but for steps in which nothing happens: they are withdrawn where
    something does.
    Returns the number of a replica whose policy must be asked or whose log is full, or NOBODY. live: see `kernel.decode`.
    """
    fleet = fleets[0]
    cores = cores_of(fleet)
    while True:
        first, until_s, others_s = furthest_behind(fleet)
        if first == NOBODY and goes_on_unheard(fleet):
            continue
        if first == NOBODY:
            return NOBODY
        core = core_at(cores[first])
        if fleet.ranks > 1:
            number = step_together(fleet, first - first % fleet.ranks, core.next_s, live)
            if number != NOBODY:
                return number
            continue
        core.until_s = until_s
        if fleet.watched:
            core.until_s = min(until_s, max(others_s, np.nextafter(core.next_s, np.inf)))
        if core.now_s < core.resume_s:
            go_on_at(core, core.resume_s)
        core.reason = decode_on(core, live)
        core.next_s = next_start(core)
        if core.reason in (ASK, LOG_FULL):
            return first


@compiled
def decode_on(core: Core, live: bool | None) -> int:
    """`kernel.decode`, and budgets by priority given wherever it stops for them."""
    while True:
        reason = decode(core, live)
        if reason != ASK or not gives_shares(core):
            return reason


@compiled
def go_on_at(core: Core, time_s: float) -> None:
    """Let time pass in which it does nothing: nothing is scheduled ahead after that."""
    release_departed(core)
    core.now_s = core.visible_s = time_s


@compiled
def step_together(fleet: Fleet, first: int, start_s: float, live: bool | None) -> int:
    """Let the ranks from `first` on take one step, from `start_s` on; steps of theirs never overlap.

    Returns the number of a rank whose policy must be asked or whose log is full before that, or NOBODY.
    """
    cores, ranks = cores_of(fleet), range(first, first + fleet.ranks)
    for i in ranks:
        core = core_at(cores[i])
        if core.logged == log_of(core).size:
            core.reason = LOG_FULL
        if core.reason == GOING and not core.on:
            switch_on(core)
        if core.reason == GOING and core.due and lacks_choice(core) and not gives_shares(core):
            core.reason = ASK
        if core.reason in (ASK, LOG_FULL):
            return i
    busy = 0
    for i in ranks:
        busy += form_rank(core_at(cores[i]), start_s, live)
    if busy > 0:
        for i in ranks:
            run_rank(core_at(cores[i]), live)
        pad_alike(fleet, first)
        slowest_s = 0.0
        for i in ranks:
            slowest_s = max(slowest_s, priced(core_at(cores[i])))
        for i in ranks:
            end_rank(core_at(cores[i]), slowest_s)
    for i in ranks:
        core = core_at(cores[i])
        core.next_s = next_start(core)
        if (
            core.reason == GOING
            and core.live == 0
            and core.head == core.tail
            and core.next_arrival == arrivals_of(core).size
        ):
            core.reason = IDLE
    return NOBODY


@compiled
def form_rank(core: Core, start_s: float, live: bool | None) -> bool:
    """Form a rank's batch at `start_s`, until when all ranks had nothing to do if it is not now; whether there is one."""
    if core.now_s < start_s:
        go_on_at(core, start_s)
        if core.live == 0:
            switch_off(core)
    core.evicted = 0
    begin_step(core, live)
    while core.live == 0 and looks_again(core):
        begin_step(core, live)
    if core.live == 0:
        switch_off(core)
    return core.live > 0


@compiled
def run_rank(core: Core, live: bool | None) -> None:
    """Count a rank's work, in the next row of its log: who has nothing to do runs a dummy step, which is not logged."""
    step = log_of(core)[core.logged]
    if core.live > 0:
        run_step(core, step, live)
    else:
        run_dummy(core, step)


@compiled
def run_dummy(core: Core, step: Step) -> None:
    """Count the work of one sequence without context: a token, and the drafts of a drafter that reserves slots."""
    padding, tokens = padding_of(core), 1 + (core.lookahead if core.on else 0)
    core.asking = core.longest_draft = 0
    step.live, step.query_tokens, step.kv_tokens, step.pairs, step.longest_context = 1, tokens, 1, tokens, 1
    step.padded_tokens = padding[tokens] if tokens < padding.size else tokens
    step.prefill_tokens = step.prefill_seqs = step.prefill_kv_tokens = step.prefill_pairs = 0.0
    step.drafted_tokens = step.accepted_tokens = step.emitted_tokens = 0.0


@compiled
def pad_alike(fleet: Fleet, first: int) -> None:
    """Pad all ranks to the largest where a CUDA graph fits each of them, and count what their experts compute."""
    cores, ranks = cores_of(fleet), range(first, first + fleet.ranks)
    graphs, largest, tokens = True, 0.0, 0.0
    for i in ranks:
        core = core_at(cores[i])
        step = log_of(core)[core.logged]
        graphs &= step.query_tokens < padding_of(core).size
        largest = max(largest, step.padded_tokens)
        tokens += step.padded_tokens
    if graphs:
        tokens = largest * fleet.ranks
    for i in ranks:
        core = core_at(cores[i])
        step = log_of(core)[core.logged]
        if graphs:
            step.padded_tokens = largest
        step.expert_tokens = tokens / fleet.ranks


@compiled
def priced(core: Core) -> float:
    """Seconds that a rank's step takes by itself."""
    step = log_of(core)[core.logged]
    price(core, step)
    return step.duration_s


@compiled
def end_rank(core: Core, slowest_s: float) -> None:
    """End a rank's step when the slowest rank's ends, and note why it stops."""
    step = log_of(core)[core.logged]
    if core.live > 0:
        step.waited_s, step.duration_s = slowest_s - step.duration_s, slowest_s
        core.waited_s += step.waited_s
        book(core, step)
        core.reason = end_step(core, step)
    else:
        core.waited_s += slowest_s
        core.now_s += slowest_s
        core.visible_s, core.reason = core.now_s, GOING
