"""Sampling with a KV cache is the full forward pass, and a response does not depend on who else is in its batch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.rl.batches import Sequences  # noqa: E402
from calibration.rl.generate import BLOCK, generate  # noqa: E402
from calibration.rl.grpo import logprobs_of  # noqa: E402
from calibration.rl.keyed import keyed  # noqa: E402
from calibration.rl.policy import Shape, empty_cache, fresh, logits, next_logits  # noqa: E402
from calibration.rl.vocabulary import END_ID, VOCABULARY  # noqa: E402

SHAPE = Shape(layers=2, d_model=32, heads=4, kv_heads=2, head_dim=8, d_hidden=64)
WEIGHTS = fresh(SHAPE, 3)
MOST = 3 * BLOCK + 5
PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [7, 8, 9], [1, 2, 3, 4]] * 4
UNIFORMS = np.stack([keyed(5, "test", i).random(MOST, dtype=np.float32) for i in range(len(PROMPTS))])


def test_token_by_token_gives_the_logits_of_the_full_forward_pass():
    tokens = torch.from_numpy(keyed(1, "tokens").integers(0, VOCABULARY, (3, 70)))
    cache = empty_cache(SHAPE, 3, 70)
    with torch.inference_mode():
        stepwise = torch.stack([next_logits(WEIGHTS, SHAPE, tokens[:, i], cache) for i in range(70)], 1)
        # float32 sums in another order: about 1e-6 apart
        torch.testing.assert_close(stepwise, logits(WEIGHTS, SHAPE, tokens), atol=1e-5, rtol=0)


def test_recorded_logprobs_are_those_of_a_full_forward_pass():
    found = generate(WEIGHTS, SHAPE, PROMPTS, UNIFORMS, threads=2)
    lengths = [len(response.token_ids) for response in found]
    assert len(set(lengths)) > 3  # sequences left the batch at different times
    sequences = Sequences(PROMPTS, [response.token_ids.tolist() for response in found])
    for response, fresh_logprobs in zip(found, logprobs_of(WEIGHTS, SHAPE, sequences, 2, "cpu"), strict=True):
        np.testing.assert_allclose(response.logprobs, fresh_logprobs, atol=1e-5)
        assert (response.logprobs <= 0).all()


def test_a_response_ends_with_end_or_at_the_limit():
    for response in generate(WEIGHTS, SHAPE, PROMPTS, UNIFORMS):
        stopped = response.finish_reason == "stop"
        assert (response.token_ids[-1] == END_ID) == stopped
        assert END_ID not in response.token_ids[:-1]
        assert stopped or len(response.token_ids) == MOST


def test_a_response_depends_on_its_own_numbers_alone():
    together = generate(WEIGHTS, SHAPE, PROMPTS, UNIFORMS, threads=2)
    for i in (0, 5, 9):
        alone = generate(WEIGHTS, SHAPE, PROMPTS[i : i + 1], UNIFORMS[i : i + 1])[0]
        assert np.array_equal(alone.token_ids, together[i].token_ids)


def test_tokens_are_drawn_from_the_distribution_of_the_policy():
    count = 4000
    uniforms = keyed(2, "first").random((count, 1), dtype=np.float32)
    first = [response.token_ids[0] for response in generate(WEIGHTS, SHAPE, [[1, 2, 3]] * count, uniforms)]
    expected = count * logits(WEIGHTS, SHAPE, torch.tensor([[1, 2, 3]]))[0, -1].softmax(-1).numpy()
    seen = np.bincount(first, minlength=VOCABULARY)
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    assert chi_squared < (VOCABULARY - 1) + 4 * np.sqrt(2 * (VOCABULARY - 1))  # 4 standard deviations
