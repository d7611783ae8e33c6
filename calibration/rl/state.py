"""The state of a run in a folder, so that it can be killed at any moment and go on where it was.

`configuration.json` says what run this is. `checkpoint.pt` is the one file that says how far it got; it is replaced as a
whole after the rollouts that it counts as done (`step-0000.parquet`, ...) are on disk. A run killed in between finds those
of one step too many, and writes the same again.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from calibration import asked
from calibration.rl.policy import Weights
from traces.atomic import replacing
from traces.errors import InputError


@dataclass
class Progress:
    """Where a run is: how many steps of which phase are done, and the policy and optimiser after them.

    phase: sft or rl. sft_s: seconds of the supervised phase so far. optimiser: its state_dict, empty where the phase
    has just begun.
    """

    weights: Weights
    phase: str = "sft"
    done: int = 0
    sft_s: float = 0.0
    optimiser: dict[str, Any] = field(default_factory=dict)


def open_folder(folder: Path, configuration: dict[str, Any]) -> None:
    """Make the folder, or check that the run in it is this one; InputError that says what differs."""
    asked.open_folder(folder / "configuration.json", configuration, "run")


def save(folder: Path, progress: Progress) -> None:
    """Replace the checkpoint."""
    content = io.BytesIO()
    torch.save({**vars(progress), "weights": {k: v.detach().cpu() for k, v in progress.weights.items()}}, content)
    with replacing(folder / "checkpoint.pt") as file:
        file.write(content.getbuffer())


def load(folder: Path, device: str) -> Progress | None:
    """The checkpoint, or None where there is none yet."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        return Progress(**torch.load(path, map_location=device, weights_only=True))
    except Exception as error:  # torch.load raises whatever its parts do
        raise InputError(f"{path}: is no checkpoint ({error}): delete {folder} and start again") from error


def rollouts_path(folder: Path, step: int) -> Path:
    """The file of an RL step's rollouts."""
    return folder / f"step-{step:04}.parquet"
