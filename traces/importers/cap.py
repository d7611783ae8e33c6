"""The length at which generation was cut, seen in the lengths: far more rollouts have the longest than any beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute

from traces.schema import SCHEMA

pc: Any = pyarrow.compute  # its stubs refuse valid calls

LEAST_TOKENS, LEAST_ROLLOUTS, TIMES = 64, 3, 10


@dataclass(frozen=True)
class Cap:
    """A length in tokens, and how many rollouts have it."""

    tokens: int
    rollouts: int

    def marked(self, table: pa.Table) -> pa.Table:
        """The table with finish_reason `length` at the cap and null, which is unknown, elsewhere."""
        at_cap = pc.equal(table.column("output_tokens"), self.tokens)
        reason = pc.if_else(at_cap, "length", pa.scalar(None, pa.string()))
        index = table.schema.get_field_index("finish_reason")
        return table.set_column(index, SCHEMA.field("finish_reason"), reason)


def cap_of(lengths: Mapping[int, int]) -> Cap | None:
    """The cap in a count of rollouts by length; None where they do not pile up.

    They do where the longest length, of at least 64 tokens, has at least 3 rollouts, and 10 times as many as the lengths of the
    tenth below it have on average. Rollouts that are all of one length show nothing.
    """
    longest = max(lengths)
    tenth = range(longest - longest // 10, longest)
    beside = sum(lengths.get(tokens, 0) for tokens in tenth) / max(len(tenth), 1)
    at_cap = lengths[longest]
    if longest < LEAST_TOKENS or len(lengths) == 1 or at_cap < max(LEAST_ROLLOUTS, TIMES * beside):
        return None
    return Cap(longest, at_cap)
