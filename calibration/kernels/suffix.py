"""What suffix drafting adds to a decode step on the host: calls of the online drafter for a whole batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from calibration.kernels.timing import plain_sampler, summary
from simulator.drafting.layout import prompts_of
from simulator.drafting.online import OnlineSuffix
from simulator.drafting.suffix import Suffix
from traces.io import from_table
from traces.synthesis import synth

HISTORY: dict[str, Any] = {
    "prompts": 16,
    "samples": 8,
    "steps": 2,
    "median_tokens": 800.0,
    "log_sigma": 0.3,
    "history_reuse": 0.6,
}
KNOWN_TOKENS = 500
BUDGET = 8
SAMPLES = 25


def measure_suffix(call: str, batch: int, seed: int) -> dict[str, Any]:
    """Seconds of one `propose` or `learn` (a token each) for a batch of rollouts that have emitted 500 tokens."""
    trace = from_table(synth(seed=seed, sibling_reuse=0.0, **HISTORY), "made up")
    past = np.flatnonzero(trace.step == 0)
    rows = np.resize(np.flatnonzero((trace.step == 1) & (trace.output_tokens > KNOWN_TOKENS)), batch)
    drafter = Suffix()
    history = drafter.learn(trace, past)
    room = (trace.prompt_tokens[rows] + trace.output_tokens[rows] + 1000).astype(np.int64)
    online = OnlineSuffix(drafter, history, history.at[trace.prompt[rows]], room)
    everybody = np.arange(batch)
    online.begin(everybody, prompts_of(trace, rows))
    known = np.concatenate([trace.tokens[trace.offsets[i] : trace.offsets[i] + KNOWN_TOKENS] for i in rows])
    online.learn(everybody, known, np.arange(batch + 1) * KNOWN_TOKENS)
    most, one, ones = np.full(batch, BUDGET), np.full(batch, known[0]), np.arange(batch + 1)
    calls = {"propose": lambda: online.propose(everybody, most), "learn": lambda: online.learn(everybody, one, ones)}
    sample = plain_sampler(calls[call])
    found = summary([seconds for _ in range(SAMPLES) for seconds in sample(4)])
    return asdict(found)
