"""A replica's KV cache in blocks, as vLLM V1 keeps it: reference counts, a free queue, and blocks that are found by key.

A block that nobody refers to waits in the free queue and keeps its key, so that whoever asks for that key before the block
is needed elsewhere gets it back. Block 0 is vLLM's null block; here it is both ends of the free queue.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# fields of `Pool.facts`: tokens per block, whether blocks are found by key, tokens reserved ahead, whether a rollout is
# admitted only if its whole prompt fits, blocks that one entry of `chain` stands for; free blocks, free lines
BLOCK_SIZE, CACHING, LOOKAHEAD, WHOLE, PER_ENTRY, FREE, FREE_LINES = range(7)
NEXT, PREVIOUS = range(2)
# rows of `Pool.rollouts`: leading blocks of the prompt that have shared keys, where those begin in `chain`, and the
# first key of its own
SHARED, CHAIN, OWN = range(3)
NO_KEY = -1


class Pool(NamedTuple):
    """Arrays of one replica's block pool.

    facts: int64[7]; queue: int32[2, blocks], next and previous in the free queue; refs: int32[blocks]; keys:
    int64[blocks], the key under which a block is found; cached: int32[keys], the block found by a key, 0 for none; twins:
    int32[blocks], the next block with the same key, which is found when the ones before it are gone; lines:
    int32[lines, blocks of the longest rollout], block tables; spare: int32[lines], those that are free; chain: int64[],
    first keys of shared prompt blocks; rollouts: int64[3, n].
    """

    facts: Int64
    queue: Int32
    refs: Int32
    keys: Int64
    cached: Int32
    twins: Int32
    lines: Int32
    spare: Int32
    chain: Int64
    rollouts: Int64


NO_POOL = Pool(
    np.zeros(7, np.int64), np.zeros((2, 1), np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int32),
    np.zeros(1, np.int32), np.zeros((1, 1), np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros((3, 1), np.int64),
)  # fmt: skip


@njit(cache=True)
def key_of(pool, rollout, block):  # type: ignore[no-untyped-def]
    """Key of the rollout's block: that of its prompt where it is shared, else its own."""
    shared = pool.rollouts[SHARED, rollout]
    if block < shared:
        per = pool.facts[PER_ENTRY]
        return pool.chain[pool.rollouts[CHAIN, rollout] + block // per] + block % per
    return pool.rollouts[OWN, rollout] + block - shared


@njit(cache=True)
def leave_queue(pool, block):  # type: ignore[no-untyped-def]
    """Take a block out of the free queue."""
    after, before = pool.queue[NEXT, block], pool.queue[PREVIOUS, block]
    pool.queue[NEXT, before] = after
    pool.queue[PREVIOUS, after] = before
    pool.facts[FREE] -= 1


@njit(cache=True)
def forget(pool, block):  # type: ignore[no-untyped-def]
    """Let a block no longer be found."""
    key = pool.keys[block]
    if pool.cached[key] == block:
        pool.cached[key] = pool.twins[block]
    else:
        before = pool.cached[key]
        while pool.twins[before] != block:
            before = pool.twins[before]
        pool.twins[before] = pool.twins[block]
    pool.keys[block] = NO_KEY
    pool.twins[block] = 0


@njit(cache=True)
def extend(pool, line, held, wanted):  # type: ignore[no-untyped-def]
    """Allocate blocks to a line until it holds `wanted`, from the head of the free queue; whether there were enough."""
    if wanted - held > pool.facts[FREE]:
        return False
    for index in range(held, wanted):
        block = pool.queue[NEXT, 0]
        leave_queue(pool, block)
        if pool.keys[block] != NO_KEY:
            forget(pool, block)
        pool.refs[block] = 1
        pool.lines[line, index] = block
    return True


@njit(cache=True)
def release(pool, line, held):  # type: ignore[no-untyped-def]
    """Give back a line and its blocks, the last one first: the beginning of a rollout stays longest."""
    for index in range(held - 1, -1, -1):
        block = pool.lines[line, index]
        pool.refs[block] -= 1
        if pool.refs[block] == 0:
            last = pool.queue[PREVIOUS, 0]
            pool.queue[NEXT, last] = block
            pool.queue[PREVIOUS, block] = last
            pool.queue[NEXT, block] = 0
            pool.queue[PREVIOUS, 0] = block
            pool.facts[FREE] += 1
    pool.spare[pool.facts[FREE_LINES]] = line
    pool.facts[FREE_LINES] += 1


@njit(cache=True)
def found(pool, rollout, tokens):  # type: ignore[no-untyped-def]
    """Leading full blocks of the rollout that are cached (one token is always computed), and how many of them are free."""
    hits = free = 0
    if pool.facts[CACHING]:
        for index in range((tokens - 1) // pool.facts[BLOCK_SIZE]):
            block = pool.cached[key_of(pool, rollout, index)]
            if block == 0:
                break
            hits += 1
            free += pool.refs[block] == 0
    return hits, free


@njit(cache=True)
def take_in(pool, rollout, hits, blocks):  # type: ignore[no-untyped-def]
    """Give a rollout a line of `blocks` blocks, the first `hits` of them found in the cache; returns the line."""
    pool.facts[FREE_LINES] -= 1
    line = pool.spare[pool.facts[FREE_LINES]]
    for index in range(hits):
        block = pool.cached[key_of(pool, rollout, index)]
        if pool.refs[block] == 0:
            leave_queue(pool, block)
        pool.refs[block] += 1
        pool.lines[line, index] = block
    extend(pool, line, hits, blocks)
    return line


@njit(cache=True)
def publish(pool, rollout, line, start, stop):  # type: ignore[no-untyped-def]
    """Let the line's full blocks from `start` to `stop` be found by key, after those with the same key."""
    if not pool.facts[CACHING]:
        return
    for index in range(start, stop):
        block, key = pool.lines[line, index], key_of(pool, rollout, index)
        if pool.keys[block] != NO_KEY:
            continue
        pool.keys[block] = key
        last = pool.cached[key]
        if last == 0:
            pool.cached[key] = block
            continue
        while pool.twins[last] != 0:
            last = pool.twins[last]
        pool.twins[last] = block


def make_pool(
    num_gpu_blocks: int, block_size: int, caching: bool, lookahead_tokens: int, whole: bool, most_lines: int,
    longest: int, keys: int, chain: Int64, per_entry: int, rollouts: Int64,
) -> Pool:  # fmt: skip
    """Return an empty pool; `longest` is the blocks of the longest rollout, `keys` how many keys there are."""
    blocks = np.arange(num_gpu_blocks, dtype=np.int32)
    return Pool(
        np.array([block_size, caching, lookahead_tokens, whole, per_entry, num_gpu_blocks - 1, most_lines], np.int64),
        np.stack([np.roll(blocks, -1), np.roll(blocks, 1)]),
        np.zeros(num_gpu_blocks, np.int32),
        np.full(num_gpu_blocks, NO_KEY, np.int64),
        np.zeros(max(keys, 1), np.int32),
        np.zeros(num_gpu_blocks, np.int32),
        np.empty((most_lines, longest), np.int32),
        np.arange(most_lines, dtype=np.int32),
        chain,
        rollouts,
    )


def check_pool(pool: Pool, lines: Int64, held: Int64) -> None:
    """Assert that references, the free queue and the keys agree with the block tables in use."""
    blocks = [pool.lines[line, :count] for line, count in zip(lines, held, strict=True)]
    refs = np.bincount(np.concatenate([*blocks, np.empty(0, np.int32)]), minlength=pool.refs.size)
    assert (refs == pool.refs).all(), "a block is referred to by those who hold it"
    assert refs[0] == 0, "nobody holds the null block"
    queue, block = [], int(pool.queue[NEXT, 0])
    while block:
        queue.append(block)
        assert pool.queue[PREVIOUS, pool.queue[NEXT, block]] == block
        block = int(pool.queue[NEXT, block])
        assert len(queue) <= pool.refs.size
    assert len(queue) == pool.facts[FREE] == (refs[1:] == 0).sum(), "every other block is free"
    assert (pool.refs[queue] == 0).all()
    assert pool.spare.size - pool.facts[FREE_LINES] == lines.size, "every line is held or free"
    keyed = np.flatnonzero(pool.keys != NO_KEY)
    listed = 0
    for block in pool.cached[pool.cached > 0].tolist():
        key = pool.keys[block]
        while block:
            assert pool.keys[block] == key, "a block is found by its key"
            listed, block = listed + 1, int(pool.twins[block])
    assert listed == keyed.size
    assert not pool.twins[pool.keys == NO_KEY].any()
