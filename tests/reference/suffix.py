"""Suffix drafter by brute force: how often each string of at most `depth` tokens occurs, in dictionaries of counts."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

Tokens = Sequence[int]
Draft = tuple[tuple[int, ...], float]  # tokens, expected number of them accepted


class Counts:
    """Weighted number of occurrences of every string of at most `depth` tokens in the sequences counted so far."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.children: dict[tuple[int, ...], dict[int, int]] = {}  # w -> {c: count(wc)}
        self.leader: dict[tuple[int, ...], int] = {}  # w -> the c that was first to reach the highest count(wc)
        self.sequence: list[int] = []  # what `append` has been given

    def insert(self, sequence: Tokens, weight: int = 1) -> None:
        """Count a whole sequence, token by token; no string runs on into the next sequence."""
        for end in range(1, len(sequence) + 1):
            self._count_strings_ending(sequence[max(0, end - self.depth) : end], weight)

    def append(self, token: int) -> None:
        """Count one more token of the one sequence that this table grows with."""
        self.append_to(self.sequence, token)
        self.sequence.append(token)

    def append_to(self, sequence: Tokens, token: int) -> None:
        """Count one more token of any sequence, of which `sequence` has been counted."""
        self._count_strings_ending([*sequence, token][-self.depth :], 1)

    def occurrences(self, w: Tokens) -> int:
        """count(w); for the empty string, the number of tokens counted."""
        if not w:
            return sum(self.children.get((), {}).values())
        return self.children.get(tuple(w[:-1]), {}).get(w[-1], 0)

    def best(self, w: Tokens) -> int | None:
        """The most frequent continuation of w, on a tie the one that was there first; None where w never continues."""
        return self.leader.get(tuple(w))

    def _count_strings_ending(self, window: Tokens, weight: int) -> None:
        before, token = tuple(window[:-1]), window[-1]
        for start in range(len(window)):
            w = before[start:]
            counts = self.children.setdefault(w, {})
            counts[token] = counts.get(token, 0) + weight
            incumbent = self.leader.setdefault(w, token)
            if counts[token] > counts[incumbent]:
                self.leader[w] = token


def draft_longest(
    tables: Mapping[str, Counts],
    context: Tokens,
    *,
    factor: float = 1.0,
    min_prob: float = 0.1,
    budget: int | None = None,
) -> tuple[list[int], str | None]:
    """Draft after the longest suffix of the context that some table has seen continue; says which table it was.

    Where two tables match equally far the first of `tables` is taken: pass the rollout's own table first.
    """
    longest, which = 0, None
    for name, table in tables.items():
        matched = _longest_match(table, context)
        if matched > longest:
            longest, which = matched, name
    if which is None:
        return [], None
    table, w = tables[which], tuple(context[-longest:])
    limit = math.floor(factor * longest + 1e-9)
    draft: list[int] = []
    prob = 1.0
    while len(draft) < limit:
        c = table.best(w)
        if c is None:
            break
        prob *= table.occurrences((*w, c)) / table.occurrences(w)
        if prob < min_prob:
            break
        draft.append(c)
        w = (*w, c)[-(table.depth - 1) :]
    return draft[:budget], which


def draft_scored(
    history: Counts | None,
    own: Counts | None,
    context: Tokens,
    budget: int,
    *,
    factor: float = 1.0,
    min_prob: float = 0.1,
    rounding: float = 0.0,
) -> set[Draft]:
    """Every draft, with its score, that scored matching may propose: one per way to resolve equal counts.

    The winner has the highest (score, local before joint, longer match); a match is shorter than the context. The nodes
    of two walks differ, so ties are resolved in each walk on its own; a draft is admissible when each other walk can
    come out below it, or above it by no more than `rounding`. Without a history the joint table is the own one; without an
    own table there is no local one.
    """
    candidates: list[list[tuple[float, bool, int, tuple[int, ...]]]] = []  # one list per walk
    joint = [table for table in (history, own) if table is not None]
    for is_local, tables in ((True, [own] if own is not None else []), (False, joint)):
        depth = tables[0].depth if tables else 0
        for m in range(1, min(len(context), depth)):
            w = tuple(context[-m:])
            if not _occurrences(tables, w):
                break
            limit = min(budget, math.floor(factor * m + 1e-9), depth - m)
            ends = _walks(tables, w, limit, min_prob, (), 1.0, 0.0)
            candidates.append([(score, is_local, m, draft) for draft, score in ends])
    if not candidates:
        return {((), 0.0)}
    at_least = max(min(walk[:3] for walk in walks) for walks in candidates)
    least = at_least[0] - rounding
    return {
        (walk[3], walk[0])
        for walks in candidates
        for walk in walks
        if walk[:3] >= at_least or (rounding > 0 and walk[0] >= least)
    }


def replay_longest(
    history: Counts | None,
    prompt: Tokens,
    output: Tokens,
    *,
    depth: int,
    factor: float = 1.0,
    min_prob: float = 0.1,
    use_own: bool = True,
) -> tuple[list[int], list[int]]:
    """(A, D): by tokens emitted, how many of the unlimited draft would be accepted, and how many there are."""
    accepted, drafted = [], []
    own = _own(prompt, depth)
    for p in range(len(output)):
        tables = _tables(history, own if use_own else None, depth)
        draft, _ = draft_longest(tables, _context(prompt, output, p, depth), factor=factor, min_prob=min_prob)
        drafted.append(len(draft))
        accepted.append(_common_prefix(draft, output[p:]))
        own.append(output[p])
    return accepted, drafted


def replay_scored(
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
    """By tokens emitted, the admissible pairs (A, D) of scored matching at this budget."""
    pairs = []
    own = _own(prompt, depth)
    for p in range(len(output)):
        context = _context(prompt, output, p, depth)
        drafts = draft_scored(history, own if use_own else None, context, budget, factor=factor, min_prob=min_prob)
        pairs.append({(_common_prefix(d, output[p:]), len(d)) for d, _ in drafts})
        own.append(output[p])
    return pairs


def sequence_steps(
    history: Counts | None,
    prompt: Tokens,
    output: Tokens,
    budget: int,
    *,
    depth: int,
    matching: Literal["longest", "scored"] = "longest",
    factor: float = 1.0,
    min_prob: float = 0.1,
    use_own: bool = True,
) -> tuple[int, int, int]:
    """(sequence-steps, drafted, accepted) of one rollout decoded alone at a fixed budget, the first step at position 0.

    Nothing is precomputed by position: each step drafts anew. Of several admissible scored drafts, the least tuple.
    """
    steps, drafted, accepted = 0, 0, 0
    own = _own(prompt, depth)
    p = 0
    while p < len(output):
        context, seen = _context(prompt, output, p, depth), own if use_own else None
        if matching == "longest":
            tables = _tables(history, seen, depth)
            draft, _ = draft_longest(tables, context, factor=factor, min_prob=min_prob, budget=budget)
        else:
            draft = list(min(draft_scored(history, seen, context, budget, factor=factor, min_prob=min_prob))[0])
        a = _common_prefix(draft, output[p:])
        emitted = output[p : p + a + 1]
        for token in emitted:
            own.append(token)
        steps, drafted, accepted, p = steps + 1, drafted + len(draft), accepted + a, p + len(emitted)
    return steps, drafted, accepted


def reachable(pairs: Sequence[set[tuple[int, int]]]) -> set[tuple[int, int, int]]:
    """Every (sequence-steps, drafted, accepted) that some choice among the admissible (A, D) by position leads to."""
    ahead: list[set[tuple[int, int, int]]] = [*(set() for _ in pairs), {(0, 0, 0)}]
    for p in reversed(range(len(pairs))):
        for a, d in pairs[p]:
            ahead[p] |= {(s + 1, x + d, y + a) for s, x, y in ahead[min(p + a + 1, len(pairs))]}
    return ahead[0]


def _longest_match(table: Counts, context: Tokens) -> int:
    lengths = range(1, min(len(context), table.depth - 1) + 1)
    return max((m for m in lengths if table.best(context[-m:]) is not None), default=0)


def _occurrences(tables: Sequence[Counts], w: Tokens) -> int:
    return sum(table.occurrences(w) for table in tables)


def _walks(
    tables: Sequence[Counts],
    w: tuple[int, ...],
    limit: int,
    min_prob: float,
    draft: tuple[int, ...],
    prob: float,
    score: float,
) -> set[Draft]:
    """Where the walks from w can end that take a most frequent child, any of the most frequent, at each token."""
    counts: dict[int, int] = {}
    for table in tables:
        for c, count in table.children.get(w, {}).items():
            counts[c] = counts.get(c, 0) + count
    if limit == 0 or not counts:
        return {(draft, score)}
    most = max(counts.values())
    prob *= most / _occurrences(tables, w)
    if prob < min_prob:
        return {(draft, score)}
    ends: set[Draft] = set()
    for c in (c for c, count in counts.items() if count == most):
        ends |= _walks(tables, (*w, c), limit - 1, min_prob, (*draft, c), prob, score + prob)
    return ends


def _own(prompt: Tokens, depth: int) -> Counts:
    own = Counts(depth)
    for token in prompt:
        own.append(token)
    return own


def _tables(history: Counts | None, own: Counts | None, depth: int) -> dict[str, Counts]:
    tables = {"own": own, "history": history}
    assert history is None or history.depth == depth, "history counted to another depth than the rollout"
    return {name: table for name, table in tables.items() if table is not None}


def _context(prompt: Tokens, output: Tokens, p: int, depth: int) -> list[int]:
    """The last `depth` tokens known after p were emitted: no match is longer than depth - 1."""
    known = [*prompt[max(0, len(prompt) - depth) :], *output[max(0, p - depth) : p]]
    return known[-depth:]


def _common_prefix(draft: Tokens, actual: Tokens) -> int:
    length = 0
    while length < min(len(draft), len(actual)) and draft[length] == actual[length]:
        length += 1
    return length
