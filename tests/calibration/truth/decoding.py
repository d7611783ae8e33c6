"""Recorded rollouts, made up, for decoding again on a tiny model."""

from pathlib import Path
from typing import Any

from calibration.truth.chosen import Choice
from calibration.truth.replay import Settings
from simulator.cost.model import Profile
from simulator.cost.operators import Affine, row
from simulator.drafting.suffix import Suffix
from tests.calibration.model.configs import PLAIN
from traces.io import read, write
from traces.synthesis import synth
from traces.trace import Trace

COSTS = Profile(
    "made up", "affine", (Affine("all", row(constant=1e-3, query_tokens=1e-5)),), "tiny", "none", "made up", "none"
)


def made_up(folder: Path, **settings: Any) -> Trace:
    """Two RL steps of 4 prompts x 4 samples with repeats, in a file."""
    usual: dict[str, Any] = {
        "prompts": 4,
        "samples": 4,
        "steps": 2,
        "median_tokens": 30.0,
        "prompt_tokens": 12,
        "seed": 5,
    }
    path = folder / "rollouts.parquet"
    write(synth(**usual | {"history_reuse": 0.6, "sibling_reuse": 0.2} | settings), path, {})
    return read(path)


def settings(policies: list[str], **others: Any) -> Settings:
    """Decode RL step 1 on the tiny model."""
    usual: dict[str, Any] = {"choice": Choice(1), "max_num_seqs": 6, "drafter": Suffix(factor=2.0)}
    return Settings(PLAIN, "tiny", COSTS, policies, **usual | others)
