"""Whole decode steps by the clock: the serving engine on random batches, so that what no operator shows is measured too."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.kernels.grid import SPARE, Limits, step_at
from calibration.kernels.timing import summary
from calibration.model.runner import Runner
from calibration.truth.engine import Engine, Rollouts, StepTime
from simulator.budgets.policy import by_live
from simulator.drafting.layout import Prompts

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

WARM_UP, TIMED = 2, 5
PROMPT = 256


class _Scripted:
    """Drafts of so many tokens each, none of them right."""

    def __init__(self, drafts: Int64) -> None:
        self._drafts = drafts

    def begin(self, rollouts: Int64, prompts: Prompts) -> None:
        """Nothing is learnt."""

    def learn(self, rollouts: Int64, tokens: Int32, starts: Int64) -> None:
        """Nothing is learnt."""

    def forget(self, rollouts: Int64) -> None:
        """Nothing is kept."""

    def propose(self, rollouts: Int64, most: Int64) -> tuple[Int32, Int64]:
        """Token 1, which no rollout holds."""
        counts = np.minimum(self._drafts[rollouts], most)
        return np.ones((rollouts.size, int(counts.max(initial=0))), np.int32), counts


def measure_step(runner: Runner, limits: Limits, number: int, seed: int) -> dict[str, Any]:
    """A random step that decodes: the median of several, with the work of the middle one."""
    contexts, widths = step_at(number, limits, seed)
    return _measured(_decode(runner, contexts, widths))


def measure_mixed(runner: Runner, limits: Limits, number: int, seed: int) -> dict[str, Any]:
    """The same, and prompts that prefill beside it: the median over rounds."""
    draw = np.random.default_rng([seed, 1, number])
    prompts = int(draw.integers(1, 5))
    length = min(PROMPT * int(draw.integers(1, 5)), limits.max_model_len - SPARE, limits.max_num_batched_tokens // 8)
    narrow = Limits(
        limits.max_num_seqs, limits.max_model_len, 1, limits.max_num_batched_tokens // 2, limits.kv_tokens // 2
    )
    contexts, widths = step_at(number, narrow, seed + 1)
    room = max(int(np.max(contexts)), length) + SPARE
    if (contexts.size + prompts + 1) * room > limits.kv_tokens:
        contexts, widths = contexts[:1], widths[:1]
        prompts = min(prompts, limits.kv_tokens // room - 2)  # one sequence that decodes, and one for padding
    return _measured([_mixed(runner, contexts, widths, prompts, length, room) for _ in range(TIMED)])


def _decode(runner: Runner, contexts: Int64, widths: Int64) -> list[StepTime]:
    engine = _engine(runner, contexts, widths, contexts.size, int(np.max(contexts)) + SPARE)
    engine.warm()
    return [step for step in (engine.step() for _ in range(WARM_UP + TIMED)) if step is not None][WARM_UP:]


def _mixed(runner: Runner, contexts: Int64, widths: Int64, prompts: int, length: int, room: int) -> StepTime:
    """One step in which the first sequences decode and `prompts` of `length` tokens come in."""
    first = contexts.size
    everybody = np.concatenate([contexts, np.full(prompts, length)])
    engine = _engine(runner, everybody, np.concatenate([widths, np.ones(prompts, np.int64)]), first + prompts, room)
    engine.warm(first)
    step = engine.step()
    assert step is not None
    return step


def _engine(runner: Runner, contexts: Int64, widths: Int64, slots: int, room: int) -> Engine:
    n, length = contexts.size, WARM_UP + TIMED + 40
    runner.decoder.cache.view(slots, room)
    nothing = np.zeros(n, np.int64)
    rollouts = Rollouts(
        np.zeros(n * length, np.int32), np.arange(n + 1) * length, Prompts(np.empty(0, np.int32), nothing, nothing),
        contexts, nothing,
    )  # fmt: skip
    return Engine(runner, rollouts, by_live([255]), slots, _Scripted(widths - 1), runner.decoder.shape.vocabulary)


def _measured(steps: list[StepTime]) -> dict[str, Any]:
    found = summary([step.duration_s - step.draft_s for step in steps])
    middle = steps[len(steps) // 2]
    work = {
        "live": middle.live, "query_tokens": middle.query_tokens, "kv_tokens": middle.kv_tokens,
        "pairs": middle.pairs, "prefill_tokens": middle.prefill_tokens, "prefill_seqs": middle.prefill_seqs,
        "prefill_pairs": middle.prefill_pairs, "longest_context": middle.longest_context,
    }  # fmt: skip
    return asdict(found) | {"work": work}
