"""What a run would take if drafts cost nothing: no error of the costs makes it faster than that."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from simulator.cost.model import Profile
from simulator.cost.work import WORK_FIELDS, StepWork
from simulator.results import Result

pc: Any = pyarrow.compute  # its stubs refuse valid calls


def most_speedup(result: Result, cost: Profile, base: str, system: str) -> float:
    """Seconds in decode steps of the base over those of a system whose drafts are neither made nor verified.

    Every step keeps the sequences that it has, and each verifies one token. What a step takes beside its priced work stays. Of RL
    steps whose decode steps are kept of both.
    """
    mine, theirs = (result.steps.filter(pc.equal(result.steps["system"], name)) for name in (system, base))
    both = pa.array(np.intersect1d(mine["step"].to_numpy(), theirs["step"].to_numpy()), mine.schema.field("step").type)
    mine, theirs = (one.filter(pc.is_in(one["step"], both)) for one in (mine, theirs))
    of = {
        name: mine[name].to_numpy().astype(np.float64) for name in mine.column_names if name not in ("system", "step")
    }
    work = {name: of[name] for name in WORK_FIELDS}
    drafted = of["drafted_tokens"]
    padded = np.maximum(of["padded_tokens"] - drafted, 1.0)
    plain = work | {
        "query_tokens": of["query_tokens"] - drafted, "padded_tokens": padded,
        "pairs": np.where(drafted > 0, of["prefill_pairs"] + of["kv_tokens"] - of["prefill_kv_tokens"], of["pairs"]),
        "expert_tokens": of["expert_tokens"] * padded / of["padded_tokens"],
    }  # fmt: skip
    less_s = of["draft_s"] + cost.step_time_s(StepWork(**work)) - cost.step_time_s(StepWork(**plain))
    free_s = float((of["duration_s"] - of["waited_s"] - less_s).sum())
    return float(theirs["duration_s"].to_numpy().sum() - theirs["waited_s"].to_numpy().sum()) / free_s
