"""A plan covers every row and KV position once, within its capacities, and gives every program about as much."""

import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.model.plan import ITEM_TILES, Plan, Tiling, plan

Batch = list[tuple[int, int]]
"""(query tokens, KV tokens with them) of each sequence."""


def tiling_for(batch: Batch, programs: int = 264, kv_heads: int = 8, group: int = 4, tile_tokens: int = 64) -> Tiling:
    """The tightest capacities that serve a batch."""
    return Tiling(
        programs=programs,
        kv_heads=kv_heads,
        group=group,
        tile_tokens=tile_tokens,
        narrow_rows=16,
        wide_rows=64,
        max_sequences=len(batch),
        max_tokens=sum(width for width, _ in batch),
        max_context_tokens=max((context for _, context in batch), default=1),
    )


def planned(batch: Batch, tiling: Tiling) -> Plan:
    starts, contexts, slots = arrays(batch)
    return plan(starts, contexts, slots, tiling)


def arrays(batch: Batch) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    widths = np.array([width for width, _ in batch], np.int32)
    starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    return (
        starts,
        np.array([context for _, context in batch], np.int32),
        np.arange(len(batch), dtype=np.int32)[::-1] + 7,
    )


def loads(items: npt.NDArray[np.int32], tiling: Tiling) -> npt.NDArray[np.float64]:
    """Tiles of each program, with what an item costs beyond them: rounds of the grid, every other one backwards."""
    tiles = -(-(items[:, 6] - items[:, 5]) // tiling.tile_tokens) + ITEM_TILES
    units = np.repeat(tiles, tiling.kv_heads)
    rounds = np.pad(units, (0, -len(units) % tiling.programs)).reshape(-1, tiling.programs)
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.sum(axis=0)


sequences = st.tuples(st.integers(0, 40), st.one_of(st.integers(0, 300), st.integers(0, 40_000))).map(
    lambda drawn: (drawn[0], drawn[0] + drawn[1])
)
devices = st.fixed_dictionaries(
    {
        "programs": st.sampled_from([1, 8, 132, 264]),
        "kv_heads": st.sampled_from([1, 2, 8]),
        "group": st.integers(1, 16),
        "tile_tokens": st.sampled_from([16, 32, 64, 128]),
    }
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(sequences, max_size=40), devices)
def test_everything_is_covered_once_and_within_capacity(batch: Batch, device: dict[str, int]) -> None:
    tiling = tiling_for(batch, **device)
    made = planned(batch, tiling)
    starts, _, slots = arrays(batch)
    assert made.tokens == starts[-1]
    assert len(made.items) <= tiling.item_capacity
    assert len(made.merges) <= tiling.merge_capacity

    written: dict[tuple[int, int], int] = {}  # (token, KV start) -> partial
    for i, (width, context) in enumerate(batch):
        items = made.items[made.items[:, 0] == slots[i]]
        rows = width * tiling.group
        size = tiling.narrow_rows if rows <= tiling.narrow_rows else tiling.wide_rows
        assert (items[:, 1:4] == (starts[i], width, context)).all()
        assert sorted(set(items[:, 4].tolist())) == list(range(0, rows, size))
        for first_row in range(0, rows, size):
            parts = items[items[:, 4] == first_row]
            parts = parts[np.argsort(parts[:, 5])]
            assert parts[0, 5] == 0
            assert parts[-1, 6] == context
            assert (parts[1:, 5] == parts[:-1, 6]).all()
            assert (parts[:, 5] < parts[:, 6]).all()
            assert (parts[:, 5] % tiling.tile_tokens == 0).all()
            assert (parts[:, 8] == len(parts)).all()
            assert ((parts[:, 7] < 0) == (len(parts) == 1)).all()
            for row in range(first_row, min(first_row + size, rows), tiling.group):
                for part in parts[parts[:, 7] >= 0]:
                    token = row // tiling.group
                    written[int(starts[i]) + token, int(part[5])] = int(part[7]) + token * int(part[8])
    partials = sorted(written.values())
    assert len(set(partials)) == len(partials), "two parts write the same partial"
    assert not partials or partials[-1] < tiling.partial_capacity_tokens

    merged = {int(token): range(first, first + parts) for token, first, parts in made.merges}
    assert len(merged) == len(made.merges)
    for token, partials_of_token in merged.items():
        assert sorted(at for (other, _), at in written.items() if other == token) == list(partials_of_token)
    assert {token for token, _ in written} == set(merged)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(sequences, min_size=1, max_size=200), devices)
def test_no_program_has_more_than_an_even_share_and_an_item(batch: Batch, device: dict[str, int]) -> None:
    """And a tile for each round, since the parts of a sequence differ by one."""
    tiling = tiling_for(batch, **device)
    items = planned(batch, tiling).items
    work = loads(items, tiling)
    if len(items):
        longest = (-(-(items[:, 6] - items[:, 5]) // tiling.tile_tokens)).max() + ITEM_TILES
        rounds = -(-len(items) * tiling.kv_heads // tiling.programs)
        assert work.max() <= work.mean() + longest + rounds


@pytest.mark.parametrize("sequences", [1, 2, 3, 5, 8, 20, 33, 64, 100, 256])
@pytest.mark.parametrize("context", [8192, 32_768])
@pytest.mark.parametrize("width", [1, 5])
def test_long_contexts_fill_an_h200(sequences: int, context: int, width: int) -> None:
    """132 multiprocessors, two programs each: the busiest has at most a fifth more than the mean."""
    batch = [(width, context)] * sequences
    tiling = tiling_for(batch)
    work = loads(planned(batch, tiling).items, tiling)
    assert work.max() <= 1.2 * work.mean()


@pytest.mark.parametrize("seed", range(5))
def test_uneven_contexts_fill_an_h200(seed: int) -> None:
    generator = np.random.default_rng(seed)
    contexts = generator.lognormal(8, 1, 200).clip(40, 40_000).astype(int)
    batch = [
        (int(width), int(context)) for width, context in zip(generator.integers(1, 10, 200), contexts, strict=True)
    ]
    tiling = tiling_for(batch)
    work = loads(planned(batch, tiling).items, tiling)
    assert work.max() <= 1.2 * work.mean()


def test_short_contexts_are_not_split() -> None:
    batch = [(1, 128)] * 512
    made = planned(batch, tiling_for(batch))
    assert len(made.items) == 512
    assert len(made.merges) == 0


def test_nothing_to_do() -> None:
    tiling = tiling_for([(1, 1)])
    for batch in ([], [(0, 0)], [(0, 900)]):
        made = planned(batch, tiling)
        assert (made.items.shape, made.merges.shape, made.tokens) == ((0, 9), (0, 3), 0)


def test_planning_takes_a_fraction_of_a_decode_step() -> None:
    """About 100 µs for 256 sequences; held to ten times that, on machines that do other things besides."""
    generator = np.random.default_rng(0)
    batch = [(1, int(context)) for context in generator.integers(100, 32_768, 256)]
    tiling = tiling_for(batch)
    starts, contexts, slots = arrays(batch)
    seconds = []
    for _ in range(30):
        begin = time.perf_counter()
        plan(starts, contexts, slots, tiling)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1e-3
