"""One replica of a serving engine, step by step: continuous batching over paged KV with a prefix cache, as vLLM V1 does it.

Schedule a step (running rollouts in order of admission, preempting from the back where blocks run out; then the queue), let
its cost pass, emit. Nothing is remembered that could be looked up again, and nothing is made fast.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from tests.reference.pool import Pool


@dataclass(frozen=True)
class Request:
    """One rollout; by tokens emitted, what its drafter would get accepted and propose with no limit (empty: no drafts).

    turns: (generated_tokens, wait_s), each ended by a wait outside the engine, but for the last; keys: of its leading full
    prompt blocks, what makes them the same block in another rollout.
    """

    prompt_tokens: int
    output_tokens: int
    arrival_s: float = 0.0
    turns: Sequence[tuple[int, float]] = ()
    keys: Sequence[Hashable] = ()
    accepted: Sequence[int] = ()
    drafted: Sequence[int] = ()

    def __post_init__(self) -> None:
        assert self.prompt_tokens >= 0, "negative prompt"
        assert self.output_tokens >= 1, "a rollout emits at least one token"
        assert 0.0 <= self.arrival_s < math.inf, f"arrival at {self.arrival_s} s"
        assert all(tokens >= 1 and 0.0 <= wait_s < math.inf for tokens, wait_s in self.turns), f"turns {self.turns}"
        assert not self.turns or sum(tokens for tokens, _ in self.turns) == self.output_tokens, "turns make the output"
        assert len(self.accepted) == len(self.drafted), "A and D go together"
        assert len(self.drafted) in (0, self.output_tokens), "A and D have one entry per token emitted, or none"
        for p, (a, d) in enumerate(zip(self.accepted, self.drafted, strict=True)):
            assert 0 <= a <= min(d, self.output_tokens - p), f"not 0 <= A <= D, A <= l - p at p = {p}: A {a}, D {d}"


@dataclass(frozen=True)
class Settings:
    """Names and meanings as in vLLM; budget: drafts per rollout and step; None: no limit, or no padding."""

    max_num_seqs: int
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    enable_chunked_prefill: bool = True
    block_size: int = 16
    num_gpu_blocks: int | None = None
    enable_prefix_caching: bool = True
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = False
    lookahead_tokens: int = 0
    step_overhead_s: float = 0.0
    uneven_step_s: float = (
        0.0  # besides, where sequences run different numbers of tokens, prompts or none of the drafts they may
    )
    eager_step_s: float = 0.0  # besides, where no CUDA graph is large enough
    cudagraph_capture_sizes: Sequence[int] | None = None
    budget: int = 0
    switch_live: int = (
        0  # nobody drafts before there were so few running ones, or fewer, at the start of as many steps in a row
    )
    patience: int = 0
    reprefill: bool = False  # whether those then lose their KV, and the cache what it holds
    trees: bool = False  # drafts are verified whole or not at all
    check: bool = True


@dataclass(frozen=True)
class Work:
    """What one step computes; prefill_*: the part of it that is prompt or resumed tokens; longest_context: decoding only.

    expert_tokens: padded tokens that experts compute; of ranks that share experts, the mean of them all; left out, its own.
    """

    live: int
    query_tokens: int
    kv_tokens: int
    pairs: int
    prefill_tokens: int
    prefill_seqs: int
    prefill_kv_tokens: int
    prefill_pairs: int
    longest_context: int
    padded_tokens: int
    expert_tokens: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.expert_tokens):
            object.__setattr__(self, "expert_tokens", float(self.padded_tokens))


Cost = Callable[[Work], float]
"""Seconds of a step, drafting included, without what the settings say of the host."""


@dataclass(frozen=True)
class Share:
    """One rollout's part in one step: `take` query tokens after `computed` ones in KV; `context` it would have if decoding."""

    rollout: int
    computed: int
    take: int
    context: int
    decoding: bool
    accepted: int
    emitted: int


@dataclass(frozen=True)
class Step:
    """One step; victims: who was preempted for it, in order; free_blocks: while it runs, None without a limit."""

    start_s: float
    dt_s: float
    work: Work
    emitted_tokens: int
    preempted: int
    free_blocks: int | None
    victims: tuple[int, ...]
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class ServingResult:
    """Lists by request (steps: those in which it emitted; hit_tokens: found in the prefix cache), every step, the pool left."""

    queued_s: list[float]
    admitted_s: list[float]
    first_token_s: list[float]
    finished_s: list[float]
    preemptions: list[int]
    hit_tokens: list[int]
    steps: list[int]
    drafted: list[int]
    accepted: list[int]
    log: list[Step]
    pool: Pool


@dataclass(eq=False)
class Rollout:
    """What the engine knows of a request; p: tokens emitted.

    start: of them, those it came with; stay_end: it leaves with so many; pulled: its KV is there when it is next admitted;
    wait_s: of the turn that it ended last.
    """

    index: int
    request: Request
    p: int = 0
    start: int = 0
    stay_end: float = math.inf
    pulled: bool = False
    wait_s: float = math.nan
    computed: int = 0
    decoding: bool = False
    table: list[int] = field(default_factory=list)
    queued_s: float = math.nan
    admitted_s: float = math.nan
    first_token_s: float = math.nan
    finished_s: float = math.nan
    preemptions: int = 0
    hit_tokens: int = 0
    admissions: int = 0
    recomputed: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    def needed(self) -> int:
        """F: the tokens whose KV must be there before the next one can be emitted."""
        return max(self.request.prompt_tokens, 1) + self.p

    def turn_end(self) -> tuple[int, float]:
        """(tokens emitted when its turn ends, seconds until it comes back)."""
        end = 0
        for tokens, wait_s in self.request.turns:
            end += tokens
            if end > self.p:
                return end, wait_s
        return self.request.output_tokens, math.inf

    def leaves_at(self) -> int:
        """Tokens emitted when it next leaves the engine."""
        return int(min(self.turn_end()[0], self.stay_end))

    def key(self, block: int) -> Hashable:
        keys = self.request.keys
        return ("shared", keys[block]) if block < len(keys) else ("private", self.index, block)


class Engine:
    """The state of one replica and what happens to it from step to step.

    rollouts: all there are, here or not; by_number: those that come at one time are queued by number, or as they joined.
    """

    def __init__(self, rollouts: Sequence[Rollout], settings: Settings, by_number: bool = True) -> None:
        self.rollouts = rollouts
        self.settings = settings
        self.by_number = by_number
        self.pool = Pool(settings.num_gpu_blocks)
        self.coming: dict[Rollout, float] = {}
        self.waiting: deque[Rollout] = deque()
        self.running: list[Rollout] = []
        self.leaving: list[Rollout] = []  # done with their output, turn or stay; still of the running ones
        self.shares: list[Share] = []  # of the next step, where it is scheduled already
        self.victims: list[int] = []
        self.on = settings.patience == 0  # whether it drafts
        self.calm = 0
        self.log: list[Step] = []

    def begin(self, now_s: float, cost: Cost) -> Step | None:
        """Start a step, which is over once `release` is called; None with nothing to do."""
        if not self.form(now_s):
            return None
        work = self.work()
        return self.start(now_s, work, cost(work) + self.host_s(work))

    def host_s(self, work: Work) -> float:
        return host_s(work, self.shares, self.settings, self.budget())

    def budget(self) -> int:
        return self.settings.budget if self.on else 0

    def lookahead(self) -> int:
        return self.settings.lookahead_tokens if self.on else 0

    def dummy(self) -> Work:
        return dummy(replace(self.settings, lookahead_tokens=self.lookahead()))

    def switch(self) -> None:
        """A step is about to be scheduled: begin to draft with the last of so many in a row that find few running."""
        running = [rollout for rollout in self.running if rollout not in self.leaving]
        if self.on or not running:
            return
        self.calm = self.calm + 1 if len(running) <= self.settings.switch_live else 0
        self.on = self.calm >= self.settings.patience
        if self.on and self.settings.reprefill:
            for rollout in reversed(running):
                self.leave(rollout)
                self.waiting.appendleft(rollout)
            self.pool.forget()

    def form(self, now_s: float) -> bool:
        """Form the batch of a step that starts now, where it was not scheduled ahead; False with nothing to do."""
        if not self.shares:
            self.look(now_s)
            if not self.waiting and not self.running:
                self.on, self.calm = self.settings.patience == 0, 0
                return False
            self.switch()
            self.shares, more = self.schedule()
            self.victims = self.victims + more
            assert self.shares, f"stuck at {now_s} s: rollout {self.waiting[0].index} cannot be admitted, ever"
        return True

    def work(self) -> Work:
        """What the batch at hand computes."""
        return work_of(self.shares, self.settings.cudagraph_capture_sizes)

    def start(self, now_s: float, work: Work, dt_s: float) -> Step:
        """Start a step of the batch at hand."""
        shares, victims = self.shares, self.victims
        if self.settings.check:
            self.check(shares)
        assert 0.0 < dt_s < math.inf, f"a step must take time, not {dt_s} s"
        for share in shares:
            if math.isnan(self.rollouts[share.rollout].admitted_s):
                self.rollouts[share.rollout].admitted_s = now_s
        free = len(self.pool.free) if self.pool.limited else None
        emitted = sum(share.emitted for share in shares)
        step = Step(now_s, dt_s, work, emitted, len(victims), free, tuple(victims), tuple(shares))
        self.log.append(step)

        self.emit(shares, now_s + dt_s)
        self.shares, self.victims = [], []
        if self.settings.async_scheduling:
            self.look(now_s)
            self.switch()
            self.shares, self.victims = self.schedule()
        return step

    def look(self, now_s: float) -> None:
        """Queue what has arrived."""
        here = [(arrival_s, rollout.index) for rollout, arrival_s in self.coming.items() if arrival_s <= now_s]
        for _, index in sorted(here) if self.by_number else sorted(here, key=lambda item: item[0]):
            rollout = self.rollouts[index]
            del self.coming[rollout]
            self.waiting.append(rollout)
            if math.isnan(rollout.queued_s):
                rollout.queued_s = now_s

    def blocks(self, tokens: int) -> int:
        return math.ceil(tokens / self.settings.block_size)

    def schedule(self) -> tuple[list[Share], list[int]]:
        """(shares of the step, who was preempted for it)."""
        limit = self.settings.max_num_batched_tokens
        token_budget = math.inf if limit is None else limit
        shares: list[Share] = []
        victims: list[int] = []

        i = 0
        while i < len(self.running) and token_budget > 0:
            rollout = self.running[i]
            if rollout in self.leaving:
                i += 1
                continue
            wanted = 1 + self.draft(rollout) if rollout.decoding else rollout.needed() - rollout.computed
            take = int(min(wanted, token_budget))
            if self.settings.trees and rollout.decoding and take < wanted:
                take = 1
            slots = rollout.computed + take + self.lookahead()
            missing = max(0, self.blocks(slots) - len(rollout.table))
            while rollout in self.running and missing > self.pool.available():
                victims.append(self.preempt().index)
            if rollout not in self.running:
                break
            rollout.table += self.pool.allocate(missing)
            shares.append(self.share(rollout, take))
            token_budget -= take
            i += 1

        while not victims and self.waiting and token_budget > 0 and len(self.running) < self.settings.max_num_seqs:
            rollout = self.waiting[0]
            hits = self.hits(rollout)
            unreferenced = sum(self.pool.references[block] == 0 for block in hits)
            if self.settings.scheduler_reserve_full_isl:
                whole = self.blocks(rollout.needed()) - len(hits)
                if whole + unreferenced > self.pool.available():
                    break
            hit_tokens = len(hits) * self.settings.block_size
            computed = rollout.needed() - 1 if rollout.pulled else hit_tokens
            take = int(min(rollout.needed() - computed, token_budget))
            if not self.settings.enable_chunked_prefill and take < rollout.needed() - computed:
                break
            new = self.blocks(computed + take) - len(hits)  # no lookahead before anything is computed
            if new + unreferenced > self.pool.available():
                break
            for block in hits:
                self.pool.touch(block)
            rollout.table = hits + self.pool.allocate(new)
            rollout.computed = computed
            rollout.hit_tokens += hit_tokens
            if rollout.admissions > 0 or rollout.start > 0:
                rollout.recomputed += rollout.needed() - computed
            rollout.admissions += 1
            rollout.pulled = False
            self.running.append(self.waiting.popleft())
            shares.append(self.share(rollout, take))
            token_budget -= take
        return shares, victims

    def draft(self, rollout: Rollout) -> int:
        """Drafts go past an end that nobody knows, but leave room for one more token in the longest sequence there may be."""
        if not rollout.request.drafted:
            return 0
        room = self.longest() - rollout.needed() - 1
        wanted = min(self.budget(), rollout.request.drafted[rollout.p])
        if self.settings.trees and room < wanted:
            return 0
        return int(min(wanted, room))

    def longest(self) -> float:
        """Tokens that a sequence may have: as set, and no more than KV blocks hold, one of them being the null block."""
        most = math.inf if self.settings.max_model_len is None else self.settings.max_model_len
        if self.settings.num_gpu_blocks is None:
            return most
        held = (self.settings.num_gpu_blocks - 1) * self.settings.block_size - self.settings.lookahead_tokens
        return min(most, held)

    def hits(self, rollout: Rollout) -> list[int]:
        """The cached blocks that its tokens begin with; at least one token is left to compute."""
        found: list[int] = []
        while len(found) < (rollout.needed() - 1) // self.settings.block_size:
            block = self.pool.find(rollout.key(len(found)))
            if block is None:
                break
            found.append(block)
        return found

    def preempt(self) -> Rollout:
        victim = [rollout for rollout in self.running if rollout not in self.leaving][-1]
        self.leave(victim)
        victim.preemptions += 1
        self.waiting.appendleft(victim)
        return victim

    def leave(self, rollout: Rollout) -> None:
        self.running.remove(rollout)
        self.pool.release(rollout.table)
        rollout.table = []
        rollout.computed = 0
        rollout.decoding = False

    def share(self, rollout: Rollout, take: int) -> Share:
        """What the rollout does with so many query tokens; its blocks that they fill can be hit from here on."""
        accepted = emitted = 0
        if rollout.decoding:
            if rollout.request.accepted:
                accepted = min(self.budget(), rollout.request.accepted[rollout.p], take - 1)
            accepted = min(accepted, rollout.leaves_at() - rollout.p)
            emitted = min(accepted + 1, rollout.leaves_at() - rollout.p)
        elif rollout.computed + take == rollout.needed():
            emitted = 1
        if self.settings.enable_prefix_caching:
            for i in range(min(rollout.computed + take, rollout.needed()) // self.settings.block_size):
                self.pool.give_key(rollout.table[i], rollout.key(i))
        context = rollout.request.prompt_tokens + rollout.p
        return Share(rollout.index, rollout.computed, take, context, rollout.decoding, accepted, emitted)

    def emit(self, shares: Sequence[Share], now_s: float) -> None:
        for share in shares:
            rollout = self.rollouts[share.rollout]
            end, (turn_end, wait_s) = rollout.leaves_at(), rollout.turn_end()
            rollout.computed = rollout.needed() - 1 + share.emitted if share.decoding else share.computed + share.take
            rollout.p += share.emitted
            rollout.steps += share.emitted > 0
            rollout.drafted += share.take - 1 if share.decoding else 0
            rollout.accepted += share.accepted
            rollout.decoding = share.emitted > 0
            if share.emitted > 0 and math.isnan(rollout.first_token_s):
                rollout.first_token_s = now_s
            if rollout.p == end:
                self.leaving.append(rollout)
                if rollout.p == rollout.request.output_tokens:
                    rollout.finished_s = now_s
                elif rollout.p == turn_end:
                    self.coming[rollout] = now_s + wait_s
                    rollout.wait_s = wait_s
                    if rollout.p == rollout.stay_end:
                        rollout.stay_end = math.inf

    def release(self) -> None:
        """Let go of those that left with the last step."""
        for rollout in self.leaving:
            self.leave(rollout)
        self.leaving = []

    def check(self, shares: Sequence[Share]) -> None:
        """What must hold while a step runs."""
        pool, tables = self.pool, Counter(block for rollout in self.running for block in rollout.table)
        assert pool.references == {block: tables[block] for block in pool.references}, "references are table entries"
        assert sorted(pool.free) == [block for block in pool.references if tables[block] == 0], "free: unreferenced"
        listed = {block: key for key, blocks in pool.copies.items() for block in blocks}
        assert pool.key_of == listed, "a block is listed under its key"
        places = [*self.coming, *self.waiting, *self.running]
        assert len(set(places)) == len(places), "one place for each"
        assert not any(rollout.table for rollout in places if rollout not in self.running), "only running ones hold KV"
        assert len(self.running) <= self.settings.max_num_seqs, "more than max_num_seqs"
        assert sum(share.take for share in shares) <= (self.settings.max_num_batched_tokens or math.inf), "token budget"
        for share in shares:
            rollout = self.rollouts[share.rollout]
            assert rollout in self.running, "scheduled without running"
            assert share.take >= 1, "scheduled for nothing"
            assert share.computed + share.take <= len(rollout.table) * self.settings.block_size, "KV without a block"


def work_of(shares: Sequence[Share], capture_sizes: Sequence[int] | None) -> Work:
    """The shares of a step, added up."""
    decoding = [share for share in shares if share.decoding]
    prefill = [share for share in shares if not share.decoding]
    query_tokens = sum(share.take for share in shares)
    # An empty prompt computes one token (there is no KV of a prompt to read).
    prefill_kv = sum(share.computed + share.take if share.context > 0 else 0 for share in prefill)
    prefill_pairs = sum(share.take * share.computed + share.take * (share.take + 1) // 2 for share in prefill)
    return Work(
        live=len(shares),
        query_tokens=query_tokens,
        kv_tokens=prefill_kv + sum(share.context for share in decoding),
        pairs=prefill_pairs + sum(share.take * share.context for share in decoding),
        prefill_tokens=sum(share.take for share in prefill),
        prefill_seqs=len(prefill),
        prefill_kv_tokens=prefill_kv,
        prefill_pairs=prefill_pairs,
        longest_context=max((share.context for share in decoding), default=0),
        padded_tokens=padded(query_tokens, capture_sizes),
    )


def padded(query_tokens: int, capture_sizes: Sequence[int] | None) -> int:
    """The size that so many tokens run at: as they are where no graph is large enough."""
    return min((size for size in capture_sizes or () if size >= query_tokens), default=query_tokens)


def host_s(work: Work, shares: Sequence[Share], settings: Settings, budget: int) -> float:
    """Seconds of the host in a step that these shares take, where each may draft so many."""
    sizes, tokens = settings.cudagraph_capture_sizes, {share.take for share in shares}
    if sizes and work.query_tokens > max(sizes):
        return settings.step_overhead_s + settings.eager_step_s
    uneven = len(tokens) > 1 or any(not share.decoding for share in shares) or (budget > 0 and tokens == {1})
    return settings.step_overhead_s + settings.uneven_step_s if uneven else settings.step_overhead_s


def dummy(settings: Settings) -> Work:
    """What a rank without work computes while others step: one sequence of one token, and of as many drafts as are reserved."""
    tokens = 1 + settings.lookahead_tokens
    return Work(
        live=1,
        query_tokens=tokens,
        kv_tokens=1,
        pairs=tokens,
        prefill_tokens=0,
        prefill_seqs=0,
        prefill_kv_tokens=0,
        prefill_pairs=0,
        longest_context=1,
        padded_tokens=padded(tokens, settings.cudagraph_capture_sizes),
    )


def shared(works: Sequence[Work], capture_sizes: Sequence[int] | None) -> list[Work]:
    """What ranks compute that step together and share experts.

    Where a CUDA graph fits each of them, all run at the largest one's size; experts compute the tokens of all.
    """
    graphs = all(any(size >= work.query_tokens for size in capture_sizes or ()) for work in works)
    largest = max(work.padded_tokens for work in works)
    tokens = [largest if graphs else work.padded_tokens for work in works]
    mean = sum(tokens) / len(tokens)
    return [replace(work, padded_tokens=n, expert_tokens=mean) for work, n in zip(works, tokens, strict=True)]


def assert_servable(requests: Sequence[Request], settings: Settings) -> None:
    """AssertionError for a request that can never be served."""
    usable = math.inf if settings.num_gpu_blocks is None else settings.num_gpu_blocks - 1
    for i, request in enumerate(requests):
        assert len(request.keys) <= request.prompt_tokens // settings.block_size, (
            f"request {i}: a key without a full block"
        )
        most = max(request.prompt_tokens, 1) + request.output_tokens + settings.lookahead_tokens
        blocks = math.ceil(most / settings.block_size)
        assert blocks <= usable, f"request {i} needs up to {blocks} blocks, never has {usable}"


def simulate(requests: Sequence[Request], settings: Settings, cost: Cost) -> ServingResult:
    """Serve the requests to the last completion; AssertionError for those that can never be served."""
    assert_servable(requests, settings)
    rollouts = [Rollout(index, request) for index, request in enumerate(requests)]
    engine = Engine(rollouts, settings)
    engine.coming = {rollout: rollout.request.arrival_s for rollout in rollouts}
    now_s = 0.0
    while True:
        step = engine.begin(now_s, cost)
        if step is not None:
            engine.release()
            now_s += step.dt_s
        elif engine.coming:
            now_s = min(engine.coming.values())
        else:
            break
    assert all(rollout.p == rollout.request.output_tokens for rollout in rollouts), "lost"

    return ServingResult(
        queued_s=[rollout.queued_s for rollout in rollouts],
        admitted_s=[rollout.admitted_s for rollout in rollouts],
        first_token_s=[rollout.first_token_s for rollout in rollouts],
        finished_s=[rollout.finished_s for rollout in rollouts],
        preemptions=[rollout.preemptions for rollout in rollouts],
        hit_tokens=[rollout.hit_tokens for rollout in rollouts],
        steps=[rollout.steps for rollout in rollouts],
        drafted=[rollout.drafted for rollout in rollouts],
        accepted=[rollout.accepted for rollout in rollouts],
        log=engine.log,
        pool=engine.pool,
    )
