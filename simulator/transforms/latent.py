"""Latent reasoning: steps in the model's own hidden states stand for spans of text (LiteReason, 2512.02240)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.drafting.draws import levels, parted, rollout_keys
from simulator.spec import number, read, refuse, whole
from simulator.transforms.tables import lists, recorded, with_column, without
from traces.errors import UnfitTraceError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

LARGEST_ID = 2**31 - 1
MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class Latent:
    """Latent steps in place of spans of text.

    span: tokens of a span; steps: latent steps in its place, one at least and no more than its tokens; share: of spans, each
    with this probability. The tokens after the last whole span stay as they are.
    """

    span: int
    steps: int
    share: float = 1.0
    name = "latent"
    lossless = False

    @property
    def assumes(self) -> str:
        """What stands for what."""
        return (
            f"latent: {self.share:g} of all spans of {self.span} tokens are {self.steps} latent steps, each a "
            "forward pass that no drafter proposes; rewards stay; acceptance curves do not know of them"
        )

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        """Replace spans of the responses.

        Where tokens are recorded, a latent step is a token id of its own that nothing else has, so that no match goes across it.
        Log-probabilities are left out. Of a recorded drafter, drafts end before a latent step and none begins at one.
        """
        spans = trace.output_tokens.astype(np.int64) // self.span
        row = np.repeat(np.arange(spans.size), spans)
        number_ = np.arange(row.size) - np.repeat(np.cumsum(spans) - spans, spans)
        is_latent = (
            levels(parted(rollout_keys(trace, np.arange(len(trace)), seed, "latent")[row], number_)) < self.share
        )
        if not is_latent.any():
            return trace
        if recorded(trace, "turns"):
            raise UnfitTraceError(
                f"{trace.source}: transform latent: its rollouts have turns, which spans would cross: leave them out"
            )
        lengths = trace.output_tokens - (self.span - self.steps) * np.bincount(row[is_latent], minlength=spans.size)
        made = without(trace, ["logprobs", "next_logprobs"])
        if any(recorded(trace, name) for name in ("token_ids", "accept_lengths")):
            made = self._replaced(trace, made, lengths, trace.offsets[:-1][row] + number_ * self.span, is_latent)
        return with_column(made, "output_tokens", lengths)

    def _replaced(self, trace: Trace, made: Trace, lengths: Int64, begins: Int64, is_latent: Bool) -> Trace:
        """Columns by token; begins: where each span begins among the tokens of all rollouts."""
        total = int(trace.offsets[-1])
        first = begins[is_latent]
        kept = ~_within(total, first + self.steps, first + self.span)
        latent = _within(total, first, first + self.steps)[kept]
        if recorded(trace, "token_ids"):
            ids = trace.tokens[kept]
            ids[latent] = self._own_ids(trace, lengths, latent)
            made = with_column(made, "token_ids", lists("token_ids", ids, lengths))
        if recorded(trace, "accept_lengths"):
            ahead = _until(latent)
            accepted = np.minimum(trace.accept_lengths[kept], ahead)
            made = with_column(made, "accept_lengths", lists("accept_lengths", accepted, lengths))
        if recorded(trace, "draft_lengths"):
            drafted = np.where(latent, 0, trace.draft_lengths[kept])
            made = with_column(made, "draft_lengths", lists("draft_lengths", drafted, lengths))
        return made

    def _own_ids(self, trace: Trace, lengths: Int64, latent: Bool) -> Int64:
        """An id for each latent step that is nobody else's, numbered on from the largest, whatever the order of the rows."""
        largest = int(trace.tokens.max())
        if recorded(trace, "prompt_token_ids") and trace.prompt_token_ids_flat.size:
            largest = max(largest, int(trace.prompt_token_ids_flat.max()))
        counts = np.add.reduceat(latent.astype(np.int64), np.cumsum(lengths) - lengths)
        if largest + counts.sum() > LARGEST_ID:
            raise UnfitTraceError(
                f"{trace.source}: transform latent: token ids up to {largest} leave no room for {counts.sum()} more below 2^31: "
                "correct them"
            )
        order = np.lexsort((trace.sample, trace.prompt_rank[trace.prompt], trace.step))
        first = np.empty_like(counts)
        first[order] = np.cumsum(counts[order]) - counts[order]
        row = np.repeat(np.arange(counts.size), counts)
        ids: Int64 = largest + 1 + first[row] + np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return ids


def latent(argument: str) -> Latent:
    """Latent steps in place of spans of text: `latent:span=64,steps=8,share=0.9`."""
    readers = {"span": whole(1, MOST_TOKENS), "steps": whole(1, MOST_TOKENS), "share": number(0, 1)}
    given = read("latent", argument, readers, "transform")
    if not {"span", "steps"} <= given.keys():
        refuse("latent", argument, "needs spans and what stands for them: write latent:span=64,steps=8", "transform")
    if given["steps"] > given["span"]:
        refuse("latent", argument, "has more latent steps than tokens in a span: give fewer steps", "transform")
    return Latent(**given)


def _within(total: int, begins: Int64, ends: Int64) -> Bool:
    """Which of so many places lie in one of these ranges, which do not overlap; bool[total]."""
    change = np.zeros(total + 1, np.int8)
    change[begins] += 1
    change[ends] -= 1
    return np.cumsum(change[:-1], dtype=np.int8) > 0


def _until(latent: Bool) -> Int64:
    """Tokens from each place up to the next latent step, int64[n]; as many as there are places where none follows."""
    places = np.where(latent, np.arange(latent.size), 2 * latent.size)
    return np.minimum.accumulate(places[::-1])[::-1] - np.arange(latent.size)
