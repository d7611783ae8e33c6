"""The decode steps of a run at another price: with drafts that cost nothing, or that are verified whether found or not."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from simulator.cost.model import Profile
from simulator.cost.work import WORK_FIELDS, StepWork
from simulator.results import Result

pc: Any = pyarrow.compute  # its stubs refuse valid calls
Columns = dict[str, npt.NDArray[np.float64]]


def most_speedup(result: Result, cost: Profile, base: str, system: str) -> float:
    """Seconds in decode steps of the base over those of a system whose drafts are neither made nor verified.

    No error of the costs makes it faster than that. Every step keeps the sequences that it has, and each verifies one token. What
    a step takes beside its priced work stays. Of RL steps whose decode steps are kept of both.
    """
    mine, theirs = (result.steps.filter(pc.equal(result.steps["system"], name)) for name in (system, base))
    both = pa.array(np.intersect1d(mine["step"].to_numpy(), theirs["step"].to_numpy()), mine.schema.field("step").type)
    of, none = (_columns(one.filter(pc.is_in(one["step"], both))) for one in (mine, theirs))
    drafted = of["drafted_tokens"]
    plain_pairs = of["prefill_pairs"] + of["kv_tokens"] - of["prefill_kv_tokens"]
    less_s = of["draft_s"] - _more_s(of, cost, -drafted, np.where(drafted > 0, plain_pairs, of["pairs"]))
    return float((none["duration_s"] - none["waited_s"]).sum() / (of["duration_s"] - of["waited_s"] - less_s).sum())


def filled(result: Result, cost: Profile, system: str, drafts: int) -> float:
    """Seconds in decode steps of a system that verifies so many drafts of every decoding sequence, over those of what it found.

    Those that were not found are rejected, so nothing else changes. Of RL steps whose decode steps are kept.
    """
    of = _columns(result.steps.filter(pc.equal(result.steps["system"], system)))
    decoding = np.maximum(of["live"] - of["prefill_seqs"], 0.0)
    more = np.maximum(drafts * decoding - of["drafted_tokens"], 0.0)
    context = (of["kv_tokens"] - of["prefill_kv_tokens"]) / np.maximum(decoding, 1.0)
    took_s = of["duration_s"] - of["waited_s"]
    return float(1.0 + _more_s(of, cost, more, of["pairs"] + more * context).sum() / took_s.sum())


def _columns(steps: pa.Table) -> Columns:
    names = (name for name in steps.column_names if name not in ("system", "step"))
    return {name: steps[name].to_numpy().astype(np.float64) for name in names}


def _more_s(of: Columns, cost: Profile, tokens: npt.NDArray[np.float64], pairs: npt.NDArray[np.float64]) -> Any:
    """What each step takes more with so many query tokens more, and so many pairs in all; float64[steps]."""
    work = {name: of[name] for name in WORK_FIELDS}
    padded = np.maximum(of["padded_tokens"] + tokens, 1.0)
    other = work | {
        "query_tokens": of["query_tokens"] + tokens, "padded_tokens": padded, "pairs": pairs,
        "expert_tokens": of["expert_tokens"] * padded / of["padded_tokens"],
    }  # fmt: skip
    return cost.step_time_s(StepWork(**other)) - cost.step_time_s(StepWork(**work))
