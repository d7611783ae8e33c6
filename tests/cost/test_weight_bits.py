"""Weights of few bits and low-rank factors, against tensors listed one by one, enumerated routing, and hand arithmetic."""

from itertools import combinations, product

import numpy as np
import pytest

from simulator.catalogue import list_models, load_device, load_model
from simulator.cost import StepWork, roofline
from simulator.cost.low_rank import always_read, of_expert
from simulator.cost.model_config import model_shape
from simulator.cost.roofline import KERNEL_S
from simulator.cost.roofs import roofs
from simulator.cost.weight_bits import WeightBits
from traces.errors import InputError

MIXTRAL, LLAMA = load_model("mixtral-8x7b"), load_model("llama-3.1-8b")
H100, A100 = load_device("h100"), load_device("a100-80gb")
SIXTEEN_BIT = [name for name in list_models() if model_shape(load_model(name)).quantised is None]

ATTENTION = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096)]
"""Queries, keys, values and output of a layer of Mixtral-8x7B and of Llama-3.1-8B alike."""
GATED = [(4096, 14_336), (4096, 14_336), (14_336, 4096)]
"""A dense feed-forward of Llama-3.1-8B, and an expert of Mixtral-8x7B."""


def parameters(matrices: list[tuple[int, int]]) -> int:
    return sum(m * n for m, n in matrices)


def factors(matrices: list[tuple[int, int]], rank: int) -> int:
    return sum(rank * (m + n) for m, n in matrices)


def test_three_bits_in_groups_of_64_take_seven_sixteenths_of_a_byte() -> None:
    assert WeightBits().bytes_per_parameter == 0.4375
    assert WeightBits(4, 128).bytes_per_parameter == (4 + 32 / 128) / 8
    assert WeightBits(16, 64).bytes_per_parameter == 2


@pytest.mark.parametrize(("rank", "sparse_rank"), [(0, 0), (512, 32), (1024, 32), (1024, 0), (0, 16)])
def test_bytes_of_mixtral_tensor_by_tensor(rank: int, sparse_rank: int) -> None:
    quantised = 32 * (parameters(ATTENTION) + 8 * parameters(GATED))
    others = 2 * 32_000 * 4096 + 32 * (2 * 4096 + 8 * 4096) + 4096  # embedding and output, norms and routers, last norm
    assert quantised + others == 46_702_792_704, "46.7e9 parameters"
    low_rank = 32 * (factors(ATTENTION, rank) + 8 * factors(GATED, sparse_rank))
    shape = model_shape(WeightBits(3, 64, rank, sparse_rank).of(MIXTRAL))
    assert shape.weight_bytes == 7 * quantised // 16 + 2 * others + 2 * low_rank
    assert shape.parameters == 46_702_792_704
    assert shape.expert_bytes == 0.4375 * parameters(GATED) + 2 * factors(GATED, sparse_rank)


@pytest.mark.parametrize("rank", [0, 512, 1024])
def test_bytes_of_a_dense_model_tensor_by_tensor(rank: int) -> None:
    layer = ATTENTION + GATED
    quantised, low_rank = 32 * parameters(layer), 32 * factors(layer, rank)
    others = 2 * 128_256 * 4096 + (32 * 2 + 1) * 4096
    shape = model_shape(WeightBits(3, 64, rank, 32).of(LLAMA))
    assert shape.weight_bytes == 7 * quantised // 16 + 2 * others + 2 * low_rank
    read = shape.weight_bytes - 2 * 128_256 * 4096
    assert roofline(WeightBits(3, 64, rank, 32).of(LLAMA), H100).step_time_s(StepWork.decode(1, 0)) == pytest.approx(
        read / H100["bandwidth_bytes_per_s"], rel=1e-12
    )


def test_a_rank_is_no_more_than_the_smaller_side_of_its_matrix() -> None:
    few = model_shape(WeightBits(rank=3000).of(LLAMA))
    assert few.factors is not None
    expected = [min(3000, m, n) * (m + n) for m, n in ATTENTION + GATED]
    assert few.factors.read_parameters == 32 * sum(expected)


@pytest.mark.parametrize("name", list_models())
def test_projections_are_all_matrices_of_every_known_model(name: str) -> None:
    shape = model_shape(load_model(name))
    listed = sum(one.inputs * one.outputs * one.copies for one in always_read(shape))
    assert listed == shape.attention_matrices + shape.feed_forward_matrices
    one_expert = sum(one.inputs * one.outputs * one.copies for one in of_expert(shape))
    assert one_expert == shape.expert_parameters - shape.expert_bias * (2 * shape.expert_intermediate + shape.hidden)


def enumerated(experts: int, per_token: int, tokens: int) -> float:
    """Different experts that tokens touch, over every way in which they may choose."""
    choices = list(combinations(range(experts), per_token))
    touched = [len(set().union(*one)) for one in product(choices, repeat=tokens)]
    return sum(touched) / len(touched)


@pytest.mark.parametrize(("experts", "per_token", "most"), [(8, 2, 3), (4, 1, 5), (4, 3, 5), (6, 2, 4), (2, 2, 4)])
def test_experts_are_read_that_tokens_touch_over_all_choices(experts: int, per_token: int, most: int) -> None:
    config = WeightBits(3, 64, 0, 16).of({**MIXTRAL, "num_local_experts": experts, "num_experts_per_tok": per_token})
    profile = roofline(config, H100)
    expert_bytes = 0.4375 * parameters(GATED) + 2 * factors(GATED, 16)
    for tokens in range(1, most + 1):
        seconds = profile.operator_times(StepWork(tokens, tokens, 0, 0))["experts"]
        touched = enumerated(experts, per_token, tokens)
        assert touched == pytest.approx(experts * (1 - (1 - per_token / experts) ** tokens), rel=1e-12)
        assert seconds == pytest.approx(32 * touched * expert_bytes / H100["bandwidth_bytes_per_s"], rel=1e-12)


@pytest.mark.parametrize(("config", "used"), [(LLAMA, 1), (MIXTRAL, 2)])
def test_operations_are_those_of_16_bits_and_of_the_factors(config: dict[str, object], used: int) -> None:
    """A pass of 100,000 tokens is bound by operations: 2 a parameter and token, and 2 r (m + n) more for each matrix."""
    tokens, routed = 100_000, config is MIXTRAL
    plain, low = (roofline(one, H100) for one in (config, WeightBits(3, 64, 512, 32).of(config)))
    more_s = low.step_time_s(StepWork(1, tokens, 0, 0)) - plain.step_time_s(StepWork(1, tokens, 0, 0))
    rank = 32 if routed else 512
    more = 2 * tokens * 32 * (factors(ATTENTION, 512) + used * factors(GATED, rank))
    assert more_s == pytest.approx(more / H100["peak_flops_per_s"], rel=1e-9)
    without = roofline(WeightBits(3, 64).of(config), H100)
    assert without.step_time_s(StepWork(1, tokens, 0, 0)) == pytest.approx(
        plain.step_time_s(StepWork(1, tokens, 0, 0)), rel=1e-12
    )


@pytest.mark.parametrize("name", SIXTEEN_BIT)
def test_sixteen_bits_without_factors_are_the_checkpoint_to_the_bit(name: str) -> None:
    config = load_model(name)
    work = StepWork.decode(np.array([1.0, 7, 64, 300])[:, None], np.array([0.0, 900, 9000])[None, :], 3)
    for tp in (1, 2):
        plain, same = (roofline(one, H100, tp=tp, kernel_s=KERNEL_S) for one in (config, WeightBits(16).of(config)))
        assert (plain.step_time_s(work) == same.step_time_s(work)).all()
        assert model_shape(config).num_gpu_blocks(9e12, tp=tp) == model_shape(WeightBits(16).of(config)).num_gpu_blocks(
            9e12, tp=tp
        )


@pytest.mark.parametrize("name", SIXTEEN_BIT)
@pytest.mark.parametrize(("bits", "rank", "sparse_rank"), [(3, 0, 0), (3, 1024, 32), (4, 64, 512), (2, 16, 0)])
def test_a_step_takes_no_less_than_its_bytes_and_operations(name: str, bits: int, rank: int, sparse_rank: int) -> None:
    config = WeightBits(bits, 64, rank, sparse_rank).of(load_model(name))
    live, context = np.unique(np.geomspace(1, 2000, 15).round()), [1, 300, 5000]
    found = roofs(roofline(config, A100, kernel_s=KERNEL_S), model_shape(config), A100, live, context)
    assert (found.ratio >= 1).all()


def test_each_gpu_has_its_part_of_the_factors() -> None:
    """U is divided with the outputs of queries, keys, values, gate and up; V with the inputs of the other two."""
    rank = 100
    columns = [(4096, 2048), (4096, 512), (4096, 512), (4096, 7168), (4096, 7168)]
    rows = [(2048, 4096), (7168, 4096)]
    half = model_shape(WeightBits(rank=rank).of(LLAMA)).shard(2)
    assert half.factors is not None
    assert half.factors.read_parameters == 32 * factors(columns + rows, rank)
    eighth = model_shape(WeightBits(rank=3000).of(LLAMA)).shard(8)
    assert eighth.factors is not None
    held = [(4096, 512), (4096, 128), (4096, 128), (512, 4096), (4096, 1792), (4096, 1792), (1792, 4096)]
    ranks = [min(3000, m, n) for m, n in ATTENTION + GATED]
    assert eighth.factors.read_parameters == 32 * sum(r * (m + n) for r, (m, n) in zip(ranks, held, strict=True))


@pytest.mark.parametrize(
    ("config", "rank", "sparse_rank", "more"),
    [(LLAMA, 8, 0, 8), (LLAMA, 0, 8, 0), (MIXTRAL, 8, 0, 4), (MIXTRAL, 0, 8, 4), (MIXTRAL, 8, 8, 8)],
)
def test_factors_are_two_more_kernels_beside_each_product(
    config: dict[str, object], rank: int, sparse_rank: int, more: int
) -> None:
    times = [
        float(roofline(one, H100, kernel_s=1e-6).operator_times(StepWork.decode(1, 0))["kernels"])
        for one in (config, WeightBits(3, 64, rank, sparse_rank).of(config))
    ]
    assert times[1] - times[0] == pytest.approx(32 * more * 1e-6)


def test_what_weights_leave_is_for_keys_and_values() -> None:
    plain, few = model_shape(MIXTRAL), model_shape(WeightBits(3, 64, 512, 32).of(MIXTRAL))
    freed = plain.shard(2).weight_bytes - few.shard(2).weight_bytes
    block_bytes = 16 * plain.shard(2).kv_bytes_per_token
    more = few.num_gpu_blocks(80e9, tp=2) - plain.num_gpu_blocks(80e9, tp=2)
    assert more == pytest.approx(freed / block_bytes, abs=1)
    with pytest.raises(InputError, match="gpu_memory_utilization"):
        plain.num_gpu_blocks(80e9)
    assert few.num_gpu_blocks(80e9) > 10_000, "Mixtral fits on one GPU of 80 GB at 3 bits"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": 0}, "bits = 0: give a whole number from 1 to 16"),
        ({"bits": 3.5}, "bits = 3.5"),
        ({"bits": True}, "bits = True"),
        ({"group": 0}, "group = 0"),
        ({"rank": -1}, "rank = -1"),
        ({"sparse_rank": 2**21}, "sparse_rank = 2097152"),
    ],
)
def test_impossible_weights_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightBits(**given)


def test_weights_that_are_not_in_16_bits_are_refused() -> None:
    for changes, held in (
        ({"torch_dtype": "float32"}, "32-bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    ):
        with pytest.raises(
            InputError, match=f"the model has {held} weights: give the config.json of the checkpoint in 16"
        ):
            model_shape(WeightBits().of({**LLAMA, **changes}))
    with pytest.raises(InputError, match="apply it once"):
        WeightBits(4).of(WeightBits(3).of(LLAMA))
    for wrong in ("3", {"bit": 3}):
        with pytest.raises(InputError, match=r"weight_bits = .* give a mapping of bits, group, rank, sparse_rank"):
            model_shape({**LLAMA, "weight_bits": wrong})
