"""Ragged batches through the decoder against a plain one in numpy that runs each sequence whole."""

import numpy as np
import pytest
import torch

from calibration.model.batch import Batch, batch_of
from calibration.model.decoder import Decoder
from calibration.model.layers import accepted, sample
from calibration.model.runner import Runner
from calibration.model.weights import random_weights
from simulator.cost.model_config import model_shape
from tests.calibration.model.configs import KINDS, PLAIN
from tests.reference import decoder as plain

CPU = torch.device("cpu")
SLOTS, ROOM = 4, 40
TOLERANCE = 2e-4
"""Logits are near 1; float32 over some hundred sums each rounds at 1e-7."""


def made(config: dict) -> Decoder:
    return Decoder(model_shape(config), torch.float32, CPU, SLOTS, ROOM, seed=3)


def drift(weights: torch.Tensor) -> None:
    weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(weights.numel())) * 0.3)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_logits_of_ragged_batches_are_those_of_whole_sequences(kind: str) -> None:
    decoder = made(KINDS[kind])
    for layer in decoder.weights.layers:  # norms and biases that do something
        for one in (layer.input_norm, layer.q_norm, layer.qkv_bias, layer.o_bias):
            if one is not None:
                drift(one)
    runner = Runner(decoder)
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, decoder.shape.vocabulary, ROOM) for _ in range(SLOTS)]
    done, slots = np.zeros(SLOTS, int), draw.permutation(SLOTS)
    expected = [plain.logits(text, decoder.weights, decoder.shape) for text in texts]
    for chunks, decoding in (
        ([9, 1, 0, 4], 0),
        ([3, 1, 7, 5], 2),
        ([1, 1, 1, 1], 4),
        ([5, 2, 1, 9], 4),
        ([1, 8, 6, 2], 1),
    ):
        who = [i for i in range(SLOTS) if chunks[i]]
        widths = [chunks[i] for i in who]
        tokens = np.concatenate([texts[i][done[i] : done[i] + chunks[i]] for i in who])
        batch = batch_of(done[who], widths, slots[who], tokens, decoding)
        found = decoder.logits(runner.inputs(batch)).numpy()
        rows = [expected[i][done[i] : done[i] + chunks[i]] for i in who]
        wanted = np.concatenate([r if n < decoding else r[-1:] for n, r in enumerate(rows)])
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)
        done[who] += widths


@pytest.mark.parametrize("padding", [0, 5])
@torch.inference_mode()
def test_the_planned_kernel_serves_the_same_batches_padded_or_not(padding: int) -> None:
    """As a CUDA graph does: every token decodes, padding goes to a slot of its own, and only the plan knows the sequences."""
    pytest.importorskip("triton")
    from calibration.model.flash import DecodeAttention

    decoder = made(KINDS["qwen3"])
    shape = decoder.shape
    kernel = DecodeAttention(shape.heads, shape.kv_heads, shape.head_dim, 8, 32, ROOM, torch.float32, CPU)
    runner, plain_runner = Runner(decoder, kernel), Runner(decoder)
    draw = np.random.default_rng(1)
    texts = [draw.integers(0, shape.vocabulary, ROOM) for _ in range(3)]
    for slot, text in enumerate(texts):
        plain_runner.run(batch_of([0], [12], [slot], text[:12], 0))
    batch = batch_of([9, 11, 4], [3, 1, 2], [2, 0, 1], np.concatenate([texts[2][9:12], texts[0][11:12], texts[1][4:6]]))
    expected = decoder.logits(plain_runner.inputs(batch))
    if padding:
        kernel.plan(batch.query_starts, batch.context_tokens + batch.widths, batch.slots)
        inputs = runner.padded_inputs(runner.pack(batch, batch.tokens.size + padding))
    else:
        inputs = runner.inputs(batch)
    before = [layer[:3].clone() for layer in decoder.cache.keys]
    found = decoder.logits(inputs)
    torch.testing.assert_close(found[: len(expected)], expected, atol=TOLERANCE, rtol=0)
    assert torch.isfinite(found).all()
    for layer, kept in zip(decoder.cache.keys, before, strict=True):
        torch.testing.assert_close(layer[:3], kept, atol=1e-5, rtol=0)
    held = runner.verify(inputs, inputs.following.clamp(min=0))
    assert held.tolist() == [1, 1, 0, 0, 1, 0] + [0] * padding


def test_a_wrong_position_is_noticed() -> None:
    """The control of the test above: contexts one off give other logits."""
    decoder = made(PLAIN)
    runner = Runner(decoder)
    text = np.arange(12)
    expected = plain.logits(text, decoder.weights, decoder.shape)
    with torch.inference_mode():
        decoder.logits(runner.inputs(batch_of([0], [11], [0], text[:11], 0)))
        found = decoder.logits(runner.inputs(batch_of([10], [1], [0], text[11:]))).numpy()
    assert np.abs(found - expected[-1]).max() > 50 * TOLERANCE


def test_weights_have_the_parameters_that_the_shape_counts() -> None:
    for config in KINDS.values():
        shape = model_shape(config)
        weights = random_weights(shape, torch.float32, CPU)
        assert sum(t.numel() for t in weights.tensors) == shape.parameters
        assert weights.nbytes == 4 * shape.parameters


def test_positions_and_sampled_rows_of_a_batch() -> None:
    batch = batch_of([10, 0], [3, 4], [1, 0], np.arange(7), decoding=1)
    assert batch.positions.tolist() == [10, 11, 12, 0, 1, 2, 3]
    assert batch.sampled.tolist() == [0, 1, 2, 6]


def test_drafts_hold_up_to_the_first_that_was_not_sampled() -> None:
    sampled = torch.tensor([5, 6, 7, 1, 2, 3, 9])
    following = torch.tensor([5, 6, -1, 1, 0, 3, -1])
    first = torch.tensor([0, 0, 0, 3, 3, 3, 3])
    assert accepted(sampled, following, first).tolist() == [True, True, False, True, False, False, False]


def test_the_runner_says_which_drafts_hold() -> None:
    """Feed what the model itself would say: all hold; then spoil the second of two drafts."""
    decoder = made(PLAIN)
    runner = Runner(decoder)
    with torch.inference_mode():
        decoder.weights.lm_head.mul_(1e3)  # so that sampling leaves no choice
        prompt = np.arange(5)
        follow = [int(runner.run(batch_of([0], [5], [0], prompt, 0))[0, -1])]
        for at in (5, 6):
            follow.append(int(runner.run(batch_of([at], [1], [0], np.array(follow[-1:])))[0, 0]))
        right = runner.run(batch_of([5], [3], [0], np.array(follow)))
        spoilt = np.array([*follow[:2], (follow[2] + 1) % 97])
        wrong = runner.run(batch_of([5], [3], [0], spoilt))
    assert right[1].tolist() == [1, 1, 0]
    assert wrong[1].tolist() == [1, 0, 0]


def test_samples_follow_the_logits() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).repeat(20_000, 1)
    found = torch.bincount(sample(logits, torch.Generator().manual_seed(1)), minlength=3) / 20_000
    z = (found - torch.tensor([0.5, 0.3, 0.2])).abs() / (0.25 / 20_000) ** 0.5
    assert z.max() < 4


def test_a_batch_has_a_token_for_each_query() -> None:
    with pytest.raises(AssertionError):
        batch_of([0], [2], [0], np.arange(3))
    assert isinstance(batch_of([0], [2], [0], np.arange(2)), Batch)
