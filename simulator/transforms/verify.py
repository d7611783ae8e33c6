"""Verify an earlier response under the policy of now, keep what is accepted, and write the rest anew (SPEC-RL, 2509.23232)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from simulator.drafting.draws import position_draws, rollout_keys
from simulator.spec import Reader, number, one_of, read, refuse
from simulator.training.passes import forward_pass
from simulator.training.stage import Prices, Stage
from simulator.transforms.prefixes import NOBODY, Kept, previous_rows
from traces.errors import InputError
from traces.trace import Trace

pc: Any = pyarrow.compute  # its stubs refuse valid calls

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

RECORDED, PREVIOUS = "recorded", "previous"
NEXT = "next_logprobs"
ROUNDING = 1e-3
"""What a log-prob computed in half precision may be above 0."""


@dataclass(frozen=True)
class Verify:
    """`verify:leniency=L,remaining=recorded|previous,column=NAME,accept=P,seconds=S,s_per_token=X,mfu=F`.

    Token t of the response before is accepted with probability min(1, leniency pi_now / pi_then), whatever was decided on others;
    what comes before the first rejection is kept. pi_then: the trace's `logprobs`; pi_now: `next_logprobs`, which are under the
    policy after the update of that RL step, so only the RL step right after has that policy; for longer epochs `column` names
    log-probs under the policy that verifies. accept: one probability for all tokens instead, where none were recorded.
    remaining: the rollout has its recorded length in all, at least one token after the prefix, or that of the response before.
    price: of the pass; left out, that of a pass of the system's stage `log_probs`.
    """

    leniency: float = 1.0
    remaining: str = RECORDED
    column: str = NEXT
    accept: float | None = None
    price: Mapping[str, float] = field(default_factory=dict)

    name = "verify"

    @property
    def lossless(self) -> bool:
        """Leniency 1 is the rule of speculative sampling (2211.17192); drawn anew, a rejected token is too."""
        return self.leniency == 1.0

    @property
    def assumes(self) -> str:
        """What replay cannot know."""
        length = "recorded length" if self.remaining == RECORDED else "previous length"
        law = (
            "; leniency 1 keeps the policy's law where the first new token is drawn from the residual"
            if self.lossless
            else ""
        )
        law += "" if self.accept is None else f"; every token is accepted with probability {self.accept:g}"
        return (
            f"nobody knows what is written after a kept prefix: a rollout goes on to its {length}, at least one token, "
            f"and is drafted for as recorded there; the response verified is the recorded one{law}"
        )

    def kept(self, trace: Trace, rows: Int64, seed: int) -> Kept:
        """The prefix before the first rejection; all of a response that had ended means that nothing is left."""
        previous = previous_rows(trace, rows)
        lengths = trace.output_tokens[rows].astype(np.int64)
        prefix, total = np.zeros(rows.size, np.int64), lengths.copy()
        has = np.flatnonzero(previous != NOBODY)
        if has.size:
            before = previous[has]
            ended, verified = _ended(trace)[before], trace.output_tokens[before].astype(np.int64)
            offsets = np.concatenate([[0], np.cumsum(verified)])
            draws = position_draws(rollout_keys(trace, rows[has], seed, "verify"), offsets)
            prefix[has] = first_rejected(np.log(draws) >= self._log_accept(trace, rows[has], before), offsets)
            goal = lengths[has] if self.remaining == RECORDED else verified
            total[has] = np.where(ended & (prefix[has] == verified), verified, np.maximum(goal, prefix[has] + 1))
        return Kept(previous, prefix, total)

    def verification(self, prices: Prices, log_probs: str) -> Stage:
        """A forward pass of the trainer."""
        return forward_pass(self.name, self.price, log_probs, prices)

    def _log_accept(self, trace: Trace, rows: Int64, before: Int64) -> Float64:
        """Of every token of the responses in `before`, float64[], log(leniency pi_now / pi_then)."""
        if self.accept is not None:
            with np.errstate(divide="ignore"):
                return np.full(int(trace.output_tokens[before].sum()), np.log(self.accept))
        if self.column == NEXT:
            _check_next(trace, rows, before)
        then, now = (_log_probs(trace, name, before) for name in ("logprobs", self.column))
        with np.errstate(divide="ignore"):
            found: Float64 = np.log(self.leniency) + (now - then)
        return found


def first_rejected(rejected: "npt.NDArray[np.bool_]", offsets: Int64) -> Int64:
    """How many tokens come before the first that is rejected: all where none is; those of response i from offsets[i] on."""
    lengths = np.diff(offsets)
    position = np.arange(rejected.size) - np.repeat(offsets[:-1], lengths)
    return np.minimum.reduceat(np.where(rejected, position, np.repeat(lengths, lengths)), offsets[:-1])


def stale_slot(trace: Trace, rows: Int64, before: Int64) -> int | None:
    """Which rollout's response before is not of the RL step right before, the first of them; None where all are."""
    old = (before != NOBODY) & (trace.step[before] != trace.step[rows] - 1)
    return int(old.argmax()) if old.any() else None


def _check_next(trace: Trace, rows: Int64, before: Int64) -> None:
    if (at := stale_slot(trace, rows, before)) is not None:
        row, old = int(rows[at]), int(before[at])
        which = f"step {trace.step[row]}, prompt {trace.prompt_ids[trace.prompt[row]]!r}, sample {trace.sample[row]}"
        raise InputError(
            f"{trace.source}: {which}: its response before is of RL step {trace.step[old]}, whose next_logprobs are under the "
            f"policy of RL step {trace.step[old] + 1}: record log-probs under the policy that verifies, and name them: "
            "verify:column=NAME"
        )


def _log_probs(trace: Trace, name: str, rows: Int64) -> Float64:
    """A column of log-probs, of these rows one after another; InputError where it is missing or not of their tokens."""
    if name not in trace.table.column_names:
        raise InputError(f"{trace.source}: has no {name}, by which verify accepts: record them, or say accept=P")
    column = trace.table.column(name).take(rows)
    listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if (
        not listed
        or not pc.all(pc.equal(pc.list_value_length(column), trace.output_tokens[rows])).as_py()
        or column.null_count
    ):
        raise InputError(
            f"{trace.source}: {name} is not a list of a log-prob for each response token: verify needs one"
        )
    found: Float64 = pc.list_flatten(column).to_numpy().astype(np.float64)
    if (bad := ~(np.isfinite(found) & (found <= ROUNDING))).any():
        raise InputError(
            f"{trace.source}: {name} holds {found[bad.argmax()]}, which is no log-prob: give numbers up to 0"
        )
    return found


def _ended(trace: Trace) -> "npt.NDArray[np.bool_]":
    """Which responses ended by themselves or at the cap, bool[n]: all but those that are known to have been aborted."""
    if "finish_reason" not in trace.table.column_names:
        return np.ones(len(trace), np.bool_)
    aborted = pc.fill_null(pc.equal(trace.table.column("finish_reason"), "aborted"), False)
    ended: npt.NDArray[np.bool_] = ~aborted.to_numpy().astype(np.bool_)
    return ended


READERS: dict[str, Reader] = {
    "leniency": number(0, np.inf),
    "remaining": one_of(RECORDED, PREVIOUS),
    "column": str,
    "accept": number(0, 1),
    "seconds": number(0, 1e6),
    "s_per_token": number(0, 1),
    "mfu": number(0.001, 1),
}


def verify(argument: str) -> Verify:
    """Settings of `Verify`."""
    given = read("verify", argument, READERS, "transform")
    if "accept" in given and "column" in given:
        refuse("verify", argument, "has accept and column: one says how tokens are accepted", "transform")
    price: dict[str, float] = {key: given[key] for key in ("seconds", "s_per_token", "mfu") if key in given}
    return Verify(
        given.get("leniency", 1.0),
        given.get("remaining", RECORDED),
        given.get("column", NEXT),
        given.get("accept"),
        price,
    )
