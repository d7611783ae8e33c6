"""Runs of a trace's prompts on live engines, in a folder: what was asked, and of each run its rollouts and its steps.

`run.json` says what this recording is. A run is two files: `NAME-at-SLOTS.REPEAT.parquet`, a trace, and, written after it,
`NAME-at-SLOTS.REPEAT.steps.parquet`, a row per step. The second one says that the run is done: whoever is killed goes on with
the first run that has none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "start_s": pa.float64(), "scheduled_s": pa.float64(), "end_s": pa.float64(), "waiting": INT, "free_blocks": INT,
    "preempted": INT, "rollout": LIST, "tokens": LIST, "drafted": LIST, "emitted": LIST,
}  # fmt: skip
"""A step: when scheduling began and had ended and when its tokens were booked, seconds; preempted in it; and of each rollout
that took part its row in the trace, tokens computed, drafted ones among them, and tokens that the sampler returned, whether or
not they lie past the rollout's end."""
EXPECTED = "give a folder as `rolloutsim calibrate vllm` writes it"
WARM_UP: dict[str, Any] = {"temperature": 0.0, "max_tokens": 32, "detokenize": False}


@dataclass(frozen=True)
class Asked:
    """What to run: rows of a trace's prompts, under each configuration (a speculative_config by name, None for none).

    engine: arguments of vLLM's EngineArgs for all; sampling: of its SamplingParams. together: whether all engines live at
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

    def described(self) -> dict[str, Any]:
        """As plain values, for JSON: what two recordings must have in common to be one."""
        return {
            "schema_version": SCHEMA_VERSION, "trace": self.trace.source, "trace_sha256": self.trace.sha256,
            "rows": self.rows, "configurations": dict(self.configurations), "engine": self.engine,
            "sampling": self.sampling, "slots": list(self.slots), "repeats": self.repeats,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Recorded:
    """One run of a recording: its rollouts as a trace, its steps as a table (`STEPS`), and what it ran under."""

    name: str
    slots: int
    repeat: int
    trace: Trace
    steps: pa.Table
    about: dict[str, Any]


def record(asked: Asked, out: Path, command: str, tell: Callable[[str], None]) -> None:
    """Do every run that the folder does not hold yet; InputError where it holds another recording, or an engine fails."""
    open_folder(out / "run.json", asked.described(), "recording", command=command)
    left = [one for one in _order(asked) if not _steps_path(out, *one).exists()]
    prompts = _prompts(asked)
    with ExitStack() as engines:
        running: dict[str, Engine] = {}
        for count, (name, slots, repeat) in enumerate(left):
            if name not in running:
                if not asked.together:
                    engines.close()
                    running.clear()
                tell(f"starting vLLM: {name}")
                running[name] = engines.enter_context(_engine(asked, name, out))
                running[name].run(prompts[:8], slots, WARM_UP)
            found = running[name].run(prompts, slots, asked.sampling)
            _write(asked, out, name, slots, repeat, found, running[name].facts)
            tokens = sum(map(len, found["token_ids"]))
            tell(
                f"{count + 1} of {len(left)}: {name} at {slots}, repeat {repeat}: {found['seconds']:.2f} s, "
                f"{len(found['steps']):,} steps, {tokens:,} tokens"
            )


def read(folder: Path) -> Iterator[Recorded]:
    """The runs of a recording that are done, in the order that they were asked for; InputError where there are none."""
    about = read_json(folder / "run.json")
    try:
        asked = [
            (str(name), int(slots), repeat)
            for name in about["configurations"]
            for slots in about["slots"]
            for repeat in range(about["repeats"])
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder / 'run.json'}: {EXPECTED}") from None
    done = [one for one in asked if _steps_path(folder, *one).exists()]
    if not done:
        raise InputError(f"{folder}: holds no run that is done: go on with the command in its run.json")
    for one in done:
        yield _read_run(folder, *one)


def _read_run(folder: Path, name: str, slots: int, repeat: int) -> Recorded:
    paths = _trace_path(folder, name, slots, repeat), _steps_path(folder, name, slots, repeat)
    (table, _), (steps, _) = map(io.load, paths)
    about = io.provenance(table)
    if missing := [key for key in ("settings", "speculative") if key not in about]:
        raise InputError(f"{paths[0]}: says nothing of {missing[0]}: {EXPECTED}")
    if {field.name: field.type for field in steps.schema} != STEPS:
        raise InputError(f"{paths[1]}: has other columns than {', '.join(STEPS)}: {EXPECTED}")
    return Recorded(name, slots, repeat, io.from_table(table, f"{name} at {slots}"), steps, about)


def _order(asked: Asked) -> Iterator[tuple[str, int, int]]:
    """Runs in the order to do them: configurations take turns, but where starting one means to end another."""
    if asked.together:
        for repeat in range(asked.repeats):
            for slots in asked.slots:
                yield from ((name, slots, repeat) for name in asked.configurations)
    else:
        for name in asked.configurations:
            yield from ((name, slots, repeat) for repeat in range(asked.repeats) for slots in asked.slots)


def _engine(asked: Asked, name: str, out: Path) -> Engine:
    drafting = asked.configurations[name]
    arguments = asked.engine | {"max_num_seqs": max(asked.slots), "skip_tokenizer_init": True}
    if drafting is not None:
        arguments["speculative_config"] = drafting
    return Engine(asked.python, arguments, out / f"{name}.log", name)


def _prompts(asked: Asked) -> list[list[int]]:
    column = asked.trace.table.column("prompt_token_ids")
    return [column[row].as_py() for row in asked.rows]


def _write(
    asked: Asked, out: Path, name: str, slots: int, repeat: int, found: dict[str, Any], facts: dict[str, Any]
) -> None:
    table = asked.trace.table.take(asked.rows)
    kept: dict[str, Any] = {
        key: table.column(key) for key in ("step", "prompt_id", "sample", "prompt_tokens", "prompt_token_ids")
    }
    tokens = found["token_ids"]
    kept["output_tokens"] = pa.array([len(one) for one in tokens], pa.int32())
    kept["token_ids"] = pa.array(tokens, pa.list_(pa.int32()))
    kept["finish_reason"] = pa.array([one or "stop" for one in found["finish_reason"]])
    facts = facts | {"settings": facts["settings"] | {"max_num_seqs": slots}}
    about = {
        "source": "rolloutsim calibrate vllm", "configuration": name, "repeat": repeat, "seconds": found["seconds"],
        "sampling": asked.sampling, "trace": asked.trace.source, "trace_sha256": asked.trace.sha256, **facts,
    }  # fmt: skip
    io.write(pa.table(kept), _trace_path(out, name, slots, repeat), about)
    with replacing(_steps_path(out, name, slots, repeat)) as file:
        pq.write_table(_steps(found["steps"]), file, compression="zstd")


def _steps(steps: list[list[Any]]) -> pa.Table:
    *plain, preempted, shares = zip(*steps, strict=True)
    lists = [[[one[i] for one in step] for step in shares] for i in range(4)]
    columns = [*plain, np.diff([0, *preempted]), *lists]
    return pa.table({name: pa.array(column, STEPS[name]) for name, column in zip(STEPS, columns, strict=True)})


def _trace_path(out: Path, name: str, slots: int, repeat: int) -> Path:
    return out / f"{name}-at-{slots}.{repeat}.parquet"


def _steps_path(out: Path, name: str, slots: int, repeat: int) -> Path:
    return out / f"{name}-at-{slots}.{repeat}.steps.parquet"
