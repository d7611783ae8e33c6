"""What a system needs that a trace or a scenario may lack."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from simulator.catalogue import load_model
from simulator.cost.model_config import model_shape
from simulator.cost.profiles import load_profile
from simulator.transforms.prefixes import previous_rows
from simulator.transforms.verify import stale_slot
from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.scenario import Scenario
    from simulator.system import System

Need = Literal["tokens", "rewards", "next_log_probs", "log_prob_price", "history", "model", "estimate"]


class Asked(NamedTuple):
    """A need: in words, and what to say where it is not there (None where it is)."""

    words: str
    lacks: Callable[["Scenario", Trace, list[int]], str | None]


def _column(name: str, told: str) -> Callable[["Scenario", Trace, list[int]], str | None]:
    def lacks(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
        found = trace.table.column(name) if name in trace.table.column_names else None
        return told if found is None or found.null_count == len(trace) else None

    return lacks


def _next_log_probs(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    for name in ("logprobs", "next_logprobs"):
        if told := _column(name, "no log-probs under a second policy")(scenario, trace, steps):
            return told
    rows = np.flatnonzero(np.isin(trace.step, steps))
    if (at := stale_slot(trace, rows, previous_rows(trace, rows))) is None:
        return None
    return f"RL step {trace.step[rows[at]]} repeats prompts of an older one than the last, whose next_logprobs are not for it"


def _log_prob_price(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    told = any(stage.startswith("log_probs:") for stage in scenario.stages) or _model(scenario, trace, steps) is None
    if told or (scenario.profile is not None and "logprob_pass_s_per_token" in load_profile(scenario.profile).measured):
        return None
    return "nothing says what a log-prob pass costs: name model and device, or stage log_probs:s_per_token="


def _history(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    return "one RL step only: no rollouts of an earlier one" if steps[-1] == trace.steps[0] else None


def _model(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    return "costs are a profile's: name model and device" if None in (scenario.model, scenario.device) else None


def _estimate(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    if scenario.model is None or scenario.profile is not None or scenario.tables is not None:
        return "costs are measured: name model and device without profile or tables"
    held = model_shape(load_model(scenario.model)).quantised
    return f"{scenario.model} has {held.kind} weights" if held else None


NEEDS: Mapping[Need, Asked] = {
    "tokens": Asked("token ids", _column("token_ids", "no token ids")),
    "rewards": Asked("rewards", _column("reward", "no rewards")),
    "next_log_probs": Asked("log-probs under two policies", _next_log_probs),
    "log_prob_price": Asked("what a log-prob pass costs", _log_prob_price),
    "history": Asked("an earlier RL step", _history),
    "model": Asked("model and device", _model),
    "estimate": Asked("costs estimated from a model of 16-bit weights", _estimate),
}  # fmt: skip


def lacking(system: "System", scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    """Why a system cannot be run on a trace, in a few words; None where it can."""
    found = (NEEDS[need].lacks(scenario, trace, steps) for need in system.needs)
    return "; ".join(filter(None, found)) or None
