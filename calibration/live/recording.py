"""Runs of a trace's prompts on live engines, in a folder: what was asked, and of each run its rollouts and its steps.

`run.json` says what this recording is. A run is two files: `NAME-at-SLOTS.REPEAT.parquet`, a trace, and, written after it,
`NAME-at-SLOTS.REPEAT.steps.parquet`, a row per step, or, of a server that was there (`attached`), `….requests.parquet`, a row per
request. The second one says that the run is done: whoever is killed goes on with the first run that has none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calibration.asked import open_folder, read_json
from calibration.live.engine import Engine
from traces import io
from traces.atomic import replacing
from traces.errors import InputError
from traces.trace import Trace

SCHEMA_VERSION = 1
INT, LIST = pa.int32(), pa.list_(pa.int32())
STEPS: dict[str, Any] = {
    "start_s": pa.float64(), "scheduled_s": pa.float64(), "end_s": pa.float64(), "drafting_s": pa.float64(),
    "waiting": INT, "free_blocks": INT, "preempted": INT, "rollout": LIST, "tokens": LIST, "drafted": LIST, "emitted": LIST,
    "row": LIST, "beyond": LIST,
}  # fmt: skip
"""A step: when scheduling began and had ended and when its tokens were booked, and how long it took to draft for the next one,
seconds; preempted in it; and of each rollout that took part its row in the trace, tokens computed, drafted ones among them,
tokens that the sampler returned, whether or not they lie past the rollout's end, and its row in the model runner's batch. beyond:
the tokens past ends, of one rollout after the other."""
NEWER = ("drafting_s", "row", "beyond")
"""Columns that recordings made before these were kept do not have; null there."""
REQUESTS: dict[str, Any] = {
    "sent_s": pa.float64(), "finished_s": pa.float64(), "prompt_tokens": INT, "completion_tokens": INT, "cached_tokens": INT,
    "chunk_s": pa.list_(pa.float64()), "chunk_tokens": LIST,
}  # fmt: skip
"""A request, in the order of the trace: when it was sent and when its answer had ended, seconds from the run's begin; tokens as
the server counted them (cached_tokens: null where it does not); and when each part of the answer came, with how many tokens."""
OURS = "rolloutsim"
"""The key of the proposer's settings (`simulator.deploy.vllm_proposer`)."""
EXPECTED = "give a folder as `rolloutsim calibrate vllm` writes it"
WARM_UP: dict[str, Any] = {"temperature": 0.0, "max_tokens": 32, "detokenize": False}


class Run(NamedTuple):
    """Which run of a recording: a configuration's name, on so many slots, and which of its repeats."""

    name: str
    slots: int
    repeat: int

    def __str__(self) -> str:
        """As its files are called."""
        return f"{self.name}-at-{self.slots}.{self.repeat}"

    def rollouts(self, folder: Path) -> Path:
        """The file of its rollouts."""
        return folder / f"{self}.parquet"

    def rows(self, folder: Path, attached: bool) -> Path:
        """The file of its steps, or of its requests to a server that was there; while it is missing the run is not done."""
        return folder / f"{self}.{'requests' if attached else 'steps'}.parquet"


@dataclass(frozen=True)
class Asked:
    """What to run: rows of a trace's prompts, under each configuration (a speculative_config by name, None for none).

    What stands under `rolloutsim` in a configuration goes to the engine's additional_config (`simulator.deploy.vllm_proposer`).
    engine: arguments of vLLM's EngineArgs for all; sampling: of its SamplingParams. attached: whether a server runs already,
    which `engine` tells of. Of engines that are started python is the one that has vLLM, and together says whether all live at
    once, so that configurations take turns, or one after another.
    """

    trace: Trace
    rows: list[int]
    configurations: Mapping[str, dict[str, Any] | None]
    engine: dict[str, Any]
    sampling: dict[str, Any]
    slots: Sequence[int]
    repeats: int
    python: str
    together: bool = True
    attached: bool = False

    def described(self) -> dict[str, Any]:
        """As plain values, for JSON: what two recordings must have in common to be one."""
        return {
            "schema_version": SCHEMA_VERSION, "trace": self.trace.source, "trace_sha256": self.trace.sha256,
            "rows": self.rows, "configurations": dict(self.configurations), "engine": self.engine,
            "sampling": self.sampling, "slots": list(self.slots), "repeats": self.repeats,
            **({"attached": True} if self.attached else {}),
        }  # fmt: skip

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids of each row's prompt."""
        column = self.trace.table.column("prompt_token_ids")
        return [column[row].as_py() for row in self.rows]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One run of a recording: its rollouts as a trace, its steps as a table (`STEPS`), and what it ran under.

    requests: of a server that was there, as a table (`REQUESTS`); its steps nobody saw, so there are none.
    """

    name: str
    slots: int
    repeat: int
    trace: Trace
    steps: pa.Table
    about: dict[str, Any]
    requests: pa.Table | None = None


def record(asked: Asked, out: Path, command: str, tell: Callable[[str], None]) -> None:
    """Do every run that the folder does not hold yet; InputError where it holds another recording, or an engine fails."""
    left, prompts = runs_left(asked, out, command), asked.prompts
    with ExitStack() as engines:
        running: dict[str, Engine] = {}
        for count, run in enumerate(left):
            name = run.name
            if name not in running:
                if not asked.together:
                    engines.close()
                    running.clear()
                tell(f"starting vLLM: {name}")
                running[name] = engines.enter_context(_engine(asked, name, out))
                running[name].run(prompts[:8], run.slots, WARM_UP)
            found = running[name].run(prompts, run.slots, asked.sampling)
            write_run(asked, out, run, found, running[name].facts, _steps(found["steps"]))
            tell(f"{count + 1} of {len(left)}: {told(run, found)}, {len(found['steps']):,} steps")


def runs_left(asked: Asked, out: Path, command: str) -> list[Run]:
    """The runs that the folder, made if need be, does not hold yet; InputError where it holds another recording."""
    open_folder(out / "run.json", asked.described(), "recording", command=command)
    return [run for run in _order(asked) if not run.rows(out, asked.attached).exists()]


def told(run: Run, found: dict[str, Any]) -> str:
    """A run that was done, in words."""
    tokens = sum(map(len, found["token_ids"]))
    return f"{run.name} at {run.slots}, repeat {run.repeat}: {found['seconds']:.2f} s, {tokens:,} tokens"


def read(folder: Path) -> Iterator[Recorded]:
    """The runs of a recording that are done, in the order that they were asked for; InputError where there are none."""
    for run in runs_of(folder):
        yield read_one(folder, run)


def runs_of(folder: Path) -> list[Run]:
    """Which runs of a recording are done, in the order that they were asked for; InputError where there are none."""
    about = read_json(folder / "run.json")
    try:
        asked = [
            Run(str(name), int(slots), repeat)
            for name in about["configurations"]
            for slots in about["slots"]
            for repeat in range(about["repeats"])
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder / 'run.json'}: {EXPECTED}") from None
    done = [run for run in asked if any(run.rows(folder, attached).exists() for attached in (False, True))]
    if not done:
        raise InputError(f"{folder}: holds no run that is done: go on with the command in its run.json")
    return done


def read_one(folder: Path, run: Run) -> Recorded:
    """A run that is done; InputError where its files are none of a recording."""
    attached = run.rows(folder, True).exists()
    paths, columns = (run.rollouts(folder), run.rows(folder, attached)), REQUESTS if attached else STEPS
    table, rows = (io.load(path).table for path in paths)
    about = io.provenance(table)
    if missing := [key for key in ("settings", "speculative") if key not in about]:
        raise InputError(f"{paths[0]}: says nothing of {missing[0]}: {EXPECTED}")
    for name in (name for name in NEWER if not attached and name not in rows.column_names):
        rows = rows.append_column(name, pa.nulls(rows.num_rows, STEPS[name]))
    if {field.name: field.type for field in rows.schema} != columns:
        raise InputError(f"{paths[1]}: has other columns than {', '.join(columns)}: {EXPECTED}")
    trace = io.from_table(table, f"{run.name} at {run.slots}")
    steps, requests = (pa.schema(STEPS).empty_table(), rows) if attached else (rows, None)
    return Recorded(*run, trace, steps, about, requests)


def _order(asked: Asked) -> Iterator[Run]:
    """Runs in the order to do them: configurations take turns, but where starting one means to end another."""
    if asked.together:
        for repeat in range(asked.repeats):
            for slots in asked.slots:
                yield from (Run(name, slots, repeat) for name in asked.configurations)
    else:
        for name in asked.configurations:
            yield from (Run(name, slots, repeat) for repeat in range(asked.repeats) for slots in asked.slots)


def _engine(asked: Asked, name: str, out: Path) -> Engine:
    drafting = asked.configurations[name]
    arguments = asked.engine | {"max_num_seqs": max(asked.slots), "skip_tokenizer_init": True}
    if drafting is not None:
        arguments["speculative_config"] = {key: value for key, value in drafting.items() if key != OURS}
    if drafting is not None and OURS in drafting:
        arguments["additional_config"] = asked.engine.get("additional_config", {}) | {OURS: drafting[OURS]}
    return Engine(asked.python, arguments, out / f"{name}.log", name)


def write_run(asked: Asked, out: Path, run: Run, found: dict[str, Any], facts: dict[str, Any], rows: pa.Table) -> None:
    """Write a run that was done: its rollouts, then its steps or requests, which say that it is.

    found: token_ids and finish_reason of each rollout, and seconds of all; facts: settings, speculative, and what else it ran
    under.
    """
    table = asked.trace.table.take(asked.rows)
    kept: dict[str, Any] = {
        key: table.column(key) for key in ("step", "prompt_id", "sample", "prompt_tokens", "prompt_token_ids")
    }
    tokens = found["token_ids"]
    kept["output_tokens"] = pa.array([len(one) for one in tokens], pa.int32())
    kept["token_ids"] = pa.array(tokens, pa.list_(pa.int32()))
    kept["finish_reason"] = pa.array([one or "stop" for one in found["finish_reason"]])
    facts = facts | {"settings": facts["settings"] | {"max_num_seqs": run.slots}}
    about = {
        "source": "rolloutsim calibrate vllm", "configuration": run.name, "repeat": run.repeat, "seconds": found["seconds"],
        "sampling": asked.sampling, "trace": asked.trace.source, "trace_sha256": asked.trace.sha256, **facts,
    }  # fmt: skip
    io.write(pa.table(kept), run.rollouts(out), about)
    with replacing(run.rows(out, asked.attached)) as file:
        pq.write_table(rows, file, compression="zstd")


def _steps(steps: list[list[Any]]) -> pa.Table:
    *plain, preempted, shares = zip(*steps, strict=True)
    lists = [[[one[i] for one in step] for step in shares] for i in range(5)]
    beyond = [[token for one in step for token in one[5]] for step in shares]
    columns = [*plain, np.diff([0, *preempted]), *lists, beyond]
    return pa.table({name: pa.array(column, STEPS[name]) for name, column in zip(STEPS, columns, strict=True)})
