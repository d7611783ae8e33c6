"""Budgets in plain Python: the built-in policies, and the DAS optimum and classes by brute force."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from tests.reference.engine import Policy, View

UNLIMITED = 255
SHORT, MEDIUM, LONG = 0, 1, 2


def none(view: View) -> list[int]:
    return [0] * view.live


def unlimited(view: View) -> list[int]:
    return [UNLIMITED] * view.live


def fixed(budget: int) -> Policy:
    return lambda view: [budget] * view.live


def threshold(budget: int, max_live: int) -> Policy:
    """Draft only while at most `max_live` rollouts are live."""
    return lambda view: [budget if view.live <= max_live else 0] * view.live


def class_table(
    rows: Sequence[int],
    boundaries: Sequence[Sequence[int]],
    budgets: Sequence[Sequence[int | Sequence[int]]],
) -> Policy:
    """budgets[row][stage], or budgets[row][stage][live] where it depends on the batch.

    The row is the rollout's own; the stage is how many of the row's boundaries its emitted tokens have reached.
    """

    def policy(view: View) -> list[int]:
        chosen = []
        for rollout, emitted in zip(view.rollouts, view.emitted_tokens, strict=True):
            row = rows[rollout]
            stage = bisect_right(boundaries[row], emitted)
            cell = budgets[row][stage]
            chosen.append(cell if isinstance(cell, int) else cell[view.live])
        return chosen

    return policy


def accepted_tokens(drafted: float, length: float, alpha: float, k: float) -> float:
    """DAS Eq. 3: k l (1 - exp(-alpha p / l)), tokens accepted over a rollout of p drafted."""
    return -k * length * math.expm1(-alpha * drafted / length)


def achieved_steps(
    drafted: Sequence[float], lengths: Sequence[float], alpha: Sequence[float], k: Sequence[float]
) -> float:
    """N: forward passes that the slowest rollout still needs."""
    rollouts = zip(drafted, lengths, alpha, k, strict=True)
    return max(length - accepted_tokens(p, length, a, c) for p, length, a, c in rollouts)


def drafted_for(steps: float, length: float, alpha: float, k: float) -> float:
    """The fewest drafted tokens that bring a rollout down to `steps` passes, by bisection; inf where none do."""
    needed = length - steps
    if needed <= 0.0:
        return 0.0
    low, high = 0.0, length / alpha
    while accepted_tokens(high, length, alpha, k) < needed:
        high *= 2.0
        if math.isinf(high):
            return math.inf
    for _ in range(100):
        middle = 0.5 * (low + high)
        if accepted_tokens(middle, length, alpha, k) < needed:
            low = middle
        else:
            high = middle
    return high


def optimum(
    lengths: Sequence[float], alpha: Sequence[float], k: Sequence[float], c_base: float, c_tok: float
) -> tuple[float, list[float], float]:
    """(N, p by rollout, J(N)) at the least J(N) = c_base N + c_tok sum p(N), by golden section: J is convex in N.

    The least J is found to rounding; N itself only to about 1e-7 of its size, J being flat there.
    """

    def drafted(steps: float) -> list[float]:
        return [drafted_for(steps, *rollout) for rollout in zip(lengths, alpha, k, strict=True)]

    def objective(steps: float) -> float:
        return c_base * steps + c_tok * sum(drafted(steps))

    low = max(length * (1.0 - capacity) for length, capacity in zip(lengths, k, strict=True))
    high = max(lengths)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(100):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if objective(left) <= objective(right):
            high = right
        else:
            low = left
    steps = min((low, high, float(max(lengths))), key=objective)
    return steps, drafted(steps), objective(steps)


def survival_class(history_lengths_by_row: Sequence[Sequence[int]], thresholds: tuple[int, int]) -> list[list[int]]:
    """By row and tokens emitted t = 0 .. the row's longest: the likeliest final class of its rollouts longer than t.

    Short < thresholds[0] <= Medium < thresholds[1] <= Long. Ties go to the longer class, and where no rollout of the
    row was longer than t it is Long, as it stays for every later t.
    """
    table = []
    for lengths in history_lengths_by_row:
        row = []
        for t in range(max(lengths, default=0) + 1):
            survivors = [final_class(length, thresholds) for length in lengths if length > t]
            row.append(max((LONG, MEDIUM, SHORT), key=survivors.count))  # the first of equals: the longest
        table.append(row)
    return table


def final_class(length: int, thresholds: tuple[int, int]) -> int:
    return SHORT if length < thresholds[0] else MEDIUM if length < thresholds[1] else LONG
