"""What came of a system run: its RL steps, and what its GPUs did meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from simulator.drafting.drafter import Drafter
from simulator.system import System
from simulator.system_run import Step
from simulator.training.stage import Stage
from simulator.training.trainer import Span


@dataclass(eq=False)
class Played:
    """A system's RL steps so far.

    placement: its name; gpus_per_replica; train_gpus: GPUs that only train, 0 where those that generate do; steps: those played.
    """

    system: System
    drafter: Drafter
    placement: str
    stages: list[Stage]
    replicas: int
    gpus_per_replica: int
    train_gpus: int
    steps: list[Step] = field(default_factory=list)

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.replicas * self.gpus_per_replica + self.train_gpus

    def begun_s(self, j: int) -> float:
        """When the update before RL step j was done."""
        return self.steps[j - 1].trained_s if j else 0.0

    def idle_gpu_s(self, j: int) -> float:
        """GPU-seconds between the updates before and of RL step j in which a GPU neither decodes nor trains."""
        begin_s, end_s = self.begun_s(j), self.steps[j].trained_s
        busy_s = 0.0
        for step in self.steps:
            for log in step.episode.outcome.logs:
                start_s = step.start_s + log["start_s"]
                inside = np.minimum(start_s + log["duration_s"], end_s) - np.maximum(start_s, begin_s)
                busy_s += self.gpus_per_replica * float(np.maximum(inside, 0.0).sum())
        trainers = self.train_gpus or self.gpus
        return self.gpus * (end_s - begin_s) - busy_s - trainers * self.steps[j].train_s

    def spans(self) -> Iterator[Span]:
        """What every replica and stage did: decode steps without a gap between them are one span."""
        for step in self.steps:
            for number, log in enumerate(step.episode.outcome.logs):
                if not len(log):
                    continue
                start_s = log["start_s"]
                end_s = start_s + log["duration_s"]
                begins = np.concatenate([[True], start_s[1:] > end_s[:-1]])
                for first, last in zip(start_s[begins], end_s[np.append(begins[1:], True)], strict=True):
                    yield Span(
                        step.number,
                        f"replica {number}",
                        "decode",
                        float(step.start_s + first),
                        float(step.start_s + last),
                    )
            yield from step.spans
