"""Tree drafts by brute force: every continuation of every match, and of each match the most likely ones."""

import math
from collections.abc import Sequence

from tests.reference.suffix import Counts

Tokens = Sequence[int]
Path = tuple[int, ...]
Nodes = dict[Path, float]  # path from the match to a node -> its probability


def continuations(tables: Sequence[Counts], w: Path, levels: int, min_prob: float) -> Nodes:
    """Every node of at most so many levels after w whose path probability is not below the floor."""
    nodes: Nodes = {}
    frontier: Nodes = {(): 1.0}
    for _ in range(levels):
        deeper: Nodes = {}
        for path, prob in frontier.items():
            seen = (*w, *path)
            times = sum(table.occurrences(seen) for table in tables)
            for token in {c for table in tables for c in table.children.get(seen, {})}:
                likely = prob * (sum(table.occurrences((*seen, token)) for table in tables) / times)
                if likely >= min_prob:
                    deeper[(*path, token)] = likely
        nodes |= deeper
        frontier = deeper
    return nodes


def best_nodes(
    history: Counts | None,
    own: Counts | None,
    context: Tokens,
    budget: int,
    *,
    factor: float = 1.0,
    min_prob: float = 0.1,
) -> tuple[Nodes, int]:
    """(nodes that may be drafted, how many of them are) of the match that wins.

    A tree of n nodes holds the n most likely ones: a child is never likelier than its parent. So its score, their sum, does
    not depend on ties, and neither does the match of the highest (score, local before joint, longer match).
    """
    best: tuple[tuple[float, bool, int], Nodes, int] = ((0.0, True, 0), {}, 0)
    joint = [table for table in (history, own) if table is not None]
    for is_local, tables in ((True, [own] if own is not None else []), (False, joint)):
        depth = tables[0].depth if tables else 0
        for m in range(1, min(len(context), depth)):
            w = tuple(context[-m:])
            if not any(table.occurrences(w) for table in tables):
                break
            nodes = continuations(tables, w, depth - m, min_prob)
            n = min(budget, math.floor(factor * m + 1e-9), len(nodes))
            score = 0.0
            for prob in sorted(nodes.values(), reverse=True)[:n]:
                score += prob
            best = max(best, ((score, is_local, m), nodes, n), key=lambda found: found[0])
    return best[1], best[2]


def admitted(nodes: Nodes, n: int, ahead: Tokens) -> set[tuple[int, int]]:
    """Every (accepted, drafted) of the trees of the n most likely nodes, one tree per way to resolve equal probabilities.

    ahead: the tokens to come.
    """
    if n == 0:
        return {(0, 0)}
    least = sorted(nodes.values(), reverse=True)[n - 1]
    sure = [path for path, prob in nodes.items() if prob > least]
    tied = {path for path, prob in nodes.items() if prob == least}
    children: dict[Path, list[Path]] = {}
    for path in tied:
        children.setdefault(path[:-1], []).append(path)

    def right(path: Path) -> int:
        return int(path == tuple(ahead[: len(path)]))

    def below(path: Path) -> set[tuple[int, int]]:
        """What may be taken of the tied nodes below a node in the tree: (nodes, of them accepted)."""
        taken = {(0, 0)}
        for child in children.get(path, []):
            of_child = {(0, 0)} | {(k + 1, a + right(child)) for k, a in below(child)}
            taken = {(k + x, a + y) for k, a in taken for x, y in of_child if k + x <= n - len(sure)}
        return taken

    total = {(0, 0)}
    for parent in [(), *sure]:
        total = {(k + x, a + y) for k, a in total for x, y in below(parent) if k + x <= n - len(sure)}
    certain = sum(right(path) for path in sure)
    return {(certain + a, n) for k, a in total if k == n - len(sure)}


def replay_tree(
    history: Counts | None,
    prompt: Tokens,
    output: Tokens,
    budget: int,
    *,
    depth: int,
    factor: float = 1.0,
    min_prob: float = 0.1,
    use_own: bool = True,
) -> list[set[tuple[int, int]]]:
    """By tokens emitted, the admissible (accepted, drafted) of tree drafts at this budget."""
    own = Counts(depth)
    for token in prompt:
        own.append(token)
    pairs = []
    for p in range(len(output)):
        context = [*prompt, *output[:p]][-depth:]
        found = best_nodes(history, own if use_own else None, context, budget, factor=factor, min_prob=min_prob)
        pairs.append(admitted(*found, output[p:]))
        own.append(output[p])
    return pairs
