"""Prompt lookup and the last rollout as drafters, by search through plain lists."""

from collections.abc import Mapping, Sequence

Tokens = Sequence[int]
Slot = tuple[str, int]  # prompt_id, sample


def draft_ngram(context: Tokens, min_n: int, max_n: int, budget: int) -> list[int]:
    """What followed the longest n-gram that both ends the context and begins earlier, at its first occurrence."""
    context = list(context)
    for n in range(max_n, min_n - 1, -1):
        for begin in range(len(context) - n):
            if context[begin : begin + n] == context[len(context) - n :]:
                return context[begin + n :][:budget]
    return []


def draft_last(previous: Tokens | None, output: Tokens, resync: bool, min_match: int, budget: int) -> list[int]:
    """What the slot's previous rollout says after the output so far, or else after the longest match nearest by."""
    previous, p = list(previous or []), len(output)
    if p < len(previous) and previous[:p] == list(output):
        return previous[p:][:budget]
    for length in range(p if resync else 0, min_match - 1, -1):
        ends = [e for e in range(length, len(previous)) if previous[e - length : e] == list(output[p - length :])]
        if ends:
            return previous[min(ends, key=lambda e: (abs(e - p), e)) :][:budget]
    return []


def previous_of(slot: Slot, steps: Sequence[Mapping[Slot, list[int]]]) -> list[int] | None:
    """The slot's rollout in the latest of the past RL steps, oldest first, that has one."""
    return next((step[slot] for step in reversed(steps) if slot in step), None)


def measured(draft: Tokens, ahead: Tokens) -> tuple[int, int]:
    """(accepted, drafted) of a draft for a rollout with the tokens `ahead` to come; what lies behind them is in vain."""
    right = 0
    while right < min(len(draft), len(ahead)) and draft[right] == ahead[right]:
        right += 1
    return right, len(draft)
