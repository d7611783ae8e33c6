"""The published check of what keeps prefixes passes for what is built in, and fails for what breaks the contract."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulator.testing import check_prefixes
from simulator.training.resolve import resolve_stage
from simulator.training.stage import Prices
from simulator.transforms.prefixes import KeepsPrefixes, Kept
from simulator.transforms.resolve import resolve_transform
from simulator.transforms.verify import Verify
from traces.trace import Trace


@pytest.mark.parametrize(
    "spec", ["verify", "verify:leniency=1.65,remaining=previous", "verify:accept=0.9", "verify:s_per_token=1e-5"]
)
def test_built_in_prefixes_conform(spec: str) -> None:
    transform = resolve_transform(spec)
    assert isinstance(transform, KeepsPrefixes)
    check_prefixes(transform)


class Careless(Verify):
    """One that does not keep to its contract, in one way each."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        object.__setattr__(self, "fault", fault)

    def kept(self, trace: Trace, rows: npt.NDArray[np.int64], seed: int) -> Kept:
        found, fault = super().kept(trace, rows, seed), self.fault  # type: ignore[attr-defined]
        if fault == "order":
            return replace(found, total_tokens=found.total_tokens + np.arange(rows.size))
        if fault == "own":
            return replace(found, previous=np.where(found.previous >= 0, rows, -1), prefix_tokens=0 * rows)
        if fault == "slot":
            return replace(found, previous=np.roll(found.previous, 1), prefix_tokens=0 * rows)
        return found

    def verification(self, prices: Prices, log_probs: str) -> Any:
        return (
            resolve_stage("reward:seconds=1", prices)
            if self.fault == "stage"
            else super().verification(prices, log_probs)
        )  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("order", "does not depend on who is asked"),
        ("own", "an earlier RL step"),
        ("slot", "same"),
        ("stage", "once for all"),
    ],
)
def test_careless_prefixes_do_not_conform(fault: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_prefixes(Careless(fault))
