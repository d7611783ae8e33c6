"""Decode steps that are packed: the same to the bit, in a fraction of the room."""

import numpy as np
import numpy.typing as npt
import pytest

from simulator.engine.log import Log, Packed
from simulator.engine.state import STEP
from simulator.records import joined, records

N = 4096


def steps(seed: int) -> npt.NDArray[np.void]:
    """Steps as a run logs them, with what is hard to keep: a negative zero, no number, a large whole number, a gap in time."""
    rng, found = np.random.default_rng(seed), records(STEP, N)
    found["live"] = found["query_tokens"] = found["emitted_tokens"] = 256
    found["kv_tokens"] = found["pairs"] = rng.integers(0, 1 << 20, N)
    found["duration_s"] = rng.random(N)
    found["start_s"] = np.cumsum(np.append(rng.random(), found["duration_s"][:-1]))
    found["waiting"], found["free_blocks"] = np.arange(N), np.where(np.arange(N) < 9, 1 << 40, 0)
    found["draft_s"][1::2] = -0.0
    found["waited_s"][rng.integers(N)] = np.nan
    if seed % 2:
        found["start_s"][N // 2 :] += 1e-3
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_packed_step_is_the_same_to_the_bit(seed: int) -> None:
    given = steps(seed)
    assert Packed(given).records().tobytes() == given.tobytes()
    assert Packed(given[:1]).records().tobytes() == given[:1].tobytes()
    for name in STEP.names:
        assert Packed(given).column(name).tobytes() == given[name].tobytes(), name


@pytest.mark.parametrize(
    "some", [slice(None), slice(3, None, 7), slice(N - 1, 2 * N + 5, 1000), slice(5, 5), slice(0, None, 5 * N)]
)
def test_a_log_of_packed_parts_is_that_of_all_steps(some: slice) -> None:
    parts = [steps(seed) for seed in range(3)]
    whole, log = joined(parts), Log([Packed(parts[0]), Packed(parts[1]), parts[2]])
    assert len(log) == 3 * N
    assert log[some].tobytes() == whole[some].tobytes()
    assert log["duration_s"].sum() == whole["duration_s"].sum(), "added up in the same order"
    assert joined([*log.parts()]).tobytes() == whole.tobytes()
    later = log.since(0.5)
    assert (later["start_s"] == whole["start_s"] - 0.5).all()
    assert later["kv_tokens"].tobytes() == whole["kv_tokens"].tobytes()
    assert log[:].tobytes() == whole.tobytes(), "untouched"
    assert len(Log()) == 0
    assert Log()[:].size == Log()["live"].size == 0


def test_steps_of_one_batch_take_a_tenth_of_the_room() -> None:
    given = records(STEP, N)
    given["live"] = given["query_tokens"] = given["emitted_tokens"] = 256
    given["kv_tokens"] = given["pairs"] = 256 * np.arange(N)
    given["duration_s"] = np.random.default_rng(0).random(N)
    given["start_s"] = np.cumsum(np.append(0.0, given["duration_s"][:-1]))
    kept = Packed(given)
    assert kept.nbytes <= given.nbytes / 10
