"""The reference engine against cases small enough for paper, and what queueing and the DAS paper say exactly."""

import math
import random
from typing import Literal

import pytest

from tests.reference import policies
from tests.reference.cost import affine, gridded, interpolate, roofline
from tests.reference.engine import Cost, Policy, Rollout, RunResult, Step, View, simulate, straggler_s

UNIT = affine(1.0)


def plain(output_tokens: int, prompt_tokens: int = 0) -> Rollout:
    return Rollout(prompt_tokens, output_tokens, [0] * output_tokens, [0] * output_tokens)


def finish(
    lengths: list[int], slots: int, replicas: int = 1, dispatch: Literal["shared", "static"] = "shared"
) -> RunResult:
    return simulate([plain(length) for length in lengths], UNIT, policies.none, slots, replicas, dispatch)


def random_rollout(rng: random.Random) -> Rollout:
    length = rng.randint(1, 30)
    drafted = [rng.randint(0, 6) for _ in range(length)]
    accepted = [rng.randint(0, min(d, length - p)) for p, d in enumerate(drafted)]
    return Rollout(rng.choice([0, 1, 7, 40]), length, accepted, drafted)


# Engine ---------------------------------------------------------------------------------------------------------------


def test_three_rollouts_on_two_slots_by_hand() -> None:
    # A step lasts 10 s and 1 s per query token; budget 2.
    # t 0   admit 0 and 1, both prefill: q 2 + 1; kv 2 + 0; pairs 3 + 1; 13 s; p = 1, 1
    # t 13  0: d min(2, 3), q 3, a 2, emits 3 of 3: done.  1: d 1, q 2, a 0, emits 1 of 1: done.
    #       q 5; kv 3 + 1; pairs 3*3 + 2*1; 15 s
    # t 28  admit 2, prefill: q 3; kv 3; pairs 6; 13 s; p = 1
    # t 41  2: d 2, q 3, a 1, emits 2 of 2: done; kv 4; pairs 12; 13 s, to t 54
    workload = [
        Rollout(2, 4, accepted=[0, 2, 0, 1], drafted=[0, 3, 1, 1]),
        Rollout(0, 2, accepted=[0, 0], drafted=[0, 1]),
        Rollout(3, 3, accepted=[0, 1, 0], drafted=[0, 2, 1]),
    ]
    result = simulate(workload, affine(10.0, query=1.0), policies.fixed(2), max_num_seqs=2)
    assert result.steps == [
        Step(0, 0.0, 13.0, 13.0, 2, 3, 2, 4, 3, 0, 0, 2),
        Step(0, 13.0, 15.0, 28.0, 2, 5, 4, 11, 0, 3, 2, 4),
        Step(0, 28.0, 13.0, 41.0, 1, 3, 3, 6, 3, 0, 0, 1),
        Step(0, 41.0, 13.0, 54.0, 1, 3, 4, 12, 0, 2, 1, 2),
    ]
    assert (result.makespan_s, result.finish_s) == (54.0, [28.0, 28.0, 54.0])
    assert result.straggler_s == 26.0  # rollout 2 ends after 48.6 s, the others at 28
    assert (result.decode_steps, result.sequence_steps) == (4, 6)
    assert (result.drafted_tokens, result.accepted_tokens, result.output_tokens) == (5, 3, 9)
    assert result.rollout_steps == [2, 2, 2]
    assert (result.rollout_drafted, result.rollout_accepted) == ([2, 1, 2], [2, 0, 1])


def test_no_bonus_token_is_emitted_past_the_end() -> None:
    result = simulate([Rollout(1, 3, [0, 2, 1], [0, 2, 1])], UNIT, policies.unlimited, 1)
    assert (result.sequence_steps, result.accepted_tokens, result.output_tokens) == (2, 2, 3)


def test_draft_that_depends_on_the_budget_is_looked_up_by_it() -> None:
    # From p = 1 to 6: budget 1 accepts nothing, five steps; budget 3 drafts 3, accepts 3 (p = 5), then one more.
    by_budget = {1: ([0] * 6, [0, 1, 1, 1, 1, 1]), 3: ([0, 3, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0])}
    workload = [Rollout(0, 6, by_budget=by_budget)]
    assert [simulate(workload, UNIT, policies.fixed(k), 1).decode_steps for k in (0, 1, 3)] == [6, 6, 3]


def test_policy_sees_the_batch_after_admission_and_no_length() -> None:
    seen: list[View] = []

    def spy(view: View) -> list[int]:
        seen.append(view)
        return [0] * view.live

    simulate([plain(2, 5), plain(1, 6), plain(1, 7)], UNIT, spy, 2)
    assert seen == [View(2, (0, 1), (5, 6), (0, 0), 2), View(2, (0, 2), (5, 7), (1, 0), 2)]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("budget", [0, 1, 3, 7])
def test_perfect_drafts_divide_one_rollout_into_full_steps(length: int, budget: int) -> None:
    perfect = [length - p for p in range(length)]
    result = simulate([Rollout(9, length, perfect, perfect)], UNIT, policies.fixed(budget), 1)
    assert result.makespan_s == 1 + math.ceil((length - 1) / (budget + 1))  # the prefill emits the first token


def test_without_speculation_the_makespan_is_the_sum_over_the_survival_curve() -> None:
    rng = random.Random(1)
    rollouts = [plain(rng.randint(1, 40), rng.randint(1, 9)) for _ in range(12)]
    result = simulate(rollouts, affine(0.01, 1e-3, 3e-4, 7e-6, 1e-7, 2e-5), policies.none, 12)
    clock_s = 0.0
    for s in range(max(rollout.output_tokens for rollout in rollouts)):
        contexts = [rollout.prompt_tokens + s for rollout in rollouts if rollout.output_tokens > s]
        prefill = sum(contexts) if s == 0 else 0
        query = prefill or len(contexts)
        pairs = sum(c * (c + 1) // 2 for c in contexts) if s == 0 else sum(contexts)
        kv = sum(contexts)
        clock_s += 0.01 + 1e-3 * len(contexts) + 3e-4 * query + 7e-6 * kv + 1e-7 * pairs + 2e-5 * prefill
    assert result.makespan_s == clock_s


@pytest.mark.parametrize(
    ("n", "slots", "replicas"), [(7, 3, 1), (6, 3, 1), (1, 4, 2), (10, 2, 2), (11, 2, 3), (3, 1, 5)]
)
@pytest.mark.parametrize("dispatch", ["shared", "static"])
def test_equal_lengths_run_in_waves(n: int, slots: int, replicas: int, dispatch: Literal["shared", "static"]) -> None:
    waves = math.ceil(math.ceil(n / replicas) / slots)
    assert finish([5] * n, slots, replicas, dispatch).makespan_s == 5.0 * waves


def test_shared_queue_fills_the_gap_that_a_static_cut_leaves() -> None:
    # Static [5, 1], [1, 1]: the second waits behind the 5. Shared: replica 1 serves the three ones in turn.
    static, shared = finish([5, 1, 1, 1], 1, 2, "static"), finish([5, 1, 1, 1], 1, 2, "shared")
    assert (static.finish_s, static.replica) == ([5.0, 6.0, 1.0, 2.0], [0, 0, 1, 1])
    assert (shared.finish_s, shared.replica) == ([5.0, 1.0, 2.0, 3.0], [0, 1, 1, 1])


def test_dispatch_order_at_time_zero_and_at_equal_instants() -> None:
    assert finish([2] * 5, 3, 2).replica == [0, 1, 0, 1, 0]  # fewest live, then lowest index
    assert finish([2] * 5, 3, 2, "static").replica == [0, 0, 0, 1, 1]  # the first part has the odd one
    assert finish([1] * 7, 2, 2).replica == [0, 1, 0, 1, 0, 0, 1]  # as many as fit, replica 0 first
    # A step lasts as long as its query tokens. Replica 1's step, 0 to 3, began before replica 0's last, 2 to 3; both
    # are free at 3 and the lower index is still served first.
    workload = [plain(3, 1), plain(1, 3), plain(1), plain(1)]
    result = simulate(workload, affine(0.0, query=1.0), policies.none, 1, 2)
    assert (result.finish_s, result.replica) == ([3.0, 3.0, 4.0, 4.0], [0, 1, 0, 1])
    assert [(step.start_s, step.replica) for step in result.steps] == sorted(
        (step.start_s, step.replica) for step in result.steps
    )


def test_straggler_time_starts_at_the_last_completion_within_nine_tenths() -> None:
    assert straggler_s([8.0, 10.0, 9.0]) == 1.0  # exactly nine tenths is no straggler
    assert straggler_s([8.0, 10.0, 9.25]) == 2.0
    assert straggler_s([10.0, 9.5]) == 10.0  # all are


def test_empty_workload_takes_no_time() -> None:
    result = simulate([], UNIT, policies.none, 1)
    assert (result.makespan_s, result.straggler_s, result.decode_steps) == (0.0, 0.0, 0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dispatch", ["shared", "static"])
@pytest.mark.parametrize("policy", [policies.none, policies.unlimited, policies.fixed(2), policies.threshold(3, 2)])
def test_tokens_and_time_are_conserved(seed: int, dispatch: Literal["shared", "static"], policy: Policy) -> None:
    rng = random.Random(seed)
    workload = [random_rollout(rng) for _ in range(rng.randint(1, 20))]
    replicas = rng.randint(1, 3)
    slots = rng.randint(1, 5)
    result = simulate(workload, affine(0.01, 1e-3, 1e-3, 1e-5), policy, slots, replicas, dispatch)
    assert result.output_tokens == sum(rollout.output_tokens for rollout in workload)
    assert result.sequence_steps == sum(result.rollout_steps)
    assert result.drafted_tokens == sum(result.rollout_drafted)
    assert result.accepted_tokens == sum(result.rollout_accepted)
    lost_bonuses = result.sequence_steps + result.accepted_tokens - result.output_tokens
    assert 0 <= lost_bonuses <= len(workload)  # at most the last step of each rollout has no bonus token
    for replica in range(replicas):
        clock_s = 0.0
        for step in result.steps:
            if step.replica == replica:
                assert step.start_s == clock_s
                assert 1 <= step.live <= slots
                clock_s += step.dt_s
                assert step.end_s == clock_s
    assert set(result.finish_s) <= {step.end_s for step in result.steps}
    assert result.makespan_s == max(step.end_s for step in result.steps)


# Cost -----------------------------------------------------------------------------------------------------------------


def test_costs_by_hand() -> None:
    assert affine(1.0, 2.0, 3.0, 5.0, 7.0, 11.0)(1, 10, 100, 1000, 10000) == 1 + 2 + 30 + 500 + 7000 + 110000
    cost = roofline(
        weight_bytes=100.0,
        kv_bytes_per_token=2.0,
        flops_per_token=10.0,
        flops_per_pair=1.0,
        bandwidth_bytes_per_s=10.0,
        peak_flops_per_s=20.0,
    )
    assert cost(1, 1, 50, 50, 0) == 20.0  # (100 + 100) / 10 against (10 + 50) / 20
    assert cost(8, 90, 50, 100, 0) == 50.0  # (900 + 100) / 20


def test_interpolation_within_and_beyond_the_grid() -> None:
    assert [interpolate([[0, 1, 3]], [0.0, 1.0, 5.0], [x]) for x in (-1, 0, 0.5, 1, 2, 3, 5)] == [
        -1,
        0,
        0.5,
        1,
        3,
        5,
        9,
    ]
    axes = [[1.0, 2.0, 4.0], [10.0, 30.0], [7.0]]
    values = [[[x * y] for y in axes[1]] for x in axes[0]]
    for x, y in ((1.5, 20.0), (3.0, 10.0), (0.0, 5.0), (8.0, 100.0)):
        assert interpolate(axes, values, [x, y, 99.0]) == pytest.approx(x * y)  # bilinear, so exact beyond it too
    cost: Cost = gridded(("kv_tokens", "live"), [[0, 100], [1, 2]], [[1.0, 2.0], [3.0, 4.0]])
    assert cost(2, 999, 50, 999, 999) == 3.0


# Budgets --------------------------------------------------------------------------------------------------------------


def test_budget_tables_by_hand() -> None:
    view = View(3, (0, 1, 2), (0, 0, 0), (0, 4, 5))
    assert policies.threshold(6, 3)(view) == [6, 6, 6]
    assert policies.threshold(6, 2)(view) == [0, 0, 0]
    assert policies.unlimited(view) == [255, 255, 255]
    # Row 1 passes its boundary 5 on reaching it; row 0 has no boundary and its budget goes by live: 3 of 0..4.
    table = policies.class_table([0, 1, 1], [[], [5]], [[[9, 8, 7, 6, 5]], [2, 24]])
    assert table(view) == [6, 2, 24]


def test_das_constraint_reaches_the_target_with_the_corrected_form_only() -> None:
    # Target N = 3000 of l = 10000 at alpha 1, k 0.8. Printed: -l ln(1 - k(1 - N/l)); corrected: -l ln(1 - (1 - N/l)/k).
    printed, corrected = -10000 * math.log(1 - 0.8 * 0.7), -10000 * math.log(1 - 0.7 / 0.8)
    assert (round(printed), round(corrected)) == (8210, 20794)
    assert policies.achieved_steps([printed], [10000], [1.0], [0.8]) == pytest.approx(5520, abs=0.5)
    assert policies.achieved_steps([corrected], [10000], [1.0], [0.8]) == pytest.approx(3000, abs=1e-6)
    assert policies.drafted_for(3000, 10000, 1.0, 0.8) == pytest.approx(corrected)
    assert policies.drafted_for(1999, 10000, 1.0, 0.8) == math.inf  # only N > l(1 - k) can be reached


def test_das_optimum_by_hand_and_by_stationarity() -> None:
    # One rollout: c_base = c_tok / (alpha (k - 1 + N/l)), so N = l(1 - k + c_tok/(alpha c_base)) = 10000 (0.2 + 0.1).
    steps, drafted, _ = policies.optimum([10000], [1.0], [0.8], c_base=10.0, c_tok=1.0)
    assert steps == pytest.approx(3000, rel=1e-6)
    assert drafted == [pytest.approx(20794, abs=1)]
    # The first pass saved costs c_tok / (alpha k) = 1.25 drafted tokens: at c_base 1 none is worth saving.
    assert policies.optimum([100.0], [1.0], [0.8], 1.0, 1.0) == (100.0, [0.0], 100.0)
    # Several rollouts: the condition holds over those longer than N, and the others draft nothing.
    lengths, alpha, k = [9000.0, 5000.0, 1000.0], [1.0, 1.5, 0.7], [0.8, 0.9, 0.6]
    steps, drafted, _ = policies.optimum(lengths, alpha, k, c_base=8.0, c_tok=1.0)
    assert 1000.0 < steps < 5000.0
    assert drafted[2] == 0.0
    longer = list(zip(lengths, alpha, k, strict=True))[:2]
    assert sum(1 / (a * (c - 1 + steps / length)) for length, a, c in longer) == pytest.approx(8.0, rel=1e-5)
    assert policies.achieved_steps(drafted, lengths, alpha, k) == pytest.approx(steps)


def test_survival_class_by_hand() -> None:
    # Row 0: two short, one medium (3), one long (6). At t = 0 short leads; past 1 a tie, so the longer class.
    # Row 1: two medium of 2 tokens and a long one of 5: medium until both are outlived. Row 2 has no history.
    history = [[1, 1, 3, 6], [2, 2, 5], []]
    assert policies.survival_class(history, (2, 5)) == [[0, 2, 2, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2], [2]]
