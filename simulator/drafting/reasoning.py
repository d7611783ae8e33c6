"""Reasoning steps of recorded rollouts: where each ends, and what comes of drafting it as a whole."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from simulator.compiled import compiled, entry
from simulator.drafting.draws import rollout_keys, uniform
from simulator.records import as_int
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]

RECORDED = "reasoning_steps"
"""The column of a trace that has their lengths."""
Spread = Literal["geometric", "none"]


@dataclass(frozen=True)
class StepLaw:
    """How long reasoning steps are, and how often a drafted one is accepted.

    tokens: mean of a step before it is cut, where the trace has none recorded; cap: where one is cut in two; spread: `geometric`,
    or `none` where each has so many.
    """

    tokens: float
    cap: int
    spread: Spread
    acceptance: float


@dataclass(frozen=True, eq=False)
class DrawnSteps:
    """The reasoning steps of n rollouts, those of rollout i from firsts[i] on, and one entry more that ends them.

    bounds: int64[], tokens of the rollout before each; accepted: uint8[], whether the judge would accept a draft of it;
    draft_tokens, target_tokens: int32[], lengths of what the draft and the target write there where it is not the recorded text.
    """

    firsts: Int64
    counts: Int64
    bounds: Int64
    accepted: UInt8
    draft_tokens: Int32
    target_tokens: Int32


def draw_steps(trace: Trace, rows: Int64, seed: int, law: StepLaw) -> DrawnSteps:
    """Cut each rollout in `rows` into steps, and draw what becomes of their drafts.

    Draws are keyed by (seed, step, prompt_id, sample) and the number of the reasoning step: one u decides on a draft, which is
    accepted if u is below the acceptance, so a higher one accepts those and more. Lengths are geometric, cut at the cap: what
    is left of a geometric length is as long again. Text that is not recorded is as long as a step of the same rollout, drawn
    at random.
    """
    recorded = RECORDED in trace.table.column_names and not trace.table.column(RECORDED).null_count
    firsts, bounds = _recorded(trace, rows, law) if recorded else _drawn(trace, rows, seed, law)
    accepted, drafts, targets = (np.zeros(firsts[-1], kind) for kind in (np.uint8, np.int32, np.int32))
    verdicts, others = (rollout_keys(trace, rows, seed, f"reasoning {what}") for what in ("verdicts", "lengths"))
    decide(verdicts, firsts, law.acceptance, accepted)
    lengthen(others, firsts, bounds, drafts, targets)
    return DrawnSteps(firsts[:-1], np.diff(firsts) - 1, bounds, accepted, drafts, targets)


def _drawn(trace: Trace, rows: Int64, seed: int, law: StepLaw) -> tuple[Int64, Int64]:
    """Where each rollout's steps begin, int64[n + 1], and tokens before each step, for lengths by law."""
    tokens = trace.output_tokens[rows].astype(np.int64)
    lengths = rollout_keys(trace, rows, seed, "reasoning steps")
    spread = law.spread == "geometric" and law.tokens > 1
    log_more = math.log1p(-1.0 / law.tokens) if spread else 0.0
    longest = law.cap if spread else int(law.tokens)
    counts = np.empty(rows.size, np.int64)
    count(lengths, tokens, longest, log_more, counts)
    firsts = np.concatenate([[0], np.cumsum(counts + 1)]).astype(np.int64)
    bounds = np.empty(firsts[-1], np.int64)
    cut(lengths, tokens, longest, log_more, firsts, bounds)
    return firsts, bounds


def _recorded(trace: Trace, rows: Int64, law: StepLaw) -> tuple[Int64, Int64]:
    """The same for lengths that the trace recorded, cut at the cap."""
    column = trace.table.column(RECORDED).take(pa.array(rows.tolist()))
    of_rollout = np.repeat(np.arange(rows.size), pc.list_value_length(column).to_numpy())
    tokens = pc.list_flatten(column).to_numpy().astype(np.int64)
    parts = -(-tokens // law.cap)
    lengths = np.full(int(parts.sum()), law.cap)
    lengths[np.cumsum(parts) - 1] = tokens - (parts - 1) * law.cap
    counts = np.bincount(of_rollout, weights=parts, minlength=rows.size).astype(np.int64)
    firsts = np.concatenate([[0], np.cumsum(counts + 1)]).astype(np.int64)
    each = [np.concatenate([[0], np.cumsum(one)]) for one in np.split(lengths, np.cumsum(counts)[:-1])]
    return firsts, np.concatenate(each).astype(np.int64)


@compiled
def step_tokens(key: np.uint64, number: int, longest: int, log_more: float) -> int:
    """Tokens of step `number`; log_more: log of the chance that a step goes on after a token, 0 where each has `longest`."""
    if log_more == 0.0:
        return longest
    return min(longest, 1 + as_int(math.log(uniform(key, number)) / log_more))


@entry
def count(keys: UInt64, tokens: Int64, longest: int, log_more: float, counts: Int64) -> None:
    """Write how many steps each rollout has."""
    for i in range(keys.size):
        at = number = 0
        while at < tokens[i]:
            at += step_tokens(keys[i], number, longest, log_more)
            number += 1
        counts[i] = number


@entry
def cut(keys: UInt64, tokens: Int64, longest: int, log_more: float, firsts: Int64, bounds: Int64) -> None:
    """Write where the steps begin, and the end."""
    for i in range(keys.size):
        at = 0
        for number in range(firsts[i + 1] - firsts[i] - 1):
            bounds[firsts[i] + number] = at
            at += step_tokens(keys[i], number, longest, log_more)
        bounds[firsts[i + 1] - 1] = tokens[i]


@entry
def decide(keys: UInt64, firsts: Int64, acceptance: float, accepted: UInt8) -> None:
    """Write which drafts would be accepted."""
    for i in range(keys.size):
        for place in range(firsts[i], firsts[i + 1] - 1):
            accepted[place] = uniform(keys[i], place - firsts[i]) < acceptance


@entry
def lengthen(keys: UInt64, firsts: Int64, bounds: Int64, drafts: Int32, targets: Int32) -> None:
    """Write the lengths of text that is not recorded."""
    for i in range(keys.size):
        first, steps = firsts[i], firsts[i + 1] - firsts[i] - 1
        for number in range(steps):
            one = first + min(as_int(uniform(keys[i], 2 * number) * steps), steps - 1)
            other = first + min(as_int(uniform(keys[i], 2 * number + 1) * steps), steps - 1)
            drafts[first + number] = bounds[one + 1] - bounds[one]
            targets[first + number] = bounds[other + 1] - bounds[other]
