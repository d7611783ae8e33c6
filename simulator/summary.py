"""From simulated RL steps to the rows of the result tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import Requests
from simulator.compare.sensitivity import span
from simulator.compare.speedups import decoding_s, geometric_mean, mean
from simulator.engine.cluster import Outcome
from simulator.engine.state import STEP

if TYPE_CHECKING:
    from simulator.played import Played, Step

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

STRAGGLER_FROM = 0.9
"""A straggler completes after this share of the makespan."""


SUMS = ("sync_s", "train_s", "verify_s", "carried", "carried_tokens", "recomputed_tokens", "reused_tokens")


class Episode(NamedTuple):
    """One system's simulation of one RL step.

    output_tokens: lengths of its rollouts; reused_tokens: those of them that are kept of earlier responses (None: none).
    """

    system: str
    step: int
    requests: Requests
    output_tokens: Int64
    outcome: Outcome
    wall_s: float
    facts: dict[str, Any]
    arrival_s: npt.NDArray[np.float64]
    waited_s: npt.NDArray[np.float64]
    reused_tokens: Int64 | None = None

    @property
    def generated_tokens(self) -> Int64:
        """Tokens that each rollout was generated."""
        return self.output_tokens if self.reused_tokens is None else self.output_tokens - self.reused_tokens


def summed(steps: Sequence["Step"]) -> dict[str, Any]:
    """Return the figures that `runs` and `rl_steps` share, over a system's RL steps."""
    episodes = [step.episode for step in steps]
    sequence_steps, drafted, accepted, preempted, cached = (
        sum(int(e.outcome.rollouts[name].sum()) for e in episodes)
        for name in ("steps", "drafted", "accepted", "preempted", "cached")
    )
    output = sum(int(e.generated_tokens.sum()) for e in episodes)
    decode_steps = sum(step.decoded.steps for step in steps)
    busy_s = sum(float(e.outcome.busy_s.sum()) for e in episodes)
    return {
        "system": episodes[0].system,
        "rollouts": sum(e.outcome.rollouts.size for e in episodes),
        "makespan_s": sum(e.outcome.makespan_s for e in episodes),
        "decode_steps": decode_steps,
        "sequence_steps": sequence_steps,
        "output_tokens": output,
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "wasted_tokens": drafted - accepted,
        "mean_acceptance_length": output / sequence_steps if sequence_steps else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "mean_live_batch": sum(step.decoded.live for step in steps) / decode_steps if decode_steps else None,
        "straggler_s": sum(straggling(e.outcome)[1] for e in episodes),
        "extrapolated_fraction": sum(float(e.outcome.extrapolated_s.sum()) for e in episodes) / busy_s
        if busy_s
        else 0.0,
        "draft_s": sum(step.decoded.draft_s for step in steps),
        "preemptions": preempted,
        "cached_tokens": cached,
        **_latencies(episodes),
        "wall_s": sum(e.wall_s for e in episodes),
    }


def _latencies(episodes: Sequence[Episode]) -> dict[str, float | None]:
    """Mean and 99th percentile of TTFT, TPOT and latency from arrival; TPOT is None where nobody emits a second token."""
    arrival_s = np.concatenate([e.arrival_s for e in episodes])
    waited_s = np.concatenate([e.waited_s for e in episodes])
    tokens = np.concatenate([e.generated_tokens for e in episodes])
    first_s, last_s = (
        np.concatenate([e.outcome.rollouts[name] for e in episodes]) for name in ("first_token_s", "finished_s")
    )
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


def run_rows(runs: Sequence["Played"]) -> list[dict[str, Any]]:
    """Return a row of `runs` per system, speed-ups against the first."""
    rows = []
    for run in runs:
        steps = run.steps
        facts = json.dumps(
            {str(step.number): step.episode.facts for step in steps if step.episode.facts}, allow_nan=False
        )
        trained, run_s = sum(step.trained for step in steps), steps[-1].trained_s
        tokens = [step.trained_tokens for step in steps]
        rows.append(summed(steps) | {
            "policy": run.system.policy, "drafter": run.drafter.describe(), "lossless": run.lossless,
            "placement": run.placement, "loop": run.system.loop, "stages": ", ".join(run.system.stages),
            "transforms": ", ".join(run.system.transforms), "assumes": json.dumps(run.assumes),
            "changed": json.dumps(run.changed, allow_nan=False),
            "rl_steps": len(steps), "facts": facts, "run_s": run_s, "samples_per_s": trained / run_s,
            "train_gpu_s": run.trainers * sum(step.trainer_s for step in steps),
            "idle_gpu_s": sum(run.idle_gpu_s(j) for j in range(len(steps))), "gpus": run.gpus,
            "staleness": float(np.average([step.stale_mean for step in steps], weights=tokens)),
            "max_staleness": max(step.stale_max for step in steps),
            "basis": json.dumps({stage.name: stage.basis for stage in run.stages}),
            **{name: sum(getattr(step, name) for step in steps) for name in SUMS},
        })  # fmt: skip
    for row, run in zip(rows, runs, strict=True):
        row["speedup"] = rows[0]["makespan_s"] / row["makespan_s"]
        row["run_speedup"] = rows[0]["run_s"] / row["run_s"]
        row |= _other_speedups(runs[0].steps, run.steps)
    return rows


def _other_speedups(base: Sequence["Step"], own: Sequence["Step"]) -> dict[str, float | None]:
    """The means of `compare.speedups`; those over rollouts are None unless both generate the same ones in each RL step."""
    makespans_s = [[step.episode.outcome.makespan_s for step in steps] for steps in (base, own)]
    whose, base_s = _decoding_by_rollout(base)
    others, own_s = (whose, base_s) if own is base else _decoding_by_rollout(own)
    alike = np.array_equal(whose, others)
    return {
        "step_speedup": geometric_mean(*makespans_s),
        "rollout_speedup": geometric_mean(base_s, own_s) if alike else None,
        "rollout_speedup_mean": mean(base_s, own_s) if alike else None,
    }


def _decoding_by_rollout(steps: Sequence["Step"]) -> tuple[Int32, Float64]:
    """What tells each rollout (RL step, prompt, sample, tokens generated), int32[4, n], ascending, and its decoding seconds."""
    episodes = [step.episode for step in steps]
    columns = (
        (np.full(e.requests.prompt.size, e.step), e.requests.prompt, e.requests.sample, e.generated_tokens)
        for e in episodes
    )
    whose = np.concatenate([np.stack(mine).astype(np.int32) for mine in columns], axis=1)
    order = np.lexsort(whose[::-1])
    return whose[:, order], np.concatenate([decoding_s(e.outcome.rollouts) for e in episodes])[order]


def with_errors(makespan_s: float, by_source: Mapping[str, Sequence[Float64]]) -> dict[str, Any]:
    """Return the columns of `runs` that say how far off its makespan may be; by_source: `sensitivity.bars`."""
    each = {name: span(effects) for name, effects in by_source.items()}
    low, high = span([np.log(one) for one in each.values()])
    return {"makespan_low_s": low * makespan_s, "makespan_high_s": high * makespan_s, "errors": json.dumps(each)}


def rl_step_rows(runs: Sequence["Played"]) -> Iterator[dict[str, Any]]:
    """Yield a row of `rl_steps` per RL step and system, speed-ups against the first system in the same RL step."""
    base_s = [step.episode.outcome.makespan_s for step in runs[0].steps]
    for j in range(max(len(run.steps) for run in runs)):
        for run in (run for run in runs if j < len(run.steps)):
            step, makespan_s = run.steps[j], run.steps[j].episode.outcome.makespan_s
            yield summed([step]) | {
                "step": step.number, "speedup": base_s[j] / makespan_s if j < len(base_s) and makespan_s > 0 else None,
                "start_s": step.start_s, "trained_s": step.trained_s, "step_s": step.trained_s - run.begun_s(j),
                "reward_s": max(step.rewarded_s - step.end_s, 0.0), "idle_gpu_s": run.idle_gpu_s(j),
                "staleness": step.stale_mean, "max_staleness": step.stale_max, "trained": step.trained,
                "unlearnt": step.unlearnt,
                **{name: getattr(step, name) for name in SUMS},
            }  # fmt: skip


def span_block(run: "Played") -> dict[str, Any]:
    """Return the block of `spans` of one system: what its replicas and stages did when."""
    spans = [*run.spans()]
    return {"system": run.system.name, **{
        name: np.array([getattr(span, name) for span in spans], kind)
        for name, kind in (("step", np.int64), ("who", object), ("what", object), ("start_s", float), ("end_s", float))
    }}  # fmt: skip


def straggling(outcome: Outcome) -> tuple[npt.NDArray[np.bool_], float]:
    """Which rollouts are stragglers, and for how many seconds only stragglers are live."""
    finished = outcome.rollouts["finished_s"] - outcome.start_s
    late = finished > STRAGGLER_FROM * outcome.makespan_s
    return late, outcome.makespan_s - float(finished[~late].max(initial=0.0))


def rollout_block(episode: Episode, prompt_ids: list[str]) -> dict[str, Any]:
    """Return the block of `rollouts` of one episode."""
    rollouts, requests = episode.outcome.rollouts, episode.requests
    return {
        "system": episode.system,
        "step": episode.step,
        "prompt_id": np.array(prompt_ids, dtype=object)[requests.prompt],
        "sample": requests.sample,
        "replica": rollouts["replica"],
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": episode.output_tokens,
        "reused_tokens": 0 if episode.reused_tokens is None else episode.reused_tokens,
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


def step_blocks(episode: Episode) -> Iterator[dict[str, Any]]:
    """Yield the blocks of `steps` of one episode, one per replica."""
    for replica, log in enumerate(episode.outcome.logs):
        columns = {name: log[name] for name in STEP.names}
        yield {"system": episode.system, "step": episode.step, "replica": replica} | columns
