"""One inference engine instance as pure state: its batch, its queue, its clock. SimPy decides when it may go on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import UNLIMITED, BudgetPolicy, TablePolicy
from simulator.budgets.view import BUDGET, POSITION, ROLLOUT, SEEN_FIELDS, BatchView
from simulator.cost.model import CostModel
from simulator.cost.packing import reads
from simulator.drafting.drafter import FREE, DraftCost
from simulator.drafting.live import EMPTY_DESK
from simulator.engine import fields as f
from simulator.engine.blocks import NO_POOL, check_pool
from simulator.engine.kernel import advance
from simulator.engine.schedule import admit
from simulator.engine.serving import ANYTHING, NO_LIMIT, Serving
from simulator.engine.workload import Workload
from simulator.plugins import told
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

LOG_ROWS = 16_384
UNEVEN_FEATURES = ("longest_context", "excess_context", "evenness")
NO_TABLE = (np.empty((1, 0), np.int64), np.zeros((1, 1, 1), np.int64))


class Ledger:
    """What becomes of every rollout of a workload, written by whichever replica decodes it.

    counts: int64[8, n] (`fields.R_*`); times: float64[5, n] (`fields.ARRIVAL_S` ... `FINISHED_S`); given: int64[6, n], what
    the kernel reads of each rollout; turn_ends: int64[], positions after which rollouts wait; turn_waits: float64[].
    """

    def __init__(self, workload: Workload, policy: BudgetPolicy) -> None:
        n = len(workload)
        rows = policy.rows(workload.prompt) if isinstance(policy, TablePolicy) else np.zeros(n, np.int64)
        offsets, turns = workload.acceptance.offsets, workload.turns
        self.turn_ends: Int64 = np.empty(0, np.int64)
        self.turn_waits: Float64 = np.empty(0)
        first = last = np.zeros(n, np.int64)
        if turns is not None:
            before = np.concatenate([[0], np.cumsum(turns.generated_tokens)])[turns.offsets[:-1]]
            starts = np.repeat(offsets[:-1] - before, np.diff(turns.offsets))
            self.turn_ends, self.turn_waits = starts + np.cumsum(turns.generated_tokens), turns.wait_s
            first, last = turns.offsets[:-1], np.maximum(turns.offsets[1:] - 1, turns.offsets[:-1])
        self.given: Int64 = np.stack([offsets[:-1], offsets[1:], workload.prompt_tokens, rows, first, last])
        self.counts: Int64 = np.zeros((f.COUNTS, n), np.int64)
        self.counts[f.R_REPLICA] = -1
        self.counts[f.R_POSITION] = offsets[:-1]
        self.counts[f.R_TURN] = first
        self.times: Float64 = np.full((f.TIMES, n), np.nan)
        self.times[f.ARRIVAL_S] = workload.arrivals_s


class Replica:
    """State of one replica; `advance` decodes on until the cluster must know (`fields.IDLE`, `FREED` or `UNTIL`)."""

    def __init__(
        self,
        number: int,
        workload: Workload,
        ledger: Ledger,
        policy: BudgetPolicy,
        cost: CostModel,
        max_num_seqs: int,
        draft_cost: DraftCost = FREE,
        serving: Serving = ANYTHING,
        pool: Int64 = NO_POOL,
    ) -> None:
        self.workload, self.ledger, self.policy = workload, ledger, policy
        self.max_num_seqs = max_num_seqs
        self.every = 0 if isinstance(policy, TablePolicy) else _every(policy)
        self._changed = True
        self._table = (policy.boundaries, policy.budgets) if isinstance(policy, TablePolicy) else NO_TABLE
        self._cost = (*cost.packed, draft_cost.packed)
        self._rules = serving.rules(workload, max_num_seqs)
        self._rules[f.UNEVEN] = reads(cost.packed, UNEVEN_FEATURES)
        self._step = (serving.padding, serving.step_overhead_s)
        self.pool = pool
        most = min(max_num_seqs, len(workload))
        self._slots: Int64 = np.zeros((f.SLOT_FIELDS, most), np.int64)
        self._ghosts: Int64 = np.zeros((2, most), np.int64)
        self._state: Int64 = np.zeros(f.STATE_FIELDS, np.int64)
        self._state[f.NUMBER] = number
        self._clock: Float64 = np.zeros(3)
        self._queue: Int64 = np.empty(0, np.int64)
        self._pending: Int64 = np.empty(len(workload) if workload.turns is not None else 0, np.int64)
        self._state[f.PENDING] = self._pending.size
        self._log: Float64 = np.empty((LOG_ROWS, len(f.LOG_COLUMNS)))
        self._full_logs: list[Float64] = []
        if isinstance(policy, TablePolicy):
            workload.acceptance.serve(np.unique(policy.budgets))
        self._desk_owner = workload.classroom.desk(number) if workload.classroom else None
        self._desk = self._desk_owner.packed if self._desk_owner else EMPTY_DESK

    @property
    def now_s(self) -> float:
        """The replica's clock."""
        return float(self._clock[f.NOW_S])

    @property
    def extrapolated_s(self) -> float:
        """Seconds spent in decode steps outside the cost model's valid range."""
        return float(self._clock[f.EXTRAPOLATED_S])

    def load(self, time_s: float) -> tuple[int, int]:
        """Rollouts that wait in its queue, those given to it by `time_s` and not looked at yet included, and that run."""
        state = self._state
        expected = self.ledger.times[f.ARRIVAL_S, self._pending[state[f.PENDING] :]]
        running = int(state[f.LIVE])
        if self.now_s > time_s and state[f.LOGGED]:  # a step is under way: who completes in it runs still
            running = max(running, int(self._log[state[f.LOGGED] - 1, f.LOG_COLUMNS.index("live")]))
        return int(state[f.TAIL] - state[f.HEAD] + (expected <= time_s).sum()), running

    @property
    def room(self) -> int:
        """Rollouts that it could still admit, those in its own queue counted as admitted."""
        return self.max_num_seqs - int(self._state[f.LIVE] + self._state[f.TAIL] - self._state[f.HEAD])

    @property
    def log(self) -> Float64:
        """One row per decode step; columns are `fields.LOG_COLUMNS`."""
        return np.concatenate([*self._full_logs, self._log[: self._state[f.LOGGED]]])

    def enqueue(self, rollouts: Int64) -> None:
        """Append rollouts to the replica's own queue, where they have arrived."""
        times = self.ledger.times[f.QUEUED_S]
        times[rollouts] = np.where(np.isnan(times[rollouts]), self.now_s, times[rollouts])
        self._fill_queue(rollouts, 0)

    def expect(self, rollouts: Int64) -> None:
        """Let rollouts come in at their arrival times, besides those already expected."""
        waiting = self._pending[self._state[f.PENDING] :]
        expected = np.concatenate([waiting, rollouts])
        expected = expected[np.lexsort((expected, self.ledger.times[f.ARRIVAL_S, expected]))]
        slack = 0 if self.workload.turns is None else len(self.workload)  # for those who come back
        self._pending = np.concatenate([np.empty(slack, np.int64), expected])
        self._state[f.PENDING] = slack
        self._fill_queue(np.empty(0, np.int64), expected.size)

    def _fill_queue(self, rollouts: Int64, arriving: int) -> None:
        """Rebuild the queue, with room at its head for the running, who may be preempted, and at its tail for arrivals."""
        waiting = self._queue[self._state[f.HEAD] : self._state[f.TAIL]]
        turns = 0 if self.workload.turns is None else int(self.workload.turns.wait_s.size)
        head = self._slots.shape[1] if self.pool is not NO_POOL else 0
        tail = arriving + turns
        self._queue = np.concatenate([np.empty(head, np.int64), waiting, rollouts, np.empty(tail, np.int64)])
        self._state[f.HEAD], self._state[f.TAIL] = head, head + waiting.size + rollouts.size

    def advance(self, wait_when_free: bool = False, until_s: float = np.inf) -> int:
        """Decode until nothing is left (IDLE), `until_s` (UNTIL) or, if asked to wait, a slot is free (FREED)."""
        asked = not isinstance(self.policy, TablePolicy)
        acceptance, ledger = self.workload.acceptance, self.ledger
        while True:
            if asked and self._changed:
                self._ask()
            reason: int = advance(
                self._slots, self._state, self._queue, self._pending, ledger.given, self._clock, ledger.counts, ledger.times,
                ledger.turn_ends, ledger.turn_waits, self.pool, self._ghosts, self._rules, *self._step,
                acceptance.tables, acceptance.table_of, *self._table, *self._cost, self._log, wait_when_free, until_s, asked,
                self.every, *self._desk,
            )  # fmt: skip
            self._changed = reason not in (f.LOG_FULL, f.UNTIL)
            if reason == f.LOG_FULL:
                self._full_logs.append(self._log)
                self._log = np.empty_like(self._log)
                self._state[f.LOGGED] = 0
            elif reason != f.ASK:
                return reason

    def view(self) -> BatchView:
        """What a policy may know of the batch now."""
        state = self._state
        seen = self._slots[:SEEN_FIELDS, : state[f.LIVE]].copy()
        return BatchView(
            int(state[f.NUMBER]),
            self.now_s,
            self.max_num_seqs,
            int(state[f.TAIL] - state[f.HEAD]),
            int(state[f.STEPS]),
            seen,
            self.workload.requests,
        )

    def check(self) -> None:
        """Assert what must hold between decode steps, whatever happened before."""
        state, live = self._state, int(self._state[f.LIVE])
        slots, given, counts = self._slots[:, :live], self.ledger.given, self.ledger.counts
        rollouts = slots[ROLLOUT]
        assert 0 <= state[f.DECODING] <= live <= live + state[f.GHOSTS] <= self.max_num_seqs
        assert 0 <= state[f.HEAD] <= state[f.TAIL] <= self._queue.size
        assert np.unique(rollouts).size == live, "a rollout holds one slot"
        assert (slots[POSITION] >= given[f.START, rollouts]).all()
        assert (slots[POSITION] < slots[f.STOP]).all(), "a live rollout has tokens left"
        assert (slots[f.STOP] <= given[f.END, rollouts]).all()
        assert (slots[POSITION] < slots[f.LIMIT])[: state[f.DECODING]].all()
        assert ((slots[BUDGET] >= 0) & (slots[BUDGET] <= 255)).all()
        assert np.isnan(self.ledger.times[f.FINISHED_S, rollouts]).all()
        done = counts[f.R_REPLICA] == state[f.NUMBER]
        away = self._queue[state[f.HEAD] : state[f.TAIL]], self._pending[state[f.PENDING] :]
        lengths = given[f.END] - given[f.START]
        emitted = int(lengths[done].sum() + (slots[POSITION] - given[f.START, rollouts]).sum())
        emitted += sum(int((counts[f.R_POSITION, gone] - given[f.START, gone]).sum()) for gone in away)
        assert emitted == int(self.log[:, f.LOG_COLUMNS.index("emitted_tokens")].sum()), "tokens are conserved"
        assert (counts[f.R_ACCEPTED, done] <= counts[f.R_DRAFTED, done]).all()
        if self.pool is not NO_POOL:
            ghosts = self._ghosts[:, : state[f.GHOSTS]]
            lines, held = np.concatenate([slots[f.LINE], ghosts[0]]), np.concatenate([slots[f.HELD], ghosts[1]])
            check_pool(self.pool, lines, held)
            known = slots[POSITION] - slots[f.BASE]
            assert (slots[f.ROOM] >= np.where(np.arange(live) < state[f.DECODING], known - 1, slots[f.COMPUTED])).all()

    def _ask(self) -> None:
        """Show the policy the batch, with what is admitted at once where nothing can hold it back, and take its budgets."""
        state = self._state
        if self._rules[f.PLAIN]:
            admit(
                self._slots, state, self._queue, self.ledger.given, self._clock, self.ledger.counts, self.ledger.times,
                self.ledger.turn_ends, self.pool, self._rules, NO_LIMIT,
            )  # fmt: skip
        live = int(state[f.LIVE])
        if not live:
            return
        try:
            answer = self.policy(self.view())
        except Exception as error:
            raise InputError(f"policy {_name(self.policy)} raised {told(error)}: mend the policy") from error
        state[f.ASKED] = state[f.STEPS]
        budgets = _checked(answer, live, self.policy)
        self._slots[BUDGET, :live] = budgets
        acceptance = self.workload.acceptance
        if not acceptance.prefix:  # else there is one table, and SHIFT stays 0
            acceptance.serve(np.unique(budgets))
            self._slots[f.SHIFT, :live] = acceptance.table_of[budgets] * acceptance.tables.shape[1]


def _every(policy: BudgetPolicy) -> int:
    """How often a policy wants to be asked."""
    every = getattr(policy, "every", 1)
    if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 0:
        raise InputError(
            f"policy {_name(policy)}: every = {every!r}: give decode steps, an integer >= 0 (0: on changes)"
        )
    return int(every)


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
