"""What was measured of real decoding, in a Parquet file: a row for each decode step of each run, how it came about as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from calibration.truth.engine import StepTime
from simulator.budgets.policy import TablePolicy
from traces.atomic import replacing
from traces.errors import InputError
from traces.io import load

Float64 = npt.NDArray[np.float64]

FORMAT = "rolloutsim.ground_truth/1"
KEY = b"rolloutsim.ground_truth"
SECONDS = ("start_s", "duration_s", "draft_s")
SCHEMA = pa.schema([
    ("run", pa.int32()),
    *((name, pa.float64() if name in SECONDS else pa.int64()) for name in StepTime._fields),
])  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One time that the rollouts were decoded: the policy's name and its table, as nested lists."""

    policy: str
    repeat: int
    makespan_s: float
    boundaries: list[list[int]]
    budgets: list[list[list[int]]]
    row_of_prompt: list[int] | None

    def table(self) -> TablePolicy:
        """The policy."""
        boundaries = np.array(self.boundaries, np.int64).reshape(len(self.budgets), -1)
        rows = None if self.row_of_prompt is None else np.array(self.row_of_prompt, np.int64)
        return TablePolicy(boundaries, np.array(self.budgets, np.int64), rows)


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Runs of the same rollouts under several policies, and the steps of each, float64[steps, StepTime's fields].

    about: model, dtype, machine, command, policies in their order, trace (path and sha256), choice, drafter, max_num_seqs,
    capture_sizes.
    """

    about: dict[str, Any]
    runs: list[Run]
    steps: list[Float64] = field(default_factory=list)


def write(truth: GroundTruth, path: Path) -> None:
    """Write the file as a whole."""
    columns: dict[str, Any] = {"run": np.repeat(np.arange(len(truth.runs)), [len(steps) for steps in truth.steps])}
    columns |= dict(zip(StepTime._fields, np.concatenate(truth.steps).T, strict=True))
    arrays = [pa.array(columns[one.name]).cast(one.type) for one in SCHEMA]
    told = {"format": FORMAT, "about": truth.about, "runs": [asdict(run) for run in truth.runs]}
    table = pa.table(arrays, schema=SCHEMA.with_metadata({KEY: json.dumps(told).encode()}))
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read(path: Path) -> GroundTruth:
    """The runs in a file. Raises InputError for anything that `write` did not write."""
    table = load(path).table
    try:
        told = json.loads((table.schema.metadata or {})[KEY])
        if told["format"] != FORMAT:
            raise InputError(f"{path}: format {told['format']!r}, this version reads {FORMAT}: measure it again")
        runs = [Run(**run) for run in told["runs"]]
        columns = np.stack([table.column(name).to_numpy().astype(np.float64) for name in StepTime._fields], 1)
        numbers = table.column("run").to_numpy()
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not ground truth ({error!r:.80}): give a file of `rolloutsim calibrate replay`"
        ) from None
    return GroundTruth(told["about"], runs, [columns[numbers == run] for run in range(len(runs))])


def check_of(truth: GroundTruth, expected: Mapping[str, Any], path: Path) -> None:
    """Raise InputError where the runs in a file are of something else than `expected` says of `about`."""
    for key, value in json.loads(json.dumps(expected)).items():
        if truth.about.get(key) != value:
            raise InputError(
                f"{path}: {key} is {truth.about.get(key)!r:.120}, not {value!r:.120}: give another folder, or delete it"
            )


def joined(before: GroundTruth, new: GroundTruth, repeat: int) -> GroundTruth:
    """Runs made before, and new ones, which are repeat number `repeat`."""
    return replace(
        before, runs=before.runs + [replace(run, repeat=repeat) for run in new.runs], steps=before.steps + new.steps
    )


def run_of(policy: str, repeat: int, table: TablePolicy, steps: Sequence[StepTime]) -> Run:
    """A run from its steps: makespan from the first one's start to the last one's end."""
    rows = None if table.row_of_prompt is None else table.row_of_prompt.tolist()
    makespan_s = steps[-1].start_s + steps[-1].duration_s - steps[0].start_s
    return Run(policy, repeat, makespan_s, table.boundaries.tolist(), table.budgets.tolist(), rows)
