"""One inference engine instance as pure state: its batch, its queue, its clock. SimPy decides when it may go on."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.answers import checked, every_of, name_of
from simulator.budgets.choosing import NOTHING
from simulator.budgets.policy import UNLIMITED, BudgetPolicy, Chooses, Supplies, TablePolicy
from simulator.budgets.switch import switch_of
from simulator.budgets.view import SEEN, BatchView
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.strategy import passes_by_tokens
from simulator.engine.blocks import check_pool
from simulator.engine.deployment import Deployment
from simulator.engine.log import Log, Packed
from simulator.engine.moves import pause, place, settle, take_out
from simulator.engine.state import (
    ASK,
    CORE,
    DEPARTURE,
    GOING,
    LOG_FULL,
    NO_LIMIT,
    ROLLOUT,
    SLOT,
    STEP,
    TURN,
)
from simulator.engine.workload import Workload
from simulator.plugins import told
from simulator.records import Pointing, records
from traces.errors import InputError
from traces.files import memory_bytes

Int64 = npt.NDArray[np.int64]
Records = npt.NDArray[Any]

LOG_STEPS = 16_384
"""Decode steps of a log."""
LOOSE_BYTES = 1 << 28
"""Full logs beyond are packed, which takes as long as a tenth of the fastest steps."""
FIRST_REACH = 32
"""Decode steps that a replica first tries to take ahead."""
ALL_PLACES = -1
NO_TABLE = TablePolicy(np.empty((1, 0), np.int64), np.zeros((1, 1, 1), np.int64))


class Ledger:
    """What becomes of every rollout of a workload, written by whichever replica decodes it.

    rollouts: `state.Rollout`[n]; turns: `state.Turn`[], those of one rollout after those of another.
    """

    def __init__(self, workload: Workload, policy: BudgetPolicy) -> None:
        offsets, turns = workload.acceptance.offsets, workload.turns
        self.rollouts = records(ROLLOUT, len(workload))
        self._log_bytes, self._room_bytes = 0, memory_bytes() // 2
        self.turns = records(TURN, 0 if turns is None else turns.wait_s.size)
        one = self.rollouts
        one["start"], one["end"], one["position"] = offsets[:-1], offsets[1:], offsets[:-1] + workload.begun_tokens
        one["stay_end"], one["noted"], one["kept_blocks"] = one["end"], NOTHING, NO_LIMIT
        one["prompt_tokens"], one["arrival_s"], one["replica"] = workload.prompt_tokens, workload.arrivals_s, -1
        if isinstance(policy, TablePolicy):
            one["row"] = policy.rows(workload.prompt)
        for name in ("queued_s", "admitted_s", "first_token_s", "finished_s"):
            one[name] = np.nan
        if turns is not None:
            before = np.concatenate([[0], np.cumsum(turns.generated_tokens)])[turns.offsets[:-1]]
            starts = np.repeat(offsets[:-1] - before, np.diff(turns.offsets))
            self.turns["end"], self.turns["wait_s"] = starts + np.cumsum(turns.generated_tokens), turns.wait_s
            over = self.turns["end"] <= np.repeat(one["position"], np.diff(turns.offsets))
            one["turn"] = turns.offsets[:-1] + np.diff(np.concatenate([[0], np.cumsum(over)])[turns.offsets])
            one["turns_end"] = np.maximum(turns.offsets[1:] - 1, turns.offsets[:-1])

    def kept(self, log: Records) -> Records | Packed:
        """A replica's full log, packed once there are many; MemoryError where those of all take half of the machine's memory."""
        packed = log if self._log_bytes < LOOSE_BYTES else Packed(log)
        self._log_bytes += packed.nbytes
        if self._log_bytes > self._room_bytes:
            raise MemoryError(f"decode steps of one RL step take {self._log_bytes / 1e9:,.1f} GB")
        return packed


class Replica:
    """State of one replica.

    A `Fleet` moves it, with others or alone. is_open: rollouts may be placed on it at any
    time; watched: it stops where a rollout ends or leaves. resume_s: no step begins before.
    """

    def __init__(
        self, number: int, workload: Workload, ledger: Ledger, policy: BudgetPolicy, deployment: Deployment, pool: Pointing,
        is_open: bool = False, watched: bool = False,
    ) -> None:  # fmt: skip
        self.workload, self.ledger, self.policy, self.pool, self.number = workload, ledger, policy, pool, number
        limits = deployment.serving.limits(workload, deployment.max_num_seqs)
        self.plain = bool(limits["plain"])
        self.max_num_seqs, self._open = deployment.max_num_seqs, is_open or watched
        table = policy if isinstance(policy, TablePolicy) else NO_TABLE
        asked, switch = table is not policy, switch_of(policy)
        self._chooses = policy.way if isinstance(policy, Chooses) else 0
        # found once: a protocol is slow to look at
        self._supply = policy.supply if isinstance(policy, Supplies) else None
        slots = min(deployment.max_num_seqs, ledger.rollouts.size)
        self.core = Pointing(
            CORE, number=number, asked=asked, every=every_of(policy) if asked else 0,
            due=asked, chooses=self._chooses, uneven=deployment.cost.packed["uneven"],
            trees=bool(deployment.strategies), stages=table.budgets.shape[1],
            widths=table.budgets.shape[2], trailing=table.trailing, watched=watched, reason=GOING, stale=True, reach=FIRST_REACH,
            on=switch.on, few=switch.live, patience=switch.patience, counted=-1, reprefill=switch.reprefill, **limits,
        )  # fmt: skip
        self._slots = records(SLOT, slots)
        self._budgets = self._slots["budget"]
        self._seen: Int64 = self._slots.view(np.int64).reshape(slots, -1)[:, : len(SEEN)]
        self._full = list[Records | Packed]()
        self.core.point(
            slots=self._slots, departures=records(DEPARTURE, slots), told=np.empty(slots, np.int64),
            rollouts=ledger.rollouts, turns=ledger.turns, pool=pool, padding=deployment.serving.padding,
            cost=deployment.cost.packed, draft_cost=deployment.draft_cost.packed,
            passes=passes_by_tokens(deployment.strategies),
            boundaries=np.ascontiguousarray(table.boundaries), budgets=np.ascontiguousarray(table.budgets),
        )  # fmt: skip
        pool["lookahead"] = limits["lookahead"] if switch.on else 0
        self._queue_up(np.empty(0, np.int64), np.empty(0, np.int64))
        self.core.point(log=np.empty(LOG_STEPS, STEP))
        if isinstance(policy, Chooses):
            self.core.point(chooser=policy.chooser(number, workload.requests, slots))
        if not asked or isinstance(policy, Chooses):
            workload.acceptance.serve(np.unique(policy.budgets if isinstance(policy, Chooses) else table.budgets))
        self._point_at_drafts()
        self.live: bool | None = None
        self.resume_s = 0.0
        if workload.siblings is not None:
            self.live = True
            self.core.point(siblings=workload.siblings.of_replica(number))

    @property
    def now_s(self) -> float:
        """The replica's clock."""
        return float(self.core["now_s"])

    @property
    def extrapolated_s(self) -> float:
        """Seconds spent in decode steps outside the cost model's valid range."""
        return float(self.core["extrapolated_s"])

    @property
    def waited_s(self) -> float:
        """Seconds that it waited for slower ranks."""
        return float(self.core["waited_s"])

    @property
    def room(self) -> int:
        """Rollouts that it could still admit, those in its own queue counted as admitted."""
        return self.max_num_seqs - int(self.core["live"] + self.core["tail"] - self.core["head"])

    @property
    def live_slots(self) -> Records:
        """One `state.Slot` per rollout of its batch."""
        return self._slots[: self.core["live"]]

    @property
    def log(self) -> Log:
        """Its decode steps."""
        return Log([*self._full, self.core.target("log")[: self.core["logged"]]])

    @property
    def _waiting(self) -> Int64:
        queue: Int64 = self.core.target("queue")
        return queue[self.core["head"] : self.core["tail"]]

    @property
    def _arriving(self) -> Int64:
        arrivals: Int64 = self.core.target("arrivals")
        return arrivals[self.core["next_arrival"] :]

    def enqueue(self, rollouts: Int64) -> None:
        """Append rollouts to the replica's own queue, where they have arrived."""
        queued_s = self.ledger.rollouts["queued_s"]
        queued_s[rollouts] = np.where(np.isnan(queued_s[rollouts]), self.now_s, queued_s[rollouts])
        queue, tail, arriving = self.core.target("queue"), self.core["tail"], self._arriving
        end = tail + rollouts.size
        if end + arriving.size + self.ledger.turns.size > queue.size:
            self._queue_up(np.concatenate([self._waiting, rollouts]), arriving)
        else:
            queue[tail:end] = rollouts
            self.core["tail"] = end
        self.core["next_s"] = self.now_s

    def expect(self, rollouts: Int64) -> None:
        """Let rollouts come in at their arrival times, besides those already expected."""
        expected = np.concatenate([self._arriving, rollouts])
        arrival_s = self.ledger.rollouts["arrival_s"][expected]
        self._queue_up(self._waiting, expected[np.lexsort((expected, arrival_s))])

    def place(self, rollout: int, time_s: float, stay_tokens: int = 0, pulled: bool = False) -> None:
        """Let a rollout join the queue at `time_s`, for so many tokens (0: to its end); pulled: its KV comes along."""
        record = self.core.record
        if not place(record, rollout, time_s, stay_tokens, pulled):
            self._queue_up(self._waiting.copy(), self._arriving.copy())
            placed = place(record, rollout, time_s, stay_tokens, pulled)
            assert placed, "there is room now"
        if self.plain:
            self.core["due"] = True  # it is admitted before the next step

    def settle(self, time_s: float) -> None:
        """Keep only steps that begin before `time_s`, when something happens to it."""
        settle(self.core.record, time_s)

    def take_out(self, rollout: int, under_way: bool = False) -> bool:
        """Take a rollout out, wherever it is, with what it has emitted; False where it is not here (any more).

        under_way: whether its step is, at the end of which its slot is free. It has been `settle`d.
        """
        self.core["due"] = True
        return take_out(self.core.record, rollout, under_way)

    def swap(self, acceptance: Acceptance, time_s: float, pause_s: float) -> float:
        """Draft with another version from its next step on, which begins after a pause; returns when it may (`moves.pause`)."""
        assert self.workload.acceptance.prefix
        assert acceptance.prefix
        self.workload = replace(self.workload, acceptance=acceptance)
        self._point_at_drafts()
        self.resume_s = pause(self.core.record, time_s, pause_s)
        return self.resume_s

    def hold(self, resume_s: float) -> None:
        """Begin no step before then."""
        self.resume_s = self.core["resume_s"] = resume_s

    def ready(self) -> None:
        """Do what compiled code cannot: make room in the log, ask the policy, have it supply what it must, or drafts be made."""
        core, reason = self.core, self.core["reason"]
        if reason == LOG_FULL:
            self._full.append(self.ledger.kept(core.target("log")[: core["logged"]]))
            if not isinstance(self._full[-1], Packed):
                self.core.point(log=np.empty(LOG_STEPS, STEP))
            core["logged"] = 0
        elif reason == ASK and self._chooses:
            self._help_choose()
        elif reason == ASK:
            self._ask()
        if reason in (LOG_FULL, ASK):
            core["reason"] = GOING

    def view(self) -> BatchView:
        """What a policy may know of the batch now."""
        core, live = self.core, int(self.core["live"])
        seen = self._seen[:live].T.copy()
        return BatchView(
            self.number, max(self.now_s, self.resume_s), self.max_num_seqs, int(core["tail"] - core["head"]),
            int(core["steps"]), seen, self.workload.requests,
        )  # fmt: skip

    def check(self, alone: bool = True) -> None:
        """Assert what must hold between decode steps, whatever happened before; alone: its rollouts have been nowhere else."""
        core, slots = self.core, self.live_slots
        mine = self.ledger.rollouts[slots["rollout"]]
        assert 0 <= core["decoding"] <= core["live"] <= core["live"] + core["departed"] <= self.max_num_seqs
        assert 0 <= core["head"] <= core["tail"] <= core["queue_size"]
        assert np.unique(slots["rollout"]).size == slots.size, "a rollout holds one slot"
        assert (slots["position"] >= mine["start"]).all()
        assert (slots["position"] < slots["stop"]).all(), "a live rollout has tokens left"
        assert (slots["stop"] <= mine["end"]).all()
        assert (slots["position"] < slots["limit"])[: core["decoding"]].all()
        assert ((slots["budget"] >= 0) & (slots["budget"] <= UNLIMITED)).all()
        assert np.isnan(mine["finished_s"]).all()
        beyond = np.cumsum(np.append(0.0, self.log["duration_s"][self.log["extrapolated"] > 0]))
        assert beyond[-1] == self.extrapolated_s, (
            "seconds outside the valid range are those of the log, added in its order"
        )
        if alone:
            self._check_tokens(slots)
        if core["paged"]:
            departed = core.target("departures")[: core["departed"]]
            lines, held = (np.concatenate([slots[name], departed[name]]) for name in ("line", "held"))
            check_pool(self.pool, lines, held)
            known = slots["position"] - slots["base"]
            there = np.where(np.arange(slots.size) < core["decoding"], known - 1, slots["computed"])
            assert (slots["held"] * self.pool["block_size"] >= there).all()

    def _check_tokens(self, slots: Records) -> None:
        """Assert that the log has emitted what rollouts have: completed here, live, waiting, or away for a turn."""
        rollouts = self.ledger.rollouts
        done = rollouts[rollouts["replica"] == self.core["number"]]
        away = rollouts[np.concatenate([self._waiting, self._arriving])]
        emitted = (done["end"] - done["start"]).sum() + (away["position"] - away["start"]).sum()
        emitted += (slots["position"] - rollouts["start"][slots["rollout"]]).sum()
        assert emitted == self.log["emitted_tokens"].sum(), "tokens are conserved"
        assert (done["accepted"] <= done["drafted"]).all()

    def _queue_up(self, waiting: Int64, arriving: Int64) -> None:
        """Lay queue and arrivals out anew.

        The queue has room at its head for the running, who may be put back, and at its tail for those who arrive or come back
        from a turn, and for as many more as it holds; arrivals have room for those who come back.
        """
        head = self._slots.size if self.core["paged"] or self.core["reprefill"] else 0
        sequences = self.ledger.rollouts.size
        slack = sequences if self.workload.turns is not None else 0
        room = arriving.size + self.ledger.turns.size + self._slots.size + waiting.size
        if self._open:
            slack, room = sequences, room + sequences
        queue, arrivals = np.empty(head + waiting.size + room, np.int64), np.empty(slack + arriving.size, np.int64)
        queue[head : head + waiting.size], arrivals[slack:] = waiting, arriving  # what is not used takes no memory
        self.core.point(queue=queue, arrivals=arrivals)
        self.core["head"], self.core["tail"], self.core["next_arrival"] = head, head + waiting.size, slack

    def _point_at_drafts(self) -> None:
        """Read drafts from the tables that there are now: they are laid out anew when a budget is asked for first."""
        acceptance = self.workload.acceptance
        self._tables = acceptance.tables
        self.core.point(drafts=acceptance.laid_out, table_of=acceptance.table_of)
        self.core["positions"], self.core["places"] = acceptance.tables.shape[1], 0 if acceptance.blank else ALL_PLACES

    def _serve(self, budgets: Int64 | int) -> None:
        """See to it that there are drafts of such budgets, here too where another replica needed them first."""
        acceptance = self.workload.acceptance
        if not acceptance.serves(budgets):
            acceptance.serve(np.unique(budgets))
        if self._tables is not acceptance.tables:
            self._point_at_drafts()

    def _help_choose(self) -> None:
        """Have the policy supply what its record needs, and drafts be made of the budgets that it gave."""
        if self._supply is not None:
            self._supply(self.number, int(self.core["steps"]))
        self._serve(self.live_slots["budget"])

    def _ask(self) -> None:
        """Show the policy the batch, with those who are admitted at once where nothing holds them back, and take its budgets."""
        core, live = self.core, int(self.core["live"])
        try:
            answer = self.policy(self.view())
        except (Exception, SystemExit) as error:
            raise InputError(f"policy {name_of(self.policy)} raised {told(error)}: mend the policy") from error
        core["due"], core["asked_at"], core["stale"] = False, core["steps"], True
        budgets = checked(answer, live, self.policy)
        self._budgets[:live] = budgets
        acceptance = self.workload.acceptance
        if not acceptance.prefix:  # else there is one table, and `shift` stays 0
            self._serve(budgets)
            self._slots["shift"][:live] = acceptance.table_of[budgets] * acceptance.tables.shape[1]
