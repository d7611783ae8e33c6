"""History as suffix automata: built once per RL step from the rollouts of the steps before it, then frozen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled, entry
from simulator.drafting.automaton import (
    EDGE,
    EDGES_AT,
    HEADER,
    MASK,
    N_EDGES,
    N_STATES,
    STATE,
    TABLE_AT,
    block_size,
    clear_table,
    file_edge,
    observe,
    plant,
    start_sequence,
    table_size,
)
from simulator.drafting.layout import THREADS, each_part
from simulator.drafting.memory import address, load, store
from simulator.records import as_int
from traces.errors import InputError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


LARGEST_BLOCK = 2**31 - 1
"""Words of an automaton: it finds its parts by int32 offsets."""


@dataclass(frozen=True)
class Forest:
    """Frozen suffix automata, one per group of past rollouts.

    blocks: the automata by group, int32; at: int64[groups], their addresses in words of 4 bytes, valid while the forest
    lives (-1: the group has no past); tokens_of, sequences_of: int64[groups], what each holds; depth: longest string counted.
    """

    blocks: Mapping[int, Int32]
    at: Int64
    tokens_of: Int64
    sequences_of: Int64
    depth: int

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(block.nbytes for block in self.blocks.values())

    @property
    def tokens(self) -> int:
        """Tokens held, over all groups."""
        return int(self.tokens_of.sum())


@entry
def start(at: int, tokens: int, sequences: int) -> None:
    """Make the block at `at` an empty automaton that can grow to `tokens` tokens in `sequences` sequences."""
    plant(at, tokens, sequences)


@entry
def grow(tokens: Int32, starts: Int64, ends: Int64, weights: Int64, depth: int, at: int) -> None:
    """Have the automaton at `at` learn the sequences tokens[starts[i]:ends[i]], in this order."""
    for i in range(starts.size):
        start_sequence(at)
        for p in range(starts[i], ends[i]):
            observe(at, as_int(tokens[p]), weights[i], depth)


@entry
def _compact_size(at: int) -> int:
    edges = load(at, N_EDGES)
    return HEADER + STATE * load(at, N_STATES) + EDGE * edges + table_size(edges)


@entry
def _compact(source: int, to: int) -> None:
    states, edges = load(source, N_STATES), load(source, N_EDGES)
    for word in range(HEADER + STATE * states):
        store(to, word, load(source, word))
    store(to, EDGES_AT, HEADER + STATE * states)
    store(to, TABLE_AT, HEADER + STATE * states + EDGE * edges)
    store(to, MASK, table_size(edges) - 1)
    for word in range(EDGE * edges):
        store(to, load(to, EDGES_AT) + word, load(source, load(source, EDGES_AT) + word))
    clear_table(to)
    for number in range(edges):
        file_edge(to, number)


@compiled
def transplant(source: int, to: int, tokens: int, sequences: int) -> None:
    """Make the block at `to` a copy of a frozen automaton that can grow to `tokens` tokens in `sequences` sequences."""
    plant(to, tokens, sequences)
    states, edges = load(source, N_STATES), load(source, N_EDGES)
    store(to, N_STATES, states)
    store(to, N_EDGES, edges)
    for word in range(HEADER, HEADER + STATE * states):
        store(to, word, load(source, word))
    for word in range(EDGE * edges):
        store(to, load(to, EDGES_AT) + word, load(source, load(source, EDGES_AT) + word))
    for number in range(edges):
        file_edge(to, number)


@entry
def branch_off(source: int, to: int, tokens: int, sequences: int) -> None:
    """Do what `transplant` does with one that may still be growing, from Python."""
    transplant(source, to, tokens, sequences)


def new_block(tokens: int, sequences: int) -> Int32:
    """Return room for an automaton of so many tokens in so many sequences; InputError where they are too many for one."""
    words = block_size(tokens, sequences)
    if words > LARGEST_BLOCK:
        raise InputError(
            f"history of {tokens:,} tokens in one suffix automaton: at most about 100 million fit; "
            "use a smaller --window, or --scope problem"
        )
    return np.empty(words, np.int32)


def build_forest(
    tokens: Int32, starts: Int64, ends: Int64, groups: Int64, n_groups: int, depth: int, weights: Int64 | None = None,
    threads: int = THREADS,
) -> Forest:  # fmt: skip
    """Build one automaton per group, in threads, over the sequences tokens[starts[i]:ends[i]], in the order given within a group.

    groups: int64[n] in [0, n_groups); weights: int64[n], how much one occurrence counts (default 1); depth: longest
    string counted, in tokens. Each automaton grows in its thread's scratch block, which stays in cache, and is then copied
    to its final size: 57 to 62 bytes per token on recorded rollouts.
    """
    weights = np.ones(starts.size, np.int64) if weights is None else weights
    lengths = ends - starts
    sizes = np.bincount(groups, lengths, n_groups).astype(np.int64)
    counts = np.bincount(groups, minlength=n_groups)
    room = int(sizes.max(initial=0)), int(counts.max(initial=0))
    order = np.argsort(groups, kind="stable")
    ends_of = np.cumsum(counts)
    at = np.full(n_groups, -1, np.int64)
    known = np.flatnonzero(counts)  # few of a long trace's prompts are in the window
    blocks: dict[int, Int32] = {}

    def run(part: Int64) -> int:
        scratch = new_block(*room)
        for group in known[part].tolist():
            rows = order[ends_of[group] - counts[group] : ends_of[group]]
            start(address(scratch), int(sizes[group]), rows.size)
            grow(tokens, starts[rows], ends[rows], weights[rows], depth, address(scratch))
            blocks[group] = np.empty(_compact_size(address(scratch)), np.int32)
            _compact(address(scratch), address(blocks[group]))
            at[group] = address(blocks[group]) // 4
        return 0

    each_part(np.concatenate([[0], np.cumsum(sizes[known])]), run, threads)
    return Forest(blocks, at, sizes, counts, depth)
