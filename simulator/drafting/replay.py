"""Rollouts that a compiled suffix drafter replays: its settings, where it reads, and where it writes what it finds."""

from simulator.compiled import compiled
from simulator.drafting.memory import load
from simulator.drafting.standing import STANDING, Standing, begin, take
from simulator.records import FLOAT, INT, UINT8, Array, array_field, layout, record_field


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
    accepted: Array[int]  # uint8, by position
    drafted: Array[int]
    scores: Array[float]  # expected accepted tokens of the drafts, by position; none: not asked for


NODE, REPLAY = layout(Node), layout(Replay)
standing_of = record_field("standing", STANDING)
tree_of, other_tree_of = array_field("tree", NODE), array_field("other_tree", NODE)
starts_of, ends_of, offsets_of = array_field("starts", INT), array_field("ends", INT), array_field("offsets", INT)
prompt_starts_of, prompt_ends_of = array_field("prompt_starts", INT), array_field("prompt_ends", INT)
histories_of, scores_of = array_field("histories", INT), array_field("scores", FLOAT)
accepted_of, drafted_of = array_field("accepted", UINT8), array_field("drafted", UINT8)


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
