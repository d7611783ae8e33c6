"""What suffix drafting costs on this machine's CPU: seconds per query and per inserted token, by history size."""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from calibration.hardware import cpu
from simulator.drafting.suffix import Suffix
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

HISTORY_TOKENS = (10_000, 100_000, 1_000_000)
REPLAYED_TOKENS = 100_000
RUNS = 5


def measure(history_tokens: tuple[int, ...] = HISTORY_TOKENS, seed: int = 0) -> dict[str, Any]:
    """Time the drafter on one thread and return the document that `simulator.drafting.cost.load_draft_cost` reads.

    Made-up rollouts of about 1,000 tokens that reuse 60 % of an earlier step; one global automaton of each size; medians
    of five runs. An insert enters one token into an automaton. A query moves the match on by one token and drafts; a step
    that emits several tokens moves on several times but drafts once, so charging a query per step leaves that out.
    """
    rows = [_at(tokens, seed) for tokens in history_tokens]
    typical = rows[len(rows) // 2]
    return {
        "format": "rolloutsim.draft_cost/1",
        "drafter": "suffix",
        "device": f"{cpu()}, one thread",
        "source": f"rolloutsim calibrate drafter; rolloutsim {version('rolloutsim')}, numba {version('numba')}, seed {seed}",
        "cost": {"per_query_s": typical["query_s"], "per_emitted_token_s": typical["insert_s"]},
        "measured": rows,
    }


def _at(history_tokens: int, seed: int) -> dict[str, float]:
    trace = _rollouts(history_tokens, seed)
    past, rows = np.flatnonzero(trace.step == 0), np.flatnonzero(trace.step == 1)
    drafter = Suffix(scope="global", own=False)
    forest = drafter.learn(trace, past)
    positions = int(trace.output_tokens[rows].sum())
    insert_s = _median_s(lambda: drafter.learn(trace, rows)) / positions
    query_s = _median_s(lambda: drafter.accept_from(trace, rows, forest, threads=1)) / positions
    return {
        "history_tokens": forest.tokens,
        "insert_s": float(f"{insert_s:.3g}"),
        "query_s": float(f"{query_s:.3g}"),
    }


def _rollouts(history_tokens: int, seed: int) -> Trace:
    rollouts = max(history_tokens // 1000, 1)
    settings: dict[str, Any] = {
        "median_tokens": 900,
        "log_sigma": 0.4,
        "history_reuse": 0.6,
        "sibling_reuse": 0.0,
        "seed": seed,
    }
    trace = from_table(synth(prompts=rollouts, samples=1, steps=2, **settings), "made up")
    replayed = np.flatnonzero(trace.step == 1)[: max(REPLAYED_TOKENS // 1000, 1)]
    return trace.select(np.concatenate([np.flatnonzero(trace.step == 0), replayed]))


def _median_s(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
