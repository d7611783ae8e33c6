"""The interface of a stage: what happens to rollouts between their last token and the weights that they change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from simulator.cost.model import Profile
from simulator.cost.shape import ModelShape
from simulator.drafting.drafter import Drafter
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

Per = Literal["rollout", "batch", "sync", "drafter", "idle", "online"]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Rollouts that a stage works on: rows of the trace, prompt and output tokens; int64[k] each.

    share: how much of an RL step's batch they stand for: less than 1 for a mini-batch.
    """

    rows: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    share: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return int(self.prompt_tokens.sum() + self.output_tokens.sum())


@dataclass(frozen=True, eq=False)
class Prices:
    """What costs of training can follow from.

    shape: the model's, and device: the catalogue's figures of the GPU (None where the scenario names none); profile: with
    figures that were measured; train_gpus: GPUs that train; seed: names random numbers.
    """

    trace: Trace
    profile: Profile
    shape: ModelShape | None
    device: Mapping[str, Any] | None
    train_gpus: int
    seed: int


class Stage(Protocol):
    """A stage of the RL step.

    per: `rollout`, as each finishes, on servers (`Serves`), or once the batch is there (`AfterBatch`); `batch`, once for the RL
    step's rollouts, or for each mini-batch where a loop `Pipelines`, one stage after another, before the next update; `sync`,
    when replicas take up new weights, while nothing decodes; `drafter`, as each rollout finishes, too: what has been through it
    is what a drafter has learnt when an RL step begins (`Publishes`); `idle`, on replicas that have nothing left in the RL step:
    it takes no time of anybody's, and makes versions of the drafter (`TrainsWhenIdle`); `online`, beside serving: replicas take
    up what it has learnt at once (`TrainsOnline`). basis: what its seconds, or its speed, rest on: measured, given, or assumed
    how.
    """

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def per(self) -> Per:
        """When it works."""

    @property
    def basis(self) -> str:
        """What its seconds rest on."""

    def seconds(self, rollouts: Rollouts) -> npt.ArrayLike:
        """Seconds: of each rollout, float64[k], or of the batch."""


@runtime_checkable
class Serves(Protocol):
    """A stage per rollout with so many servers, first come first served. Others have one for each rollout."""

    servers: int


@runtime_checkable
class Publishes(Protocol):
    """A stage of the drafter that has a new version for every so many rollouts. Others have one for each."""

    every: int


@runtime_checkable
class TrainsWhenIdle(Protocol):
    """A stage that trains the drafter on replicas with nothing left to do, until the RL step's rollouts are there."""

    every: int
    """RL steps between versions."""
    replicas: int
    """It begins once so many are idle."""

    def tokens(self, idle_s: float, output_tokens: int) -> float:
        """Return how many tokens it learns in so many seconds of idle replicas, in an RL step of so many emitted ones."""

    def version(self, drafter: Drafter, measured: Drafter, tokens: float, step: int) -> Drafter:
        """Return the version for the RL steps from `step` on: it has learnt so many tokens more than `drafter`, the one before.

        measured: as it was at first. Raises InputError for a drafter that cannot be trained.
        """


@runtime_checkable
class Scores(Protocol):
    """A stage of the batch that has log-probs of rollouts as its result.

    scoring: share of its seconds that goes to those under the policy that samples; the rest is on the batch, whatever the loop.
    """

    scoring: float


@runtime_checkable
class TrainsOnline(Protocol):
    """A stage that trains the drafter on rollouts as they finish; replicas take up each version at once, wherever they are.

    Its seconds are those of a rollout's share of a trainer step. What an `OnlineTrainer` does with it is up to the rest:
    """

    @property
    def samples_per_s(self) -> float:
        """How many samples it trains on in a second."""

    @property
    def pool(self) -> int:
        """Samples that may wait; where there are more, the oldest fall out."""

    @property
    def batch(self) -> int:
        """Samples of a trainer step, no more than wait."""

    @property
    def sync(self) -> int:
        """Trainer steps of a version."""

    @property
    def pause_s(self) -> float:
        """Seconds in which a replica decodes nothing while it takes up a version."""

    @property
    def gpus(self) -> int:
        """GPUs that it has for itself."""

    @property
    def domains(self) -> Int64:
        """Of each row of the trace, int64[rows], from 0 on: what is learnt in one helps in no other."""

    def learnt(self, drafter: Drafter, samples: Int64) -> Drafter:
        """Return what becomes of a drafter that was trained on so many samples of each domain, int64[domains].

        Raises InputError for a drafter that cannot be trained.
        """


@runtime_checkable
class Retries(Protocol):
    """A stage per rollout that can fail."""

    backoff_s: float

    def failures(self, rollouts: Rollouts) -> Int64:
        """How many tries of each rollout fail, int64[k]. After try i it waits backoff_s 2^(i-1), then queues again."""


@runtime_checkable
class BacksOff(Protocol):
    """A stage that `Retries` in another way: after failed try i it waits backoff_s growth^(i-1).

    tries: the most; a rollout of which as many fail waits after the last one, too, and is done. holds: whether it keeps its
    server while it waits.
    """

    tries: int
    growth: float
    holds: bool


@runtime_checkable
class AfterBatch(Protocol):
    """A stage per rollout that can begin when all rollouts of the RL step's batch have finished, and not as each does."""

    after_batch: bool


@runtime_checkable
class PreparesStage(Protocol):
    """What makes a stage for a run."""

    def prepare(self, prices: Prices) -> Stage:
        """Return the stage at the prices of this run."""
