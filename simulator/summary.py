"""From simulated RL steps to the rows of the result tables."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import Requests
from simulator.drafting.drafter import Drafter
from simulator.engine.cluster import Outcome
from simulator.engine.state import STEP
from simulator.records import joined

Int64 = npt.NDArray[np.int64]

STRAGGLER_FROM = 0.9
"""A straggler completes after this share of the makespan."""


class Episode(NamedTuple):
    """One policy's simulation of one RL step."""

    policy: str
    step: int
    requests: Requests
    output_tokens: Int64
    outcome: Outcome
    wall_s: float
    facts: dict[str, Any]
    arrival_s: npt.NDArray[np.float64]
    waited_s: npt.NDArray[np.float64]


def summed(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the figures that `runs` and `rl_steps` share, over one policy's episodes."""
    rollouts = joined([e.outcome.rollouts for e in episodes])
    sequence_steps = int(rollouts["steps"].sum())
    drafted, accepted = int(rollouts["drafted"].sum()), int(rollouts["accepted"].sum())
    output = sum(int(e.output_tokens.sum()) for e in episodes)
    logs = [log for e in episodes for log in e.outcome.logs]
    decode_steps = sum(map(len, logs))
    busy_s = sum(float(e.outcome.busy_s.sum()) for e in episodes)
    return {
        "policy": episodes[0].policy,
        "rollouts": rollouts.size,
        "makespan_s": sum(e.outcome.makespan_s for e in episodes),
        "decode_steps": decode_steps,
        "sequence_steps": sequence_steps,
        "output_tokens": output,
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "wasted_tokens": drafted - accepted,
        "mean_acceptance_length": output / sequence_steps,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "mean_live_batch": sum(float(log["live"].sum()) for log in logs) / decode_steps,
        "straggler_s": sum(straggling(e.outcome)[1] for e in episodes),
        "extrapolated_fraction": sum(float(e.outcome.extrapolated_s.sum()) for e in episodes) / busy_s,
        "draft_s": sum(float(log["draft_s"].sum()) for log in logs),
        "preemptions": int(rollouts["preempted"].sum()),
        "cached_tokens": int(rollouts["cached"].sum()),
        **_latencies(episodes, rollouts),
        "wall_s": sum(e.wall_s for e in episodes),
    }


def _latencies(episodes: Sequence[Episode], rollouts: "npt.NDArray[Any]") -> dict[str, float | None]:
    """Mean and 99th percentile of TTFT, TPOT and latency from arrival; TPOT is None where nobody emits a second token."""
    arrival_s = np.concatenate([e.arrival_s for e in episodes])
    waited_s = np.concatenate([e.waited_s for e in episodes])
    tokens = np.concatenate([e.output_tokens for e in episodes])
    first_s, last_s = (np.ascontiguousarray(rollouts[name]) for name in ("first_token_s", "finished_s"))
    more = tokens > 1
    each = {
        "ttft": first_s - arrival_s,
        "tpot": (last_s - first_s - waited_s)[more] / (tokens[more] - 1),
        "latency": last_s - arrival_s,
    }
    stats: dict[str, float | None] = {}
    for name, values in each.items():
        stats[f"{name}_s"] = float(values.mean()) if values.size else None
        stats[f"{name}_p99_s"] = float(np.quantile(values, 0.99)) if values.size else None
    return stats


def run_rows(episodes: Sequence[Episode], policies: Sequence[str], drafter: Drafter) -> list[dict[str, Any]]:
    """Return a row of `runs` per policy, speed-ups against the first."""
    rows = []
    for policy in policies:
        mine = [e for e in episodes if e.policy == policy]
        facts = json.dumps({str(e.step): e.facts for e in mine if e.facts}, allow_nan=False)
        about = {"drafter": drafter.describe(), "lossless": drafter.lossless, "rl_steps": len(mine), "facts": facts}
        rows.append(summed(mine) | about)
    for row in rows:
        row["speedup"] = rows[0]["makespan_s"] / row["makespan_s"]
    return rows


def rl_step_rows(episodes: Sequence[Episode], baseline: str) -> Iterator[dict[str, Any]]:
    """Yield a row of `rl_steps` per policy and RL step, speed-ups against the baseline in the same RL step."""
    base_s = {e.step: e.outcome.makespan_s for e in episodes if e.policy == baseline}
    for e in episodes:
        yield summed([e]) | {"step": e.step, "speedup": base_s[e.step] / e.outcome.makespan_s}


def straggling(outcome: Outcome) -> tuple[npt.NDArray[np.bool_], float]:
    """Which rollouts are stragglers, and for how many seconds only stragglers are live."""
    finished = outcome.rollouts["finished_s"] - outcome.start_s
    late = finished > STRAGGLER_FROM * outcome.makespan_s
    return late, outcome.makespan_s - float(finished[~late].max(initial=0.0))


def rollout_block(episode: Episode, prompt_ids: list[str]) -> dict[str, Any]:
    """Return the block of `rollouts` of one episode."""
    rollouts, requests = episode.outcome.rollouts, episode.requests
    return {
        "policy": episode.policy,
        "step": episode.step,
        "prompt_id": np.array(prompt_ids, dtype=object)[requests.prompt],
        "sample": requests.sample,
        "replica": rollouts["replica"],
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": episode.output_tokens,
        "arrival_s": episode.arrival_s,
        "admitted_s": rollouts["admitted_s"],
        "first_token_s": rollouts["first_token_s"],
        "preemptions": rollouts["preempted"],
        "cached_tokens": rollouts["cached"],
        "finished_s": rollouts["finished_s"],
        "decode_steps": rollouts["steps"],
        "drafted_tokens": rollouts["drafted"],
        "accepted_tokens": rollouts["accepted"],
        "straggler": straggling(episode.outcome)[0],
    }


def step_blocks(episode: Episode) -> list[dict[str, Any]]:
    """Return the blocks of `steps` of one episode, one per replica."""
    return [
        {"policy": episode.policy, "step": episode.step, "replica": replica} | {name: log[name] for name in STEP.names}
        for replica, log in enumerate(episode.outcome.logs)
    ]
