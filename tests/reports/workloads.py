"""What systems that change the workload report, beside what is simulated of it: `python -m tests.reports.workloads`.

Workloads are made up in the published shape; of lengths only means are published, so their spread is an assumption.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import scipy.optimize
import scipy.special

from simulator.replay import run
from simulator.scenario import build
from simulator.transforms.lengths import Compress
from traces.io import from_table
from traces.trace import Trace

SMALL, LARGE = "deepseek-r1-distill-qwen-1.5b", "deepseek-r1-distill-qwen-7b"
BROAD_MEANS = (4000, 7000)
"""Tokens: ends of what an unpublished mean may be."""


class Figure(NamedTuple):
    """A figure that was published, and ours."""

    what: str
    published: float
    ours: float


def workload(prompts: int, samples: int, mean: float, cap: int, prompt_tokens: int = 200, seed: int = 0) -> Trace:
    """One RL step whose lengths are lognormal (sigma 0.7, half of the variance between prompts) up to a cap, without rewards."""
    rng = np.random.default_rng(seed)
    between, within = rng.standard_normal((prompts, 1)), rng.standard_normal((prompts, samples))
    shape = np.exp(0.7 * (np.sqrt(0.5) * between + np.sqrt(0.5) * within))
    scale = scipy.optimize.brentq(lambda scale: np.minimum(scale * shape, cap).mean() - mean, 1, 100 * cap)
    lengths = np.maximum(np.rint(np.minimum(scale * shape, cap)), 1).astype(np.int64)
    prompt, sample = np.indices((prompts, samples)).reshape(2, -1)
    columns: dict[str, Any] = {
        "step": np.zeros(prompt.size, np.int64), "sample": sample, "prompt_tokens": np.full(prompt.size, prompt_tokens),
        "output_tokens": lengths.ravel(),
    }  # fmt: skip
    names = pa.array([f"p{one}" for one in prompt.tolist()])
    return from_table(pa.table({"prompt_id": names} | {name: pa.array(values) for name, values in columns.items()}))


def seconds(trace: Trace, model: str, replicas: int = 1, transforms: tuple[str, ...] = ()) -> float:
    """How long an RL step's rollouts take on so many H100."""
    system = {"name": "one", "drafter": {"kind": "none"}, "transforms": transforms}
    engine = {"max_num_seqs": 256, "replicas": replicas, "dispatch": "least_loaded"}
    scenario = {"trace": "made up", "model": model, "device": "h100", "systems": [system], "engine": engine}
    return float(run(build(scenario), trace).runs["makespan_s"][0].as_py())


def mixed(samples: int, prior: float) -> float:
    """Share of groups with right and wrong answers where prompts' pass probability is Beta(prior, prior)."""
    alike = scipy.special.betaln(prior + samples, prior) - scipy.special.betaln(prior, prior)
    return float(1 - 2 * np.exp(alike))


def broad() -> Iterator[Figure]:
    """BroRL: 512 prompts x 16 against 128 x 512 on 64 H100, 16,384 tokens; generated samples a second that are kept.

    An eighth of the prompts on an eighth of the GPUs stands for all.
    """
    prior = float(scipy.optimize.brentq(lambda prior: mixed(16, prior) - 0.41, 1e-3, 10))
    yield Figure(
        f"BroRL: groups of 512 kept, where 41 % of those of 16 are (Beta prior {prior:.2f})", 0.62, mixed(512, prior)
    )
    for mean in BROAD_MEANS:
        per_s = {}
        for prompts, samples, kept in ((512, 16, 0.41), (128, 512, 0.62)):
            trace = workload(prompts // 8, samples, mean, 16_384)
            per_s[samples] = 8 * kept * len(trace) / seconds(trace, SMALL, 8)
        for samples, published in ((16, 36.5), (512, 72.4)):
            yield Figure(f"BroRL: samples/s, groups of {samples}, mean {mean:,} tokens", published, per_s[samples])
        ratio = per_s[512] / per_s[16]
        yield Figure(f"BroRL: samples/s, 512 over 16, mean {mean:,} tokens", 72.4 / 36.5, ratio)
        yield Figure(f"BroRL: of all that are generated, mean {mean:,} tokens", 72.4 / 36.5, ratio * 0.41 / 0.62)


def short() -> Iterator[Figure]:
    """DLER: a 7B rollout before and after, on an H100; groups that the cap alone leaves without a right answer."""
    before, after = (from_table(_one(tokens)) for tokens in (7747, 2405))
    times = [seconds(one, LARGE) for one in (before, after)]
    yield Figure("DLER: seconds of one 7B rollout before, at the mean of 7,747 tokens", 93.43, times[0])
    yield Figure("DLER: after, at 2,405", 23.73, times[1])
    yield Figure("DLER: before over after", 93.43 / 23.73, times[0] / times[1])
    made = Compress(cap=4000).rollouts(workload(512, 16, 7747, 32_000), 0)
    lost = np.array(made.table["finish_reason"].to_pylist()).reshape(512, 16) == "length"
    yield Figure("DLER: prompts without reward at the start, by the cap alone", 0.5, float(lost.all(axis=1).mean()))


def latent() -> Iterator[Figure]:
    """LiteReason: seconds at batch 1 over those of text, as tokens over tokens."""
    for text, left, before_s, after_s in ((114.5, 34.0, 0.97, 0.31), (721.3, 193.1, 6.46, 1.84)):
        whole, shorter = (seconds(from_table(_one(round(tokens))), LARGE) for tokens in (text, left))
        yield Figure(f"LiteReason: seconds of {text:g} tokens", before_s, whole)
        yield Figure(f"LiteReason: of {left:g}", after_s, shorter)
        yield Figure("LiteReason: after over before", after_s / before_s, shorter / whole)


def _one(tokens: int) -> pa.Table:
    return pa.table({"step": [0], "prompt_id": ["p"], "sample": [0], "prompt_tokens": [500], "output_tokens": [tokens]})


if __name__ == "__main__":
    print("| figure | published | ours |\n|---|---|---|")
    for figures in (broad, short, latent):
        for one in figures():
            print(f"| {one.what} | {one.published:.3g} | {one.ours:.3g} |")
