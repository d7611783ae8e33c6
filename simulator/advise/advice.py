"""advise(...) -> Advice: search on one part of a trace, judge on the rest, and say what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from simulator.advise.candidates import WEIGHTS, Place, candidates
from simulator.advise.command import replay_command
from simulator.advise.judge import Judged, compared, judge, prompts_of
from simulator.advise.search import Told, Tried, against_nothing, search
from simulator.advise.split import Split, split
from simulator.advise.verdict import KNOWN, Verdict, verdict
from simulator.cost.errors import LEVEL, Source, in_words
from simulator.limits import RESAMPLES
from simulator.results import Result
from simulator.scenario import Scenario
from traces.trace import Trace


@dataclass(frozen=True, eq=False)
class Advice:
    """What to do, and what it rests on.

    choice, runner_up: on the part that judges; the runner-up is the best with another drafter, or where there is none the
    second. tried: every candidate on the part to choose on; left_out: what the engine does not run, and why. scenario, result:
    the run that judged. Where nothing could be tried there is a verdict alone.
    """

    verdict: Verdict
    place: Place
    left_out: Mapping[str, str]
    choice: Judged | None = None
    runner_up: Judged | None = None
    tried: Sequence[Tried] = ()
    split: Split | None = None
    scenario: Scenario | None = None
    result: Result | None = None

    @property
    def assumed(self) -> list[str]:
        """What the gain rests on besides recorded rollouts, a line each."""
        return [*_assumed(self)]

    @property
    def command(self) -> str | None:
        """What plays the choice again on the RL steps that judged; None where those were split, or nothing was chosen."""
        if self.choice is None or self.split is None or self.split.by == "prompts":
            return None
        return replay_command(self.place.base, self.split.judged.steps, self.choice.candidate)

    def document(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        about = {} if self.result is None else self.result.about
        parts = None if self.split is None else {
            "by": self.split.by, "searched": self.split.searched.steps, "judged": self.split.judged.steps,
            "prompts": prompts_of(self.split.judged),
        }  # fmt: skip
        return {
            "schema_version": 1, "verdict": self.verdict.answer, "why": self.verdict.why, "settles": list(self.verdict.settles),
            "engine": str(self.place.engine), "framework": self.place.framework,
            "choice": _judged(self.choice), "runner_up": _judged(self.runner_up),
            "settings": None if self.choice is None else self.choice.candidate.settings.to_json(),
            "assumed": self.assumed, "command": self.command, "split": parts,
            "tried": [{"candidate": one.candidate.name, "speedup": one.speedup, "rl_steps": one.rl_steps} for one in self.tried],
            "left_out": dict(self.left_out), "seed": self.place.base.seed,
            **{name: about.get(name) for name in ("rolloutsim", "trace", "profile")},
        }  # fmt: skip


def advise(
    place: Place, trace: Trace, drafters: Sequence[Mapping[str, Any]] = (), policies: Sequence[str] = (),
    resamples: int = RESAMPLES, profile_error: float | None = None, told: Told = lambda doing: None,
) -> Advice:  # fmt: skip
    """Choose among candidates on one part of the trace, and judge the choice on the other.

    drafters, policies: see `candidates`. profile_error: relative error of the costs in place of their own. told: is called with
    what is done next.
    """
    base = place.base
    found, left_out = candidates(place, drafters, policies)
    if not trace.has_tokens and not drafters:
        return Advice(_unseen(trace), place, left_out)
    parts = split(trace, base.steps)
    tried = search(place, parts.searched, found, told)
    chosen, *others = (one.candidate for one in tried)
    second = next((one for one in others if one.family != chosen.family), others[0] if others else None)
    judged, result = judge(base, parts.judged, [chosen, *([second] if second else [])], resamples, profile_error, told)
    answer = verdict(judged[0])
    if answer.answer == "cannot tell" and profile_error is None:
        told(f"asking what costs known within {KNOWN:.0%} would say")
        moved = compared(base, parts.judged, chosen, 0, KNOWN)
        answer = verdict(judged[0], moved, _how_to_measure(base, parts.judged.steps[0]))
    if parts.by == "prompts":
        answer = replace(answer, why=f"{answer.why}, in this one RL step")
    scenario = against_nothing(base, parts.judged.steps, [one.candidate for one in judged])
    return Advice(answer, place, left_out, judged[0], judged[1] if second else None, tried, parts, scenario, result)


def _unseen(trace: Trace) -> Verdict:
    return Verdict(
        "cannot tell", f"{trace.source} has no token ids, so nothing can be said of n-gram or suffix drafts",
        ("record token_ids", "or give a drafter that is a model by its acceptance curve: --drafter eagle3:curve=[0.8,0.7,0.6]"),
    )  # fmt: skip


def _how_to_measure(base: Scenario, step: int) -> str:
    model = base.model or "MODEL"
    campaign = f"rolloutsim calibrate campaign {base.trace} --step {step} --model {model} --device cuda --out measured/"
    estimated = base.profile is None and base.tables is None
    return f"measure them on your device (`{campaign}`)" + (
        ", or name --tables of measured kernels" if estimated else ""
    )


def _judged(one: Judged | None) -> dict[str, Any] | None:
    if one is None:
        return None
    candidate = one.candidate
    ranges = {name: [low, high if isfinite(high) else None] for name, (low, high) in
              (("range", one.ends), ("range_of_prompts", one.sampling), ("range_of_costs", one.costs))}  # fmt: skip
    return {
        "candidate": candidate.name, "policy": candidate.policy, "drafter": candidate.drafter.model_dump(mode="json"),
        "speedup": one.speedup, "level": LEVEL, **ranges, "makespan_s": one.makespan_s, "none_s": one.none_s,
        "closed": one.closed, "drafted_per_emitted": one.drafted_share,
    }  # fmt: skip


def _assumed(advice: Advice) -> Iterator[str]:
    if advice.result is None or advice.split is None:
        return
    about = advice.result.about
    yield f"costs of {about['profile']['name']}: {'; '.join(in_words(Source(**one) for one in about['errors']))}"
    yield from about["warnings"]
    if advice.split.by == "prompts":
        yield (
            "one RL step chose and judged, half of its prompts each, twice over to fill the batch: of other ones nothing is known"
        )
    chosen = [one.candidate for one in (advice.choice, advice.runner_up) if one is not None]
    if any(getattr(one.drafter, "siblings", "next-step") != "next-step" for one in chosen):
        yield "ranges over draws of prompts are those of drafts that learn siblings' tokens in the next RL step"
    if any(WEIGHTS in one.settings.shell for one in chosen):
        yield f"{WEIGHTS} stands for a trained head or model that is accepted as the curve says: name it with --draft-model"
    yield "the gain is that of generating rollouts: what comes after the last token is not in it"
