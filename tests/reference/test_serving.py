"""The reference serving engine against cases small enough for paper.

The cases are also run on engines broken on purpose: each of those must fail one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.reference.pool import Pool
from tests.reference.serving import Engine, Request, Rollout, ServingResult, Settings, Share, Work, simulate


def per_token(work: Work) -> float:
    return 10.0 + work.query_tokens


def ten(_: Work) -> float:
    return 10.0


def unit(_: Work) -> float:
    return 1.0


def prefill(tokens: int, kv_tokens: int, pairs: int, live: int = 1, padded: int = 0) -> Work:
    """A step of prompt tokens alone."""
    return Work(live, tokens, kv_tokens, pairs, tokens, live, kv_tokens, pairs, 0, padded or tokens)


def decode(*contexts: int) -> Work:
    """A step of one query token in each of the contexts."""
    live, kv = len(contexts), sum(contexts)
    return Work(live, live, kv, kv, 0, 0, 0, 0, max(contexts), live)


def rows(result: ServingResult) -> list[tuple[float, float, int, tuple[int, ...], int | None, Work]]:
    return [
        (step.start_s, step.dt_s, step.emitted_tokens, step.victims, step.free_blocks, step.work) for step in result.log
    ]


def live(result: ServingResult) -> list[tuple[int, ...]]:
    return [tuple(share.rollout for share in step.shares) for step in result.log]


# By hand --------------------------------------------------------------------------------------------------------------


def chunked_prefill_mixes_with_decodes() -> None:
    # Blocks of 4, 8 of them; 5 tokens a step; 10 s and 1 s per token.
    # t 0   0: 3 of 3, block 1, emits.  1: 2 of 7, block 2.  kv 3 + 2, pairs 6 + 3; 5 tokens padded to 8
    # t 15  0: decodes in 4.  1: the 4 tokens that are left of 5, kv 6, pairs 4*2 + 10, one more block
    # t 30  0: decodes in 5, one more block, done.  1: 1 after 6, kv 7, pairs 6 + 1, emits
    # t 42  1: decodes in 8, alone; done at 53
    settings = Settings(2, 5, block_size=4, num_gpu_blocks=9, cudagraph_capture_sizes=(1, 2, 4, 8))
    result = simulate([Request(3, 3), Request(7, 2)], settings, per_token)
    assert rows(result) == [
        (0.0, 15.0, 1, (), 6, Work(2, 5, 5, 9, 5, 2, 5, 9, 0, 8)),
        (15.0, 15.0, 1, (), 5, Work(2, 5, 10, 22, 4, 1, 6, 18, 4, 8)),
        (30.0, 12.0, 2, (), 4, Work(2, 2, 12, 12, 1, 1, 7, 7, 5, 2)),
        (42.0, 11.0, 1, (), 6, Work(1, 1, 8, 8, 0, 0, 0, 0, 8, 1)),
    ]
    assert (result.queued_s, result.admitted_s) == ([0.0, 0.0], [0.0, 0.0])
    assert (result.first_token_s, result.finished_s) == ([15.0, 42.0], [42.0, 53.0])
    assert (result.steps, result.hit_tokens, result.preemptions) == ([3, 2], [0, 0], [0, 0])


def a_step_takes_its_tokens_in_order_of_admission() -> None:
    # 3 tokens a step; both prefill; 0 wants 1 + 4 and keeps 2 drafts, so 1 has to sit this step out; then 0 wants 1 + 1
    # and 1 is cut to its bonus token; then 1 has all it wants.
    requests = [
        Request(1, 6, accepted=[0, 4, 0, 0, 1, 0], drafted=[0, 4, 3, 2, 1, 1]),
        Request(1, 3, accepted=[0, 2, 1], drafted=[0, 2, 1]),
    ]
    result = simulate(requests, Settings(2, 3, budget=4), unit)
    assert rows(result) == [
        (0.0, 1.0, 2, (), None, prefill(2, 2, 2, live=2)),
        (1.0, 1.0, 3, (), None, Work(1, 3, 2, 6, 0, 0, 0, 0, 2, 3)),
        (2.0, 1.0, 3, (), None, Work(2, 3, 7, 12, 0, 0, 0, 0, 5, 3)),
        (3.0, 1.0, 1, (), None, Work(1, 2, 3, 6, 0, 0, 0, 0, 3, 2)),
    ]
    assert (result.drafted, result.accepted, result.steps) == ([3, 1], [3, 1], [3, 3])
    assert result.finished_s == [3.0, 4.0]


def the_preempted_resumes_from_what_is_left_in_the_cache() -> None:
    # Blocks of 4, 5 of them.  t 0: blocks 1 2 and 3 4.  t 45: 0 takes 5, the last.  t 57: 1 needs a fifth for its ninth
    # token, is the last one, goes: 4 and then 3 are free.  Until t 90 it would hit both, and they and the one it needs
    # are 3 of 2.  t 90: 0 takes 4.  t 101: 0 is done: free 3 4 5 2 1.  1 hits 3, takes 4 and 5, computes 5 tokens after 4.
    result = simulate([Request(6, 8), Request(5, 6)], Settings(2, block_size=4, num_gpu_blocks=6), per_token)
    assert rows(result) == [
        (0.0, 21.0, 2, (), 1, prefill(11, 11, 21 + 15, live=2)),
        (21.0, 12.0, 2, (), 1, decode(7, 6)),
        (33.0, 12.0, 2, (), 1, decode(8, 7)),
        (45.0, 12.0, 2, (), 0, decode(9, 8)),
        (57.0, 11.0, 1, (1,), 2, decode(10)),
        (68.0, 11.0, 1, (), 2, decode(11)),
        (79.0, 11.0, 1, (), 2, decode(12)),
        (90.0, 11.0, 1, (), 1, decode(13)),
        (101.0, 15.0, 1, (), 2, prefill(5, 9, 5 * 4 + 15)),
        (116.0, 11.0, 1, (), 2, decode(10)),
    ]
    assert (result.finished_s, result.admitted_s) == ([101.0, 127.0], [0.0, 0.0])
    assert (result.preemptions, result.hit_tokens, result.steps) == ([0, 1], [0, 4], [8, 6])
    assert list(result.pool.free) == [2, 1, 5, 4, 3]
    private = {2: (0, 1), 1: (0, 0), 3: (1, 0), 4: (1, 1)}  # 5 held the third block of 0, then a part of one of 1
    assert result.pool.key_of == {block: ("private", *key) for block, key in private.items()}


def the_last_admitted_is_preempted_first() -> None:
    # Blocks of 2, 4 of them: 1, 2, 3 for three prompts of 2.  t 1: 0 takes 4; 1 needs one, 2 goes, 1 takes its 3.
    # t 3: 0 needs one, 1 goes and leaves 3 2, 0 takes 3.  t 4: 1 is before 2 in the queue, hits 2, takes 3 and 4, which
    # leaves 2 no room.  t 5: of 2 nothing is left.
    result = simulate([Request(2, 4)] * 3, Settings(3, block_size=2, num_gpu_blocks=5), unit)
    assert rows(result) == [
        (0.0, 1.0, 3, (), 1, prefill(6, 6, 9, live=3)),
        (1.0, 1.0, 2, (2,), 0, decode(3, 3)),
        (2.0, 1.0, 2, (), 0, decode(4, 4)),
        (3.0, 1.0, 1, (1,), 1, decode(5)),
        (4.0, 1.0, 1, (), 1, prefill(3, 5, 3 * 2 + 6)),
        (5.0, 1.0, 1, (), 2, prefill(3, 3, 6)),
        (6.0, 1.0, 1, (), 2, decode(4)),
        (7.0, 1.0, 1, (), 1, decode(5)),
    ]
    assert live(result) == [(0, 1, 2), (0, 1), (0, 1), (0,), (1,), (2,), (2,), (2,)]
    assert (result.preemptions, result.hit_tokens) == ([0, 1, 1], [0, 2, 0])
    assert (result.finished_s, result.first_token_s) == ([4.0, 5.0, 8.0], [1.0, 1.0, 1.0])
    assert list(result.pool.free) == [2, 3, 4, 1]


def a_group_shares_its_prompt_in_the_step_that_admits_it() -> None:
    # Blocks of 4, prompt of 8: the first fills 1 and 2; the others hit 1 but must compute a last token, so all of the
    # second block, into 3 and 4, copies under one key; 2 is found first.  At 39 all leave: free 8, then 5 2, 6 3, 7 4 1.
    # One more comes at 30, is seen at 39, hits 1 and 2 and computes one token.
    prompt = [("q", 0), ("q", 1)]
    requests = [*[Request(8, 2, keys=prompt)] * 3, Request(9, 1, arrival_s=30.0, keys=prompt)]
    result = simulate(requests, Settings(4, block_size=4, num_gpu_blocks=9), per_token)
    assert rows(result) == [
        (0.0, 26.0, 3, (), 4, prefill(8 + 4 + 4, 24, 36 + 2 * (4 * 4 + 10), live=3)),
        (26.0, 13.0, 3, (), 1, decode(9, 9, 9)),
        (39.0, 11.0, 1, (), 5, prefill(1, 9, 9)),
    ]
    assert result.hit_tokens == [0, 4, 4, 8]
    assert (result.queued_s, result.admitted_s) == ([0.0, 0.0, 0.0, 39.0], [0.0, 0.0, 0.0, 39.0])
    assert result.finished_s == [39.0, 39.0, 39.0, 50.0]
    assert list(result.pool.free) == [5, 6, 3, 7, 4, 8, 2, 1]
    assert result.pool.key_of == {1: ("shared", ("q", 0))} | dict.fromkeys((2, 3, 4), ("shared", ("q", 1)))


def the_second_copy_of_a_block_is_found_once_the_first_is_gone() -> None:
    # Blocks of 2, 6 of them: 0 takes 1 and 2, 1 hits 1 and computes its own copy of 2, in 3; 1 alone has 4 then 5.  0 is gone
    # at 1, 1 away from 3 to 5, and 2 takes 6, 2 and 5 meanwhile: the copy in 3 is found, and 4.
    requests = [
        Request(4, 1, keys=["a", "b"]),
        Request(4, 4, keys=["a", "b"], turns=[(3, 2.0), (1, 0.0)]),
        Request(5, 1, arrival_s=3.0),
    ]
    result = simulate(requests, Settings(2, block_size=2, num_gpu_blocks=7), unit)
    assert rows(result) == [
        (0.0, 1.0, 2, (), 3, prefill(4 + 2, 8, 10 + 2 * 2 + 3, live=2)),
        (1.0, 1.0, 1, (), 3, decode(5)),
        (2.0, 1.0, 1, (), 3, decode(6)),
        (3.0, 1.0, 1, (), 3, prefill(5, 5, 15)),
        (5.0, 1.0, 1, (), 2, prefill(1, 7, 7)),
    ]
    assert result.hit_tokens == [0, 2 + 6, 0]


def async_scheduling_sees_completions_a_step_late() -> None:
    # Two slots.  0 is done at 20.  The step at 20 was scheduled at 10, when 0 still had its slot: 2 starts at 30.
    requests = [Request(4, 2), Request(4, 4), Request(4, 1)]
    eager, ahead = (simulate(requests, Settings(2, async_scheduling=a), ten) for a in (False, True))
    assert live(eager) == [(0, 1), (0, 1), (1, 2), (1,)]
    assert live(ahead) == [(0, 1), (0, 1), (1,), (1, 2)]
    assert (eager.admitted_s, ahead.admitted_s) == ([0.0, 0.0, 20.0], [0.0, 0.0, 30.0])
    assert (eager.finished_s, ahead.finished_s) == ([20.0, 40.0, 30.0], [20.0, 40.0, 40.0])
    # 1 comes at 12: the step at 20 was scheduled at 10, the one at 30 at 20.
    eager, ahead = (
        simulate([Request(4, 4), Request(4, 1, 12.0)], Settings(4, async_scheduling=a), ten) for a in (0, 1)
    )
    assert (eager.queued_s, eager.admitted_s, eager.finished_s) == ([0.0, 20.0], [0.0, 20.0], [40.0, 30.0])
    assert (ahead.queued_s, ahead.admitted_s, ahead.finished_s) == ([0.0, 20.0], [0.0, 30.0], [40.0, 40.0])
    # With one slot the step after a completion would be empty: it is scheduled again when the slot is free.
    ahead = simulate([Request(4, 1), Request(4, 1, 5.0), Request(4, 1, 25.0)], Settings(1, async_scheduling=True), ten)
    assert (ahead.queued_s, ahead.admitted_s) == ([0.0, 10.0, 25.0], [0.0, 10.0, 25.0])


def async_scheduling_preempts_for_blocks_about_to_be_free() -> None:
    # Blocks of 4, 4 of them.  At 10 the step of 20 is scheduled: 0 will be done but holds 1 and 4, 1 needs a third block
    # for its ninth token, and goes: 3 2.  Nothing is left to run: at 20, with 1 and 4 free, it hits 2 and 3.
    requests = [Request(4, 2), Request(7, 3)]
    eager, ahead = (
        simulate(requests, Settings(2, block_size=4, num_gpu_blocks=5, async_scheduling=a), ten) for a in (False, True)
    )
    start = [(0.0, 10.0, 2, (), 1, prefill(11, 11, 10 + 28, live=2)), (10.0, 10.0, 2, (), 0, decode(5, 8))]
    assert rows(eager) == [*start, (20.0, 10.0, 1, (), 1, decode(9))]
    assert rows(ahead) == [*start, (20.0, 10.0, 1, (1,), 1, prefill(1, 9, 9))]
    assert (eager.preemptions, ahead.preemptions, ahead.hit_tokens) == ([0, 0], [0, 1], [0, 8])
    assert ahead.finished_s == eager.finished_s == [20.0, 30.0]
    assert list(eager.pool.free) == list(ahead.pool.free) == [1, 4, 3, 2]


def a_turn_leaves_and_comes_back_with_all_it_emitted() -> None:
    # Blocks of 4, 8 of them.  t 10: 3 drafts, all accepted, but the turn ends after one more token; 5 + 4 slots: blocks
    # 1 2 3, free 4..8 3 2 1.  Away from 20 to 27.  Then 5 + 2 tokens: 1 is hit, 4 is new.  t 47: a third block.
    accepted = [0, 3, 0, 0, 0]
    request = Request(5, 5, turns=[(2, 7.0), (3, 9.0)], accepted=accepted, drafted=accepted)
    settings = Settings(1, block_size=4, num_gpu_blocks=9, budget=3)
    result = simulate([request], settings, ten)
    assert rows(result) == [
        (0.0, 10.0, 1, (), 6, prefill(5, 5, 15)),
        (10.0, 10.0, 1, (), 5, Work(1, 4, 6, 24, 0, 0, 0, 0, 6, 4)),
        (27.0, 10.0, 1, (), 6, prefill(3, 7, 3 * 4 + 6)),
        (37.0, 10.0, 1, (), 6, decode(8)),
        (47.0, 10.0, 1, (), 5, decode(9)),
    ]
    assert (result.queued_s, result.admitted_s, result.first_token_s, result.finished_s) == (
        [0.0],
        [0.0],
        [10.0],
        [57.0],
    )
    assert (result.hit_tokens, result.steps, result.drafted, result.accepted) == ([4], [5], [3], [1])
    assert result.pool.key_of == {1: ("private", 0, 0), 4: ("private", 0, 1)}
    forgetful = simulate([request], replace(settings, enable_prefix_caching=False), ten)
    assert [step.work for step in forgetful.log][2] == prefill(7, 7, 28)
    assert (forgetful.hit_tokens, forgetful.pool.key_of) == ([0], {})
    # No wait: it arrives as its turn ends, at 20, behind who came at 15.
    others = [replace(request, turns=[(2, 0.0), (3, 0.0)]), Request(1, 1, arrival_s=15.0)]
    for ahead in (False, True):
        result = simulate(others, replace(settings, async_scheduling=ahead), ten)
        assert live(result) == [(0,), (0,), (1,), (0,), (0,), (0,)]
        assert result.finished_s == [60.0, 30.0]


def a_resumed_rollout_one_token_short_drafts_nothing() -> None:
    # 3 tokens a step.  Back at 3 with 4 tokens to compute: 3, and the last of them is still no decode.
    request = Request(1, 4, turns=[(3, 0.0), (1, 0.0)], accepted=[0, 0, 0, 1], drafted=[0, 0, 0, 1])
    result = simulate([request], Settings(1, 3, budget=1, enable_prefix_caching=False), unit)
    chunks = [prefill(3, 3, 6), prefill(1, 4, 4)]
    assert [step.work for step in result.log] == [prefill(1, 1, 1), decode(2), decode(3), *chunks]
    assert (result.drafted, result.steps) == ([0], [4])


def arrivals_are_seen_between_steps_or_when_idle() -> None:
    requests = [Request(1, 1, at) for at in (100.0, 3.5, 3.0, 3.25, 3.5)]
    result = simulate(requests, Settings(1), ten)
    assert [(step.start_s, step.dt_s) for step in result.log] == [(at, 10.0) for at in (3.0, 13.0, 23.0, 33.0, 100.0)]
    assert result.queued_s == [100.0, 13.0, 3.0, 13.0, 13.0]
    assert result.admitted_s == [100.0, 23.0, 3.0, 13.0, 33.0]
    assert result.finished_s == [110.0, 33.0, 13.0, 23.0, 43.0]
    assert simulate(requests, Settings(1, step_overhead_s=0.5), ten).finished_s == [110.5, 34.5, 13.5, 24.0, 45.0]


def without_chunked_prefill_a_prompt_waits_for_a_step_that_holds_it() -> None:
    # 5 tokens a step: 3, and the 4 wait, and so does the 1 behind them.  Then 1 + 4 are 5.
    requests = [Request(3, 3), Request(4, 1), Request(1, 1)]
    result = simulate(requests, Settings(3, 5, enable_chunked_prefill=False), unit)
    assert live(result) == [(0,), (0, 1), (0, 2)]
    assert [step.work.query_tokens for step in result.log] == [3, 5, 2]
    assert live(simulate(requests, Settings(3, 5), unit)) == [(0, 1), (0, 1, 2), (0,)]


def admission_reserves_blocks_for_the_whole_prompt_or_for_a_chunk() -> None:
    # Blocks of 2, 4 of them; 6 tokens a step.  0 holds 1 2, then 4 or 3 too: 1 needs three and waits for 0 to go.
    # Unreserved, its first 2 tokens are in block 3; then it has no block for the rest, goes, and hits 3.
    requests = [Request(4, 2), Request(6, 1)]
    settings = Settings(2, 6, block_size=2, num_gpu_blocks=5)
    whole = simulate(requests, settings, unit)
    assert rows(whole) == [
        (0.0, 1.0, 1, (), 2, prefill(4, 4, 10)),
        (1.0, 1.0, 1, (), 1, decode(5)),
        (2.0, 1.0, 1, (), 1, prefill(6, 6, 21)),
    ]
    chunk = simulate(requests, replace(settings, scheduler_reserve_full_isl=False), unit)
    assert rows(chunk) == [
        (0.0, 1.0, 1, (), 1, prefill(6, 6, 10 + 3, live=2)),
        (1.0, 1.0, 1, (1,), 1, decode(5)),
        (2.0, 1.0, 1, (), 1, prefill(4, 6, 4 * 2 + 10)),
    ]
    assert (chunk.hit_tokens, chunk.preemptions, chunk.admitted_s) == ([0, 2], [0, 1], [0.0, 0.0])


def a_hit_that_nobody_references_takes_a_free_block() -> None:
    # Blocks of 2, 4 of them; 3 tokens a step.  0 leaves its prompt in 1.  t 2: 1 takes 3, its second; free 4 1.  2 would
    # hit 1, which is then no longer free, and needs two more: it waits for 1 to go, at 5, though its next 2 tokens fit.
    requests = [Request(2, 1, keys=["a"]), Request(1, 5), Request(6, 1, arrival_s=2.0, keys=["a", "b", "c"])]
    result = simulate(requests, Settings(3, 3, block_size=2, num_gpu_blocks=5), unit)
    assert rows(result) == [
        (0.0, 1.0, 2, (), 2, prefill(3, 3, 4, live=2)),
        (1.0, 1.0, 1, (), 3, decode(2)),
        (2.0, 1.0, 1, (), 2, decode(3)),
        (3.0, 1.0, 1, (), 2, decode(4)),
        (4.0, 1.0, 1, (), 1, decode(5)),
        (5.0, 1.0, 0, (), 1, prefill(3, 5, 3 * 2 + 6)),
        (6.0, 1.0, 1, (), 1, prefill(1, 6, 6)),
    ]
    assert (result.queued_s[2], result.admitted_s[2], result.hit_tokens) == (2.0, 5.0, [0, 0, 2])


def blocks_of_rejected_drafts_are_kept_and_lookahead_needs_more() -> None:
    # Blocks of 2, 5 of them.  1; then 1 + 4 tokens: 3 blocks, and 2 + 3 and 3 + 2 need no more. Lookahead: 7 slots, 4.
    request = Request(1, 4, accepted=[0, 0, 0, 0], drafted=[0, 3, 2, 1])
    settings = Settings(1, block_size=2, num_gpu_blocks=6, budget=3)
    assert [step.free_blocks for step in simulate([request], settings, unit).log] == [4, 2, 2, 2]
    ahead = simulate([request], replace(settings, lookahead_tokens=2), unit)
    assert [step.free_blocks for step in ahead.log] == [4, 1, 1, 1]
    # A prompt in chunks of 2: lookahead from the second chunk on, 4 + 2 and 5 + 2 slots.
    chunks = simulate([Request(5, 1)], replace(settings, max_num_batched_tokens=2, lookahead_tokens=2, budget=0), unit)
    assert [step.free_blocks for step in chunks.log] == [4, 2, 1]


def an_empty_prompt_computes_one_token() -> None:
    result = simulate([Request(0, 3)], Settings(1), unit)
    assert [step.work for step in result.log] == [prefill(1, 0, 1), decode(1), decode(2)]


CASES = [
    chunked_prefill_mixes_with_decodes,
    a_step_takes_its_tokens_in_order_of_admission,
    the_preempted_resumes_from_what_is_left_in_the_cache,
    the_last_admitted_is_preempted_first,
    a_group_shares_its_prompt_in_the_step_that_admits_it,
    the_second_copy_of_a_block_is_found_once_the_first_is_gone,
    async_scheduling_sees_completions_a_step_late,
    async_scheduling_preempts_for_blocks_about_to_be_free,
    a_turn_leaves_and_comes_back_with_all_it_emitted,
    a_resumed_rollout_one_token_short_drafts_nothing,
    arrivals_are_seen_between_steps_or_when_idle,
    without_chunked_prefill_a_prompt_waits_for_a_step_that_holds_it,
    admission_reserves_blocks_for_the_whole_prompt_or_for_a_chunk,
    a_hit_that_nobody_references_takes_a_free_block,
    blocks_of_rejected_drafts_are_kept_and_lookahead_needs_more,
    an_empty_prompt_computes_one_token,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_by_hand(case: Callable[[], None]) -> None:
    case()


# Broken on purpose ----------------------------------------------------------------------------------------------------


def release_first_block_first(pool: Pool, table: list[int]) -> None:
    for block in table:
        pool.references[block] -= 1
        if pool.references[block] == 0:
            pool.free.append(block)


def release_to_the_head(pool: Pool, table: list[int]) -> None:
    for block in reversed(table):
        pool.references[block] -= 1
        if pool.references[block] == 0:
            pool.free.appendleft(block)


def forget_a_block(pool: Pool, table: list[int], release: Callable[[Pool, list[int]], None] = Pool.release) -> None:
    release(pool, table[1:])


def release_shared_blocks(pool: Pool, table: list[int]) -> None:
    for block in reversed(table):
        pool.references[block] = 0
        pool.free.append(block)


def move_the_key(pool: Pool, block: int, key: object) -> None:
    if block not in pool.key_of:
        for other in pool.copies.get(key, []):
            del pool.key_of[other]
        pool.key_of[block] = key
        pool.copies[key] = [block]


def preempt_at(place: int, *, requeue: Callable[[deque[Rollout], Rollout], None] = deque.appendleft, p: bool = True):
    def preempt(engine: Engine) -> Rollout:
        victim = [rollout for rollout in engine.running if rollout not in engine.leaving][place]
        engine.leave(victim)
        victim.preemptions += 1
        victim.p = victim.p if p else 0
        requeue(engine.waiting, victim)
        return victim

    return preempt


def hit_the_whole_prompt(engine: Engine, rollout: Rollout) -> list[int]:
    keys = [rollout.key(i) for i in range(rollout.needed() // engine.settings.block_size)]
    cached = [engine.pool.find(key) for key in keys]
    return cached[: cached.index(None)] if None in cached else cached


def emit_and_release(
    engine: Engine, shares: list[Share], now_s: float, emit: Callable[[Engine, list[Share], float], None] = Engine.emit
) -> None:
    emit(engine, shares, now_s)
    engine.release()


def look_at_the_last_first(engine: Engine, now_s: float, look: Callable[[Engine, float], None] = Engine.look) -> None:
    look(engine, now_s)
    engine.waiting.reverse()


def keep_the_drafting_state(engine: Engine, rollout: Rollout, leave: Callable[..., None] = Engine.leave) -> None:
    computed, decoding = rollout.computed, rollout.decoding
    leave(engine, rollout)
    rollout.computed, rollout.decoding = computed, decoding


BROKEN = [
    (Pool, "release", release_first_block_first),
    (Pool, "release", release_to_the_head),
    (Pool, "release", forget_a_block),
    (Pool, "release", release_shared_blocks),
    (Pool, "give_key", move_the_key),
    (Pool, "give_key", lambda pool, block, key: None),
    (Engine, "preempt", preempt_at(0)),
    (Engine, "preempt", preempt_at(-1, requeue=deque.append)),
    (Engine, "preempt", preempt_at(-1, p=False)),
    (Engine, "hits", hit_the_whole_prompt),
    (Engine, "emit", emit_and_release),
    (Engine, "look", look_at_the_last_first),
    (Engine, "leave", keep_the_drafting_state),
    (Rollout, "turn_end", lambda rollout: (rollout.request.output_tokens, 0.0)),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_engine_fails_by_hand(monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str, object]) -> None:
    monkeypatch.setattr(*broken)
    assert any(fails(case) for case in CASES)


def fails(case: Callable[[], None]) -> bool:
    try:
        case()
    except AssertionError:
        return True
    return False
