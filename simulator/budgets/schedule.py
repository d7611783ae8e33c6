"""A budget by batch size, as vLLM's `num_speculative_tokens_per_batch_size` has it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy, by_live
from simulator.limits import LARGEST_BUDGET
from simulator.spec import BUDGET, pairs, refuse, whole
from simulator.strict_yaml import load_value
from traces.errors import InputError

BATCH = whole(1)
BY_BATCH, MOST = "num_speculative_tokens_per_batch_size", "num_speculative_tokens"
"""vLLM's keys: the ranges, and what it caps every K at."""

Range = tuple[int, int, int]
"""Smallest and largest batch size, and their budget."""


def schedule(argument: str, context: Context) -> TablePolicy:
    """Drafts by batch size, from ranges, also as vLLM's list [[1,16,3],[32,128,2]]; gaps keep the budget below them."""
    if argument.lstrip()[:1] in ("[", "{"):
        ranges = _from_vllm(argument)
    else:
        ranges = [_range(argument, key, value) for key, value in pairs("schedule", argument)]
    if not ranges or ranges[0][0] != 1:
        refuse("schedule", argument, "must start with batch size 1, such as schedule:1-16=3,32-128=2,129-4096=0")
    budgets = [ranges[0][2]]
    last = 0
    for low, high, budget in ranges:
        if low <= last:
            refuse("schedule", argument, f"gives batch size {low} after {last}: ascending ranges that do not overlap")
        if low <= context.max_num_seqs:
            budgets += [budgets[-1]] * (low - 1 - last)
            budgets += [budget] * (min(high, context.max_num_seqs) - low + 1)
        last = high
    return replace(by_live(budgets), trailing=True)  # drafts are made as a step ends, and verified by the next one


def _range(argument: str, key: str, value: str) -> Range:
    low, dash, high = key.partition("-")
    try:
        first, last, budget = BATCH(low), BATCH(high if dash else low), BUDGET(value)
    except ValueError as error:
        refuse("schedule", argument, f"has {key[:40]}={value[:40]}: write LOW-HIGH=K ({error})")
    return _ascending(argument, first, last, budget)


def _ascending(argument: str, first: int, last: int, budget: int) -> Range:
    if last < first:
        refuse("schedule", argument, f"has range {first}-{last}: give the smaller batch size first")
    return first, last, budget


def _from_vllm(argument: str) -> list[Range]:
    """Read vLLM's list of [batch from, to, K], alone or under its key, there with the most that a K may be."""
    try:
        given = load_value(argument)
    except InputError as error:
        refuse("schedule", argument, f"is no list as vLLM has it: {error}")
    most = LARGEST_BUDGET
    if isinstance(given, dict):
        if strange := [key for key in given if key not in (BY_BATCH, MOST)]:
            refuse("schedule", argument, f"has key {strange[0]!r}: give {BY_BATCH}, and {MOST} if you like; "
                   "the rest of a speculative config is --drafter's")  # fmt: skip
        most = _whole(argument, f"{MOST} = ", given.get(MOST, most))
        given = given.get(BY_BATCH)
    if not isinstance(given, list):
        refuse(
            "schedule",
            argument,
            f"has no list of [batch from, to, K]: write [[1,4,2],[5,512,0]], or {{{BY_BATCH}: [[...]]}}",
        )
    return [_triple(argument, one, most) for one in given]


def _triple(argument: str, one: Any, most: int) -> Range:
    if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 3:
        refuse("schedule", argument, f"has {one!r:.40}: write [batch from, to, K], such as [1,4,2]")
    first, last, budget = (_whole(argument, f"{one!r:.40}: ", number) for number in one)
    if first < 1 or budget > LARGEST_BUDGET:
        refuse("schedule", argument, f"has {one!r:.40}: batch sizes from 1, K from 0 to {LARGEST_BUDGET}")
    return _ascending(argument, first, last, min(budget, most))


def _whole(argument: str, where: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        refuse("schedule", argument, f"has {where}{number!r:.20} is not a whole number: give one from 0")
    return int(number)
