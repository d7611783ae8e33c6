"""Prompt lookup, vLLM's `ngram` method: continue as the context continued after the same n-gram before.

Of the n-grams that end the context, prompt_lookup_min <= n <= prompt_lookup_max, the longest counts that occurs earlier in
the context, in its first such place (it may overlap the end). The draft is what follows there, up to the end of the
context and no further (vllm/v1/spec_decode/ngram_proposer.py). A smaller budget gets a prefix of the same draft.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.cost.draft_cost import Forward
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.automaton import COUNT, LAST, ROOT, STATE, block_size, extend, follow, plant
from simulator.drafting.drafter import Source, offsets_of
from simulator.drafting.layout import each_part, prompts_of
from simulator.drafting.memory import address, load, store
from simulator.drafting.pricing import ByPrice, Price
from simulator.limits import LARGEST_BUDGET
from simulator.records import as_int
from traces.errors import InputError
from traces.trace import Trace

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

FIRST_END = COUNT
"""Nothing is counted here: a state's count holds where its strings end for the first time."""


@dataclass(frozen=True)
class Ngram(ByPrice):
    """Prompt-lookup drafter, lossless; learns from the rollout's own prompt and output, and from no history.

    prompt_lookup_min, prompt_lookup_max: shortest and longest n-gram looked up, in tokens; vLLM's names and defaults.
    price: see `pricing.Price`. Prompts that were not recorded are not searched.
    """

    prompt_lookup_min: int = 5
    prompt_lookup_max: int = 5
    price: Price = field(default_factory=dict)
    forward: Forward | None = None
    default: str = ""

    lossless = True
    learns_from: frozenset[Source] = frozenset({"prompt", "own"})
    window = 16  # nothing is drafted from it; policies look at it
    needs_tokens = True

    def __post_init__(self) -> None:
        """Refuse an empty range, and costs that are written out wrongly."""
        super().__post_init__()
        if not 1 <= self.prompt_lookup_min <= self.prompt_lookup_max:
            raise InputError(
                f"drafter ngram: prompt_lookup_min = {self.prompt_lookup_min} and prompt_lookup_max = "
                f"{self.prompt_lookup_max}: the shortest n-gram has at least one token and is no longer than the longest"
            )

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        lengths = f"prompt_lookup_min={self.prompt_lookup_min}, prompt_lookup_max={self.prompt_lookup_max}"
        return f"ngram({lengths}, cost={self.told_price})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int = 0) -> Acceptance:
        """Draft at every position of the rollouts in `rows`; `past` is not looked at."""
        offsets = offsets_of(trace, rows)
        return Acceptance(offsets, lambda budget: self._table(trace, rows, offsets), prefix=True)

    def _table(self, trace: Trace, rows: Int64, offsets: Int64) -> UInt8:
        table = np.zeros((int(offsets[-1]), 2), np.uint8)
        starts, ends, prompts = trace.offsets[rows], trace.offsets[rows + 1], prompts_of(trace, rows)

        def run(part: Int64) -> int:
            longest = int((ends - starts + prompts.ends - prompts.starts)[part].max())
            context, automaton = np.empty(longest, np.int32), np.empty(block_size(longest, 1), np.int32)
            _accept_ngram(
                trace.tokens, starts[part], ends[part], prompts.tokens, prompts.starts[part], prompts.ends[part],
                context, address(automaton), self.prompt_lookup_min, self.prompt_lookup_max, offsets[part], table,
            )  # fmt: skip
            return 0

        each_part(offsets, run)
        return table


@entry
def _accept_ngram(
    tokens: Int32, starts: Int64, ends: Int64, prompt: Int32, prompt_starts: Int64, prompt_ends: Int64, context: Int32, at: int,
    shortest: int, longest: int, offsets: Int64, table: UInt8,
) -> None:  # fmt: skip
    """Fill the table, uint8[positions, 2]. context, at: room for the longest context and (its address) its automaton."""
    for i in range(starts.size):
        n_prompt, n = prompt_ends[i] - prompt_starts[i], ends[i] - starts[i]
        context[:n_prompt] = prompt[prompt_starts[i] : prompt_ends[i]]
        context[n_prompt : n_prompt + n] = tokens[starts[i] : ends[i]]
        plant(at, n_prompt + n, 1)
        state, length = ROOT, 0
        for end in range(n_prompt + n):
            if end >= n_prompt and length >= shortest:
                source = load(at, STATE * state + FIRST_END)
                drafted = min(LARGEST_BUDGET, end - source)
                right, most = 0, min(drafted, n_prompt + n - end)
                while right < most and context[source + right] == context[end + right]:
                    right += 1
                at_position = offsets[i] + end - n_prompt
                table[at_position, 0] = right
                table[at_position, 1] = drafted
            # The automaton knows the tokens before this one, so a match is an earlier occurrence. `extend` may split the
            # matched class; both halves end first at the same place, and go on alike until the next `extend`.
            state, length = follow(at, state, length, as_int(context[end]), longest)
            extend(at, as_int(context[end]))
            store(at, STATE * load(at, LAST) + FIRST_END, end + 1)
