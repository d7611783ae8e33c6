"""A drafter that is trained where a rollout's tail leaves replicas without work (TLT's spot trainer, arXiv 2511.16665)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.cost.shape import ModelShape
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Drafter
from simulator.drafting.learning import relaxed
from simulator.drafting.model import Modelled
from simulator.drafting.trees import ModelTrees
from simulator.engine.log import Log
from simulator.spec import number, read, refuse, several, whole
from simulator.training.passes import MFU, TRAIN
from simulator.training.stage import Float64, Per, Prices, Rollouts, Stage, TrainsWhenIdle
from traces.errors import InputError

EVERY = 10
"""RL steps of a version, as published."""
SHORTEST = 1e-9


@dataclass(frozen=True)
class SpotTraining:
    """Trains on the RL step's rollouts, at so many tokens a second of each idle replica, each token `passes` times at most.

    half_life: tokens after which half of the way to the limit is left (`drafting.learning`). limit: conditional acceptance that
    training leads to: one for all, or one for each draft position, or strategy; None: what was measured of the drafter, so that
    training makes up for its drift.
    """

    tokens_per_s: float
    half_life: float
    every: int
    replicas: int
    passes: float
    limit: tuple[float, ...] | None
    basis: str
    name = "spot"
    per: Per = "idle"

    def seconds(self, rollouts: Rollouts) -> float:
        """None: it is over when the rollouts are there."""
        return 0.0

    def tokens(self, idle_s: float, output_tokens: int) -> float:
        """What it learns in an RL step."""
        return min(self.tokens_per_s * idle_s, self.passes * output_tokens)

    def version(self, drafter: Drafter, measured: Drafter, tokens: float, step: int) -> Drafter:
        """The drafter with every curve as far as it has drifted by now, relaxed from there; it drifts on from here."""
        if isinstance(drafter, Modelled) and isinstance(measured, Modelled):
            limits = measured.curve.conditional if self.limit is None else self.limit
            self._check(len(limits), drafter.curve.positions, "draft positions")
            return replace(drafter, curve=self._relaxed(drafter.curve, limits, tokens, step))
        if isinstance(drafter, ModelTrees) and isinstance(measured, ModelTrees):
            before = [one.curve.conditional for one in measured.strategies]
            limits_of = before if self.limit is None else [(limit,) for limit in self.limit]
            self._check(len(limits_of), len(before), "strategies")
            limits_of = limits_of * (len(before) // len(limits_of))
            shapes = (
                replace(one, curve=self._relaxed(one.curve, limit, tokens, step))
                for one, limit in zip(drafter.strategies, limits_of, strict=True)
            )
            return replace(drafter, strategies=tuple(shapes))
        raise InputError(
            f"stage spot: drafter {drafter.describe():.60} has no acceptance to train: use eagle, eagle3, mtp, draft_model or "
            "parallel with curve or strategies"
        )

    def _relaxed(self, curve: AcceptanceCurve, limit: Sequence[float], tokens: float, step: int) -> AcceptanceCurve:
        conditional = relaxed(curve.conditional_at(step), limit, tokens, self.half_life)
        return replace(curve, conditional=tuple(conditional.tolist()), drift_from=step)

    def _check(self, given: int, known: int, of: str) -> None:
        if given not in (1, known):
            raise InputError(f"stage spot: limit has {given} values, and the drafter {known} {of}: give 1 or {known}")


READERS = {
    "tokens_per_s": number(SHORTEST, 1e12),
    "half_life": number(SHORTEST, float("inf")),
    "limit": several(number(0, 1), "0.8/0.7/0.6"),
    "every": whole(1),
    "replicas": whole(1),
    "passes": number(0, 1e6),
    "mfu": number(0.001, 1),
}


def spot(argument: str, prices: Prices | None) -> SpotTraining:
    """`spot:half_life=N,tokens_per_s=R,limit=P/P,every=N,replicas=N,passes=N`: half_life below 1 is a share of an RL step.

    That is, of the output tokens of the trace's RL steps, their mean.
    Without tokens_per_s 6 FLOPs a token and parameter of one layer and the output vocabulary, at `mfu` of a replica's peak.
    """
    given = read("spot", argument, READERS, "stage")
    if "half_life" not in given:
        refuse("spot", argument, "needs half_life=: tokens, or a share of an RL step's, such as half_life=0.5", "stage")
    if "tokens_per_s" in given and "mfu" in given:
        refuse("spot", argument, "sets mfu beside tokens_per_s, which it is for: leave one out", "stage")
    half_life, per_s, basis = given["half_life"], given.get("tokens_per_s", 0.0), "given"
    if prices is not None:
        per_step = float(prices.trace.output_tokens.sum()) / len(prices.trace.steps)
        half_life = half_life * per_step if half_life < 1 else half_life
        if "tokens_per_s" not in given:
            per_s, basis = _speed(prices, given.get("mfu", MFU))
    return SpotTraining(
        per_s, half_life, given.get("every", EVERY), given.get("replicas", 1), given.get("passes", 1.0), given.get("limit"),
        basis,
    )  # fmt: skip


def _speed(prices: Prices, mfu: float) -> tuple[float, str]:
    """Tokens a second of a replica, and what that rests on."""
    if prices.shape is None or prices.device is None:
        raise InputError(
            "stage spot has no speed: name model and device to derive one, or say it: spot:tokens_per_s=50000"
        )
    gpus = int(prices.profile.parallel.get("tensor_parallel_size", 1))
    flops = TRAIN * _head_parameters(prices.shape)
    per_s = gpus * mfu * float(prices.device["peak_flops_per_s"]) / flops
    how = (
        f"{TRAIN} FLOPs a token and parameter of a layer and the output vocabulary at {mfu:.0%} of {gpus} GPU(s)' peak"
    )
    return per_s, f"assumed: {how}"


def _head_parameters(shape: ModelShape) -> int:
    output = shape.hidden * shape.vocabulary
    return (shape.active_parameters - shape.embedding_parameters - output) // shape.layers + output


class Spot:
    """Where a run's trainer in idle time stands; between RL steps alone.

    ranks: as many consecutive replicas step together, and are idle when the last of them is.
    """

    def __init__(self, stage: TrainsWhenIdle, drafter: Drafter, replicas: int, ranks: int) -> None:
        self._stage, self._ranks, self._measured, self._drafter = stage, ranks, drafter, drafter
        self._begun = self._versions = 0
        self._tokens = 0.0
        stage.version(drafter, drafter, 0.0, 0)
        if stage.replicas > replicas:
            raise InputError(f"stage spot: replicas = {stage.replicas}: there are {replicas}, so give no more")

    def begin(self, step: int) -> Drafter | None:
        """An RL step begins: return the drafter's new version, if it is time for one."""
        begun, self._begun = self._begun, self._begun + 1
        if begun == 0 or begun % self._stage.every:
            return None
        self._drafter = self._stage.version(self._drafter, self._measured, self._tokens, step)
        self._versions, self._tokens = self._versions + 1, 0.0
        return self._drafter

    def train(self, logs: Sequence[Log], until_s: float, output_tokens: int) -> dict[str, Any]:
        """Learn in the RL step that is over; what there is to tell. until_s: when its rollouts were there, as the logs count."""
        idle_s = idle_time(logs, until_s, self._stage.replicas, self._ranks)
        learnt = self._stage.tokens(idle_s, output_tokens)
        self._tokens += learnt
        return {"drafter_version": self._versions, "idle_replica_s": idle_s, "drafter_tokens": learnt}


def idle_time(logs: Sequence[Log], until_s: float, replicas: int, ranks: int) -> float:
    """Seconds of replicas that have nothing left in an RL step, from when so many are idle to its end, summed over them."""
    ends_s = [float((log["start_s"] + log["duration_s"])[-1]) if len(log) else 0.0 for log in logs]
    idle_from_s: Float64 = np.array(ends_s).reshape(-1, ranks).max(axis=1).repeat(ranks)
    begins_s = np.sort(idle_from_s)[replicas - 1]
    return float(np.maximum(until_s - np.maximum(idle_from_s, begins_s), 0.0).sum())


def spot_of(stages: Sequence[Stage], drafter: Drafter, replicas: int, ranks: int) -> Spot | None:
    """What trains the drafter in idle time, if a stage does; InputError where several do, or the drafter cannot be trained."""
    if not stages:
        return None
    if len(stages) > 1:
        raise InputError(
            f"stages {', '.join(one.name for one in stages)}: one trains the drafter in idle time: leave others out"
        )
    (stage,) = stages
    if not isinstance(stage, TrainsWhenIdle):
        raise InputError(f"stage {stage.name}: per = 'idle' needs every, replicas, tokens and version")
    return Spot(stage, drafter, replicas, ranks)
