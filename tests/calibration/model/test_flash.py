"""Split-KV attention equals plain attention for any raggedness, in Triton's interpreter or on a GPU if there is one."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="attention needs torch")
pytest.importorskip("triton", reason="the kernels need triton")

from calibration.model.flash import DecodeAttention  # noqa: E402
from tests.calibration.model.attention_cases import DEVICE, Case, attention_for, case  # noqa: E402
from traces.errors import InputError  # noqa: E402


@pytest.mark.parametrize(
    ("group", "head_dim"), [(1, 64), (2, 128), (3, 64), (4, 128), (5, 64), (7, 128), (8, 64), (16, 64)]
)
def test_groups_and_mixed_widths(group: int, head_dim: int) -> None:
    """Rows fill less than one narrow block, one exactly, or several wide ones with a ragged end."""
    batch = case([1, 33, 4, 5, 2], [65, 130, 4, 90, 17], heads=2 * group, kv_heads=2, head_dim=head_dim)
    batch.check(attention_for(batch))


@pytest.mark.parametrize("width", [1, 5])
def test_contexts_at_the_edges_of_tiles(width: int) -> None:
    tile = attention_for(case([1], [1])).tiling.tile_tokens
    contexts = [max(tiles * tile + more, width) for tiles in (0, 1, 2, 4) for more in (-1, 0, 1)]
    batch = case([width] * len(contexts), contexts, heads=4, kv_heads=1)
    batch.check(attention_for(batch))


def test_a_long_context_among_short_ones_is_split() -> None:
    batch = case([3, 1, 1, 9, 1], [20, 2500, 30, 40, 50])
    attention = attention_for(batch)
    items = attention.plan(batch.query_starts, batch.context_tokens, batch.slots).items
    assert items[:, 8].max() > 2, "parts of the long one"
    assert (items[:, 8] == 1).any(), "the short ones are whole"
    batch.check(attention)


def test_a_wide_query_whose_own_tokens_span_splits() -> None:
    """The first query tokens see nothing of the last part, so that its result for them must weigh nothing."""
    batch = case([33], [4 * 128 + 5], heads=4, kv_heads=1, head_dim=32)
    attention = attention_for(batch, processors=16)
    items = attention.plan(batch.query_starts, batch.context_tokens, batch.slots).items
    assert (items[:, 6] - items[:, 5]).min() == 5
    batch.check(attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_half_precision(dtype: "torch.dtype", head_dim: int) -> None:
    batch = case([1, 6, 2], [700, 40, 129], heads=4, kv_heads=1, head_dim=head_dim, dtype=dtype)
    batch.check(attention_for(batch))


@pytest.mark.parametrize("head_dim", [16, 32, 80, 96, 256])
def test_other_head_dims(head_dim: int) -> None:
    batch = case([1, 5], [300, 40], heads=4, kv_heads=1, head_dim=head_dim)
    batch.check(attention_for(batch))


def test_padding_is_zero_and_nothing_of_it_is_read() -> None:
    batch = case([2, 1], [40, 90], padding=13)
    batch.check(attention_for(batch))


def test_replays_of_other_plans() -> None:
    """What a captured graph does: the same object, tensors and grid for one plan after another, here with fewer tokens."""
    big = case([1, 9, 2, 1], [900, 64, 20, 300], room=1000)
    attention = attention_for(big, max_sequences=8)
    big.check(attention)
    tokens = big.query.shape[0]
    for widths, contexts in (([1] * 8, [9] * 8), ([5], [1000]), ([13], [13]), ([], []), ([2, 1], [500, 700])):
        other = case(widths, contexts, padding=tokens - sum(widths), room=1000)
        other.check(attention)
    big.check(attention)


def test_sequences_without_query_tokens() -> None:
    batch = case([0, 2, 0, 1], [0, 30, 50, 9])
    batch.check(attention_for(batch))


def test_queries_and_outputs_may_be_slices_of_a_fused_projection() -> None:
    batch = case([3, 1], [50, 70], heads=4, kv_heads=2, head_dim=64)
    fused = torch.randn(4, 8, 64, device=DEVICE)
    query = fused[:, 1:5]
    query.copy_(batch.query)
    attention = attention_for(batch)
    attention.plan(batch.query_starts, batch.context_tokens, batch.slots)
    out = torch.zeros(4, 6, 64, device=DEVICE)
    attention.run(query, batch.keys, batch.values, out[:, 2:])
    batch.check_result(out[:, 2:])
    assert not out[:, :2].any()


@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        ({"heads": 7}, "7 query heads on 2 KV heads"),
        ({"heads": 34}, "34 query heads on 2 KV heads"),
        ({"head_dim": 72}, "head_dim 72"),
        ({"head_dim": 512}, "head_dim 512"),
        ({"dtype": torch.float64}, "float64"),
    ],
)
def test_shapes_that_are_not_served(changes: dict[str, object], mention: str) -> None:
    settings: dict[str, object] = {"heads": 8, "kv_heads": 2, "head_dim": 64, "dtype": torch.float32, "device": DEVICE}
    with pytest.raises(InputError, match=mention):
        DecodeAttention(**(settings | changes), max_sequences=1, max_tokens=1, max_context_tokens=16)


@pytest.mark.parametrize(
    ("widths", "contexts", "mention"),
    [([1, 1, 1], [9, 9, 9], "max_sequences"), ([9], [9], "max_tokens"), ([1], [300], "300 KV tokens")],
)
def test_batches_beyond_what_was_asked_for(widths: list[int], contexts: list[int], mention: str) -> None:
    batch = case(widths, contexts)
    attention = attention_for(batch, max_sequences=2, max_tokens=8, max_context_tokens=256)
    with pytest.raises(InputError, match=mention):
        attention.plan(batch.query_starts, batch.context_tokens, batch.slots)


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs are captured on a GPU")
def test_a_captured_graph_serves_any_raggedness() -> None:
    first = case([1] * 16, [2000] * 16, room=4000, dtype=torch.bfloat16)
    attention = attention_for(first, max_sequences=16)
    query, keys, values = (torch.empty_like(tensor) for tensor in (first.query, first.keys, first.values))
    out = torch.empty_like(query)

    def load(batch: Case) -> None:
        query.copy_(batch.query)
        keys[: len(batch.keys)].copy_(batch.keys)
        values[: len(batch.values)].copy_(batch.values)
        attention.plan(batch.query_starts, batch.context_tokens, batch.slots)

    load(first)
    attention.run(query, keys, values, out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attention.run(query, keys, values, out)
    generator = np.random.default_rng(0)
    for seed, widths in enumerate(([1] * 16, [16], [3, 1, 7, 2], [9, 1, 1, 1, 1])):
        contexts = generator.integers(16, 4000, len(widths)).tolist()
        batch = case(widths, contexts, padding=16 - sum(widths), room=4000, dtype=torch.bfloat16, seed=seed)
        load(batch)
        out.fill_(float("nan"))
        graph.replay()
        batch.check_result(out)
