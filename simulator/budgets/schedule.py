"""A budget by batch size, as vLLM's `num_speculative_tokens_per_batch_size` has it."""

from dataclasses import replace

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy, by_live
from simulator.spec import BUDGET, pairs, refuse, whole

BATCH = whole(1)


def schedule(argument: str, context: Context) -> TablePolicy:
    """Drafts by batch size, from ranges: `schedule:1-16=3,32-128=2,129-4096=0`; gaps keep the budget below them."""
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


def _range(argument: str, key: str, value: str) -> tuple[int, int, int]:
    low, dash, high = key.partition("-")
    try:
        first, last, budget = BATCH(low), BATCH(high if dash else low), BUDGET(value)
    except ValueError as error:
        refuse("schedule", argument, f"has {key[:40]}={value[:40]}: write LOW-HIGH=K ({error})")
    if last < first:
        refuse("schedule", argument, f"has range {key}: give the smaller batch size first")
    return first, last, budget
