"""A drafter that is trained beside serving, on rollouts as they finish (Aurora, 2602.06932)."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from simulator.drafting.drafter import Drafter
from simulator.drafting.learnt import Learnt, relaxed_curve
from simulator.drafting.model import Modelled
from simulator.spec import Reader, number, read, refuse, several, whole, whole_or_share
from simulator.training.stage import Per, Prices, Rollouts, TrainsOnline
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

POOL, BATCH, SYNC, TIME_OUT_S = 1000, 8, 500, 60.0
"""As published: samples that may wait, samples of a trainer step, trainer steps of a version; a slower swap is given up."""
SHORTEST = 1e-9


@dataclass(frozen=True, eq=False)
class Online:
    """`online:rate=T,pause=S,limit=P,half_life=N,pool=N,batch=N,sync=N,domain=COLUMN,gpus=N`; see `stage.TrainsOnline`.

    limit: conditional acceptance that training leads to, one for all draft positions or one for each; half_life: samples after
    which half of the way there is left (`drafting.learning`).
    """

    samples_per_s: float
    pool: int
    batch: int
    sync: int
    pause_s: float
    gpus: int
    limit: tuple[float, ...]
    half_life: float
    domains: Int64 = field(repr=False)
    name = "online"
    per: Per = "online"
    basis = "given"

    def seconds(self, rollouts: Rollouts) -> Float64:
        """Of each rollout."""
        return np.full(rollouts.rows.size, 1 / self.samples_per_s)

    def learnt(self, drafter: Drafter, samples: Int64) -> Drafter:
        """The drafter with a curve that has relaxed, in each domain, by the samples there."""
        if not isinstance(drafter, Modelled):
            raise InputError(
                f"stage online: drafter {drafter.describe():.60} has no acceptance curve to train: use eagle, eagle3, mtp, "
                "draft_model or parallel with curve"
            )
        relaxed_curve(drafter.curve, self.limit, 0.0, self.half_life)
        return Learnt(drafter, self.limit, self.half_life, self.domains, samples.copy())


READERS: dict[str, Reader] = {
    "rate": number(SHORTEST, 1e9),
    "pause": number(0, TIME_OUT_S),
    "limit": several(number(0, 1), "0.8/0.7/0.6"),
    "half_life": number(SHORTEST, float("inf")),
    "pool": whole_or_share(1),
    "batch": whole(1),
    "sync": whole_or_share(1),
    "domain": str,
    "gpus": whole(1, 1_000_000),
}


def online(argument: str, prices: Prices | None) -> Online:
    """Train on `rate` samples a second; after `sync` trainer steps, or so many that they make a share of an RL step's rollouts,
    a version.

    half_life below 1 and pool below 1 are shares of an RL step's rollouts, too: of the mean over the trace.
    """  # fmt: skip
    given = read("online", argument, READERS, "stage")
    if missing := [key for key in ("rate", "pause", "limit", "half_life") if key not in given]:
        refuse("online", argument, f"needs {missing[0]}=: such as rate=4,pause=2,limit=0.8,half_life=2000", "stage")
    batch = given.get("batch", BATCH)
    rollouts = 1.0 if prices is None else len(prices.trace) / len(prices.trace.steps)
    pool, sync, half_life = given.get("pool", POOL), given.get("sync", SYNC), given["half_life"]
    if pool < 1:
        pool = max(round(pool * rollouts), batch)
    if sync < 1:
        sync = max(round(sync * rollouts / batch), 1)
    if half_life < 1:
        half_life *= rollouts
    if pool < batch:
        refuse("online", argument, f"takes {batch} samples a trainer step, and {pool} may wait: raise pool", "stage")
    domains = np.zeros(0, np.int64) if prices is None else _domains(prices.trace, given.get("domain"))
    return Online(
        given["rate"], pool, batch, sync, given["pause"], given.get("gpus", 1), given["limit"], half_life, domains
    )


def _domains(trace: Trace, column: str | None) -> Int64:
    """What each row of the trace is about, numbered in the order of the rows."""
    if column is None:
        return np.zeros(len(trace), np.int64)
    if column not in trace.table.column_names:
        known = ", ".join(trace.table.column_names)
        raise InputError(f"stage online: {trace.source} has no column {column!r}: use one of {known}")
    found: Any = trace.table.column(column).combine_chunks()
    if found.null_count:
        raise InputError(
            f"stage online: column {column!r} of {trace.source} is empty in {found.null_count:,} of its rows: fill it in"
        )
    try:
        return np.asarray(pc.dictionary_encode(found).indices.to_numpy(), np.int64)
    except Exception:
        raise InputError(
            f"stage online: column {column!r} of {trace.source} has values that cannot be told apart: give text or whole numbers"
        ) from None


class OnlineTrainer:
    """Where an online trainer stands: no clock, and no drafter. Samples come in, and versions come out, in order of time.

    due_s: when the trainer step under way ends, infinite while it waits for samples; collected, trained, dropped: samples so far;
    versions: published; known: samples behind the last one, int64[domains] by domain; stale: of each sample, as it came, how many
    had come before that the version then in use had not learnt; spans: from when to when each trainer step went.
    """

    def __init__(self, stage: TrainsOnline) -> None:
        self.stage = stage
        self.due_s = np.inf
        self.collected = self.trained = self.dropped = self.steps = self.versions = 0
        self.known: Int64 = np.zeros(int(stage.domains.max(initial=0)) + 1, np.int64)
        self.stale: list[int] = []
        self.spans: list[tuple[float, float]] = []
        self._learnt = self.known.copy()
        self._known = 0
        self._pool: deque[int] = deque()

    def collect(self, domains: Int64, now_s: float) -> None:
        """Take samples of these domains in, one after another; a trainer that waits begins as soon as there are enough."""
        for domain in domains.tolist():
            self.stale.append(self.collected - self._known)
            self.collected += 1
            self._pool.append(domain)
            if self.due_s == np.inf:
                self._begin(now_s)
            if len(self._pool) > self.stage.pool:
                self._pool.popleft()
                self.dropped += 1

    def end_step(self) -> bool:
        """The trainer step under way ends; whether it makes a version. The next one begins if there are samples for it."""
        now_s, stage = self.due_s, self.stage
        self.due_s = np.inf
        self.trained += stage.batch
        self.steps += 1
        published = self.steps % stage.sync == 0
        if published:
            self.versions += 1
            self.known, self._known = self._learnt.copy(), self.trained
        self._begin(now_s)
        return published

    def _begin(self, now_s: float) -> None:
        """Take the samples of a trainer step out of the pool, the oldest first, where there are enough."""
        stage = self.stage
        if len(self._pool) < stage.batch:
            return
        for _ in range(stage.batch):
            self._learnt[self._pool.popleft()] += 1
        self.due_s = now_s + stage.batch / stage.samples_per_s
        self.spans.append((now_s, self.due_s))
