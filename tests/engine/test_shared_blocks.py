"""Which KV blocks of rollouts are equal, where it is recorded what they say: against all pairs."""

import random

import numpy as np
import pytest

from simulator.drafting.acceptance import Acceptance
from simulator.engine.workload import Workload, workload_of
from tests.drafting.rollouts import Case


def made(rng: random.Random) -> tuple[Workload, list[list[int]]]:
    """Rollouts of a small vocabulary, and each one's prompt and output together."""
    prompts = [rng.choices(range(2), k=rng.randint(1, 9)) for _ in range(3)]
    now = [[rng.choices(range(2), k=rng.randint(1, 14)) for _ in range(rng.randint(1, 5))] for _ in prompts]
    trace = Case(prompts, [[] for _ in prompts], now).trace()
    rows = np.arange(len(trace))
    lengths = trace.output_tokens.astype(np.int64)
    nothing = Acceptance(
        np.concatenate([[0], np.cumsum(lengths)]),
        lambda budget: np.zeros((int(lengths.sum()), 2), np.uint8),
        prefix=True,
    )
    texts = [[*prompt, *output] for prompt, group in zip(prompts, now, strict=True) for output in group]
    return workload_of(trace, rows, nothing, None, False), texts


def keys_of(workload: Workload, block_size: int) -> list[list[int]]:
    """Of each rollout the keys of its first blocks, those that others may have."""
    blocks, at, chain, per_entry = workload.shared_blocks(block_size, True)
    assert per_entry == 1
    return [chain[start : start + count].tolist() for start, count in zip(at, blocks, strict=True)]


@pytest.mark.parametrize("seed", range(40))
def test_blocks_have_one_key_where_all_up_to_their_end_is_equal(seed: int) -> None:
    rng = random.Random(seed)
    workload, texts = made(rng)
    size = rng.randint(1, 5)
    found = keys_of(workload, size)
    full = [[tuple(text[: end * size]) for end in range(1, len(text) // size + 1)] for text in texts]
    everywhere = [prefix for prefixes in full for prefix in prefixes]
    for prefixes, keys in zip(full, found, strict=True):
        shared = sum(everywhere.count(prefix) > 1 for prefix in prefixes)
        assert shared <= len(keys) <= shared + 1, "those that another rollout has too, and where they part"
    names = [
        (prefix, key)
        for prefixes, keys in zip(full, found, strict=True)
        for prefix, key in zip(prefixes, keys, strict=False)
    ]
    assert len({prefix for prefix, _ in names}) == len({key for _, key in names}) == len(set(names))


def test_copies_of_a_rollout_share_nothing() -> None:
    workload, _ = made(random.Random(1))
    tokens = int(workload.output_tokens[0])
    nothing = Acceptance(tokens * np.arange(3), lambda budget: np.zeros((2 * tokens, 2), np.uint8), True)
    twice = workload.taken(np.array([0, 0]), nothing)
    assert keys_of(twice, 2) == [[], []]
    assert twice.shared_blocks(2, False)[0].tolist() == [0, 0]
