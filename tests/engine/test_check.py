"""`Replica.check` notices every kind of corruption that it is there for."""

from collections.abc import Callable

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.budgets.view import BUDGET, POSITION, ROLLOUT
from simulator.engine import fields
from simulator.engine.replica import Ledger, Replica
from tests.engine.workloads import affine_pair, workload_of
from tests.reference.engine import Rollout

UNIT, _ = affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def half_way() -> Replica:
    """A replica after its first completion: rollouts 0, 2 and 3 live with 4 tokens emitted, rollout 1 done."""
    rollouts = [Rollout(2, n, [0] * n, [0] * n) for n in (9, 4, 9, 9)]
    workload, policy = workload_of(rollouts), by_live([2])
    replica = Replica(0, workload, Ledger(workload, policy), policy, UNIT, max_num_seqs=5)
    replica.enqueue(np.arange(4))
    assert replica.advance(wait_when_free=True) == fields.FREED
    assert replica._slots[ROLLOUT, :3].tolist() == [0, 2, 3]
    assert (replica.now_s, replica.room) == (4.0, 2)
    return replica


def set_slot(field: int, slot: int, value: int) -> Callable[[Replica], None]:
    def tamper(replica: Replica) -> None:
        replica._slots[field, slot] = value

    return tamper


def set_state(field: int, value: int) -> Callable[[Replica], None]:
    def tamper(replica: Replica) -> None:
        replica._state[field] = value

    return tamper


def set_ledger(array: str, field: int, rollout: int, value: float) -> Callable[[Replica], None]:
    def tamper(replica: Replica) -> None:
        getattr(replica.ledger, array)[field, rollout] = value

    return tamper


def lose_a_token(replica: Replica) -> None:
    replica._log[2, fields.LOG_COLUMNS.index("emitted_tokens")] -= 1


TAMPERINGS = {
    "a token too many": set_slot(POSITION, 0, 5),
    "before its start": set_slot(POSITION, 1, 3),
    "past its end": set_slot(POSITION, 0, 9),
    "past its limit": set_slot(fields.LIMIT, 0, 4),
    "twice in the batch": set_slot(ROLLOUT, 1, 0),
    "a negative budget": set_slot(BUDGET, 0, -1),
    "a budget beyond a byte": set_slot(BUDGET, 2, 256),
    "a done rollout in the batch": set_slot(ROLLOUT, 0, 1),
    "more live than slots": set_state(fields.LIVE, 6),
    "fewer live": set_state(fields.LIVE, 2),
    "more decoding than live": set_state(fields.DECODING, 4),
    "beyond the queue": set_state(fields.HEAD, 5),
    "another queue": set_state(fields.TAIL, 3),
    "a live one completed": set_ledger("times", fields.FINISHED_S, 2, 1.0),
    "a done one elsewhere": set_ledger("counts", fields.R_REPLICA, 1, 1),
    "more accepted than drafted": set_ledger("counts", fields.R_ACCEPTED, 1, 1),
    "a lost token": lose_a_token,
}


def test_a_sound_replica_passes_and_goes_on() -> None:
    replica = half_way()
    replica.check()
    assert replica.advance(wait_when_free=False) == fields.IDLE
    replica.check()
    assert replica.now_s == 9.0


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=list(TAMPERINGS))
def test_corruption_is_noticed(tamper: Callable[[Replica], None]) -> None:
    replica = half_way()
    tamper(replica)
    with pytest.raises(AssertionError):
        replica.check()
