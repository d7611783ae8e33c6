"""The length at which generation was cut, seen in the lengths: far more rollouts have the longest than any beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute

from traces.schema import SCHEMA

pc: Any = pyarrow.compute  # its stubs refuse valid calls

LEAST_TOKENS, LEAST_ROLLOUTS, TIMES = 64, 3, 10
SPREAD = 0.01
"""By how much lengths of text that was encoded again differ from those that were sampled."""


@dataclass(frozen=True)
class Cap:
    """The length from which on rollouts were cut, in tokens, the longest that there is, and how many were cut."""

    least_tokens: int
    longest_tokens: int
    rollouts: int

    def __str__(self) -> str:
        """What it comes to, for people."""
        tokens = f"{self.least_tokens:,} to {self.longest_tokens:,}"
        return f"{tokens if self.least_tokens < self.longest_tokens else f'{self.longest_tokens:,}'} tokens"

    def marked(self, table: pa.Table) -> pa.Table:
        """The table with finish_reason `length` at the cap and null, which is unknown, elsewhere."""
        cut = pc.greater_equal(table.column("output_tokens"), self.least_tokens)
        reason = pc.if_else(cut, "length", pa.scalar(None, pa.string()))
        index = table.schema.get_field_index("finish_reason")
        return table.set_column(index, SCHEMA.field("finish_reason"), reason)


def cap_of(lengths: Mapping[int, int], encoded: bool = False) -> Cap | None:
    """The cap in a count of rollouts by length; None where they do not pile up.

    They do where the longest length, of at least 64 tokens, has at least 3 rollouts, and 10 times as many as the lengths of the
    tenth below it have on average. Of `encoded` text it is the longest hundredth. Rollouts that are all of one length show
    nothing.
    """
    longest = max(lengths)
    least = longest - int(SPREAD * longest) if encoded else longest
    width = longest - least + 1
    tenth = range(least - longest // 10, least)
    beside = width * sum(lengths.get(tokens, 0) for tokens in tenth) / max(len(tenth), 1)
    cut = sum(lengths.get(tokens, 0) for tokens in range(least, longest + 1))
    if longest < LEAST_TOKENS or min(lengths) >= least or cut < max(LEAST_ROLLOUTS, TIMES * beside):
        return None
    return Cap(least, longest, cut)
