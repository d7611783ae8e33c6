"""A third-party package as small as it can be: one of every part of rolloutsim."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import DraftCost, offsets_of


def cautious(view):
    """Two drafts while half of the slots are empty, else none."""
    return np.full(view.live, 2 if 2 * view.live <= view.max_num_seqs else 0)


cautious.every = 0  # its answer changes with the batch only


@dataclass(frozen=True)
class Bigram:
    """Drafts one token: what most often followed the last one in the history."""

    lossless = True
    learns_from = frozenset({"history"})
    window = 4
    needs_tokens = True
    cost = DraftCost(per_query_s=1e-6)

    def describe(self):
        return "bigram"

    def accept(self, trace, rows, past, seed):
        followers = defaultdict(Counter)
        for row in past:
            for one, other in pairwise(trace.tokens[trace.offsets[row] : trace.offsets[row + 1]].tolist()):
                followers[one][other] += 1
        likely = {token: counts.most_common(1)[0][0] for token, counts in followers.items()}
        offsets = offsets_of(trace, rows)

        def table(budget):
            found = np.zeros((int(offsets[-1]), 2), np.uint8)
            for row, start in zip(rows, offsets, strict=False):
                tokens = trace.tokens[trace.offsets[row] : trace.offsets[row + 1]].tolist()
                for p, (last, actual) in enumerate(pairwise(tokens), start=1):
                    found[start + p] = [likely.get(last) == actual, last in likely]
            return found

        return Acceptance(offsets, table, prefix=True)
