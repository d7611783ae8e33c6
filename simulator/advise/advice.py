"""advise(...) -> Advice: search on one part of a trace, judge on the rest, and say what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simulator.advise.candidates import Candidate
from simulator.advise.judge import Judged, compared, judge
from simulator.advise.search import Told, Tried, against_nothing, search
from simulator.advise.split import Split, split
from simulator.advise.verdict import KNOWN, Verdict, verdict
from simulator.cost.errors import Source, in_words
from simulator.limits import RESAMPLES
from simulator.results import Result
from simulator.scenario import Scenario
from traces.trace import Trace


@dataclass(frozen=True, eq=False)
class Advice:
    """What to do, and what it rests on.

    choice, runner_up: on the part that judges; the runner-up is the best with another drafter, or where there is none the second.
    tried: every candidate on the part to choose on. scenario, result: the run that judged.
    """

    verdict: Verdict
    choice: Judged
    runner_up: Judged | None
    tried: Sequence[Tried]
    split: Split
    scenario: Scenario
    result: Result

    @property
    def assumed(self) -> list[str]:
        """What the gain rests on besides recorded rollouts, a line each."""
        return [*_assumed(self)]


def advise(
    base: Scenario, trace: Trace, found: Sequence[Candidate], resamples: int = RESAMPLES, profile_error: float | None = None,
    told: Told = lambda doing: None,
) -> Advice:  # fmt: skip
    """Choose among candidates on one part of the trace, and judge the choice on the other.

    base: costs, engine and RL steps; no drafts. profile_error: relative error of the costs in place of their own. told: is called
    with what is done next.
    """
    parts = split(trace, base.steps)
    tried = search(base, parts.searched, found, told)
    chosen, *others = (one.candidate for one in tried)
    second = next((one for one in others if one.family != chosen.family), others[0] if others else None)
    judged, result = judge(base, parts.judged, [chosen, *([second] if second else [])], resamples, profile_error, told)
    first = verdict(judged[0])
    if first.answer == "cannot tell" and profile_error is None:
        told(f"asking what costs known within {KNOWN:.0%} would say")
        moved = compared(base, parts.judged, chosen, 0, KNOWN)
        first = verdict(judged[0], moved, _how_to_measure(base, parts.judged.steps[0]))
    scenario = against_nothing(base, parts.judged.steps, [one.candidate for one in judged])
    return Advice(first, judged[0], judged[1] if second else None, tried, parts, scenario, result)


def _how_to_measure(base: Scenario, step: int) -> str:
    model = base.model or "MODEL"
    campaign = f"rolloutsim calibrate campaign {base.trace} --step {step} --model {model} --device cuda --out measured/"
    tables = ", or name kernels that were measured with --tables" if base.profile is None and base.tables is None else ""
    return f"measure them on your device (`{campaign}`){tables}"


def _assumed(advice: Advice) -> Iterator[str]:
    about = advice.result.about
    yield f"costs of {about['profile']['name']}: {'; '.join(in_words(Source(**one) for one in about['errors']))}"
    yield from about["warnings"]
    if advice.split.by == "prompts":
        yield (
            "one RL step chose and judged, each half of its prompts twice over to fill the batch: nothing is known of other RL steps"
        )
    chosen = [one.candidate for one in (advice.choice, advice.runner_up) if one is not None]
    if any(getattr(one.drafter, "siblings", "next-step") != "next-step" for one in chosen):
        yield "ranges over draws of prompts are those of drafts that learn siblings' tokens in the next RL step"
    yield "the gain is that of generating rollouts: what comes after the last token is not in it"
