"""From the closed form of Lookahead Reasoning to what it takes, part by part: `python -m tests.ablations.lookahead_reasoning`.

Each rollout has a replica for itself: a 32B target on two H100, a 1.5B draft and a 7B judge on one each, as published; all prices
are estimates from data sheets. Of a speed-up and an acceptance follows the c that the asynchronous closed form would need.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from simulator.cost import Affine, Profile, StepWork
from simulator.cost.operators import row
from simulator.deployed import costs_of
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.reasoning import StepLaw, draw_steps
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.lookahead_run import Lookahead, look_ahead
from simulator.engine.replica import NO_TABLE
from simulator.engine.workload import workload_of
from simulator.scenario import build
from traces.io import from_table, read
from traces.trace import Trace

ROLLOUTS, PROMPT_TOKENS, DEPTH, RAW_C = 48, 150, 6, 0.1
FAMILY = "deepseek-r1-distill-qwen-"
BLANK_LINES = (271, 382, 1447, 1939, 3593, 4710)
"""Tokens of Qwen's vocabulary that end in a blank line: alone, after a point, colon, question mark, bracket or space."""
DATA = {"AIME": (0.47, 6_000, 1.36), "GSM8K": (0.63, 600, 1.71)}
"""Acceptance and speed-up as published; tokens of a rollout, our choice."""


def constant(seconds: float) -> Profile:
    return Profile("c", "affine", (Affine("a", row(constant=seconds)),), "m", "d", "constant", "made up")


def price(model: str, gpus: int) -> Profile:
    names = {"model": FAMILY + model, "device": "h100", "tensor_parallel_size": gpus}
    return costs_of(build({"trace": "t", "policies": ["none"], **names}))[0]


def alone_s(cost: Profile, context: int) -> float:
    """Seconds of a decode step of one sequence."""
    return float(cost.step_time_s(StepWork(1.0, 1.0, float(context), float(context))))


def trace_of(tokens: int) -> Trace:
    rows = [
        {"step": 0, "prompt_id": f"p{i}", "sample": 0, "prompt_tokens": PROMPT_TOKENS, "output_tokens": tokens}
        for i in range(ROLLOUTS)
    ]
    return from_table(pa.Table.from_pylist(rows), "made")


def recorded(path: Path) -> Trace:
    """Rollouts of a Qwen model with their reasoning steps, which end where a token ends in a blank line."""
    trace = read(str(path))
    rows = []
    for i in range(ROLLOUTS):
        tokens = trace.tokens[trace.offsets[i] : trace.offsets[i + 1]]
        ends = np.unique([0, *(np.flatnonzero(np.isin(tokens, BLANK_LINES)) + 1), tokens.size])
        rows.append({
            "step": 0, "prompt_id": f"p{i}", "sample": 0, "prompt_tokens": PROMPT_TOKENS, "output_tokens": tokens.size,
            "reasoning_steps": np.diff(ends).tolist(),
        })  # fmt: skip
    return from_table(pa.Table.from_pylist(rows), path.stem)


def told_steps(trace: Trace) -> str:
    """Mean and spread of a trace's steps, as they are and cut at 100."""
    tokens = np.concatenate(trace.table["reasoning_steps"].to_pylist())
    drawn = draw_steps(trace, np.arange(len(trace)), 0, StepLaw(1.0, 100, "geometric", 0.0))
    cut = np.delete(np.diff(drawn.bounds), (drawn.firsts + drawn.counts)[:-1])
    means = (f"mean {one.mean():.1f}, deviation over mean {one.std() / one.mean():.2f}" for one in (tokens, cut))
    return "; cut at 100: ".join(means)


def closed_form(a: float, c: float) -> float:
    return 1 / (c + (1 - c) * (1 - a))


def needed_c(a: float, speedup: float) -> float:
    return (1 / speedup - (1 - a)) / a


def mean_s(trace: Trace, law: StepLaw, target: Profile, ahead: Lookahead | None) -> float:
    rows = np.arange(len(trace))
    offsets = np.concatenate([[0], np.cumsum(trace.output_tokens)]).astype(np.int64)
    nothing = Acceptance(offsets, lambda _: np.zeros((int(offsets[-1]), 2), np.uint8), prefix=True)
    workload = workload_of(trace, rows, nothing, None, arrivals=False)
    deployment = Deployment(target, 64, ROLLOUTS, "round_robin")
    if ahead is None:
        return float(simulate(workload, NO_TABLE, deployment).rollouts["finished_s"].mean())
    found = look_ahead(workload, NO_TABLE, deployment, draw_steps(trace, rows, 0, law), ahead)
    return float(found.outcome.rollouts["finished_s"].mean())


def speedups(a: float, tokens: int) -> Iterator[tuple[str, float]]:
    """What is switched on one after another, and the speed-up with it; then, with all of it, what one setting does."""
    trace, target, draft, judge = trace_of(tokens), price("32b", 2), price("1.5b", 1), price("7b", 1)
    step_s = alone_s(target, PROMPT_TOKENS + tokens // 2)
    flat, equal = constant(step_s), StepLaw(40.0, 100, "none", a)
    law, free = replace(equal, spread="geometric"), Lookahead(DEPTH, False, constant(RAW_C * step_s), None)
    priced = replace(free, draft=draft)
    whole = replace(priced, judge=judge)

    def speedup(law: StepLaw, cost: Profile, ahead: Lookahead) -> float:
        return mean_s(trace, law, cost, None) / mean_s(trace, law, cost, ahead)

    yield f"closed form, c = {RAW_C}", closed_form(a, RAW_C)
    yield "played: equal steps, lanes and judge free", speedup(equal, flat, free)
    yield "and the draft at its price", speedup(equal, flat, priced)
    yield "and geometric steps, cut at 100", speedup(law, flat, priced)
    yield "and lanes at their price", speedup(law, target, priced)
    yield "and the judge: all of it", speedup(law, target, whole)
    yield "all of it, steps of 20 tokens", speedup(replace(law, tokens=20.0), target, whole)
    yield "all of it, steps of 80 tokens", speedup(replace(law, tokens=80.0), target, whole)
    yield "all of it, equal steps", speedup(equal, target, whole)
    yield "all of it, depth 4", speedup(law, target, replace(whole, depth=4))
    yield "all of it, depth 1", speedup(law, target, replace(whole, depth=1))
    yield "all of it, in cycles (sync), depth 2", speedup(law, target, replace(whole, depth=2, waits=True))


def of_recorded(folder: Path) -> None:
    """The same with steps as they were recorded."""
    whole = Lookahead(DEPTH, False, price("1.5b", 1), price("7b", 1))
    for name in ("qwq32b_long_cot", "qwen3_30b_a3b_long_cot"):
        trace, target = recorded(folder / f"{name}.parquet"), price("32b", 2)
        print(f"\n{name}, {told_steps(trace)}")
        for a in (0.47, 0.63):
            law = StepLaw(1.0, 100, "geometric", a)
            speedup = mean_s(trace, law, target, None) / mean_s(trace, law, target, whole)
            print(f"  all of it, a = {a}: {speedup:.2f} x   c = {needed_c(a, speedup):.2f}")


def main() -> None:
    target, draft = price("32b", 2), price("1.5b", 1)
    print(
        f"decode step of one sequence: target {1e3 * alone_s(target, 2000):.2f} ms, draft {1e3 * alone_s(draft, 2000):.2f} ms"
    )
    for name, (a, tokens, published) in DATA.items():
        print(f"\n{name}: a = {a}, published {published} x, which needs c = {needed_c(a, published):.2f}")
        for what, speedup in speedups(a, tokens):
            print(f"  {what:45} {speedup:.2f} x   c = {needed_c(a, speedup):.2f}")
    if folder := os.environ.get("ROLLOUTSIM_DATA"):
        of_recorded(Path(folder) / "rollouts")


if __name__ == "__main__":
    main()
