"""How a batch's attention is cut into pieces of about equal length, so that every program of a fixed grid has work.

Decode attention reads each sequence's KV cache once; a batch of one long context must be split over the whole device, a
batch of many short ones must not. As in FlashInfer (Ye et al. 2025, arXiv:2501.01005, section 3.3), the host decides before
each step, and the device reads the decision from memory, so that a captured graph serves any raggedness.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

HEADER_WORDS = 4
"""int32 words before the items on the device: items, merges, query tokens, offset of the first merge."""

ITEM_FIELDS = 9
"""int32 words of an item: slot, first query token, query tokens, context tokens, first row, KV start, KV end, partial of the
first token (-1: none, the item is alone and writes the output), splits (the distance between partials of adjacent tokens)."""

MERGE_FIELDS = 3
"""int32 words of a merge: token, its first partial, its partials."""

ITEM_TILES = 2.0
"""What an item costs beyond its KV tiles, in tiles: filling the pipeline and writing the result."""

MERGE_TILES = (1.0, 0.05)
"""What merging costs, in tiles: if anything is split, and for each split of the sequence that is split most."""

LENGTHS = np.append(np.outer([1.0, 1.06, 1.15], 1 / np.array([1.0, 2.0, 3.0, 5.0])), 1e9).astype(np.float32)
"""Lengths that are tried for an item, as shares of an even share of the work: one to five items a program. Where the parts of
sequences do not come out even, somewhat longer ones need a round less. The last one splits nothing."""

SHORTEST_SPLIT_TOKENS = 128
SPLIT_ROUNDS = 8
"""Room for partials: as much as this many items of every program can write."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """What cuts the work: the grid and its blocks, the model's heads, and the most that is ever asked.

    Rows are (query token, head of a group) pairs, which read the same KV head; a sequence with at most `narrow_rows` is one
    narrow block, any other is cut into blocks of `wide_rows`.
    """

    programs: int
    kv_heads: int
    group: int
    tile_tokens: int
    narrow_rows: int
    wide_rows: int
    max_sequences: int
    max_tokens: int
    max_context_tokens: int

    @cached_property
    def shortest_split_tiles(self) -> int:
        """Fewest tiles of a part, but for what division leaves."""
        return max(SHORTEST_SPLIT_TOKENS // self.tile_tokens, 1)

    @cached_property
    def partial_capacity_tokens(self) -> int:
        """Most partials of a query token, all heads, that a plan writes."""
        most_splits = -(-self.max_context_tokens // (self.shortest_split_tiles * self.tile_tokens))
        room = -(-SPLIT_ROUNDS * self.programs * self.wide_rows // (self.kv_heads * self.group))
        return min(room, self.max_tokens * most_splits)

    @cached_property
    def item_capacity(self) -> int:
        """Most items of a plan: each block once, and no more for what is split than it has partials."""
        return self.max_sequences + self.max_tokens * self.group // self.wide_rows + self.partial_capacity_tokens

    @cached_property
    def merge_capacity(self) -> int:
        """Most merges of a plan: a token that is merged has two partials or more."""
        return min(self.max_tokens, self.partial_capacity_tokens // 2)


@dataclass(frozen=True)
class Plan:
    """Items (int32 [n, ITEM_FIELDS], longest first), merges (int32 [m, MERGE_FIELDS]) and the query tokens of a batch."""

    items: Int32
    merges: Int32
    tokens: int


def plan(query_starts: Int32, context_tokens: Int32, slots: Int32, tiling: Tiling) -> Plan:
    """Cut a batch of n sequences: `query_starts` is [n + 1], `context_tokens` (own query tokens included) and `slots` [n].

    Work unit w of items x kv_heads is item w // kv_heads at KV head w % kv_heads. Programs take units in turn, longest first
    and in every other round from the last program to the first, so that no program has more than an even share and one
    item. The blocks of a sequence that read the same KV tokens are neighbours: they run at the same time and share the L2.
    """
    n = slots.size
    table = np.empty((ITEM_FIELDS, n), np.int32)  # of sequences first, gathered into one of items
    slot, start, tokens, context, blocks, tiles, parts, first, splits = table
    slot[:], start[:], context[:] = slots, query_starts[:-1], context_tokens
    np.subtract(query_starts[1:], start, out=tokens)
    rows = tokens * tiling.group
    blocks[:] = np.where(rows <= tiling.narrow_rows, rows > 0, -(-rows // tiling.wide_rows))
    tiles[:] = -(-context // tiling.tile_tokens)
    splits[:] = _splits(tokens, blocks, tiles, tiling)
    np.multiply(blocks, splits, out=parts)
    partials = np.where(splits > 1, splits * tokens, 0)
    first[:] = np.where(splits > 1, partials.cumsum() - partials, -1)
    merges = _merges(start, tokens, first, splits)

    order = (-tiles // splits).argsort(kind="stable")  # minus the tiles of the longest part: // rounds down
    counts = parts[order]
    ends = counts.cumsum()
    items = table.take(order.repeat(counts), axis=1)
    slot, start, tokens, context, blocks, tiles, parts, first, splits = items
    place = np.arange(parts.size, dtype=np.int32) - (ends - counts).astype(np.int32).repeat(
        counts
    )  # within the sequence
    part = place // blocks
    first += np.where(first >= 0, part, 0)
    items[4] = (place - part * blocks) * tiling.wide_rows
    kv_end = (part + 1) * tiles // splits * tiling.tile_tokens
    items[5] = part * tiles // splits * tiling.tile_tokens
    np.minimum(kv_end, context, out=items[6])
    assert items.shape[1] <= tiling.item_capacity
    return Plan(items.T, merges, int(query_starts[-1]))


def _splits(tokens: Int32, blocks: Int32, tiles: Int32, tiling: Tiling) -> Int32:
    """Into how many parts each sequence's KV tiles are cut, [n]: those with which the busiest program is done first.

    All parts are of about one length, and of the lengths tried the one is taken that ends first where every round of the
    grid takes as long as its first item, that of the longest sequence in it. One of them is that of the longest sequence
    of all, which splits nothing: it always fits.
    """
    shortest, longest = tiling.shortest_split_tiles, int(tiles.max(initial=1))
    if longest <= shortest:
        return np.ones(tiles.size, np.int32)
    order = (-tiles).argsort()
    wanted, units = tiles[order].astype(np.float32), blocks[order] * tiling.kv_heads
    share = float(units @ wanted) / tiling.programs
    lengths = np.minimum(np.maximum(np.ceil(share * LENGTHS), shortest), longest)[:, None]

    splits = np.maximum(np.ceil(wanted / lengths), 1)  # [lengths, n]
    ends = (splits.astype(np.int32) * units).cumsum(axis=1, dtype=np.int32)
    turns = (ends + (tiling.programs - 1)) // tiling.programs
    turns[:, 1:] -= turns[:, :-1].copy()  # rounds that begin with an item of this sequence
    spans = ((np.ceil(wanted / splits) + ITEM_TILES) * turns).sum(axis=1)
    most = splits[:, 0]
    spans += (most > 1) * (MERGE_TILES[0] + MERGE_TILES[1] * most)
    partials = (splits * (splits > 1)) @ tokens[order].astype(np.float32)
    spans[partials > tiling.partial_capacity_tokens] = np.inf
    length = int(lengths[spans.argmin(), 0])
    return np.maximum(-(-tiles // length), 1).astype(np.int32)


def _merges(start: Int32, tokens: Int32, first: Int32, splits: Int32) -> Int32:
    """The tokens of split sequences, each with its first partial and its number of partials."""
    split = np.flatnonzero(splits > 1)
    counts = tokens[split]
    sequence = split.repeat(counts)
    within = np.arange(sequence.size) - (counts.cumsum() - counts).repeat(counts)
    merges = np.empty((sequence.size, MERGE_FIELDS), np.int32)
    merges[:, 0] = start[sequence] + within
    merges[:, 1] = first[sequence] + within * splits[sequence]
    merges[:, 2] = splits[sequence]
    return merges
