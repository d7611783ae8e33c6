"""Small inputs for the checks: a trace, costs, an RL step."""

from typing import Any

import numpy as np
import pyarrow as pa

from simulator.budgets.context import Context
from simulator.cost.model import CostModel, Profile
from simulator.cost.operators import Affine, row
from simulator.drafting.drafter import past_rows
from simulator.drafting.measure import draft_curve
from simulator.drafting.suffix import Suffix
from simulator.engine.workload import Workload
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

SEED = 20


def example_trace(seed: int = SEED) -> Trace:
    """Return a made-up trace: 3 RL steps of 5 prompts x 3 samples, about 60 tokens each, with token ids."""
    return from_table(
        synth(prompts=5, samples=3, steps=3, median_tokens=60, max_tokens=300, seed=seed), "example trace"
    )


def example_cost() -> CostModel:
    """Return an affine cost model: 5 ms a step, 20 us a query token, 40 ns a KV token."""
    operator = Affine("step", row(constant=5e-3, query_tokens=2e-5, kv_tokens=4e-8))
    return Profile("example", "affine", (operator,), "none", "none", "made up for tests", "made up")


def with_rewards(trace: Trace) -> Trace:
    """Return a trace with rewards: 1 for the samples of even number of all prompts but the first, where all are 0."""
    if "reward" in trace.table.column_names:
        return trace
    rewards = ((trace.sample % 2 == 0) & (trace.prompt > 0)).astype(np.float64)
    return from_table(trace.table.append_column("reward", pa.array(rewards)), trace.source)


def with_log_probs(trace: Trace) -> Trace:
    """Return a trace with made-up log-probs of its tokens, under the policy that sampled them and under the next one."""
    if {"logprobs", "next_logprobs"} <= {*trace.table.column_names}:
        return trace
    rng, table = np.random.default_rng(SEED), trace.table
    then = [-2 - rng.random(length) for length in trace.output_tokens.tolist()]
    now = [mine + rng.normal(0, 0.1, mine.size) for mine in then]
    for name, column in (("logprobs", then), ("next_logprobs", now)):
        if name not in table.column_names:
            table = table.append_column(name, pa.array([one.tolist() for one in column], pa.list_(pa.float32())))
    return from_table(table, trace.source)


def rl_step(trace: Trace, step: int, cost: CostModel, max_num_seqs: int) -> tuple[Workload, Context]:
    """Return the rollouts of an RL step, drafted for from those before it, and what a policy prepares from."""
    rows, drafter = np.flatnonzero(trace.step == step), Suffix()
    past = past_rows(trace, step, drafter.window)
    prompt, sample, prompt_tokens, lengths = (
        column[rows].astype(np.int64)
        for column in (trace.prompt, trace.sample, trace.prompt_tokens, trace.output_tokens)
    )
    workload = Workload(prompt, sample, prompt_tokens, lengths, drafter.accept(trace, rows, past))
    past_prompt, past_lengths = trace.prompt[past].astype(np.int64), trace.output_tokens[past].astype(np.int64)

    def curve() -> Any:
        return draft_curve(drafter, trace, past, SEED) if past.size else None

    return workload, Context(len(trace.prompt_ids), past_prompt, past_lengths, cost, max_num_seqs, curve)
