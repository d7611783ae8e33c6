"""Ranges and defaults of settings, stated once: for the models that validate them and the command line that shows them.

Nothing heavy is imported here, so that help is instant.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Range(NamedTuple):
    """The least and the most that a number may be; None: no limit."""

    least: float
    most: float | None = None


class Whole(NamedTuple):
    """The same of a whole number."""

    least: int
    most: int | None = None


MAX_NUM_SEQS, REPLICAS, TENSOR_PARALLEL = Whole(1, 1_000_000), Whole(1, 10_000), Whole(1, 1024)
TRAIN_GPUS = Whole(1, 1_000_000)
BATCHED_TOKENS = MODEL_LEN = Whole(1, 2**31 - 1)
BLOCK_SIZE, GPU_BLOCKS, GRAPH_SIZE = Whole(1, 1024), Whole(2, 10_000_000), Whole(1, 1_000_000)
"""One KV block is vLLM's null block, which holds nothing."""
LARGEST_BUDGET = 255
"""The largest budget: a drafter proposes as much as it can, and never more than this."""
LOOKAHEAD, STEP_OVERHEAD_S = Whole(0, LARGEST_BUDGET**2), Range(0, 10)
"""A tree of so many passes, each so wide, is written before it is verified."""
BOOTSTRAP, SEEDS, STEPS, SEED = Whole(0, 100_000), Whole(1, 10_000), Whole(0, 2**31 - 1), Whole(0, 2**63 - 1)
DEPTH, WINDOW, NEWEST, NEWEST_WEIGHT = Whole(2, 255), Whole(0, 10**9), Whole(0, 10**9), Whole(1, 1000)
FACTOR, PROBABILITY, HEAD_LAYERS = Range(0, 255), Range(0, 1), Whole(1, 1000)

Dispatch = Literal["shared", "static", "round_robin", "least_loaded"]
"""How rollouts reach the replicas (`scheduling.resolve`)."""
DrafterKind = Literal[
    "none", "suffix", "ngram", "last", "eagle", "eagle3", "draft_model", "mtp", "parallel", "diffusion", "recorded", "hybrid",
    "custom",
]  # fmt: skip
"""Drafters that are built in (`drafting.settings`); `custom` is somebody's own, which any other name stands for."""
KvDtype = Literal["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"]
"""What keys and values can be cached in, by vLLM's names; `auto` is the precision of the activations."""
Scope = Literal["problem", "global", "request"]
Match = Literal["longest", "scored"]
Shape = Literal["path", "tree"]
Siblings = Literal["next-step", "live", "everywhere"]
OffSteps = Literal["nothing", "least", "most"]
"""What a recorded drafter has accepted where no recorded step begins (`drafting.recorded.Recorded`)."""
DraftContext = Literal["recomputed", "cached"]
"""What a diffusion model does about the context of its drafts (`drafting.diffusion.Diffusion`)."""


@dataclass(frozen=True)
class EngineDefaults:
    """What an engine is unless told otherwise."""

    max_num_seqs: int = 256
    replicas: int = 1
    dispatch: Dispatch = "shared"
    gpu_memory_utilization: float = 0.9


@dataclass(frozen=True)
class SuffixDefaults:
    """What a suffix drafter (`drafting.suffix.Suffix`) is unless told otherwise, and the measured cost of its drafting."""

    scope: Scope = "problem"
    own: bool = True
    match: Match = "longest"
    shape: Shape = "path"
    window: int = 16
    depth: int = 24
    factor: float = 1.0
    min_prob: float = 0.1
    prompt: bool = True
    siblings: Siblings = "next-step"
    newest: int = 0
    newest_weight: int = 1
    cost: str = "suffix-epyc"


ENGINE, SUFFIX = EngineDefaults(), SuffixDefaults()
RESAMPLES = 200
