"""The state of a run in a folder, so that it can be killed at any moment and go on where it was.

`configuration.json` says what run this is. `checkpoint.pt` is the one file that says how far it got; it is replaced as a
whole after the rollouts that it counts as done (`step-0000.parquet`, ...) are on disk. A run killed in between finds those
of one step too many, and writes the same again.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

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
    path = folder / "configuration.json"
    if path.exists():
        found = _read(path)
        differing = [key for key in {**configuration, **found} if configuration.get(key) != found.get(key)]
        if differing:
            told = "; ".join(f"{key} {found.get(key)} there, {configuration.get(key)} here" for key in differing)
            raise InputError(
                f"{folder}: holds another run ({told}): give the same settings, choose another --out, or delete the folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}): choose another --out") from error
    with replacing(path) as file:
        file.write(json.dumps(configuration, indent=1).encode())


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


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}): delete the folder and start again") from error
    return found
