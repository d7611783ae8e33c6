"""One inference engine instance as pure state: its batch, its queue, its clock. SimPy decides when it may go on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import UNLIMITED, BudgetPolicy, TablePolicy
from simulator.budgets.view import BUDGET, POSITION, ROLLOUT, SEEN_FIELDS, BatchView
from simulator.cost.model import CostModel
from simulator.drafting.drafter import FREE, DraftCost
from simulator.drafting.live import EMPTY_DESK
from simulator.engine import kernel as k
from simulator.engine.workload import Workload
from simulator.plugins import told
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

LOG_ROWS = 16_384
NO_TABLE = (np.empty((1, 0), np.int64), np.zeros((1, 1, 1), np.int64))


class Ledger:
    """What becomes of every rollout of a workload, written by whichever replica decodes it.

    counts: int64[4, n] (`kernel.R_*`: decode steps, drafted, accepted, replica); times: float64[2, n], admission and
    completion in seconds; given: int64[4, n], what the kernel reads of each rollout.
    """

    def __init__(self, workload: Workload, policy: BudgetPolicy) -> None:
        n = len(workload)
        rows = policy.rows(workload.prompt) if isinstance(policy, TablePolicy) else np.zeros(n, np.int64)
        offsets = workload.acceptance.offsets
        self.given: Int64 = np.stack([offsets[:-1], offsets[1:], workload.prompt_tokens, rows])
        self.counts: Int64 = np.full((4, n), -1, np.int64)
        self.times: Float64 = np.full((2, n), np.nan)


class Replica:
    """State of one replica; `advance` decodes on until the cluster must know (`kernel.IDLE` or `kernel.FREED`)."""

    def __init__(
        self,
        number: int,
        workload: Workload,
        ledger: Ledger,
        policy: BudgetPolicy,
        cost: CostModel,
        max_num_seqs: int,
        draft_cost: DraftCost = FREE,
    ) -> None:
        self.workload, self.ledger, self.policy = workload, ledger, policy
        self.max_num_seqs = max_num_seqs
        self.every = 0 if isinstance(policy, TablePolicy) else int(getattr(policy, "every", 1))
        self._table = (policy.boundaries, policy.budgets) if isinstance(policy, TablePolicy) else NO_TABLE
        self._cost = (*cost.packed, draft_cost.packed)
        self._slots: Int64 = np.zeros((k.SLOT_FIELDS, max_num_seqs), np.int64)
        self._state: Int64 = np.zeros(k.STATE_FIELDS, np.int64)
        self._state[k.NUMBER] = number
        self._clock: Float64 = np.zeros(2)
        self._queue: Int64 = np.empty(0, np.int64)
        self._log: Float64 = np.empty((LOG_ROWS, len(k.LOG_COLUMNS)))
        self._full_logs: list[Float64] = []
        if isinstance(policy, TablePolicy):
            workload.acceptance.serve(np.unique(policy.budgets))
        self._live_drafts = workload.classroom is not None
        self._desk_owner = workload.classroom.desk(number) if workload.classroom else None
        self._desk = self._desk_owner.packed if self._desk_owner else EMPTY_DESK

    @property
    def now_s(self) -> float:
        """The replica's clock."""
        return float(self._clock[k.NOW_S])

    @property
    def extrapolated_s(self) -> float:
        """Seconds spent in decode steps outside the cost model's valid range."""
        return float(self._clock[k.EXTRAPOLATED_S])

    @property
    def room(self) -> int:
        """Rollouts that it could still admit, those in its own queue counted as admitted."""
        return self.max_num_seqs - int(self._state[k.LIVE] + self._state[k.TAIL] - self._state[k.HEAD])

    @property
    def log(self) -> Float64:
        """One row per decode step; columns are `kernel.LOG_COLUMNS`."""
        return np.concatenate([*self._full_logs, self._log[: self._state[k.LOGGED]]])

    def enqueue(self, rollouts: Int64) -> None:
        """Append rollouts to the replica's own queue."""
        waiting = self._queue[self._state[k.HEAD] :]
        self._queue = np.concatenate([waiting, rollouts]) if waiting.size else rollouts
        self._state[k.HEAD], self._state[k.TAIL] = 0, self._queue.size

    def advance(self, wait_when_free: bool) -> int:
        """Decode until the batch and the own queue are empty (IDLE) or, if asked to wait, a slot is free (FREED)."""
        asked = not isinstance(self.policy, TablePolicy)
        acceptance, ledger = self.workload.acceptance, self.ledger
        reason: int = k.ASK
        while True:
            if asked and reason == k.ASK:
                self._ask()
            reason = k.advance(
                self._slots, self._state, self._queue, ledger.given, self._clock, ledger.counts, ledger.times,
                acceptance.tables, acceptance.table_of, *self._table, *self._cost, self._log,
                self.max_num_seqs, wait_when_free, asked, self.every, self._live_drafts, *self._desk,
            )  # fmt: skip
            if reason == k.LOG_FULL:
                self._full_logs.append(self._log)
                self._log = np.empty_like(self._log)
                self._state[k.LOGGED] = 0
            elif reason != k.ASK:
                return reason

    def view(self) -> BatchView:
        """What a policy may know of the batch now."""
        state = self._state
        seen = self._slots[:SEEN_FIELDS, : state[k.LIVE]].copy()
        waiting = int(state[k.TAIL] - state[k.HEAD])
        return BatchView(
            int(state[k.NUMBER]),
            self.now_s,
            self.max_num_seqs,
            waiting,
            int(state[k.STEPS]),
            seen,
            self.workload.requests,
        )

    def check(self) -> None:
        """Assert what must hold between decode steps, whatever happened before."""
        state, live = self._state, int(self._state[k.LIVE])
        slots, given = self._slots[:, :live], self.ledger.given
        rollouts = slots[ROLLOUT]
        assert 0 <= state[k.DECODING] <= live <= self.max_num_seqs
        assert 0 <= state[k.HEAD] <= state[k.TAIL] == self._queue.size
        assert np.unique(rollouts).size == live, "a rollout holds one slot"
        assert (slots[POSITION] >= given[k.START, rollouts]).all()
        assert (slots[POSITION] < given[k.END, rollouts]).all(), "a live rollout has tokens left"
        assert (slots[POSITION] < slots[k.LIMIT])[: state[k.DECODING]].all()
        assert ((slots[BUDGET] >= 0) & (slots[BUDGET] <= 255)).all()
        assert np.isnan(self.ledger.times[k.FINISHED_S, rollouts]).all()
        done = self.ledger.counts[k.R_REPLICA] == state[k.NUMBER]
        lengths = given[k.END] - given[k.START]
        emitted = int(lengths[done].sum() + (slots[POSITION] - given[k.START, rollouts]).sum())
        assert emitted == int(self.log[:, k.LOG_COLUMNS.index("emitted_tokens")].sum()), "tokens are conserved"
        assert (self.ledger.counts[k.R_ACCEPTED, done] <= self.ledger.counts[k.R_DRAFTED, done]).all()

    def _ask(self) -> None:
        """Admit, show the policy the batch and put its budgets into the slots."""
        k.admit(
            self._slots, self._state, self._queue, self.ledger.given, self._clock, self.ledger.times, self.max_num_seqs
        )
        live = int(self._state[k.LIVE])
        if not live:
            return
        try:
            answer = self.policy(self.view())
        except Exception as error:
            raise InputError(f"policy {_name(self.policy)} raised {told(error)}: mend the policy") from error
        self._state[k.ASKED] = self._state[k.STEPS]
        budgets = _checked(answer, live, self.policy)
        self._slots[BUDGET, :live] = budgets
        acceptance = self.workload.acceptance
        if not acceptance.prefix:  # else there is one table, and SHIFT stays 0
            acceptance.serve(np.unique(budgets))
            self._slots[k.SHIFT, :live] = acceptance.table_of[budgets] * acceptance.tables.shape[1]


def _name(policy: BudgetPolicy) -> str:
    return str(getattr(policy, "__qualname__", type(policy).__qualname__))


def _checked(answer: Any, live: int, policy: BudgetPolicy) -> Int64 | int:
    """Return what a policy answered as budgets, or as one for all; the usual forms are let through quickly."""
    if type(answer) is int and 0 <= answer <= UNLIMITED:
        return answer
    whole = type(answer) is np.ndarray and answer.dtype == np.int64 and answer.shape == (live,)
    if whole and answer.view(np.uint64).max() <= UNLIMITED:
        checked: Int64 = answer
        return checked
    name = _name(policy)
    try:
        budgets = np.asarray(answer)
    except ValueError:
        raise InputError(f"policy {name} returned lists of different lengths: return one budget each") from None
    if budgets.shape not in {(live,), ()}:
        raise InputError(
            f"policy {name} returned shape {budgets.shape} for {live} live sequences: return one budget each"
        )
    if budgets.dtype.kind not in "iu":
        raise InputError(f"policy {name} returned {budgets.dtype} budgets: return whole numbers")
    if budgets.min() < 0 or budgets.max() > UNLIMITED:
        raise InputError(f"policy {name} returned a budget of {budgets.min()} to {budgets.max()}: stay within 0 to 255")
    return budgets.astype(np.int64) if budgets.ndim else int(budgets)
