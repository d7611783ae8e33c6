"""The drafter that somebody measured: recorded accepted tokens, at every position or decode step by decode step."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import Forward
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import Source, offsets_of
from simulator.drafting.pricing import ByPrice, Price
from simulator.drafting.step_log import Log, StepLog
from simulator.limits import LARGEST_BUDGET, OffSteps
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Recorded(ByPrice):
    """A recorded drafter, lossless: what it had accepted is read, nothing is drawn.

    Without a log: the trace's `accept_lengths`, known at every position, serve every budget up to the recorded one exactly,
    because whether a token is accepted does not depend on what is drafted after it. How many were drafted say its
    `draft_lengths`, or else `draft_tokens`, everywhere the same.

    With a log: an engine's own run, of which only the positions are known at which a decode step began. Budgets of
    `draft_tokens` or more replay that run exactly. A smaller budget k has min(k, accepted) accepted at such a position, exactly,
    but leaves the run's path at the first step that accepts more; a policy that switches between 0 and `draft_tokens` leaves it
    as well. `off_steps` says what is drafted at positions where no recorded step begins:

    - `nothing`, and budgets from 1 to `draft_tokens` - 1 are refused. It understates the drafter.
    - `least`, `most`: **assumed** is that a draft begun j tokens into the accepted part of a recorded draft is the rest of
      that draft. Of a recorded draft of d tokens with a < d accepted, that has a - j accepted. One accepted whole (a = d) does
      not tell how far the drafter would have got: `least` stops where the recorded draft stopped; `most` goes on up to the
      next token at which a recorded draft failed. `least` is charged full drafts of `draft_tokens` there; `most` what was
      recorded of the draft, or what is accepted of it if that is more.

    Under the assumption the drafter itself takes, at any constant budget, no fewer decode steps than `most` and no more than
    `least`: the token at which a draft fails never lies earlier for a later beginning, so of two replays the one that is
    ahead stays ahead. Where drafts are made anew from other knowledge (another match, the target's features) it is not exact.

    Tokens accepted beyond the end of the rollout (an end-of-sequence token within a draft) are cut off.
    """

    draft_tokens: int | None
    log: Log | None = None
    price: Price = field(default_factory=dict)
    off_steps: OffSteps = "nothing"
    forward: Forward | None = None
    default: str = ""

    lossless = True
    learns_from: frozenset[Source] = frozenset({"model"})
    window = 16  # nothing is drafted from it; policies look at it
    needs_tokens = False

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        off = "nothing drafted" if self.off_steps == "nothing" else f"{self.off_steps} that can be accepted"
        what = f"{self.log.path}, {off} off its steps" if self.log else "accept_lengths"
        draft = self.draft_tokens or "draft_lengths"
        return f"recorded({what}, draft={draft}, cost={self.told_price})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Look up what was accepted at the positions of the rollouts in `rows`."""
        offsets = offsets_of(trace, rows)
        if self.log is None:
            known = self._everywhere(trace, rows)
            return Acceptance(offsets, lambda budget: known, prefix=True)
        replayed = self._at_steps(trace, rows, offsets, self.log)
        if self.off_steps != "nothing":
            return Acceptance(offsets, lambda budget: replayed, prefix=True)
        least = self.log.draft_tokens
        return Acceptance(offsets, lambda budget: allowed(replayed, budget, least), prefix=False)

    def _everywhere(self, trace: Trace, rows: Int64) -> UInt8:
        if not trace.has_accept_lengths:
            raise InputError(
                f"{trace.source}: has no accept_lengths, which drafter recorded replays: record them, or name a file of "
                "per-step counts with `steps`"
            )
        lengths = trace.output_tokens[rows].astype(np.int64)
        begin = np.cumsum(lengths) - lengths
        at = np.repeat(trace.offsets[rows], lengths) + np.arange(int(lengths.sum())) - np.repeat(begin, lengths)
        column = "draft_lengths" if trace.has_draft_lengths else "accept_lengths"
        recorded = trace.draft_lengths if trace.has_draft_lengths else trace.accept_lengths
        most = self.draft_tokens or LARGEST_BUDGET
        if self.draft_tokens is None and not trace.has_draft_lengths:
            raise InputError(
                f"{trace.source}: has accept_lengths without draft_lengths, and draft_tokens is missing: say how many "
                "tokens a draft of the recorded drafter had"
            )
        if at.size and recorded[at].max() > most:
            raise InputError(
                f"{trace.source}: {column} holds {recorded[at].max()}, more than draft_tokens = {most} (at most "
                f"{LARGEST_BUDGET}): give the number of tokens that the recorded drafter proposed"
            )
        drafted = recorded[at] if trace.has_draft_lengths else np.full(at.size, most)
        return np.stack([trace.accept_lengths[at], drafted], axis=1).astype(np.uint8)

    def _at_steps(self, trace: Trace, rows: Int64, offsets: Int64, log: Log) -> UInt8:
        table = np.zeros((int(offsets[-1]), 2), np.uint8)
        for number, row in enumerate(rows.tolist()):
            steps, length = log.of(trace, row), int(trace.output_tokens[row])
            ends = 1 + np.cumsum(steps.accepted + 1)  # the prefill emits the first token
            starts = np.concatenate([[1], ends[:-1]]).astype(np.int64)[: ends.size]
            emitted = int(ends[-1]) if ends.size else 1
            if emitted < length or (ends.size and starts[-1] >= length):
                where = f"step {trace.step[row]}, prompt {trace.prompt_ids[trace.prompt[row]]!r}, sample {trace.sample[row]}"
                problem = "too few" if emitted < length else "more than it needs"
                raise InputError(
                    f"{log.path}: {where}: {ends.size} decode steps emit {emitted} tokens, {problem} for its {length} in "
                    f"{trace.source}: record every step, those without a draft too (accepted 0, drafted 0)"
                )
            useful = StepLog(np.minimum(steps.accepted, length - starts), steps.drafted)
            mine = table[offsets[number] : offsets[number + 1]]
            if self.off_steps != "nothing" and starts.size:
                mine[1:] = between(starts, useful, length, log.draft_tokens, self.off_steps == "most")
            mine[starts] = np.stack([useful.accepted, useful.drafted], axis=1)
        return table


def allowed(replayed: UInt8, budget: int, draft_tokens: int) -> UInt8:
    """Return what was recorded with `draft_tokens`, or raise InputError for a budget that cannot be replayed from it."""
    if budget < draft_tokens:
        raise InputError(
            f"budget {budget}: drafter recorded knows the steps of a run with {draft_tokens} drafted tokens, and where others "
            f"would begin is unknown: use budgets of 0 or of {draft_tokens} and more, or off_steps=least and off_steps=most"
        )
    return replayed


def between(starts: Int64, steps: StepLog, length: int, draft_tokens: int, most: bool) -> UInt8:
    """Accepted and drafted tokens at positions 1..length - 1 of a rollout, uint8[length - 1, 2], as `Recorded.off_steps` says.

    starts: int64[steps], where the recorded decode steps began.
    """
    position = np.arange(1, length)
    step = np.searchsorted(starts, position, side="right") - 1
    ends, left = starts + steps.accepted, length - position
    whole = (steps.accepted == steps.drafted) & (ends < length)
    next_failure = np.minimum.accumulate(np.where(whole, length, ends)[::-1])[::-1]
    reach = next_failure if most else ends
    accepted = np.minimum(np.maximum(reach[step] - position, 0), np.minimum(draft_tokens, left))
    rest = np.maximum(starts[step] + steps.drafted[step] - position, 0)
    unknown = whole[step] | (steps.drafted[step] == draft_tokens)
    drafted = np.where(unknown & (not most), draft_tokens, np.maximum(rest, accepted))
    return np.stack([accepted, drafted], axis=1).astype(np.uint8)
