"""A replica's KV cache in blocks, as vLLM V1 keeps it: reference counts, a free queue, and blocks that are found by key.

A block that nobody refers to waits in the free queue and keeps its key, so that whoever asks for that key before the block
is needed elsewhere gets it back. All of it lies in one array, because compiled code pays for every array that it hands on:

    pool[0:FIELDS]        the fields below; those that end in _AT say where a section begins
    NEXT, PREVIOUS        int[blocks], in the free queue; block 0, vLLM's null block, is both ends of it
    REFS                  int[blocks], who refers to it
    KEYS                  int[blocks], under which key it is found, -1 for none
    TWINS                 int[blocks], the next block with the same key, which is found when those before it are gone
    CACHED                int[keys], the block found by a key, 0 for none
    LINES                 int[lines, LINE_WIDTH], block tables of running rollouts; SPARE: int[lines], those that are free
    CHAIN                 int[], first keys of shared prompt blocks
    SHARED, CHAIN_OF, OWN int[rollouts] each: leading blocks with shared keys, where those begin in the chain, and the first
                          key of its own
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled

Int64 = npt.NDArray[np.int64]

# tokens per block, whether blocks are found by key, tokens reserved ahead, whether a rollout is admitted only if it fits
# whole, blocks that one entry of the chain stands for; free blocks, free lines, blocks of a line
BLOCK_SIZE, CACHING, LOOKAHEAD, WHOLE, PER_ENTRY, FREE, FREE_LINES, LINE_WIDTH = range(8)
(NEXT_AT, PREVIOUS_AT, REFS_AT, KEYS_AT, TWINS_AT, CACHED_AT, LINES_AT, SPARE_AT, CHAIN_AT, SHARED_AT, CHAIN_OF_AT,
 OWN_AT) = range(8, 20)  # fmt: skip
FIELDS = 20
NO_KEY = -1

NO_POOL: Int64 = np.zeros(FIELDS, np.int64)
"""No blocks are counted."""


@compiled
def key_of(pool, rollout, block):  # type: ignore[no-untyped-def]
    """Key of the rollout's block: that of its prompt where it is shared, else its own."""
    shared = pool[pool[SHARED_AT] + rollout]
    if block < shared:
        per = pool[PER_ENTRY]
        return pool[pool[CHAIN_AT] + pool[pool[CHAIN_OF_AT] + rollout] + block // per] + block % per
    return pool[pool[OWN_AT] + rollout] + block - shared


@compiled
def leave_queue(pool, block):  # type: ignore[no-untyped-def]
    """Take a block out of the free queue."""
    after, before = pool[pool[NEXT_AT] + block], pool[pool[PREVIOUS_AT] + block]
    pool[pool[NEXT_AT] + before] = after
    pool[pool[PREVIOUS_AT] + after] = before
    pool[FREE] -= 1


@compiled
def forget(pool, block):  # type: ignore[no-untyped-def]
    """Let a block no longer be found."""
    key, twins = pool[pool[KEYS_AT] + block], pool[TWINS_AT]
    if pool[pool[CACHED_AT] + key] == block:
        pool[pool[CACHED_AT] + key] = pool[twins + block]
    else:
        before = pool[pool[CACHED_AT] + key]
        while pool[twins + before] != block:
            before = pool[twins + before]
        pool[twins + before] = pool[twins + block]
    pool[pool[KEYS_AT] + block] = NO_KEY
    pool[twins + block] = 0


@compiled
def extend(pool, line, held, wanted):  # type: ignore[no-untyped-def]
    """Allocate blocks to a line until it holds `wanted`, from the head of the free queue; whether there were enough."""
    if wanted - held > pool[FREE]:
        return False
    at = pool[LINES_AT] + line * pool[LINE_WIDTH]
    for index in range(held, wanted):
        block = pool[pool[NEXT_AT]]
        leave_queue(pool, block)
        if pool[pool[KEYS_AT] + block] != NO_KEY:
            forget(pool, block)
        pool[pool[REFS_AT] + block] = 1
        pool[at + index] = block
    return True


@compiled
def release(pool, line, held):  # type: ignore[no-untyped-def]
    """Give back a line and its blocks, the last one first: the beginning of a rollout stays longest."""
    at = pool[LINES_AT] + line * pool[LINE_WIDTH]
    following, previous, refs = pool[NEXT_AT], pool[PREVIOUS_AT], pool[REFS_AT]
    for index in range(held - 1, -1, -1):
        block = pool[at + index]
        pool[refs + block] -= 1
        if pool[refs + block] == 0:
            last = pool[previous]
            pool[following + last] = block
            pool[previous + block] = last
            pool[following + block] = 0
            pool[previous] = block
            pool[FREE] += 1
    pool[pool[SPARE_AT] + pool[FREE_LINES]] = line
    pool[FREE_LINES] += 1


@compiled
def found(pool, rollout, tokens):  # type: ignore[no-untyped-def]
    """Leading full blocks of the rollout that are cached (one token is always computed), and how many of them are free."""
    hits = free = 0
    if pool[CACHING]:
        for index in range((tokens - 1) // pool[BLOCK_SIZE]):
            block = pool[pool[CACHED_AT] + key_of(pool, rollout, index)]
            if block == 0:
                break
            hits += 1
            free += pool[pool[REFS_AT] + block] == 0
    return hits, free


@compiled
def take_in(pool, rollout, hits, blocks):  # type: ignore[no-untyped-def]
    """Give a rollout a line of `blocks` blocks, the first `hits` of them found in the cache; returns the line."""
    pool[FREE_LINES] -= 1
    line = pool[pool[SPARE_AT] + pool[FREE_LINES]]
    at = pool[LINES_AT] + line * pool[LINE_WIDTH]
    for index in range(hits):
        block = pool[pool[CACHED_AT] + key_of(pool, rollout, index)]
        if pool[pool[REFS_AT] + block] == 0:
            leave_queue(pool, block)
        pool[pool[REFS_AT] + block] += 1
        pool[at + index] = block
    extend(pool, line, hits, blocks)
    return line


@compiled
def publish(pool, rollout, line, start, stop):  # type: ignore[no-untyped-def]
    """Let the line's full blocks from `start` to `stop` be found by key, after those with the same key."""
    if not pool[CACHING]:
        return
    at, twins = pool[LINES_AT] + line * pool[LINE_WIDTH], pool[TWINS_AT]
    for index in range(start, stop):
        block, key = pool[at + index], key_of(pool, rollout, index)
        if pool[pool[KEYS_AT] + block] != NO_KEY:
            continue
        pool[pool[KEYS_AT] + block] = key
        last = pool[pool[CACHED_AT] + key]
        if last == 0:
            pool[pool[CACHED_AT] + key] = block
            continue
        while pool[twins + last] != 0:
            last = pool[twins + last]
        pool[twins + last] = block


def make_pool(
    num_gpu_blocks: int, block_size: int, caching: bool, lookahead_tokens: int, whole: bool, lines: int, longest: int,
    keys: int, chain: Int64, per_entry: int, rollouts: Sequence[Int64],
) -> Int64:  # fmt: skip
    """Return an empty pool. longest: blocks of the longest rollout; keys: how many there are; rollouts: shared, chain, own."""
    blocks = np.arange(num_gpu_blocks)
    nothing = np.zeros(num_gpu_blocks, np.int64)
    sections = [
        np.roll(blocks, -1), np.roll(blocks, 1), nothing, nothing + NO_KEY, nothing, np.zeros(keys, np.int64),
        np.empty(lines * longest, np.int64), np.arange(lines), chain, *rollouts,
    ]  # fmt: skip
    starts = FIELDS + np.cumsum([0, *(section.size for section in sections[:-1])])
    facts = [block_size, caching, lookahead_tokens, whole, per_entry, num_gpu_blocks - 1, lines, longest, *starts]
    return np.concatenate([np.array(facts, np.int64), *sections])


def check_pool(pool: Int64, lines: Int64, held: Int64) -> None:
    """Assert that references, the free queue and the keys agree with the block tables in use."""
    following, previous, refs, keys, twins = (
        pool[pool[at] : pool[at + 1]] for at in (NEXT_AT, PREVIOUS_AT, REFS_AT, KEYS_AT, TWINS_AT)
    )
    cached = pool[pool[CACHED_AT] : pool[LINES_AT]]
    tables = pool[pool[LINES_AT] : pool[SPARE_AT]].reshape(-1, pool[LINE_WIDTH])
    blocks = [tables[line, :count] for line, count in zip(lines, held, strict=True)]
    counts = np.bincount(np.concatenate([*blocks, np.empty(0, np.int64)]), minlength=refs.size)
    assert (counts == refs).all(), "a block is referred to by those who hold it"
    assert refs[0] == 0, "nobody holds the null block"
    queue, block = [], int(following[0])
    while block:
        queue.append(block)
        assert previous[following[block]] == block
        block = int(following[block])
        assert len(queue) <= refs.size
    assert len(queue) == pool[FREE] == (refs[1:] == 0).sum(), "every other block is free"
    assert (refs[queue] == 0).all()
    assert tables.shape[0] - pool[FREE_LINES] == lines.size, "every line is held or free"
    listed = 0
    for block in cached[cached > 0].tolist():
        key = keys[block]
        while block:
            assert keys[block] == key, "a block is found by its key"
            listed, block = listed + 1, int(twins[block])
    assert listed == (keys != NO_KEY).sum()
    assert not twins[keys == NO_KEY].any()
