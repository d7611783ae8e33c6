"""The simulator held to this machine's clock at full size: a 4-layer model, 1 to 64 sequences, five policies.

    python -m tests.benchmarks.calibration [FOLDER]

Profile and ground truth are measured in this run, and the profile's whole steps again after it: how far the machine itself has
drifted by then. Takes some ten minutes on two cores; FOLDER keeps what was measured.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch

from calibration.campaign import PLACES, POLICIES, campaign
from calibration.kernels.measure import Settings
from simulator.catalogue import load_model
from simulator.cli.calibrate_truth import report
from traces.io import read

ROOT = Path(__file__).parents[2]
MODEL = "calibration/configs/dense-4-layers.json"
TRACE, STEP = "traces/data/countdown.parquet", 20
KERNELS = Settings(load_model(ROOT / MODEL), MODEL, max_num_seqs=64, max_model_len=1024, max_width=25, rounds=3)
REPEATS, MOST_TOKENS = 3, 96


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(ROOT)  # ground truth names the trace by its path
    trace = read(TRACE)
    command = "python -m tests.benchmarks.calibration"
    found = campaign(
        KERNELS, trace, STEP, PLACES["cpu"], POLICIES, folder, MOST_TOKENS, REPEATS, command, lambda line: print(line, flush=True)
    )  # fmt: skip
    print("\n".join(report(found.profile, found.comparisons, found.verdicts, [], folder)))
    worst = max(found.comparisons, key=lambda one: abs(one.error))
    print(f"largest error of a makespan: {worst.error:+.1%} ({worst.policy}, {worst.live_batch} sequences)")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary))
