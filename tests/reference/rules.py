"""Published budget policies in plain Python, rollout by rollout: asked every decode step, and remembering what they saw."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.reference.engine import Cost


@dataclass(frozen=True)
class Seen:
    """One replica's batch at the start of a decode step; entries in order of admission, counts since admission."""

    replica: int
    step: int
    time_s: float
    rollouts: tuple[int, ...]
    prompts: tuple[int, ...]
    samples: tuple[int, ...]
    context: tuple[int, ...]
    emitted: tuple[int, ...]
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]


Rule = Callable[[Seen], list[int]]
Prices = Callable[[int, int, int, float], float]
"""(live, drafts of each, context tokens of the batch, emitted tokens of the batch) -> seconds of the decode step."""


def ranges(schedule: Sequence[tuple[int, int, int]]) -> Rule:
    """The budget of the last (low, high, budget) that begins at or below the batch size."""
    return lambda seen: [[k for low, _, k in schedule if low <= len(seen.rollouts)][-1]] * len(seen.rollouts)


def bucket_map(bounds: Sequence[int], budgets: Sequence[int], most: int) -> Rule:
    def rule(seen: Seen) -> list[int]:
        live = len(seen.rollouts)
        return [0 if live > most else budgets[sum(bound <= live for bound in bounds) - 1]] * live

    return rule


def prices(cost: Cost, draft_cost: Mapping[str, float]) -> Prices:
    """A decode step of `live` sequences that draft `k` tokens each: verification, and drafting where k > 0."""

    seconds = tree_prices(cost, draft_cost)
    return lambda live, k, context, emitted: seconds(live, k, k, context, emitted)


def tree_prices(cost: Cost, draft_cost: Mapping[str, float]) -> Callable[[int, int, int, int, float], float]:
    """The same of trees of `k` tokens each, `n` passes deep: (live, k, n, context, emitted) -> seconds."""

    def seconds(live: int, k: int, n: int, context: int, emitted: float) -> float:
        verify = cost(live, live * (k + 1), context, context * (k + 1), 0)
        if k == 0:
            return verify
        given = {name: draft_cost.get(name, 0.0) for name in DRAFT_COSTS}
        passes = n * (given["per_pass_s"] + given["per_pass_kv_token_s"] * context) + given["per_kv_token_s"] * context
        each = live * given["per_query_s"] + live * k * given["per_drafted_token_s"]
        return verify * (1 + given["step_fraction"]) + given["per_step_s"] + passes + each + (
            given["per_emitted_token_s"] * emitted
        )  # fmt: skip

    return seconds


DRAFT_COSTS = (
    "per_step_s", "per_query_s", "per_pass_s", "per_pass_kv_token_s", "per_drafted_token_s", "per_emitted_token_s",
    "step_fraction", "per_kv_token_s",
)  # fmt: skip


class Aimd:
    """Windows by rollout: a step that emits more than the window was accepted whole."""

    def __init__(self, variant: str, start: int, cap: int) -> None:
        self.variant, self.start, self.cap = variant, start, cap
        self.window: dict[int, int] = {}
        self.emitted: dict[int, int] = {}

    def __call__(self, seen: Seen) -> list[int]:
        for rollout, emitted in zip(seen.rollouts, seen.emitted, strict=True):
            window = self.window.setdefault(rollout, self.start)
            gained = emitted - self.emitted.get(rollout, emitted)
            if gained > window:
                self.window[rollout] = min(window + 2 if self.variant == "add" else 2 * window, self.cap)
            elif gained > 0:
                self.window[rollout] = self.start if self.variant == "add" else max(window // 2, self.start)
            self.emitted[rollout] = emitted
        return [self.window[rollout] for rollout in seen.rollouts]


class Adaptive:
    """Lengths by rollout: a moving average of its drafts, more after one that was accepted whole."""

    def __init__(self, low: int, high: int, rho: float, delta: int, average: bool) -> None:
        self.low, self.high, self.rho, self.delta, self.average = low, high, rho, delta, average
        self.averages: dict[int, tuple[float, float]] = {}
        self.length: dict[int, int] = {}
        self.before: dict[int, tuple[int, int]] = {}

    def __call__(self, seen: Seen) -> list[int]:
        for rollout, emitted, drafted in zip(seen.rollouts, seen.emitted, seen.drafted, strict=True):
            tokens, drafts = self.before.get(rollout, (emitted, drafted))
            generated, accepted = drafted - drafts, emitted - tokens - 1
            self.before[rollout] = (emitted, drafted)
            self.length.setdefault(rollout, self.high)
            if generated == 0:
                continue
            g, a = self.averages.get(rollout, (0.0, 0.0))
            g, a = (1 - self.rho) * g + self.rho * generated, (1 - self.rho) * a + self.rho * accepted
            self.averages[rollout] = (g, a)
            grows = a >= g if self.average else accepted >= generated
            self.length[rollout] = min(max(math.floor(g) + (self.delta if grows else 0), self.low), self.high)
        return [self.length[rollout] for rollout in seen.rollouts]


class _Learning:
    """What a replica's last steps did, rollout by rollout. Replicas learn of each other's batches when those have changed."""

    def __init__(self) -> None:
        self.noted: dict[int, tuple[int, int]] = {}
        self.last: dict[int, tuple[int, dict[int, tuple[int, int]]]] = {}

    def steps(self, seen: Seen) -> tuple[list[tuple[int, int, int]], bool]:
        """((emitted, drafted, accepted) of each rollout that was in the last step and still is), has any just joined."""
        step, before = self.last.get(seen.replica, (seen.step, {}))
        now = dict(zip(seen.rollouts, zip(seen.context, seen.drafted, strict=True), strict=True))
        if list(now) != list(before):
            self.noted |= before
            before = self.noted
        self.last[seen.replica] = (seen.step, now)
        found = []
        for rollout in filter(before.__contains__, now):
            emitted, drafted = (after - then for after, then in zip(now[rollout], before[rollout], strict=True))
            found.append((emitted, drafted, max(emitted - 1, 0)))
        return found if step != seen.step else [], not now.keys() <= before.keys()


class _Rate(_Learning):
    """Acceptance rate by replica: accepted / (accepted + cut short) of an interval, then a moving average."""

    def __init__(self, start: float, weight: float) -> None:
        super().__init__()
        self.start, self.weight = start, weight
        self.rate: dict[int, float] = {}
        self.tested: dict[int, list[bool]] = {}

    def observe(self, seen: Seen) -> bool:
        """Whether any has just joined."""
        tested, (steps, joined) = self.tested.setdefault(seen.replica, []), self.steps(seen)
        for emitted, drafted, accepted in steps:
            tested += [True] * accepted + [False] * (emitted > 0 and drafted > accepted)
        return joined

    def end_interval(self, replica: int) -> float:
        rate, tested = self.rate.get(replica, self.start), self.tested[replica]
        if tested:
            rate = (1 - self.weight) * rate + self.weight * tested.count(True) / len(tested)
        self.rate[replica], self.tested[replica] = rate, []
        return rate


def expected_tokens(acceptance: float, k: int) -> float:
    return (1 - acceptance ** (k + 1)) / (1 - acceptance) if acceptance < 1 else k + 1.0


class Goodput:
    def __init__(self, price: Prices, most: int, interval: int, start: float, weight: float) -> None:
        self.price, self.most, self.interval = price, most, interval
        self.rate = _Rate(start, weight)
        self.decided: dict[int, tuple[int, int]] = {}

    def __call__(self, seen: Seen) -> list[int]:
        self.rate.observe(seen)
        live, context = len(seen.rollouts), sum(seen.context)
        at, _ = self.decided.get(seen.replica, (-math.inf, 0))
        if seen.step - at >= self.interval:
            a = self.rate.end_interval(seen.replica)
            goods = []
            for k in range(self.most + 1):
                tokens = live * expected_tokens(a, k)
                goods.append(tokens / self.price(live, k, context, tokens))
            self.decided[seen.replica] = (seen.step, goods.index(max(goods)))
        return [self.decided[seen.replica][1]] * live


class Bandit:
    """`draw(replica, step)` gives two numbers in [0, 1): whether to explore, and which."""

    def __init__(
        self, strategies: Sequence[int], bounds: Sequence[int], epsilon: float, window: int,
        draw: Callable[[int, int], tuple[float, float]],
    ) -> None:  # fmt: skip
        self.strategies, self.bounds, self.epsilon, self.window = strategies, bounds, epsilon, window
        self.draw = draw
        self.rewards: dict[tuple[int, int, int], list[float]] = {}
        self.chosen: dict[int, tuple[tuple[int, int, int], int, float] | None] = {}
        self.learning: dict[int, _Learning] = {}

    def __call__(self, seen: Seen) -> list[int]:
        live = len(seen.rollouts)
        steps, joined = self.learning.setdefault(seen.replica, _Learning()).steps(seen)
        chosen = self.chosen.get(seen.replica)
        if chosen and steps:
            key, batch, time_s = chosen
            mean = sum(emitted for emitted, _, _ in steps) / len(steps)
            self.rewards.setdefault(key, []).append(mean * batch / (seen.time_s - time_s))
        bucket = max(i for i, bound in enumerate(self.bounds) if bound <= live)
        coin, pick = self.draw(seen.replica, seen.step)
        if coin < self.epsilon:
            which = int(pick * len(self.strategies))
        else:
            rewards = [self.rewards.get((seen.replica, bucket, i), []) for i in range(len(self.strategies))]
            medians = [statistics.median(found[-self.window :]) if found else math.inf for found in rewards]
            which = medians.index(max(medians))
        self.chosen[seen.replica] = None if joined else ((seen.replica, bucket, which), live, seen.time_s)
        return [self.strategies[which]] * live


class Seer:
    """`high(seen)` says which rollouts have priority; asked when shares are decided, one is new, or fewer or more run."""

    def __init__(
        self, price: Prices, high: Callable[[Seen], list[bool]], most: int, factor: float, interval: int, start: float,
        weight: float,
    ) -> None:  # fmt: skip
        self.price, self.high, self.most, self.factor, self.interval = price, high, most, factor, interval
        self.rate = _Rate(start, weight)
        self.decided: dict[int, tuple[int, tuple[int, int]]] = {}
        self.priority: dict[int, list[bool]] = {}

    def __call__(self, seen: Seen) -> list[int]:
        joined = self.rate.observe(seen)
        live, context = len(seen.rollouts), sum(seen.context)
        at, _ = self.decided.get(seen.replica, (-math.inf, (0, 0)))
        due = seen.step - at >= self.interval
        if due or joined or len(self.priority[seen.replica]) != live:
            self.priority[seen.replica] = self.high(seen)
        high = self.priority[seen.replica]
        if due:
            a = self.rate.end_interval(seen.replica)
            per_token = []
            for k in range(self.most + 1):
                tokens = expected_tokens(a, k)
                per_token.append(self.price(live, k, context, live * tokens) / tokens)
            best = per_token.index(min(per_token))
            shares = marginal_split(high.count(True), high.count(False), best, a, self.most, self.factor)
            self.decided[seen.replica] = (seen.step, shares)
        drafts_high, drafts_low = self.decided[seen.replica][1]
        return [drafts_high if first else drafts_low for first in high]


def marginal_split(high: int, low: int, best: int, a: float, most: int, factor: float) -> tuple[int, int]:
    """Seer's Algorithm 1, lines 3 to 19, with beta[i] = a^i."""
    budget = best * (high + low)
    if budget < high:
        return 0, 0
    gamma_high, gamma_low, left = 1, 0, budget - high
    while left > 0:
        gain_high = high * (a**gamma_high - a ** (gamma_high + 1))
        gain_low = low * (a**gamma_low - a ** (gamma_low + 1))
        if gain_high > factor * gain_low and gamma_high < most and left >= high:
            gamma_high, left = gamma_high + 1, left - high
        elif low and gamma_low < most and left >= low:
            gamma_low, left = gamma_low + 1, left - low
        else:
            break
    return gamma_high, gamma_low


def moving_average(lengths: Sequence[int], weight: float) -> float | None:
    mean: float | None = None
    for length in lengths:
        mean = length if mean is None else (1 - weight) * mean + weight * length
    return mean


class TreeGoodput:
    """One of several trees for all, or none: (tokens to verify, longest path, passes, measured mean accepted) of each.

    What was accepted lately, as a share of the measured means, holds for all of them.
    """

    def __init__(
        self, price: Callable[[int, int, int, int, float], float], trees: Sequence[tuple[int, int, int, float]],
        interval: int, weight: float,
    ) -> None:  # fmt: skip
        self.price, self.trees = price, [(0, 0, 0, 0.0), *trees]
        self.interval, self.weight = interval, weight
        self.learning: dict[int, _Learning] = {}
        self.share: dict[int, float] = {}
        self.sums: dict[int, tuple[int, float]] = {}
        self.decided: dict[int, tuple[int, int]] = {}

    def __call__(self, seen: Seen) -> list[int]:
        steps, _ = self.learning.setdefault(seen.replica, _Learning()).steps(seen)
        accepted, expected = self.sums.get(seen.replica, (0, 0.0))
        at, budget = self.decided.get(seen.replica, (-math.inf, 0))
        mean = next(mean for verify, _, _, mean in self.trees if verify == budget)
        accepted += sum(right for _, _, right in steps)
        expected += mean * sum(drafted > 0 for _, drafted, _ in steps)
        live, share = len(seen.rollouts), self.share.get(seen.replica, 1.0)
        if seen.step - at >= self.interval:
            if expected:
                share += self.weight * (accepted / expected - share)
                accepted, expected = 0, 0.0
            goods = []
            for verify, longest, passes, mean in self.trees:
                tokens = live * (1 + min(share * mean, longest))
                goods.append(tokens / self.price(live, verify, passes, sum(seen.context), tokens))
            budget = self.trees[goods.index(max(goods))][0]
            self.decided[seen.replica] = (seen.step, budget)
        self.share[seen.replica], self.sums[seen.replica] = share, (accepted, expected)
        return [budget] * live
