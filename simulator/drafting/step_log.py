"""Decode steps as an engine recorded them: what each drafted and had accepted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError
from traces.io import read_bytes
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Identity = tuple[int, str, int]


@dataclass(frozen=True)
class StepLog:
    """The decode steps of one recorded rollout after its prefill: tokens accepted and drafted in each, int64[steps]."""

    accepted: Int64
    drafted: Int64


@dataclass(frozen=True)
class Log:
    """Recorded decode steps of rollouts, by (step, prompt_id, sample) or, where lines name none, in the trace's order.

    draft_tokens: the engine's setting under which all of them were recorded.
    """

    path: str
    draft_tokens: int
    rollouts: Mapping[Identity, StepLog] | Sequence[StepLog]

    def of(self, trace: Trace, row: int) -> StepLog:
        """Return the decode steps of a row of the trace, or raise InputError."""
        if not isinstance(self.rollouts, Mapping):
            if len(self.rollouts) != len(trace):
                raise InputError(
                    f"{self.path}: {len(self.rollouts)} lines without identity for the {len(trace)} rollouts of "
                    f"{trace.source}: write one line per rollout in its order, or give step, prompt_id and sample"
                )
            return self.rollouts[row]
        identity = (int(trace.step[row]), trace.prompt_ids[trace.prompt[row]], int(trace.sample[row]))
        if identity not in self.rollouts:
            raise InputError(
                f"{self.path}: has no line for step {identity[0]}, prompt {identity[1]!r}, sample {identity[2]} of "
                f"{trace.source}: record that rollout, or leave it out of the trace"
            )
        return self.rollouts[identity]


def read_log(path: Path) -> Log:
    """Read JSON lines, one per rollout, with vLLM's `per_step_accepted`, `per_step_drafted` and `num_spec_tokens`.

    A line is a response of a server run with `--per-request-spec-decode-metrics detailed`, or as little of it as

        {"step": 0, "prompt_id": "p7", "sample": 3, "metrics": {"speculative_decoding":
          {"num_spec_tokens": 3, "per_step_accepted": [3, 0, 1], "per_step_drafted": [3, 3, 3]}}}

    which emitted 1 + 4 + 1 + 2 = 8 tokens: one by the prefill, then accepted and bonus tokens of each decode step.
    step, prompt_id and sample are added by who wrote the file, on every line or on none: then the lines stand in the
    order of the trace. Steps in which an engine drafted nothing must be in the arrays. Raises InputError naming the line.
    """
    named: dict[Identity, StepLog] = {}
    in_order: list[StepLog] = []
    draft_tokens = 0
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = _object(json.loads(line), "the line")
            identity = _identity(entry)
            k, log = _steps_of(entry)
            if draft_tokens and k != draft_tokens:
                raise InputError(f"num_spec_tokens is {k}, {draft_tokens} on earlier lines: keep one setting to a file")
            if (identity is None and named) or (identity is not None and in_order):
                raise InputError("step, prompt_id and sample are on some lines only: give them on all, or on none")
            if identity in named:
                raise InputError(f"{identity} is on an earlier line already: keep one")
        except (ValueError, RecursionError) as error:
            reason = (
                str(error) if isinstance(error, InputError) else f"not JSON ({str(error)[:80]}): correct the syntax"
            )
            raise InputError(f"{path}: line {number}: {reason}") from None
        draft_tokens = k
        if identity is None:
            in_order.append(log)
        else:
            named[identity] = log
    if not draft_tokens:
        raise InputError(f"{path}: has no lines: write one per rollout")
    return Log(str(path), draft_tokens, named or in_order)


def _identity(entry: Mapping[str, Any]) -> Identity | None:
    names = ("step", "prompt_id", "sample")
    if not any(name in entry for name in names):
        return None
    step, prompt_id, sample = (entry.get(name) for name in names)
    if type(step) is not int or not isinstance(prompt_id, str) or type(sample) is not int:
        raise InputError(f"step {step!r}, prompt_id {prompt_id!r}, sample {sample!r}: give an int, a text and an int")
    return step, prompt_id, sample


def _steps_of(entry: Mapping[str, Any]) -> tuple[int, StepLog]:
    metrics = entry.get("metrics", entry)
    found = _object(_object(metrics, "metrics").get("speculative_decoding", metrics), "speculative_decoding")
    if missing := [name for name in ("num_spec_tokens", "per_step_accepted", "per_step_drafted") if name not in found]:
        raise InputError(f"has no {missing[0]}: record with --per-request-spec-decode-metrics detailed")
    k = found["num_spec_tokens"]
    if type(k) is not int or not 1 <= k <= LARGEST_BUDGET:
        raise InputError(f"num_spec_tokens = {k!r}: give 1 to {LARGEST_BUDGET}")
    accepted, drafted = (_counts(found[name], name) for name in ("per_step_accepted", "per_step_drafted"))
    if accepted.size != drafted.size:
        raise InputError(f"{accepted.size} steps accepted, {drafted.size} drafted: the two arrays must be equally long")
    if wrong := np.flatnonzero((accepted > drafted) | (drafted > k)).tolist():
        step = wrong[0]
        raise InputError(
            f"step {step}: {accepted[step]} accepted of {drafted[step]} drafted, of at most {k}: impossible"
        )
    return k, StepLog(accepted, drafted)


def _counts(values: Any, name: str) -> Int64:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value <= LARGEST_BUDGET for value in values):
        raise InputError(f"{name} is not a list of counts from 0 to {LARGEST_BUDGET}: one for each decode step")
    return np.array(values, np.int64)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name} is {str(value)[:40]!r}, not an object: see the format of recorded steps")
    return value
