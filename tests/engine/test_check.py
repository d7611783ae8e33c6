"""`Replica.check` notices every kind of corruption that it is there for."""

from collections.abc import Callable

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.engine.deployment import Deployment
from simulator.engine.fleet import Fleet
from simulator.engine.replica import Ledger, Replica
from simulator.engine.state import POOL
from simulator.records import Pointing
from tests.engine.workloads import affine_pair, workload_of
from tests.reference.engine import Rollout

UNIT, _ = affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def half_way() -> Replica:
    """A replica after its first completion: rollouts 0, 2 and 3 live with 4 tokens emitted, rollout 1 done."""
    rollouts = [Rollout(2, n, [0] * n, [0] * n) for n in (9, 4, 9, 9)]
    workload, policy = workload_of(rollouts), by_live([2])
    replica = Replica(0, workload, Ledger(workload, policy), policy, Deployment(UNIT, 5), Pointing(POOL))
    replica.enqueue(np.arange(4))
    assert not Fleet([replica]).go_ahead(wait_when_free=True)
    assert replica._slots["rollout"][:3].tolist() == [0, 2, 3]
    assert (replica.now_s, replica.room) == (4.0, 2)
    return replica


def set_slot(field: str, slot: int, value: int) -> Callable[[Replica], None]:
    def tamper(replica: Replica) -> None:
        replica._slots[field][slot] = value

    return tamper


def set_core(field: str, value: int) -> Callable[[Replica], None]:
    def tamper(replica: Replica) -> None:
        replica.core[field] = value

    return tamper


def set_rollout(field: str, rollout: int, value: float) -> Callable[[Replica], None]:
    def tamper(replica: Replica) -> None:
        replica.ledger.rollouts[field][rollout] = value

    return tamper


def lose_a_token(replica: Replica) -> None:
    replica.core.target("log")["emitted_tokens"][2] -= 1


TAMPERINGS = {
    "a token too many": set_slot("position", 0, 5),
    "before its start": set_slot("position", 1, 3),
    "past its end": set_slot("position", 0, 9),
    "past its limit": set_slot("limit", 0, 4),
    "twice in the batch": set_slot("rollout", 1, 0),
    "a negative budget": set_slot("budget", 0, -1),
    "a budget beyond a byte": set_slot("budget", 2, 256),
    "a done rollout in the batch": set_slot("rollout", 0, 1),
    "more live than slots": set_core("live", 6),
    "fewer live": set_core("live", 2),
    "more decoding than live": set_core("decoding", 4),
    "beyond the queue": set_core("head", 5),
    "another queue": set_core("tail", 3),
    "a live one completed": set_rollout("finished_s", 2, 1.0),
    "a done one elsewhere": set_rollout("replica", 1, 1),
    "more accepted than drafted": set_rollout("accepted", 1, 1),
    "a lost token": lose_a_token,
}


def test_a_sound_replica_passes_and_goes_on() -> None:
    replica = half_way()
    replica.check()
    assert Fleet([replica]).go_ahead()
    replica.check()
    assert replica.now_s == 9.0


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=list(TAMPERINGS))
def test_corruption_is_noticed(tamper: Callable[[Replica], None]) -> None:
    replica = half_way()
    tamper(replica)
    with pytest.raises(AssertionError):
        replica.check()
