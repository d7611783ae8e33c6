"""Everything that decides what a run records."""

from dataclasses import asdict, dataclass, field
from typing import Any

from calibration.rl.policy import Shape
from traces.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Sizes of the run and of its policy; two runs with equal settings on one machine record the same rollouts.

    sft_steps: steps of supervised learning before RL. minibatches: gradient steps of an RL step, on prompts in random
    order. learning_rate, clip: of the RL phase.
    """

    prompts: int = 64
    samples: int = 8
    steps: int = 24
    max_tokens: int = 1024
    sft_steps: int = 400
    seed: int = 0
    threads: int = 2
    device: str = "cpu"
    minibatches: int = 8
    learning_rate: float = 1e-4
    clip: float = 0.2
    shape: Shape = field(default_factory=Shape)

    def __post_init__(self) -> None:
        """Refuse groups of one, which have no advantage, and fewer prompts than minibatches."""
        if self.samples < 2:
            raise InputError(
                f"samples: {self.samples} in a group leave nothing to compare with: give --samples at least 2"
            )
        if self.prompts < self.minibatches:
            raise InputError(
                f"prompts: {self.prompts} do not fill {self.minibatches} minibatches: "
                f"give --prompts at least {self.minibatches}"
            )

    def described(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)
