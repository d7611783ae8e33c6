"""Rollouts that a compiled suffix drafter replays: its settings, where it reads, and where it writes what it finds."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
from simulator.drafting.acceptance import DRAFT, Draft
from simulator.drafting.automaton import block_size
from simulator.drafting.layout import prompts_of
from simulator.drafting.memory import address, load
from simulator.drafting.standing import STANDING, Standing, begin, take
from simulator.limits import LARGEST_BUDGET
from simulator.records import FLOAT, INT, UINT8, Array, Pointing, array_field, layout, record_field, records
from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.drafting.suffix import Suffix

Int64 = npt.NDArray[np.int64]

NO_HISTORY = -1


class Node:
    """A continuation in a tree, or one that may join it; `ranked` is no part of it: the number of the node of this rank."""

    ranked: int
    token: int
    parent: int  # rank
    level: int
    in_past: int  # its states in the history and in the rollout's own automaton
    in_own: int
    prob: float


class Replay:
    """One thread's share of n rollouts, one after another; what is at an address are int32 words.

    budget: of every decode step. everywhere: draft at every position (a table for replay under changing budgets), else only
    where a decode step of a rollout that always gets `budget` begins; other positions are left as they are.
    """

    depth: int
    factor: float
    min_prob: float
    budget: int
    everywhere: bool
    tokens: int  # address of all responses
    prompts: int  # address of all prompts
    scratch: int  # address of room for a draft of the largest budget, and for two of at most `depth` tokens
    tree: Array[Node]  # room for a tree of `budget` nodes, and for another
    other_tree: Array[Node]
    standing: Standing
    starts: Array[int]  # of each rollout's response
    ends: Array[int]
    prompt_starts: Array[int]
    prompt_ends: Array[int]
    histories: Array[int]  # `Forest.at` of each rollout's; -1 for none
    offsets: Array[int]  # where each rollout's positions begin
    table: Array[Draft]  # by position
    matched: Array[int]  # uint8, tokens of the longest match, by position; none: not asked for
    scores: Array[float]  # expected accepted tokens of the drafts, by position; none: not asked for


NODE, REPLAY = layout(Node), layout(Replay)
standing_of = record_field("standing", STANDING)
tree_of, other_tree_of = array_field("tree", NODE), array_field("other_tree", NODE)
starts_of, ends_of, offsets_of = array_field("starts", INT), array_field("ends", INT), array_field("offsets", INT)
prompt_starts_of, prompt_ends_of = array_field("prompt_starts", INT), array_field("prompt_ends", INT)
histories_of, scores_of = array_field("histories", INT), array_field("scores", FLOAT)
matched_of = array_field("matched", UINT8)
table_of = array_field("table", DRAFT)


@compiled
def begin_rollout(replay: Replay, i: int) -> tuple[int, int, int]:
    """Take in the prompt of rollout i: (address of its response, tokens of it, tokens of the prompt)."""
    standing, at = standing_of(replay), histories_of(replay)[i]
    start, first, last = starts_of(replay)[i], prompt_starts_of(replay)[i], prompt_ends_of(replay)[i]
    tokens = ends_of(replay)[i] - start
    standing.history = 4 * at if at >= 0 else 0
    begin(standing, tokens + last - first)
    matched, length = standing.matched, standing.length
    for p in range(first, last):
        token = load(replay.prompts, p)
        matched, length = take(standing.history, matched, length, standing.own, token, replay.depth)
    standing.matched, standing.length = matched, length
    return replay.tokens + 4 * start, tokens, last - first


def share_of(
    drafter: "Suffix", trace: Trace, rows: Int64, histories: Int64, offsets: Int64, table: "npt.NDArray[Any]",
    budget: int = LARGEST_BUDGET, everywhere: bool = True, scores: "npt.NDArray[Any] | None" = None,
    matched: "npt.NDArray[Any] | None" = None,
) -> Pointing:  # fmt: skip
    """What one thread replays, a `Replay`: rollouts in `rows` of a trace, whose positions begin at `offsets` of uint8[p, 2]."""
    starts, ends, prompts = trace.offsets[rows], trace.offsets[rows + 1], prompts_of(trace, rows, drafter.prompt)
    standing = Pointing(STANDING)
    if drafter.own:
        longest = int((ends - starts + prompts.ends - prompts.starts).max())
        standing.point(own=np.empty(block_size(longest, 1), np.int32))
    share = Pointing(
        REPLAY, depth=drafter.depth, factor=drafter.factor, min_prob=drafter.min_prob, budget=budget, everywhere=everywhere,
        tokens=address(trace.tokens), prompts=address(prompts.tokens),
    )  # fmt: skip
    share.point(
        standing=standing, starts=starts, ends=ends, prompt_starts=prompts.starts, prompt_ends=prompts.ends,
        histories=histories, offsets=offsets, table=table.view(DRAFT)[:, 0], scores=np.empty(0) if scores is None else scores,
        matched=np.empty(0, np.uint8) if matched is None else matched,
        scratch=np.empty(max(2 * drafter.depth, LARGEST_BUDGET), np.int32), tree=records(NODE, max(budget, 1)),
        other_tree=records(NODE, max(budget, 1)),
    )  # fmt: skip
    return share
