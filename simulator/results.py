"""What a run found: tidy Arrow tables and where they came from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from traces.atomic import replacing
from traces.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from simulator.compare.report import Comparison

TableName = Literal["runs", "rl_steps", "rollouts", "steps", "acceptance", "spans", "operators"]
TABLES = get_args(TableName)
SCHEMA_VERSION = 2


def _schema(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """Make a schema of (name, type, what it means)."""
    return pa.schema([pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in columns])


PER_RL_STEP = (
    "rollouts", "makespan_s", "speedup", "decode_steps", "output_tokens", "drafted_tokens", "accepted_tokens",
    "mean_acceptance_length", "draft_acceptance_rate", "mean_live_batch", "straggler_s", "extrapolated_fraction", "draft_s",
    "train_s", "sync_s", "verify_s", "idle_gpu_s", "staleness", "max_staleness", "carried", "carried_tokens",
    "recomputed_tokens", "reused_tokens",
)  # fmt: skip

_RUN_COLUMNS = (
    ("system", pa.string(), "system, as it was named; a budget policy alone is its own name"),
    ("policy", pa.string(), "budget policy, as it was named"),
    ("drafter", pa.string(), "drafter and its settings"),
    ("placement", pa.string(), "placement, as it was named"),
    ("loop", pa.string(), "loop, as it was named"),
    ("stages", pa.string(), "stages, as they were named"),
    ("transforms", pa.string(), "transforms, as they were named"),
    ("lossless", pa.bool_(), "whether outputs keep the target model's distribution"),
    ("rl_steps", pa.int32(), "RL steps simulated, one after another"),
    ("rollouts", pa.int64(), "rollouts completed"),
    ("makespan_s", pa.float64(), "first admission to last completion, summed over RL steps"),
    ("makespan_low_s", pa.float64(), "90 % of true makespans, as far as costs are off, are between this and the next"),
    ("makespan_high_s", pa.float64(), "its upper end"),
    ("speedup", pa.float64(), "makespan of the first system named / this makespan"),
    ("run_s", pa.float64(), "from the start to the end of the last update"),
    ("run_speedup", pa.float64(), "run_s of the first system named / this one"),
    ("gpu_speedup", pa.float64(), "samples_per_s / gpus over that of the first system named"),
    ("gpu_speedup_low", pa.float64(), "90 % range of it, as far as costs are off and RL steps differ"),
    ("gpu_speedup_high", pa.float64(), "its upper end"),
    ("samples_per_s", pa.float64(), "rollouts trained on / run_s"),
    ("train_s", pa.float64(), "seconds of the stages of the trainer"),
    ("sync_s", pa.float64(), "seconds in which replicas take up new weights"),
    ("verify_s", pa.float64(), "seconds before generation in which earlier responses are verified"),
    ("gpus", pa.int64(), "GPUs that generate or train"),
    ("train_gpu_s", pa.float64(), "GPU-seconds of the trainer: training, and verifying earlier responses"),
    ("idle_gpu_s", pa.float64(), "GPU-seconds in which a GPU neither decodes, nor trains, nor verifies"),
    ("staleness", pa.float64(), "RL steps between the weights that sampled a token and the update, mean over tokens trained on"),
    ("max_staleness", pa.int64(), "the most of them"),
    ("carried", pa.int64(), "rollouts that went on in a later RL step, once for each"),
    ("carried_tokens", pa.int64(), "tokens that they had by then"),
    ("recomputed_tokens", pa.int64(), "tokens prefilled again: after moves, RL steps, turns and preemptions"),
    ("reused_tokens", pa.int64(), "tokens that rollouts keep of earlier responses: not emitted, prefilled"),
    ("decode_steps", pa.int64(), "forward passes, over all replicas"),
    ("sequence_steps", pa.int64(), "decode steps in which a rollout emitted, summed over rollouts"),
    ("output_tokens", pa.int64(), "tokens emitted"),
    ("drafted_tokens", pa.int64(), "tokens proposed and verified"),
    ("accepted_tokens", pa.int64(), "drafts that matched"),
    ("wasted_tokens", pa.int64(), "drafts verified in vain"),
    ("mean_acceptance_length", pa.float64(), "output_tokens / sequence_steps; the bonus counts"),
    ("draft_acceptance_rate", pa.float64(), "accepted / drafted; null without drafts"),
    ("mean_live_batch", pa.float64(), "sequences in the batch, mean over decode steps"),
    ("straggler_s", pa.float64(), "seconds in which only stragglers are live, summed over RL steps"),
    ("extrapolated_fraction", pa.float64(), "share of decoding time outside the profile's valid range"),
    ("draft_s", pa.float64(), "seconds spent drafting, within the decode steps, over all replicas"),
    ("ttft_s", pa.float64(), "mean time from arrival to first token"),
    ("ttft_p99_s", pa.float64(), "99th percentile of it"),
    ("tpot_s", pa.float64(), "mean seconds per output token after the first, waits for tools left out, over rollouts"),
    ("tpot_p99_s", pa.float64(), "99th percentile of it"),
    ("latency_s", pa.float64(), "mean time from arrival to completion"),
    ("latency_p99_s", pa.float64(), "99th percentile of it"),
    ("preemptions", pa.int64(), "times that a rollout lost its KV and was recomputed"),
    ("cached_tokens", pa.int64(), "tokens that a prefix cache saved from being computed"),
    ("errors", pa.string(), "true over simulated makespan, 90 %, by source of error alone, JSON by source: [low, high]"),
    ("assumes", pa.string(), "what its results rest on besides what was recorded and measured, JSON list"),
    ("basis", pa.string(), "what the seconds of each stage rest on, JSON by stage"),
    ("wall_s", pa.float64(), "seconds that the simulation itself took"),
    ("changed", pa.string(), "figures of the workload as its transforms left it, JSON by transform"),
    ("facts", pa.string(), "what the policy says about itself, JSON by RL step"),
)  # fmt: skip

RUNS = _schema(*_RUN_COLUMNS)

RL_STEPS = _schema(
    ("system", pa.string(), "system, as it was named"),
    ("step", pa.int32(), "RL step"),
    ("start_s", pa.float64(), "when its generation began, on the run's clock"),
    ("trained_s", pa.float64(), "when its update was done"),
    ("step_s", pa.float64(), "seconds since the update before"),
    ("reward_s", pa.float64(), "seconds after generation until the last reward was there"),
    ("trained", pa.int64(), "rollouts trained on"),
    ("unlearnt", pa.int64(), "rollouts that had finished, and the drafter had not learnt, when it began"),
    *(column for column in _RUN_COLUMNS if column[0] in PER_RL_STEP),
)

ROLLOUTS = _schema(
    ("system", pa.string(), "system, as it was named"),
    ("step", pa.int32(), "RL step"),
    ("prompt_id", pa.string(), "prompt, as in the trace"),
    ("sample", pa.int32(), "index within the group"),
    ("replica", pa.int32(), "which inference engine instance"),
    ("prompt_tokens", pa.int32(), "prompt length"),
    ("output_tokens", pa.int32(), "response length"),
    ("reused_tokens", pa.int32(), "of it, kept of an earlier response; all of it: nothing was decoded, on no replica (-1)"),
    ("arrival_s", pa.float64(), "seconds after the RL step's start"),
    ("admitted_s", pa.float64(), "first admission, seconds after the RL step's start"),
    ("first_token_s", pa.float64(), "end of the step that emitted it, seconds after the RL step's start"),
    ("finished_s", pa.float64(), "seconds after the RL step's start"),
    ("preemptions", pa.int64(), "times that it lost its KV and was recomputed"),
    ("cached_tokens", pa.int64(), "prompt and output tokens that a prefix cache saved it from computing"),
    ("decode_steps", pa.int64(), "decode steps it was live in"),
    ("drafted_tokens", pa.int64(), "proposed and verified"),
    ("accepted_tokens", pa.int64(), "drafts that matched"),
    ("straggler", pa.bool_(), "still live in the last tenth of the makespan"),
)  # fmt: skip

STEPS = _schema(
    ("system", pa.string(), "system, as it was named"),
    ("step", pa.int32(), "RL step"),
    ("replica", pa.int32(), "which inference engine instance"),
    ("start_s", pa.float64(), "seconds after the RL step's start"),
    ("duration_s", pa.float64(), "seconds of the step"),
    ("live", pa.int32(), "sequences in the batch"),
    ("query_tokens", pa.int64(), "tokens fed: one per decoding sequence, its drafts, prompts"),
    ("kv_tokens", pa.int64(), "context tokens of the batch, prompts included"),
    ("prefill_tokens", pa.int64(), "tokens of prompts, and of rollouts that came back, computed in this step"),
    ("drafted_tokens", pa.int64(), "proposed and verified"),
    ("accepted_tokens", pa.int64(), "drafts that matched"),
    ("emitted_tokens", pa.int64(), "accepted and bonus tokens"),
    ("extrapolated", pa.bool_(), "outside the profile's valid range"),
    ("draft_s", pa.float64(), "of the duration, spent drafting"),
    ("waited_s", pa.float64(), "of the duration, spent waiting for slower ranks that share experts"),
    ("waiting", pa.int64(), "rollouts in the replica's own queue"),
    ("preempted", pa.int64(), "rollouts that lost their KV for this step"),
    ("prefill_seqs", pa.int64(), "rollouts that compute prompt tokens"),
    ("padded_tokens", pa.int64(), "query tokens and CUDA-graph padding"),
    ("longest_context", pa.int64(), "context of the longest decoding rollout; 0 where no cost depends on it"),
    ("pairs", pa.float64(), "query x context pairs"),
    ("prefill_kv_tokens", pa.int64(), "context tokens after the prefilled chunks, summed"),
    ("prefill_pairs", pa.float64(), "query x context pairs of the prefilled chunks"),
    ("expert_tokens", pa.float64(), "padded tokens that experts compute, the mean over the ranks that share them"),
    ("free_blocks", pa.int64(), "KV blocks that nobody refers to; 0 where they are not counted"),
)  # fmt: skip

ACCEPTANCE = _schema(
    ("by", pa.string(), "`position`: of a token in its draft; `emitted`: tokens emitted so far"),
    ("low", pa.int64(), "position, or first count of the bin"),
    ("high", pa.int64(), "position, or last count of the bin"),
    ("drafted_tokens", pa.int64(), "drafted there with an unlimited budget, over all positions"),
    ("accepted_tokens", pa.int64(), "of them accepted"),
    ("drafts", pa.int64(), "positions of rollouts in the bin; for `position` as drafted_tokens"),
)  # fmt: skip


SPANS = _schema(
    ("system", pa.string(), "system, as it was named"),
    ("step", pa.int32(), "RL step"),
    ("who", pa.string(), "a replica, or a stage"),
    (
        "what",
        pa.string(),
        "decode, reward (waited for), batch (a stage of the trainer), sync, verify or online (the drafter's trainer)",
    ),
    ("start_s", pa.float64(), "on the run's clock"),
    ("end_s", pa.float64(), "on the run's clock"),
)

OPERATORS = _schema(
    ("system", pa.string(), "system, as it was named"),
    (
        "operator",
        pa.string(),
        "operator of the cost profile, or drafting, host time besides it, waiting for other ranks",
    ),
    ("seconds", pa.float64(), "what it takes of the decode steps, over all replicas; priced on about 4,096 of them"),
)


@dataclass(frozen=True, eq=False)
class Result:
    """Tables of one run: `runs` has a row per system, `rl_steps` per system and RL step, `rollouts` per system and rollout,
    `steps` per decode step, `spans` per stretch of time in which a replica or stage was busy, `operators` per system and what
    its decode steps spend time on.

    `acceptance` describes the drafter, whatever the policy. `about` says what was run: scenario, trace and profile with
    their SHA-256, versions, seed, and in `warnings` what a reader must know; it goes into every table's metadata.
    `comparison`: speed-ups with intervals, verdicts and regret, where it was asked for.
    """

    runs: pa.Table
    rl_steps: pa.Table
    rollouts: pa.Table
    steps: pa.Table
    acceptance: pa.Table
    spans: pa.Table
    operators: pa.Table
    about: Mapping[str, Any]
    comparison: "Comparison | None" = None

    def __repr__(self) -> str:
        """How the systems did, in one line."""
        told = [f"{run['system']} {run['makespan_s']:.2f} s ({run['speedup']:.3f}x)" for run in self.runs.to_pylist()]
        of = f"{self.runs['rollouts'][0]} rollouts in {self.runs['rl_steps'][0]} RL step(s)" if told else "nothing"
        warnings = len(self.about.get("warnings", ()))
        return f"<Result of {of}: {', '.join(told)}{f'; {warnings} warning(s) in about' if warnings else ''}>"

    def to_pandas(self, table: TableName | Literal["comparison"] = "runs") -> "pd.DataFrame":
        """A table as a data frame, its columns as `results` describes them.

        Raises InputError for another name, and for `comparison` where none was asked for.
        """
        if table == "comparison" and self.comparison:
            return self.comparison.table.to_pandas()
        if table not in TABLES:
            raise InputError(
                "comparison: there is none: run a scenario with `compare`"
                if table == "comparison"
                else f"table {table!r} is unknown: use {', '.join(TABLES)}, comparison"
            )
        found: pa.Table = getattr(self, table)
        return found.to_pandas()

    def document(self) -> dict[str, Any]:
        """The `runs` table and what was run, as plain data for JSON."""
        runs = self.runs.to_pylist()
        for run in runs:
            run |= {name: json.loads(run[name]) for name in ("facts", "basis", "errors", "assumes", "changed")}
        document = {"schema_version": SCHEMA_VERSION, **self.about, "runs": runs, "rl_steps": self.rl_steps.to_pylist()}
        if self.comparison:
            document["comparison"] = {"policies": self.comparison.table.to_pylist(), "notes": self.comparison.notes}
        return document

    def write(self, folder: Path) -> list[Path]:
        """Write every table as zstd Parquet into `folder`; returns the paths."""
        note = json.dumps({**self.about, "schema_version": SCHEMA_VERSION}).encode()
        paths = []
        tables = {name: getattr(self, name) for name in TABLES}
        if self.comparison:
            tables["comparison"] = self.comparison.table
        for name, table in tables.items():
            table = table.replace_schema_metadata({b"rolloutsim": note})
            paths.append(folder / f"{name}.parquet")
            with replacing(paths[-1]) as file:
                pq.write_table(table, file, compression="zstd")
        return paths


def table(schema: pa.Schema, columns: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Stack blocks of equally long columns into one table; scalars repeat over their block."""
    batches = []
    for block in columns:
        rows = next(
            (len(values) for values in block.values() if hasattr(values, "__len__") and not isinstance(values, str)), 1
        )
        arrays = []
        for field in schema:
            values = block[field.name]
            if isinstance(values, str) or not hasattr(values, "__len__"):
                arrays.append(pa.repeat(pa.scalar(values, field.type), rows))
            else:
                arrays.append(pa.array(values).cast(field.type))
        batches.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(batches) if batches else schema.empty_table()
