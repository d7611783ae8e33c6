"""The brute-force tree drafts against cases small enough for paper, and against the heap that engines grow them with."""

import heapq
import random

from tests.drafting.rollouts import counted
from tests.reference.suffix import Counts
from tests.reference.tree import Nodes, admitted, best_nodes, continuations, replay_tree


def test_trees_by_hand() -> None:
    # After 1: 2 in six of eight, then 3, 4 and 5 in two each; 6 in two of eight.
    history = counted([[1, 2, 3]] * 2 + [[1, 2, 4]] * 2 + [[1, 2, 5]] * 2 + [[1, 6]] * 2, depth=4)
    nodes = {(2,): 0.75, (2, 3): 0.25, (2, 4): 0.25, (2, 5): 0.25, (6,): 0.25}
    assert continuations([history], (1,), 3, 0.1) == nodes
    assert continuations([history], (1,), 1, 0.1) == {(2,): 0.75, (6,): 0.25}
    assert continuations([history], (1,), 3, 0.26) == {(2,): 0.75}
    assert best_nodes(history, None, [9, 1], 8, factor=3.0) == (nodes, 3)
    assert best_nodes(history, None, [9, 1], 2, factor=3.0) == (nodes, 2)
    assert best_nodes(history, None, [9, 1], 8) == (nodes, 1)  # a match of one token: one node
    assert best_nodes(history, None, [1], 8) == ({}, 0)  # all of the context is no match
    # Of the four that are equally likely two join: none or one of them is what comes.
    assert admitted(nodes, 3, [2, 4, 9]) == {(1, 3), (2, 3)}
    assert admitted(nodes, 4, [2, 4, 9]) == {(1, 4), (2, 4)}
    assert admitted(nodes, 5, [2, 4, 9]) == {(2, 5)}
    assert admitted(nodes, 3, [6, 4, 9]) == {(0, 3), (1, 3)}
    # With one token to come, no deeper level is of use.
    assert admitted(nodes, 3, [2]) == {(1, 3)}


def test_a_node_joins_after_its_parent() -> None:
    # All certain: 1 2 3, and half of the time each 5 or 6 before: the only tree of two nodes is the path.
    history = counted([[1, 2, 3]], depth=4)
    assert admitted(*best_nodes(history, None, [9, 1], 2, factor=2.0), [2, 3]) == {(2, 2)}
    fork = counted([[1, 5, 7], [1, 6, 8]], depth=4)  # 5, 6, 5 7 and 6 8, a half each: two of them, but no child alone
    assert admitted(*best_nodes(fork, None, [9, 1], 2, factor=2.0), [5, 7]) == {(0, 2), (1, 2), (2, 2)}


def test_the_match_of_the_best_score_wins() -> None:
    # 1 2 is longer, but what follows 2 alone is worth more: three of 3, 4 and 5 against a single 7.
    history = counted([[1, 2, 7]] + [[0, 2, 3, 4, 5, 5]] * 9, depth=6)
    nodes, n = best_nodes(history, None, [9, 1, 2], 8, factor=3.0)
    assert (n, nodes[(3,)], nodes[(3, 4, 5)]) == (3, 0.9, 0.9)
    own = Counts(6)
    own.insert([8, 2, 3, 4, 5])
    nodes, n = best_nodes(history, own, [9, 1, 2], 8, factor=3.0)
    assert (n, nodes[(3, 4, 5)]) == (3, 1.0)  # the own table alone


def test_the_heap_of_an_engine_grows_an_admitted_tree() -> None:
    rng = random.Random(0)
    for _ in range(300):
        table = counted([rng.choices(range(3), k=rng.randint(1, 12)) for _ in range(4)], depth=5)
        ahead = rng.choices(range(3), k=rng.randint(1, 5))
        w, min_prob = (rng.randrange(3),), rng.choice((0.0, 0.1, 0.3))
        nodes = continuations([table], w, 4, min_prob)
        n = min(rng.randint(1, 8), len(nodes))
        grown: Nodes = {}
        heap = [(-prob, rng.random(), path) for path, prob in nodes.items() if len(path) == 1]
        heapq.heapify(heap)
        while len(grown) < n:
            prob, _, path = heapq.heappop(heap)
            grown[path] = -prob
            for child in nodes:
                if len(child) == len(path) + 1 and child[: len(path)] == path:
                    heapq.heappush(heap, (-nodes[child], rng.random(), child))
        right = sum(path == tuple(ahead[: len(path)]) for path in grown)
        assert (right, n) in admitted(nodes, n, ahead)
        assert sorted(grown.values()) == sorted(sorted(nodes.values(), reverse=True)[:n])


def test_replay_by_hand() -> None:
    # p 0: nothing to match; p 1: 5 is all of the context; p 2: 6 after 5 in the past: 1, or 2.
    history = counted([[5, 6, 1], [5, 6, 2]], depth=4)
    pairs = replay_tree(history, [], [5, 6, 2], 4, depth=4, factor=2.0)
    assert pairs == [{(0, 0)}, {(0, 0)}, {(1, 2)}]
