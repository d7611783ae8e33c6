"""What a system needs that a trace or a scenario may lack."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from simulator.catalogue import load_model
from simulator.cost.model_config import model_shape
from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.scenario import Scenario
    from simulator.system import System

Need = Literal["tokens", "rewards", "next_log_probs", "history", "model", "estimate", "experts"]


class Asked(NamedTuple):
    """A need: in words, and what to say where it is not there (None where it is)."""

    words: str
    lacks: Callable[["Scenario", Trace, list[int]], str | None]


def _column(name: str, told: str) -> Callable[["Scenario", Trace, list[int]], str | None]:
    def lacks(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
        found = trace.table.column(name) if name in trace.table.column_names else None
        return told if found is None or found.null_count == len(trace) else None

    return lacks


def _history(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    return "one RL step only: no rollouts of an earlier one" if steps[-1] == trace.steps[0] else None


def _model(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    return "costs are a profile's: name model and device" if None in (scenario.model, scenario.device) else None


def _estimate(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    if scenario.model is None or scenario.profile is not None or scenario.tables is not None:
        return "costs are measured: name model and device without profile or tables"
    held = model_shape(load_model(scenario.model)).quantised
    return f"{scenario.model} has {held.kind} weights" if held else None


def _experts(scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    if scenario.model is None or model_shape(load_model(scenario.model)).experts:
        return None
    return f"{scenario.model} has no experts"


NEEDS: Mapping[Need, Asked] = {
    "tokens": Asked("token ids", _column("token_ids", "no token ids")),
    "rewards": Asked("rewards", _column("reward", "no rewards")),
    "next_log_probs": Asked("log-probs under two policies", _column("next_logprobs", "no log-probs under a second policy")),
    "history": Asked("an earlier RL step", _history),
    "model": Asked("model and device", _model),
    "estimate": Asked("costs estimated from a model of 16-bit weights", _estimate),
    "experts": Asked("a mixture of experts", _experts),
}  # fmt: skip


def lacking(system: "System", scenario: "Scenario", trace: Trace, steps: list[int]) -> str | None:
    """Why a system cannot be run on a trace, in a few words; None where it can."""
    found = (NEEDS[need].lacks(scenario, trace, steps) for need in system.needs)
    return "; ".join(filter(None, found)) or None
