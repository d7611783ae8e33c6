"""A replica's KV cache in blocks, as vLLM V1 keeps it: reference counts, a free queue, and blocks that are found by key.

A block that nobody refers to waits in the free queue and keeps its key, so that whoever asks for that key before the block
is needed elsewhere gets it back. Block 0, vLLM's null block, is both ends of the queue.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
from simulator.engine.state import (
    BLOCK,
    NO_KEY,
    POOL,
    Block,
    Pool,
    Rollout,
    blocks_of,
    cached_of,
    chain_of,
    lines_of,
    spare_of,
)
from simulator.records import Array, Pointing, records

Int64 = npt.NDArray[np.int64]


@compiled
def key_of(pool: Pool, rollout: Rollout, block: int) -> int:
    """Key of the rollout's block: that of its prompt where it is shared, else its own."""
    if block < rollout.shared_blocks:
        return chain_of(pool)[rollout.chain_at + block // pool.per_entry] + block % pool.per_entry
    return rollout.own_key + block - rollout.shared_blocks


@compiled
def leave_queue(pool: Pool, blocks: Array[Block], number: int) -> None:
    """Take a block out of the free queue."""
    block = blocks[number]
    blocks[block.previous].following = block.following
    blocks[block.following].previous = block.previous
    pool.free -= 1


@compiled
def join_queue(pool: Pool, blocks: Array[Block], number: int) -> None:
    """Append a block to the free queue."""
    ends = blocks[0]
    blocks[number].previous, blocks[number].following = ends.previous, 0
    blocks[ends.previous].following = number
    ends.previous = number
    pool.free += 1


@compiled
def jump_queue(pool: Pool, blocks: Array[Block], number: int) -> None:
    """Put a block at the head of the free queue."""
    ends = blocks[0]
    blocks[number].previous, blocks[number].following = 0, ends.following
    blocks[ends.following].previous = number
    ends.following = number
    pool.free += 1


@compiled
def forget(pool: Pool, blocks: Array[Block], number: int) -> None:
    """Let a block no longer be found."""
    block, cached = blocks[number], cached_of(pool)
    first = cached[block.key]
    if first == number:
        cached[block.key] = block.twin
    else:
        while blocks[first].twin != number:
            first = blocks[first].twin
        blocks[first].twin = block.twin
    block.key, block.twin = NO_KEY, 0


@compiled
def forget_all(pool: Pool) -> None:
    """Let no block be found any longer."""
    blocks, cached = blocks_of(pool), cached_of(pool)
    for number in range(blocks.size):
        blocks[number].key, blocks[number].twin = NO_KEY, 0
    for key in range(cached.size):
        cached[key] = 0


@compiled
def extend(pool: Pool, line: int, held: int, wanted: int) -> bool:
    """Allocate blocks to a line until it holds `wanted`, from the head of the free queue; whether there were enough."""
    if wanted - held > pool.free:
        return False
    blocks, lines, at = blocks_of(pool), lines_of(pool), line * pool.line_width
    for index in range(held, wanted):
        number = blocks[0].following
        leave_queue(pool, blocks, number)
        if blocks[number].key != NO_KEY:
            forget(pool, blocks, number)
        blocks[number].refs = 1
        lines[at + index] = number
    return True


@compiled
def release(pool: Pool, line: int, held: int) -> None:
    """Give back a line and its blocks, the last one first: the beginning of a rollout stays longest."""
    blocks, lines, at = blocks_of(pool), lines_of(pool), line * pool.line_width
    for index in range(held - 1, -1, -1):
        number = lines[at + index]
        blocks[number].refs -= 1
        if blocks[number].refs > 0:
            continue
        key = blocks[number].key
        if pool.endless and key != NO_KEY and cached_of(pool)[key] != number:
            forget(pool, blocks, number)  # the first copy is found as long as there is one
        if pool.endless and blocks[number].key == NO_KEY:
            jump_queue(pool, blocks, number)
        else:
            join_queue(pool, blocks, number)
    spare_of(pool)[pool.free_lines] = line
    pool.free_lines += 1


@compiled
def found(pool: Pool, rollout: Rollout, tokens: int) -> tuple[int, int]:
    """Leading full blocks of the rollout that are cached (one token is always computed), and how many of them are free."""
    hits = free = 0
    if pool.caching:
        blocks, cached = blocks_of(pool), cached_of(pool)
        for index in range(min((tokens - 1) // pool.block_size, rollout.kept_blocks)):
            number = cached[key_of(pool, rollout, index)]
            if number == 0:
                break
            hits += 1
            free += blocks[number].refs == 0
    return hits, free


@compiled
def take_in(pool: Pool, rollout: Rollout, hits: int, wanted: int) -> int:
    """Give a rollout a line of `wanted` blocks, the first `hits` of them found in the cache; returns the line."""
    pool.free_lines -= 1
    line = spare_of(pool)[pool.free_lines]
    blocks, lines, cached, at = blocks_of(pool), lines_of(pool), cached_of(pool), line * pool.line_width
    for index in range(hits):
        number = cached[key_of(pool, rollout, index)]
        if blocks[number].refs == 0:
            leave_queue(pool, blocks, number)
        blocks[number].refs += 1
        lines[at + index] = number
    extend(pool, line, hits, wanted)
    return line


@compiled
def publish(pool: Pool, rollout: Rollout, line: int, start: int, stop: int) -> None:
    """Let the line's full blocks from `start` to `stop` be found by key, after those with the same key."""
    if not pool.caching:
        return
    blocks, lines, cached, at = blocks_of(pool), lines_of(pool), cached_of(pool), line * pool.line_width
    for index in range(start, stop):
        number, key = lines[at + index], key_of(pool, rollout, index)
        if blocks[number].key != NO_KEY:
            continue
        blocks[number].key = key
        last = cached[key]
        if last == 0:
            cached[key] = number
            continue
        while blocks[last].twin != 0:
            last = blocks[last].twin
        blocks[last].twin = number


def make_pool(
    num_gpu_blocks: int, block_size: int, lookahead_tokens: int, whole: bool, lines: int, longest: int, keys: int,
    chain: Int64, per_entry: int, endless: bool,
) -> Pointing:  # fmt: skip
    """Return an empty pool. longest: blocks of the longest rollout; keys: how many there are, 0 where none is found by key.

    endless: there are enough for what every rollout can hold and leave behind.
    """
    pool = Pointing(
        POOL, block_size=block_size, caching=keys > 0, lookahead=lookahead_tokens, whole=whole, per_entry=per_entry,
        endless=endless, free=num_gpu_blocks - 1, free_lines=lines, line_width=longest,
    )  # fmt: skip
    blocks = records(BLOCK, num_gpu_blocks)
    blocks["following"], blocks["previous"] = (
        np.roll(np.arange(num_gpu_blocks), -1),
        np.roll(np.arange(num_gpu_blocks), 1),
    )
    blocks["key"] = NO_KEY
    pool.point(
        blocks=blocks,
        cached=np.zeros(keys, np.int64),
        lines=np.empty(lines * longest, np.int64),
        spare=np.arange(lines),
        chain=chain,
    )
    return pool


def check_pool(pool: Pointing, lines: Int64, held: Int64) -> None:
    """Assert that references, the free queue and the keys agree with the block tables in use."""
    blocks, cached = pool.target("blocks"), pool.target("cached")
    tables = pool.target("lines").reshape(-1, pool["line_width"])
    used = [tables[line, :count] for line, count in zip(lines, held, strict=True)]
    counts = np.bincount(np.concatenate([*used, np.empty(0, np.int64)]), minlength=blocks.size)
    assert (counts == blocks["refs"]).all(), "a block is referred to by those who hold it"
    assert blocks["refs"][0] == 0, "nobody holds the null block"
    queue = list(_walk(blocks, "following", blocks["following"][0]))
    assert queue == list(_walk(blocks, "previous", blocks["previous"][0]))[::-1], "the queue is linked both ways"
    assert len(queue) == pool["free"] == (blocks["refs"][1:] == 0).sum(), "every other block is free"
    assert (blocks["refs"][queue] == 0).all()
    assert tables.shape[0] - pool["free_lines"] == lines.size, "every line is held or free"
    listed = 0
    for first in cached[cached > 0].tolist():
        chained = list(_walk(blocks, "twin", first))
        assert (blocks["key"][chained] == blocks["key"][first]).all(), "a block is found by its key"
        listed += len(chained)
    assert listed == (blocks["key"] != NO_KEY).sum()
    assert not blocks["twin"][blocks["key"] == NO_KEY].any()


def _walk(blocks: "npt.NDArray[Any]", link: str, block: int) -> Iterator[int]:
    """Follow a chain of blocks to its end."""
    steps = 0
    while block:
        yield int(block)
        block = blocks[link][block]
        steps += 1
        assert steps <= blocks.size, "a chain ends"
