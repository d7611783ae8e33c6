"""What must hold of the reference serving engine whatever is asked of it, and what theory says of its queue."""

import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.reference import engine as lockstep
from tests.reference import policies
from tests.reference.serving import Request, ServingResult, Settings, Share, Work, simulate


def unit(_: Work) -> float:
    return 1.0


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[list[Request], Settings]:
    """A few short rollouts, on an engine that has hardly room for the longest of them."""
    block_size, budget, lookahead = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    caching = draw(st.booleans())
    requests = [draw(rollouts(block_size, caching)) for _ in range(draw(st.integers(1, 6)))]
    most = max(max(request.prompt_tokens, 1) + request.output_tokens for request in requests)
    chunked = draw(st.booleans())
    spare = draw(st.sampled_from([None, 0, 1, 2, 4]))
    settings = Settings(
        max_num_seqs=draw(st.integers(1, 4)),
        max_num_batched_tokens=draw(st.none() | st.integers(1 if chunked else most, most + 6)),
        enable_chunked_prefill=chunked,
        block_size=block_size,
        max_model_len=draw(st.none() | st.integers(most, most + 3)),
        num_gpu_blocks=None if spare is None else 1 + -(-(most + lookahead) // block_size) + spare,
        enable_prefix_caching=caching,
        scheduler_reserve_full_isl=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        lookahead_tokens=lookahead,
        step_overhead_s=draw(st.sampled_from([0.0, 0.25])),
        uneven_step_s=draw(st.sampled_from([0.0, 0.5])),
        eager_step_s=draw(st.sampled_from([0.0, 2.0])),
        cudagraph_capture_sizes=draw(st.sampled_from([None, (1, 2, 4, 8)])),
        budget=budget,
    )
    return requests, settings


@st.composite
def rollouts(draw: st.DrawFn, block_size: int, shares: bool) -> Request:
    prompt_tokens, left = draw(st.integers(0, 9)), draw(st.integers(1, 8))
    output_tokens, turns = left, []
    while left and draw(st.booleans()):
        turns.append((draw(st.integers(1, left)), draw(st.sampled_from([0.0, 0.5, 20.0]))))
        left -= turns[-1][0]
    if turns and left:
        turns.append((left, 1.0))
    prompt = draw(st.sampled_from(["a", "b", None])) if shares else None
    drafted = [draw(st.integers(0, 4)) for _ in range(output_tokens if draw(st.booleans()) else 0)]
    return Request(
        prompt_tokens,
        output_tokens,
        arrival_s=draw(st.sampled_from([0.0, 0.0, 0.0, 1.5, 4.25, 60.0])),
        turns=turns,
        keys=[(prompt, i) for i in range(prompt_tokens // block_size)] if prompt else [],
        accepted=[draw(st.integers(0, min(d, output_tokens - p))) for p, d in enumerate(drafted)],
        drafted=drafted,
    )


class Account:
    """One rollout as its shares tell it: tokens emitted and in KV, and the blocks they take, from admission to leaving."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self.request, self.settings = request, settings
        self.p = self.computed = self.blocks = self.hit_tokens = self.prefill_tokens = self.again_tokens = 0
        self.inside = self.decoding = False
        self.emissions: list[float] = []
        ends = [sum(tokens for tokens, _ in request.turns[: j + 1]) for j in range(len(request.turns))]
        self.ends = ends or [request.output_tokens]

    def leave(self) -> None:
        assert self.inside
        if self.p < self.request.output_tokens:  # once it is back: what it had, and the last token that it emitted
            self.again_tokens += self.computed + self.decoding
        self.inside, self.decoding, self.computed, self.blocks = False, False, 0, 0

    def take(self, share: Share, end_s: float) -> None:
        needed = max(self.request.prompt_tokens, 1) + self.p
        slots = share.computed + share.take
        if not self.inside:
            assert share.computed % self.settings.block_size == 0
            assert share.computed < needed
            self.hit_tokens += share.computed
            self.inside = True
        else:
            assert share.computed == self.computed
            slots += self.settings.lookahead_tokens
        self.blocks = max(self.blocks, -(-slots // self.settings.block_size))
        assert share.decoding == self.decoding
        left = min(end for end in self.ends if end > self.p) - self.p
        if share.decoding:
            assert share.computed == needed - 1
            assert share.take <= 1 + self.settings.budget
            right = min(
                self.settings.budget, share.take - 1, self.request.accepted[self.p] if self.request.accepted else 0
            )
            assert share.emitted == min(1 + right, left)
            self.computed += share.emitted
        else:
            assert share.take <= needed - share.computed
            assert share.emitted == (share.computed + share.take == needed)
            self.prefill_tokens += share.take
            self.computed = share.computed + share.take
        self.p += share.emitted
        self.decoding = share.emitted > 0
        if share.emitted:
            self.emissions.append(end_s)


def audit(requests: list[Request], settings: Settings, result: ServingResult) -> None:
    """Every token and block of every step accounted for, from the log alone."""
    accounts = [Account(request, settings) for request in requests]
    usable = None if settings.num_gpu_blocks is None else settings.num_gpu_blocks - 1
    end_s, victims, leaving = 0.0, [0] * len(requests), set()
    for step in result.log:
        assert step.start_s >= end_s
        end_s = step.start_s + step.dt_s
        for victim in step.victims:
            accounts[victim].leave()
            victims[victim] += 1
        for rollout in leaving:
            accounts[rollout].leave()
        leaving.clear()
        served = [share.rollout for share in step.shares]
        assert len(set(served)) == len(served) == step.work.live <= settings.max_num_seqs
        assert sum(share.take for share in step.shares) == step.work.query_tokens <= step.work.padded_tokens
        assert step.work.query_tokens <= (settings.max_num_batched_tokens or step.work.query_tokens)
        assert step.emitted_tokens == sum(share.emitted for share in step.shares)
        assert step.preempted == len(step.victims)
        assert settings.async_scheduling or not set(served) & set(step.victims)
        for share in step.shares:
            account = accounts[share.rollout]
            assert account.inside or settings.async_scheduling or not step.victims, "admitted in a step that preempts"
            account.take(share, end_s)
            if account.p in account.ends and share.emitted:
                leaving.add(share.rollout)
        if usable is not None:
            held = usable - step.free_blocks
            tables = sum(account.blocks for account in accounts)
            assert 0 < held <= usable
            assert held <= tables if any(request.keys for request in requests) else held == tables
    for i, (account, request) in enumerate(zip(accounts, requests, strict=True)):
        assert account.p == request.output_tokens, "starved"
        assert (result.first_token_s[i], result.finished_s[i]) == (account.emissions[0], account.emissions[-1])
        assert request.arrival_s <= result.queued_s[i] <= result.admitted_s[i] < result.first_token_s[i]
        assert (result.steps[i], result.hit_tokens[i]) == (len(account.emissions), account.hit_tokens)
        assert account.prefill_tokens + account.hit_tokens == max(request.prompt_tokens, 1) + account.again_tokens
        assert account.again_tokens == 0 or victims[i] > 0 or len(request.turns) > 1
        assert result.accepted[i] <= result.drafted[i] <= settings.budget * result.steps[i]
    first_come = sorted(range(len(requests)), key=lambda i: (requests[i].arrival_s, i))
    assert [result.admitted_s[i] for i in first_come] == sorted(result.admitted_s), "first come, first served"
    assert result.preemptions == victims
    assert usable is not None or sum(victims) == 0
    assert settings.enable_prefix_caching or sum(result.hit_tokens) == 0
    assert set(result.pool.references.values()) <= {0}
    assert sorted(result.pool.free) == sorted(result.pool.references)
    assert usable in (None, len(result.pool.free))


def bounded(requests: list[Request]) -> Callable[[Work], float]:
    """A cost that loses patience: of the rollouts, one emits or computes a token in every step."""
    most = sum(max(request.prompt_tokens, 1) + request.output_tokens for request in requests)
    calls = iter(range(10 * most * len(requests)))

    def cost(work: Work) -> float:
        assert next(calls, None) is not None, "no end in sight"
        return 1.0 + 0.125 * work.query_tokens

    return cost


@examples(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
def test_every_token_and_block_is_accounted_for(scenario: tuple[list[Request], Settings]) -> None:
    requests, settings = scenario
    audit(requests, settings, simulate(requests, settings, bounded(requests)))


@examples(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 4), st.booleans())
def test_without_limits_it_is_the_lock_step_reference(seed: int, slots: int, budget: int, caching: bool) -> None:
    rng = random.Random(seed)
    pairs = [lock_step_rollout(rng) for _ in range(rng.randint(1, 12))]
    requests = [Request(r.prompt_tokens, r.output_tokens, accepted=r.accepted, drafted=r.drafted) for r in pairs]
    expected = lockstep.simulate(pairs, lambda *work: 0.01 + 1e-3 * sum(work), policies.fixed(budget), slots)
    result = simulate(
        requests,
        Settings(slots, block_size=1, enable_prefix_caching=caching, budget=budget),
        lambda w: 0.01 + 1e-3 * (w.live + w.query_tokens + w.kv_tokens + w.pairs + w.prefill_tokens),
    )
    assert [
        (s.start_s, s.dt_s, w.live, w.query_tokens, w.kv_tokens, w.pairs, w.prefill_tokens, s.emitted_tokens)
        for s in result.log
        for w in [s.work]
    ] == [
        (s.start_s, s.dt_s, s.live, s.query_tokens, s.kv_tokens, s.pairs, s.prefill_tokens, s.emitted_tokens)
        for s in expected.steps
    ]
    assert (result.finished_s, result.steps) == (expected.finish_s, expected.rollout_steps)
    assert (result.drafted, result.accepted) == (expected.rollout_drafted, expected.rollout_accepted)


def lock_step_rollout(rng: random.Random) -> lockstep.Rollout:
    length = rng.randint(1, 12)
    drafted = [rng.randint(0, 5) for _ in range(length)]
    accepted = [rng.randint(0, min(d, length - p)) for p, d in enumerate(drafted)]
    return lockstep.Rollout(rng.randint(0, 9), length, accepted, drafted)


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("spacing_s", [2.0, 3.0, 7.5])
def test_one_slot_serves_evenly_spaced_arrivals_by_lindley(spacing_s: float, async_scheduling: bool) -> None:
    # A service is 3 steps of a second. The recursion: start when both the rollout and the slot are there.
    requests = [Request(4, 3, arrival_s=i * spacing_s) for i in range(8)]
    result = simulate(requests, Settings(1, async_scheduling=async_scheduling), unit)
    start_s = [i * max(3.0, spacing_s) for i in range(8)]
    assert (result.admitted_s, result.finished_s) == (start_s, [at + 3.0 for at in start_s])


def mean_waits_s(overhead_s: float) -> list[float]:
    """Of 40 days of 400 Poisson arrivals, one every 2 s, at one slot that takes a second and the overhead for each."""
    rng, days = random.Random(7), []
    for _ in range(40):
        arrivals, at_s = [], 0.0
        for _ in range(400):
            at_s += rng.expovariate(0.5)
            arrivals.append(at_s)
        result = simulate(
            [Request(1, 1, at_s) for at_s in arrivals], Settings(1, step_overhead_s=overhead_s, check=False), unit
        )
        days.append(statistics.fmean(a - b for a, b in zip(result.admitted_s, arrivals, strict=True)))
    return days


def test_poisson_arrivals_wait_as_pollaczek_and_khinchine_say() -> None:
    # M/D/1 at half load, service D = 1: the mean wait is rho D / (2 (1 - rho)) = 0.5 s. A longer service shows.
    for overhead_s, agrees in ((0.0, True), (0.2, False)):
        waits_s = mean_waits_s(overhead_s)
        z = (statistics.fmean(waits_s) - 0.5) / (statistics.stdev(waits_s) / len(waits_s) ** 0.5)
        assert (abs(z) < 4.0) == agrees, z


@pytest.mark.parametrize(
    ("request_", "settings", "why"),
    [
        (Request(8, 5), Settings(1, block_size=4, num_gpu_blocks=4), "never has 3"),
        (Request(8, 4), Settings(1, block_size=4, num_gpu_blocks=4, lookahead_tokens=1), "never has 3"),
        (Request(7, 1, keys=["a", "b"]), Settings(1, block_size=4), "full block"),
        (Request(7, 1), Settings(1, 6, enable_chunked_prefill=False), "stuck"),
    ],
)
def test_what_can_never_be_served_is_refused(request_: Request, settings: Settings, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        simulate([request_], settings, unit)


def test_what_fits_exactly_is_served() -> None:
    assert simulate([Request(8, 4)], Settings(1, block_size=4, num_gpu_blocks=4), unit).finished_s == [4.0]
    assert simulate([], Settings(1), unit).log == []
