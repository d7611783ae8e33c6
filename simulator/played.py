"""What comes of a system run: its RL steps, and what its GPUs do meanwhile."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.budgets.view import Requests
from simulator.compare.sensitivity import SAMPLE
from simulator.compare.throughput import Effects, Throughput
from simulator.decoded import Decoded, decoded
from simulator.drafting.drafter import Drafter
from simulator.engine.cluster import Outcome
from simulator.engine.log import Log
from simulator.engine.state import ROLLOUT
from simulator.reasoning.resolve import Reasoning
from simulator.records import records
from simulator.scheduling.resolve import known_ahead
from simulator.summary import Episode
from simulator.system import System
from simulator.training.stage import Stage, TrainsOnline
from simulator.training.trainer import Span
from simulator.transforms.prefixes import Kept
from simulator.transforms.transform import Transform
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


@dataclass(eq=False)
class Step:
    """An RL step as it was played; times on the run's clock.

    number: of the trace; sample: decode steps to price anew for error bars; start_s, end_s: from when its rollouts are submitted
    to when the loop has enough; rewarded_s: when all rewards of what is trained on are there; trained_s: when its update is done;
    sync_s, train_s: seconds of those stages; verify_s: before start_s, in which earlier responses were verified, of which
    rollouts kept reused_tokens. carried: rollouts begun in an earlier RL step, and carried_tokens that they had
    then; recomputed_tokens: prefilled again. unlearnt: rollouts that had finished, and the drafter had not learnt, when it
    began. trained: rollouts trained on; stale: RL steps between the weights that sampled their tokens and the update: mean,
    most. episode: what the rollouts that finished in it did, times since start_s; decoded: what its decode steps add up to.
    """

    number: int
    over: simpy.Event
    sample: int = SAMPLE
    start_s: float = 0.0
    end_s: float = 0.0
    rewarded_s: float = 0.0
    trained_s: float = 0.0
    sync_s: float = 0.0
    train_s: float = 0.0
    carried: int = 0
    carried_tokens: int = 0
    recomputed_tokens: int = 0
    verify_s: float = 0.0
    reused_tokens: int = 0
    unlearnt: int = 0
    trained: int = 0
    trained_tokens: int = 0
    stale_mean: float = 0.0
    stale_max: int = 0
    spans: list[Span] = field(default_factory=list)
    wall_s: float = 0.0
    _episode: Episode | None = None
    _decoded: Decoded | None = None
    _updated: bool = False

    @property
    def episode(self) -> Episode:
        """What its rollouts did."""
        assert self._episode is not None, "it is over"
        return self._episode

    @property
    def decoded(self) -> Decoded:
        """What its decode steps add up to, also where they were not kept."""
        assert self._decoded is not None, "it is over"
        return self._decoded

    def close(self, episode: Episode | None = None) -> None:
        """Note that generation (with its episode) or the update is done; with both the RL step is over."""
        if episode is not None:
            self._episode, self._decoded = episode, decoded(episode.outcome.logs, self.sample)
        self._updated |= episode is None
        if self._episode is not None and self._updated:
            self.over.succeed()

    @property
    def trainer_s(self) -> float:
        """Seconds in which the trainer trains, or verifies."""
        return self.train_s + self.verify_s

    def tell(self, facts: dict[str, Any]) -> None:
        """Note what else there is to say of its generation, which is over."""
        self._episode = self.episode._replace(facts=self.episode.facts | facts)

    def forget(self) -> None:
        """Keep of its decode steps only what they add up to."""
        outcome = self.episode.outcome
        nothing = replace(outcome, logs=[Log()] * len(outcome.logs))
        self._episode = self.episode._replace(outcome=nothing)


def nobody_decodes(replicas: int) -> Outcome:
    """What becomes of no rollouts."""
    never_s = np.zeros(replicas)
    return Outcome(records(ROLLOUT, 0), [Log()] * replicas, never_s, never_s, never_s, 0.0)


def with_whole(outcome: Outcome, kept: Kept) -> Outcome:
    """The outcome of all rollouts of an RL step, from that of those with something left: others are there from its start."""
    rollouts = records(ROLLOUT, kept.previous.size)
    rollouts["replica"] = -1
    rollouts[kept.left] = outcome.rollouts
    return replace(outcome, rollouts=rollouts)


def with_reused(episode: Episode, trace: Trace, rows: Int64, kept: Kept) -> Episode:
    """The episode of all these rollouts, in which those with something left decoded."""
    columns = (column[rows].astype(np.int64) for column in (trace.prompt, trace.sample, trace.prompt_tokens))
    nothing_s = np.zeros(rows.size)
    return episode._replace(
        requests=Requests(*columns), output_tokens=kept.total_tokens, arrival_s=nothing_s, waited_s=nothing_s,
        reused_tokens=kept.prefix_tokens,
    )  # fmt: skip


@dataclass(eq=False)
class Played:
    """A system's RL steps so far.

    placement: its name; gpus_per_replica; train_gpus: GPUs that only train, 0 where those that generate do; reasoning: steps
    drafted ahead, by drafts and judges beside the replicas; steps: those played.
    """

    system: System
    drafter: Drafter
    transforms: list[Transform]
    placement: str
    stages: list[Stage]
    replicas: int
    gpus_per_replica: int
    train_gpus: int
    changed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reasoning: Reasoning | None = None
    steps: list[Step] = field(default_factory=list)

    @property
    def lossless(self) -> bool:
        """Whether outputs keep the target model's distribution."""
        reasoning = self.reasoning is None or self.reasoning.lossless
        drafts = self.drafter.lossless or self.system.policy == "none"
        return drafts and reasoning and all(one.lossless for one in self.transforms)

    @property
    def assumes(self) -> list[str]:
        """What its results rest on besides what was recorded and measured, a line each."""
        stages = (f"{stage.name} {stage.basis}" for stage in self.stages if stage.basis.startswith("assumed"))
        reasoning = [self.reasoning.assumes] if self.reasoning and not self.reasoning.lossless else []
        transforms = [one.assumes for one in self.transforms if one.assumes]
        return [*self.system.assumes, *transforms, *reasoning, *known_ahead(self.placement), *stages]

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self._decoding_gpus + self.train_gpus + self._drafter_gpus + self._gpus_beside

    @property
    def _decoding_gpus(self) -> int:
        return self.replicas * self.gpus_per_replica

    @property
    def _drafter_gpus(self) -> int:
        return sum(stage.gpus for stage in self.stages if isinstance(stage, TrainsOnline))

    @property
    def _gpus_beside(self) -> int:
        return self.reasoning.gpus(self.replicas) if self.reasoning else 0

    @property
    def trainers(self) -> int:
        """GPUs that train."""
        return self.train_gpus or self._decoding_gpus

    def begun_s(self, j: int) -> float:
        """When the update before RL step j was done."""
        return self.steps[j - 1].trained_s if j else 0.0

    def idle_gpu_s(self, j: int) -> float:
        """GPU-seconds between the updates before and of RL step j in which a GPU neither decodes, nor trains, nor verifies."""
        begin_s, end_s = self.begun_s(j), self.steps[j].trained_s
        busy_s = 0.0
        for step in self.steps:
            found = step.decoded
            inside = np.minimum(step.start_s + found.end_s, end_s) - np.maximum(step.start_s + found.begin_s, begin_s)
            busy_s += self.gpus_per_replica * float(np.maximum(inside, 0.0).sum())
            busy_s += beside_s(step, begin_s, end_s)
            for span in step.spans:
                if span.what == "online":
                    inside_s = min(span.end_s, end_s) - max(span.start_s, begin_s)
                    busy_s += self._drafter_gpus * max(inside_s, 0.0)
        return self.gpus * (end_s - begin_s) - busy_s - self.trainers * self.steps[j].trainer_s

    def throughput(self, profile: str, effects: Effects) -> Throughput:
        """What it made of its time. profile: name of its costs; effects: what their errors do to its makespan."""
        ends_s = np.array([step.trained_s for step in self.steps])
        rollout_s = sum(step.episode.outcome.makespan_s for step in self.steps)
        return Throughput(
            np.diff(ends_s, prepend=0.0), np.array([float(step.trained) for step in self.steps]), self.gpus,
            min(rollout_s / float(ends_s[-1]), 1.0), profile, effects,
        )  # fmt: skip

    def spans(self) -> Iterator[Span]:
        """What every replica and stage did: decode steps without a gap between them are one span."""
        for step in self.steps:
            found = step.decoded
            for number, begin_s, end_s in zip(found.replica.tolist(), found.begin_s, found.end_s, strict=True):
                at_s = float(step.start_s + begin_s), float(step.start_s + end_s)
                yield Span(step.number, f"replica {number}", "decode", *at_s)
            if step.rewarded_s > step.end_s:
                yield Span(step.number, "reward", "reward", step.end_s, step.rewarded_s)
            yield from step.spans


def beside_s(step: Step, begin_s: float, end_s: float) -> float:
    """Seconds between these times in which drafts and judges beside the replicas decode: as evenly as they do over an RL step."""
    found = step.episode.facts.get("lookahead")
    inside_s = min(step.end_s, end_s) - max(step.start_s, begin_s)
    if found is None or inside_s <= 0:
        return 0.0
    return float(found["draft_busy_s"] + found["judge_busy_s"]) * inside_s / (step.end_s - step.start_s)
