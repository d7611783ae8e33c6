"""What 3-bit weights are estimated to gain in one pass of Mixtral-8x7B: `python -m tests.systems.milo`."""

from collections.abc import Iterator
from typing import NamedTuple

from simulator.catalogue import load_device, load_model
from simulator.cost import StepWork, roofline
from simulator.cost.roofline import KERNEL_S
from simulator.cost.weight_bits import WeightBits

MIXTRAL = load_model("mixtral-8x7b")
RANKS = ((0, 0), (512, 32), (1024, 32))
TOKENS = (1, 16, 64, 256, 1024, 4096)
"""Of sequences of 500 tokens that decode one each, up to 256; above, of one prompt."""


class Row(NamedTuple):
    device: str
    tokens: int
    seconds: float
    gains: tuple[float, ...]
    four_bits: float


def rows() -> Iterator[Row]:
    """Seconds in 16 bits and how many times as long they are as those of 3 bits, by ranks, and as those of 4 bits."""
    for name in ("a100-80gb", "h100"):
        device = load_device(name)
        for tokens in TOKENS:
            prompt = StepWork(1, tokens, tokens, tokens * (tokens + 1) / 2, tokens)
            work = StepWork.decode(tokens, 500) if tokens <= 256 else prompt
            configs = [
                MIXTRAL,
                *(WeightBits(3, 64, *ranks).of(MIXTRAL) for ranks in RANKS),
                WeightBits(4, 128).of(MIXTRAL),
            ]
            plain, *others = (float(roofline(one, device, kernel_s=KERNEL_S).step_time_s(work)) for one in configs)
            gains = [plain / other for other in others]
            yield Row(name, tokens, plain, tuple(gains[:-1]), gains[-1])


def main() -> None:
    ranks = " | ".join(f"3 bits, ranks {rank} and {sparse}" for rank, sparse in RANKS)
    print(f"| device | tokens | 16 bits, ms | {ranks} | 4 bits, groups of 128 |\n|{'---|' * (4 + len(RANKS))}")
    for row in rows():
        gains = " | ".join(f"{gain:.2f}" for gain in row.gains)
        print(f"| {row.device} | {row.tokens:,} | {1e3 * row.seconds:.1f} | {gains} | {row.four_bits:.2f} |")


if __name__ == "__main__":
    main()
