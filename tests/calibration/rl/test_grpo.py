"""GRPO: its advantages, its clipped ratio and its gradient are what one computes by hand."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.rl.batches import Sequences  # noqa: E402
from calibration.rl.grpo import Experience, advantages_of, improve, surrogate  # noqa: E402
from calibration.rl.keyed import keyed  # noqa: E402
from calibration.rl.policy import Shape  # noqa: E402
from calibration.rl.vocabulary import VOCABULARY  # noqa: E402

CLIP = 0.2


def test_advantages_are_standard_deviations_from_the_groups_mean():
    rewards = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]], np.float32)
    root = np.sqrt(3.0)
    expected = [[root, -1 / root, -1 / root, -1 / root], [0, 0, 0, 0], [-1, -1, 1, 1]]
    np.testing.assert_allclose(advantages_of(rewards), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [(1.1, 2.0, 2.2, 2.2), (1.5, 2.0, 2.4, 0.0), (0.5, 2.0, 1.0, 1.0), (1.5, -2.0, -3.0, -3.0), (0.5, -2.0, -1.6, 0.0)],
)
def test_the_ratio_is_clipped_where_going_on_would_gain(ratio, advantage, value, slope):
    logprobs = torch.tensor([np.log(ratio)], requires_grad=True, dtype=torch.float64)
    found = surrogate(logprobs, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage]), CLIP)
    found.sum().backward()
    assert found.item() == pytest.approx(value)
    assert logprobs.grad.item() == pytest.approx(slope)


def test_the_gradient_is_that_of_a_hand_computation():
    """Without layers the logits are head' x of the last token alone, x its normalised embedding."""
    random = keyed(3, "toy")
    d = 6
    embedding, head = random.normal(size=(VOCABULARY, d)), 0.3 * random.normal(size=(d, VOCABULARY))
    prompts, responses = [[1], [1], [1], [2]], [[3, 4], [5], [6, 3, 7], [8]]
    advantages = np.array([1.2, -0.7, 0.4, 0.0], np.float32)
    sampled = [np.array(part, np.float32) for part in ([-4.0, -4.1], [-3.9], [-4.2, -1.0, -9.0], [-4.0])]

    total, gradient = 6, np.zeros_like(head)  # the rollout without an advantage does not count
    for i in range(3):
        before = [*prompts[i], *responses[i]]
        for j, token in enumerate(responses[i]):
            x = embedding[before[j]]
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            odds = np.exp(x @ head)
            chances = odds / odds.sum()
            ratio = chances[token] / np.exp(sampled[i][j])
            clipped = ratio > 1 + CLIP if advantages[i] > 0 else ratio < 1 - CLIP
            pull = (np.arange(VOCABULARY) == token) - chances
            gradient -= 0 if clipped else np.outer(x, pull) * ratio * advantages[i] / total

    raw = {"embedding": embedding, "norm": np.ones(d), "head": head}
    weights = {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in raw.items()}
    optimiser = torch.optim.SGD(weights.values(), lr=0.5)
    experience = Experience(Sequences(prompts, responses), sampled, advantages)
    improve(weights, Shape(layers=0, d_model=d), optimiser, experience, np.arange(4), CLIP, 2, "cpu")
    size = torch.stack([weight.grad.norm() for weight in weights.values()]).norm().item()
    assert size < 1  # not scaled down
    np.testing.assert_allclose(weights["head"].grad.numpy(), gradient, atol=1e-6)
    np.testing.assert_allclose(weights["head"].detach().numpy(), head - 0.5 * gradient, atol=1e-6)
