"""Verification of earlier responses: its law by brute force, what is left to generate, and what is refused."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from simulator.transforms.prefixes import KeepsPrefixes, Kept, kept_of, previous_rows
from simulator.transforms.resolve import resolve_transform
from simulator.transforms.verify import Verify
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

SEEDS = range(400)


def made(lengths: list[list[int]], ratios: dict[int, list[float]] | None = None, **columns: Any) -> Trace:
    """RL steps of one prompt each, a rollout per length; ratios: pi_now / pi_then of a row's tokens (1 where left out)."""
    flat = [length for step in lengths for length in step]
    then = [[-3.0 - 0.01 * t for t in range(length)] for length in flat]
    now = [
        [a + math.log(r) for a, r in zip(mine, (ratios or {}).get(row, [1.0] * len(mine)), strict=True)]
        for row, mine in enumerate(then)
    ]
    table: dict[str, Any] = {
        "step": pa.array([j for j, step in enumerate(lengths) for _ in step], pa.int32()),
        "prompt_id": ["p"] * len(flat),
        "sample": pa.array([i for step in lengths for i in range(len(step))], pa.int32()),
        "prompt_tokens": pa.array([7] * len(flat), pa.int32()),
        "output_tokens": pa.array(flat, pa.int32()),
        "logprobs": pa.array(then, pa.list_(pa.float32())),
        "next_logprobs": pa.array(now, pa.list_(pa.float32())),
    }
    return from_table(pa.table(table | columns), "made")


def prefixes(verify: Verify, trace: Trace, row: int) -> npt.NDArray[np.int64]:
    """The prefix of one rollout under every seed."""
    return np.array([verify.kept(trace, np.array([row]), seed).prefix_tokens[0] for seed in SEEDS])


def law(ratios: list[float], leniency: float) -> list[float]:
    """P(prefix = t) for t = 0 to all, by the definition: t tokens accepted and the next one not."""
    accept = [min(1.0, leniency * r) for r in ratios]
    reach = [math.prod(accept[:t]) for t in range(len(accept) + 1)]
    return [reach[t] * ((1 - accept[t]) if t < len(accept) else 1.0) for t in range(len(accept) + 1)]


RATIOS = [0.9, 1.3, 0.7, 1.0, 0.5, 2.0, 0.95, 0.8]


@pytest.mark.parametrize("leniency", [0.5, 1.0, math.exp(0.15), math.exp(0.3), math.exp(0.5)])
def test_prefixes_have_the_law_of_the_definition(leniency: float) -> None:
    """Every count within four standard errors: nine cells, five leniencies, a chance of 0.3 % that a right one is beyond."""
    trace = made([[len(RATIOS)], [5]], {0: RATIOS})
    found = np.bincount(prefixes(Verify(leniency), trace, 1), minlength=len(RATIOS) + 1)
    expected = np.array(law(RATIOS, leniency))
    assert expected.sum() == pytest.approx(1.0)
    error = np.sqrt(len(SEEDS) * expected * (1 - expected))
    assert (np.abs(found - len(SEEDS) * expected) <= 4 * error + 1e-9).all()


def test_the_mean_prefix_is_the_sum_over_tokens_of_the_chance_to_reach_them() -> None:
    """E[prefix] = sum_t prod_{s <= t} min(1, l r_s), over rollouts with ratios of their own."""
    rng = np.random.default_rng(5)
    ratios = {row: np.exp(rng.normal(0, 0.3, 30)).tolist() for row in range(200)}
    trace = made([[30] * 200, [30] * 200], ratios)
    rows = np.arange(200, 400)
    for leniency in (0.8, 1.0, 1.2):
        verify = Verify(leniency)
        accept = np.minimum(1.0, leniency * np.array([ratios[row] for row in range(200)]))
        reach = np.cumprod(accept, axis=1)
        mean = float(reach.sum(axis=1).sum())
        # Var[prefix] = sum_t (2 t - 1) reach_t - E^2
        spread = (reach * (2 * np.arange(1, 31) - 1)).sum(axis=1) - reach.sum(axis=1) ** 2
        found = [int(verify.kept(trace, rows, seed).prefix_tokens.sum()) for seed in range(30)]
        assert abs(np.mean(found) - mean) < 4 * math.sqrt(float(spread.sum()) / 30)


def test_the_shipped_trace_keeps_what_its_log_probs_say() -> None:
    """Every RL step of the recorded run: the mean prefix within four standard errors of the sum of its products."""
    from traces.io import read

    trace = read("traces/data/countdown.parquet")
    for step in (1, 7, 23):
        rows = np.flatnonzero(trace.step == step)
        kept = Verify(math.exp(0.15)).kept(trace, rows, 0)
        mean = variance = 0.0
        for before in kept.previous.tolist():
            then, now = (np.array(trace.table.column(name)[before].as_py()) for name in ("logprobs", "next_logprobs"))
            reach = np.cumprod(np.minimum(1.0, math.exp(0.15) * np.exp(now - then)))
            mean += reach.sum()
            variance += (reach * (2 * np.arange(1, reach.size + 1) - 1)).sum() - reach.sum() ** 2
        assert abs(kept.prefix_tokens.sum() - mean) < 4 * math.sqrt(variance)


def test_prefixes_of_the_shipped_trace_end_where_they_should() -> None:
    """The histogram: shares of responses whose prefix ends within a part of them, or is all of them, over RL steps 1 to 23.

    Each within four standard errors of the sums of its products; printed for docs/systems/spec_rl.md (`pytest -s`).
    """
    from traces.io import read

    trace = read("traces/data/countdown.parquet")
    then, now = (trace.table.column(name).to_numpy() for name in ("logprobs", "next_logprobs"))
    rows = np.flatnonzero(trace.step > 0)
    before = previous_rows(trace, rows)
    lengths = trace.output_tokens[before].astype(np.int64)
    for leniency in (1.0, math.exp(0.15), math.exp(0.3), math.exp(0.5)):
        prefix = np.concatenate([
            Verify(leniency).kept(trace, rows[trace.step[rows] == step], 0).prefix_tokens for step in trace.steps[1:]
        ])  # fmt: skip
        told = [f"{leniency:.4f}: kept {prefix.sum() / lengths.sum():.1%}"]
        beyond = [
            np.cumprod(np.minimum(1.0, leniency * np.exp(now[row].astype(np.float64) - then[row]))) for row in before
        ]
        for part in (0.1, 0.5, 0.75, 1.0):
            ends = np.floor(part * lengths).astype(np.int64) if part < 1 else lengths - 1
            chance = 1 - np.array([reach[end] for reach, end in zip(beyond, ends, strict=True)])
            found = (prefix <= ends).mean()
            told.append(f"within {part} of it {found:.1%}")
            assert abs(found - chance.mean()) < 4 * math.sqrt((chance * (1 - chance)).sum()) / prefix.size
        print("; ".join(told))


def test_more_leniency_keeps_no_less() -> None:
    """One draw decides at a token, so a larger leniency accepts wherever a smaller one does."""
    rng = np.random.default_rng(1)
    trace = made([[40] * 50, [40] * 50], {row: np.exp(rng.normal(0, 0.4, 40)).tolist() for row in range(50)})
    rows = np.arange(50, 100)
    kept = [Verify(leniency).kept(trace, rows, 3).prefix_tokens for leniency in (0.0, 0.5, 1.0, 1.5, math.inf)]
    assert all((a <= b).all() for a, b in pairwise(kept))
    assert (kept[0] == 0).all()
    assert (kept[-1] == 40).all()


def test_draws_belong_to_rollout_and_position() -> None:
    """Whoever is asked beside it, and in whatever order; a longer response has the same draws as far as it goes."""
    rng = np.random.default_rng(2)
    ratios = {row: np.exp(rng.normal(0, 0.2, 20)).tolist() for row in range(8)}
    trace = made([[20] * 8, [9] * 8], ratios)
    rows = np.arange(8, 16)
    whole = Verify().kept(trace, rows, 7).prefix_tokens
    assert (Verify().kept(trace, rows[::-1].copy(), 7).prefix_tokens[::-1] == whole).all()
    assert [int(Verify().kept(trace, rows[i : i + 1], 7).prefix_tokens[0]) for i in range(8)] == whole.tolist()
    short = made([[12] * 8, [9] * 8], {row: ratios[row][:12] for row in range(8)})
    assert (Verify().kept(short, rows, 7).prefix_tokens == np.minimum(whole, 12)).all()
    assert (Verify().kept(trace, rows, 8).prefix_tokens != whole).any()


def test_what_is_left_to_generate() -> None:
    """Before: 6 tokens, of which `accept` tokens are taken for sure; recorded: 4 or 9."""
    for kept, total, recorded, remaining in (
        (3, 4, 4, "recorded"),
        (3, 9, 9, "recorded"),
        (5, 6, 4, "recorded"),
        (5, 9, 9, "recorded"),
        (6, 6, 4, "recorded"),
        (6, 6, 9, "recorded"),
        (3, 6, 4, "previous"),
        (5, 6, 9, "previous"),
        (6, 6, 9, "previous"),
    ):
        ratios = [1.0] * kept + [1e-30] * (6 - kept)
        found = Verify(remaining=remaining).kept(made([[6], [recorded]], {0: ratios}), np.array([1]), 0)
        assert (found.prefix_tokens[0], found.total_tokens[0]) == (kept, total)
        assert (found.left.size == 0) == (kept == 6)
    aborted = made([[6], [4]], finish_reason=["aborted", "stop"])
    for remaining in ("recorded", "previous"):
        found = Verify(remaining=remaining).kept(aborted, np.array([1]), 0)
        assert (found.prefix_tokens[0], found.total_tokens[0]) == (6, 7)  # it had not ended, so it goes on


def test_what_has_no_response_before_is_recorded() -> None:
    found = Verify(math.inf).kept(made([[5, 6], [4, 3, 8]]), np.array([0, 1, 2, 3, 4]), 0)
    assert found.previous.tolist() == [-1, -1, 0, 1, -1]
    assert found.prefix_tokens.tolist() == [0, 0, 5, 6, 0]
    assert found.total_tokens.tolist() == [5, 6, 5, 6, 8]


def test_the_response_before_is_of_the_latest_rl_step_that_has_the_slot() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        slots = [(s, p, i) for s in range(5) for p in range(3) for i in range(2) if rng.random() < 0.6]
        if not slots:
            continue
        rng.shuffle(slots)
        trace = from_table(pa.table({
            "step": pa.array([s for s, _, _ in slots], pa.int32()), "prompt_id": [f"p{p}" for _, p, _ in slots],
            "sample": pa.array([i for _, _, i in slots], pa.int32()), "prompt_tokens": pa.array([1] * len(slots), pa.int32()),
            "output_tokens": pa.array([1] * len(slots), pa.int32()),
        }), "made")  # fmt: skip
        for row, found in enumerate(previous_rows(trace, np.arange(len(trace))).tolist()):
            s, p, i = slots[row]
            earlier = [
                (other[0], at) for at, other in enumerate(map(tuple, slots)) if other[1:] == (p, i) and other[0] < s
            ]
            assert found == (max(earlier)[1] if earlier else -1)


def test_a_probability_in_place_of_log_probs_has_geometric_prefixes() -> None:
    trace = made([[50] * 400, [50] * 400])
    bare = from_table(trace.table.drop_columns(["logprobs", "next_logprobs"]), "bare")
    found = Verify(accept=0.9).kept(bare, np.arange(400, 800), 0).prefix_tokens
    mean = sum(0.9**t for t in range(1, 51))
    spread = sum((2 * t - 1) * 0.9**t for t in range(1, 51)) - mean**2
    assert abs(found.mean() - mean) < 4 * math.sqrt(spread / 400)


def test_a_longer_epoch_needs_log_probs_of_its_own() -> None:
    trace = made([[4], [4], [4]])
    apart = from_table(trace.table.take([0, 2]), "apart")
    with pytest.raises(InputError, match=r"apart: step 2, prompt 'p', sample 0: its response before is of RL step 0, whose "
                       r"next_logprobs are under the policy of RL step 1: .*verify:column=NAME"):  # fmt: skip
        Verify().kept(apart, np.array([1]), 0)
    named = from_table(apart.table.append_column("now", apart.table.column("next_logprobs")), "named")
    assert Verify(math.inf, column="now").kept(named, np.array([1]), 0).prefix_tokens.tolist() == [4]


def test_log_probs_that_are_none_are_refused() -> None:
    trace = made([[4], [4]])
    for name in ("logprobs", "next_logprobs"):
        lacking = from_table(trace.table.drop_columns([name]), "lacking")
        with pytest.raises(InputError, match=rf"lacking: has no {name}, by which verify accepts"):
            Verify().kept(lacking, np.array([1]), 0)
    for value, told in ((math.nan, "nan"), (math.inf, "inf"), (0.5, "0.5"), (-math.inf, "-inf")):
        changed = replace(trace, table=trace.table.set_column(
            trace.table.column_names.index("next_logprobs"), "next_logprobs",
            pa.array([[-1.0, value, -1.0, -1.0]] * 2, pa.list_(pa.float32())),
        ))  # fmt: skip
        with pytest.raises(InputError, match=rf"next_logprobs holds {told}, which is no log-prob"):
            Verify().kept(changed, np.array([1]), 0)
    short = replace(trace, table=trace.table.append_column("now", pa.array([[-1.0]] * 2)))
    for name in ("now", "output_tokens"):
        with pytest.raises(InputError, match=rf"{name} is not a list of a log-prob for each response token"):
            Verify(column=name).kept(short, np.array([1]), 0)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("verify:leniency=-1", "leniency=-1: give a number from 0 to inf"),
        ("verify:leniency=nan", "leniency=nan: give a number from 0 to inf"),
        ("verify:remaining=none", "remaining=none: use recorded or previous"),
        ("verify:accept=1.1", "accept=1.1: give a number from 0 to 1"),
        ("verify:accept=0.5,column=now", "has accept and column: one says how tokens are accepted"),
        ("verify:lenience=1", "has setting 'lenience=1': did you mean leniency=[?] use leniency="),
        ("verify:seconds=-1", "seconds=-1: give a number from 0"),
        ("verifi", "is unknown: did you mean 'verify'"),
    ],
)
def test_settings_are_checked(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_transform(spec)


def test_what_a_result_says_of_it() -> None:
    exact, lenient = resolve_transform("verify"), resolve_transform("verify:leniency=1.65,remaining=previous")
    assert (exact.lossless, lenient.lossless) == (True, False)
    assert "recorded length" in exact.assumes
    assert "residual" in exact.assumes
    assert "previous length" in lenient.assumes
    assert "residual" not in lenient.assumes
    assert isinstance(exact, KeepsPrefixes)


class Wrong:
    """Keeps what no rollout can."""

    name = "wrong"

    def __init__(self, *columns: Any) -> None:
        self.columns = columns

    def kept(self, trace: Trace, rows: npt.NDArray[np.int64], seed: int) -> Any:
        return Kept(*self.columns) if len(self.columns) == 3 else None

    def verification(self, prices: Any, log_probs: str) -> Any:
        return None


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ((), r"give Kept with int64\[1\] each"),
        (([0], [1], [2, 3]), r"give Kept with int64\[1\] each"),
        (([0], [1.0], [2]), r"give Kept with int64\[1\] each"),
        (([0], [7], [9]), "rollout 0 keeps 7 of 6 tokens and has 9 in all"),
        (([0], [3], [2]), "rollout 0 keeps 3 of 6 tokens and has 2 in all"),
        (([-1], [1], [4]), "rollout 0 keeps 1 of 0 tokens"),
        (([2], [0], [4]), "rollout 0 keeps 0 of 0 tokens"),
        (([-2], [0], [4]), "rollout 0 keeps 0 of 0 tokens"),
        (([0], [0], [0]), "rollout 0 keeps 0 of 6 tokens and has 0 in all"),
    ],
)
def test_what_cannot_be_kept_is_refused(columns: tuple[list[Any], ...], told: str) -> None:
    with pytest.raises(InputError, match=rf"transform wrong: kept: {told}"):
        kept_of(Wrong(*map(np.array, columns)), made([[6], [4]]), np.array([1]), 0)
