"""DiffuSpec as published, at batch 1: `python -m tests.systems.diffuspec` prints the simulator's speed-ups beside the paper's."""

from collections.abc import Iterator
from typing import NamedTuple

from scipy.optimize import brentq

from simulator.replay import run
from simulator.scenario import build
from traces.io import from_table
from traces.synthesis import synth

PUBLISHED = {10: (5.53, 2.74), 20: (6.56, 2.98)}
"""Fixed draft length: (mean accepted tokens, speed-up); Qwen2.5-32B, Dream-7B, one A100, batch 1, temperature 0."""
PROMPTS = (100, 500, 1000)


class Row(NamedTuple):
    prompt_tokens: int
    drafts: int
    bonus_counted: bool
    context: str
    speedup: float
    published: float


def rate(drafts: int, accepted: float) -> float:
    """The probability, alike at all positions, of which a draft has so many tokens accepted on average."""
    return float(brentq(lambda p: sum(p**j for j in range(1, drafts + 1)) - accepted, 1e-6, 1 - 1e-9))


def rows() -> Iterator[Row]:
    """Mean accepted tokens are an input, with the bonus token in them or beside them; time follows from data sheets."""
    for prompt_tokens in PROMPTS:
        table = synth(
            prompts=8, samples=1, steps=1, median_tokens=400, max_tokens=1000, log_sigma=0.3,
            prompt_tokens=prompt_tokens, seed=1,
        )  # fmt: skip
        trace = from_table(table, "made up")
        for drafts, (accepted, published) in PUBLISHED.items():
            for bonus_counted in (True, False):
                curve = [rate(drafts, accepted - bonus_counted)] * drafts
                for context in ("recomputed", "cached"):
                    drafter = {
                        "kind": "diffusion",
                        "model": "dream-7b",
                        "curve": curve,
                        "context": context,
                        "temperature": 0,
                    }
                    scenario = {
                        "trace": "made up", "model": "deepseek-r1-distill-qwen-32b", "device": "a100-80gb", "drafter": drafter,
                        "policies": ["none", f"fixed:{drafts}"], "engine": {"max_num_seqs": 1},
                    }  # fmt: skip
                    found = run(build(scenario), trace).runs["speedup"][1].as_py()
                    yield Row(prompt_tokens, drafts, bonus_counted, context, found, published)


def main() -> None:
    print("| prompt tokens, outputs of 400 | drafts | accepted tokens | context | ours | published | error |")
    print("|---|---|---|---|---|---|---|")
    for row in rows():
        accepted = PUBLISHED[row.drafts][0]
        told = f"{accepted} {'with' if row.bonus_counted else 'beside'} the bonus"
        cells = (row.prompt_tokens, row.drafts, told, row.context, f"{row.speedup:.2f}", row.published)
        print(f"| {' | '.join(map(str, cells))} | {row.speedup / row.published - 1:+.0%} |")


if __name__ == "__main__":
    main()
