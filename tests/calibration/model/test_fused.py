"""Fused kernels equal the plain functions, in Triton's interpreter or on a GPU if there is one; and they compile for Hopper."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="decoding needs torch")
pytest.importorskip("triton", reason="the kernels need triton")

from calibration.model import layers  # noqa: E402
from calibration.model.batch import batch_of  # noqa: E402
from calibration.model.decoder import Decoder  # noqa: E402
from calibration.model.fused import FUSED  # noqa: E402
from calibration.model.runner import Runner  # noqa: E402
from calibration.model.setup import kernels_of  # noqa: E402
from simulator.cost.model_config import model_shape  # noqa: E402
from tests.calibration.model.configs import KINDS  # noqa: E402

ROOT = Path(__file__).parents[3]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SINGLE = 2.0**-18
"""Share of a result, and of 1 where terms cancel: a dozen roundings of 2^-24 of terms up to some 5, and on a GPU exponents, roots
and quotients that are right to 2^-22."""
BOUNDS = {torch.float32: SINGLE, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Share of a result. Half precision rounds it once, by 2^-11 in float16 and 2^-8 in bfloat16, where the interpreter cuts off."""
SERVED = [kind for kind in KINDS if DEVICE == "cpu" or "expert" not in kind]
"""A GPU's grouped product is not made for float32 and experts as narrow as these."""
DTYPES = pytest.mark.parametrize("dtype", BOUNDS, ids=str)


def random(*size: int, dtype: "torch.dtype" = torch.float32, seed: int = 0) -> "torch.Tensor":
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(found: "torch.Tensor", expected: "torch.Tensor") -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected.double(), rtol=BOUNDS[found.dtype], atol=SINGLE)


@DTYPES
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 48), (7, 48), (3, 1000), (2, 5120), (1, 16384)])
def test_sum_and_norm(tokens: int, hidden: int, dtype: "torch.dtype") -> None:
    x, residual, weight = (
        random(*size, dtype=dtype, seed=i) for i, size in enumerate([(tokens, hidden)] * 2 + [(hidden,)])
    )
    x[0] *= 1e-3  # so that the epsilon matters, and rows differ
    residual[0] *= 1e-3
    given = x.clone(), residual.clone()
    normed, total = FUSED.add_norm(x, residual, weight)
    assert (normed.dtype, total.dtype) == (dtype, dtype)
    close(total, x.double() + residual.double())
    close(normed, layers.rms_norm(total.double(), weight.double()))  # of the sum as it is stored
    assert all(torch.equal(*pair) for pair in zip(given, (x, residual), strict=True))


@DTYPES
@pytest.mark.parametrize(("tokens", "width"), [(1, 24), (5, 40), (3, 1000), (2, 2500)])
def test_gate(tokens: int, width: int, dtype: "torch.dtype") -> None:
    both = 3 * random(tokens, 2 * width, dtype=dtype)
    close(FUSED.gated(both), layers.gated(both.double()))


def test_gate_of_rows_that_lie_apart() -> None:
    """As grouped products pad them."""
    both = random(4, 60)[:, :56]
    close(FUSED.gated(both), layers.gated(both.double()))


class Cache:
    """A layer's keys and values, [slots, kv_heads, room, head_dim], whole tensors or views into larger ones."""

    def __init__(self, slots: int, kv_heads: int, room: int, head_dim: int, dtype: "torch.dtype", view: bool) -> None:
        if view:  # positions before heads, and something left out on every axis
            whole = (random(slots + 2, room + 3, kv_heads + 1, head_dim + 8, dtype=dtype, seed=seed) for seed in (5, 6))
            self.memory = tuple(whole)
            cut = [one[1:-1, 2:-1, :kv_heads, 8:].transpose(1, 2) for one in self.memory]
        else:
            self.memory = tuple(random(slots, kv_heads, room, head_dim, dtype=dtype, seed=seed) for seed in (5, 6))
            cut = list(self.memory)
        self.keys, self.values = cut
        assert self.keys.shape == (slots, kv_heads, room, head_dim)

    def double(self) -> "tuple[torch.Tensor, torch.Tensor]":
        return self.keys.double(), self.values.double()


def check_turn_append(
    tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: "torch.dtype", normed: bool, view: bool = False
) -> None:
    """Queries, what is appended, and that nothing else of the cache's memory changes."""
    slots, room = 3, 11
    cache = Cache(slots, kv_heads, room, head_dim, dtype, view)
    draw = np.random.default_rng(tokens)
    cells = torch.from_numpy(draw.permutation(slots * room)[:tokens]).to(DEVICE)
    where, positions = cells // room, cells % room
    qkv = 2 * random(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    norms = (random(head_dim, dtype=dtype, seed=1), random(head_dim, dtype=dtype, seed=2)) if normed else None
    turns = layers.rope_table(room, head_dim, torch.device(DEVICE), dtype)[positions]
    keys, values = cache.double()
    wide = None if norms is None else (norms[0].double(), norms[1].double())
    expected = layers.turn_append(qkv.double(), wide, turns.double(), keys, values, where, positions)
    before = [one.clone() for one in cache.memory]

    query = FUSED.turn_append(qkv, norms, turns, cache.keys, cache.values, where, positions)

    assert query.is_contiguous()
    assert query.dtype == dtype
    close(query, expected)
    close(cache.keys[where, :, positions], keys[where, :, positions])
    assert torch.equal(cache.values.double(), values), "values are only copied"
    cache.keys[where, :, positions] = 0
    cache.values[where, :, positions] = 0
    for memory, one in zip(before, (cache.keys, cache.values), strict=True):
        memory.as_strided(one.shape, one.stride(), one.storage_offset())[where, :, positions] = 0
    assert all(torch.equal(*pair) for pair in zip(cache.memory, before, strict=True)), "the rest of the cache changed"


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(6, 2, 8), (4, 1, 16), (7, 7, 64), (28, 4, 128), (3, 1, 80), (20, 10, 128), (9, 3, 256), (80, 1, 16)],
)
def test_heads_turned_and_appended(heads: int, kv_heads: int, head_dim: int, normed: bool) -> None:
    check_turn_append(4, heads, kv_heads, head_dim, torch.float32, normed)


@DTYPES
@pytest.mark.parametrize("tokens", [1, 29])
def test_views_of_caches(tokens: int, dtype: "torch.dtype") -> None:
    check_turn_append(tokens, 4, 2, 32, dtype, normed=True, view=True)


def test_caches_of_more_than_int32_can_count() -> None:
    """Memory that is reserved; only the cells written are ever there."""
    memory = torch.empty(2**31 + 2**12, dtype=torch.float16, device=DEVICE)
    strides = (2**30 + 64, 128, 16, 1)
    keys, values = (memory.as_strided((3, 2, 5, 16), strides, start) for start in (0, 1024))
    qkv = random(2, 8 * 16, dtype=torch.float16)
    turns = layers.rope_table(5, 16, torch.device(DEVICE), torch.float16)[2:4]
    slots, positions = torch.tensor([2, 1], device=DEVICE), torch.tensor([4, 0], device=DEVICE)
    FUSED.turn_append(qkv, None, turns, keys, values, slots, positions)
    split = qkv.view(2, 8, 16)
    assert torch.equal(values[slots, :, positions], split[:, 6:])
    close(keys[slots, :, positions], layers.rotate(split[:, 4:6].double(), turns.double()))


def test_no_tokens() -> None:
    none = torch.empty(0, 48, device=DEVICE)
    assert FUSED.gated(none).shape == (0, 24)
    assert [one.shape for one in FUSED.add_norm(none, none, torch.ones(48, device=DEVICE))] == [(0, 48)] * 2


@pytest.mark.parametrize("kind", SERVED)
@torch.inference_mode()
def test_logits_of_a_whole_decoder(kind: str) -> None:
    """Prefill of two sequences, then a ragged verification beside another prefill. Logits are near 1."""
    shape = model_shape(KINDS[kind])
    device = torch.device("cpu") if DEVICE == "cpu" else torch.device("cuda")
    runners = [
        Runner(Decoder(shape, torch.float32, device, 3, 24, seed=3, kernels=one)) for one in (layers.PLAIN, FUSED)
    ]
    text = np.arange(9) * 5
    for batch in (
        batch_of([0, 0], [4, 2], [2, 0], text[:6], 0),
        batch_of([4, 2, 0], [3, 1, 2], [2, 0, 1], text[3:], 2),
    ):
        plain, fused = (runner.decoder.logits(runner.inputs(batch)) for runner in runners)
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)  # hundreds of roundings of 2^-24


def test_which_kernels_a_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels_of(torch.device("cpu")) is layers.PLAIN
    assert kernels_of(torch.device("cuda")) is FUSED
    monkeypatch.setattr("calibration.model.setup.find_spec", lambda name: None)
    assert kernels_of(torch.device("cuda")) is layers.PLAIN


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs are captured on a GPU")
def test_a_captured_graph_serves_other_tokens() -> None:
    """Other inputs, slots and positions at the same addresses; the last tokens are padding, all in one cell."""
    tokens, dtype, room = 16, torch.bfloat16, 32
    x, residual, norm = random(tokens, 512, dtype=dtype), random(tokens, 512, dtype=dtype), random(512, dtype=dtype)
    table = layers.rope_table(room, 64, torch.device(DEVICE), dtype)
    keys, values = (torch.zeros(4, 2, room, 64, dtype=dtype, device=DEVICE) for _ in range(2))
    slots, positions = torch.full((tokens,), 3, device=DEVICE), torch.zeros(tokens, dtype=torch.int64, device=DEVICE)

    def step() -> "tuple[torch.Tensor, ...]":
        normed, total = FUSED.add_norm(x, residual, norm)
        query = FUSED.turn_append(normed, None, table[positions], keys, values, slots, positions)
        return normed, total, query, FUSED.gated(total)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (7, 8):
        x.copy_(random(tokens, 512, dtype=dtype, seed=seed))
        cells = torch.randperm(3 * room, generator=torch.Generator().manual_seed(seed))[: tokens - 4].to(DEVICE)
        slots[:-4], positions[:-4] = cells // room, cells % room
        graph.replay()
        after = keys.clone(), values.clone()
        assert all(torch.equal(*pair) for pair in zip(captured, step(), strict=True))
        assert torch.equal(values[slots[:-4], :, positions[:-4]].flatten(1), captured[0][:-4, 384:])
        assert torch.equal(keys[:3], after[0][:3])


def test_hopper_kernels_read_and_write_sixteen_bytes_at_a_time(tmp_path: Path) -> None:
    surroundings = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    surroundings |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.calibration.model.compile_fused"]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kernel"] for one in found] == ["add_norm", "gated", "turn_append", "turn_append"]
    assert all(one["vectors"] > 0 for one in found)
    assert [one["others"] for one in found] == [0, 0, 2, 2], "a slot and a position"
    assert max(one["shared_bytes"] for one in found[1:]) == 0, "threads do not wait for each other"
