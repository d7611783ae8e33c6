"""How `replay` grows with its trace: seconds of CPU and memory by size, and the slope between sizes on a log-log scale.

    python -m tests.benchmarks.scale [KIND] [ROLLOUTS ...]      # default: all kinds, at small sizes

Lognormal lengths with a median of 3,500 tokens, cut at 32,768: 5 G tokens a million rollouts. `none` is one RL step on 64
replicas that drafts nothing, others have 24 RL steps on 8: `curve` under fixed:3 and a drafter of given probabilities; `tokens`
with token ids but no drafts; `suffix` and `das` with token ids and suffix drafts, under fixed:4 and das. Each size is a command
of its own, in a process that has compiled before. Memory is what the process holds at most: anonymous pages alone, and with those
of mapped files, which the system takes back where it needs them.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from traces.io import parquet_writer
from traces.schema import SCHEMA

SAMPLES = 16
LENGTHS = ("step", "prompt_id", "sample", "prompt_tokens", "output_tokens")
COMMAND = (sys.executable, "-c", "from simulator.cli import command; command()")
ROWS = 4096


@dataclass(frozen=True)
class Kind:
    """What is played: arguments of `replay`, over so many RL steps, on rollouts with token ids or without; sizes to try."""

    arguments: str
    rl_steps: int
    tokens: bool
    rollouts: tuple[int, ...]


KINDS = {
    "none": Kind("--drafter none --policy none --replicas 64", 1, False, (10_000, 100_000, 1_000_000)),
    "curve": Kind("--drafter eagle:curve=[0.7,0.6,0.5] --policy fixed:3 --replicas 8", 24, False, (9_600, 96_000)),
    "tokens": Kind("--drafter none --policy none --replicas 8", 24, True, (6_144, 24_576, 61_440)),
    "suffix": Kind("--drafter suffix --policy fixed:4 --replicas 8", 24, True, (6_144, 24_576)),
    "das": Kind("--drafter suffix --policy das --replicas 8", 24, True, (6_144, 24_576)),
}


class Measured(NamedTuple):
    """A command that has ended: seconds of CPU, most bytes of anonymous memory, and most with mapped files."""

    cpu_s: float
    anonymous_bytes: int
    resident_bytes: int


def written(path: Path, rollouts: int, rl_steps: int, tokens: bool) -> int:
    """Write a trace of so many rollouts, a few at a time; returns their tokens."""
    rng, total = np.random.default_rng(0), 0
    schema = pa.schema([SCHEMA.field(name) for name in (*LENGTHS, *(["token_ids"] if tokens else []))])
    with path.open("wb") as file, parquet_writer(file, schema, {"source": "made up"}) as writer:
        for step in range(rl_steps):
            for first in range(0, rollouts // rl_steps, ROWS):
                index = np.arange(first, min(first + ROWS, rollouts // rl_steps))
                lengths = np.clip(rng.lognormal(np.log(3500), 0.85, index.size), 1, 32_768).astype(np.int32)
                columns: list[Any] = [
                    np.full(index.size, step), [f"p{prompt}" for prompt in (index // SAMPLES).tolist()], index % SAMPLES,
                    np.full(index.size, 200), lengths,
                ]  # fmt: skip
                if tokens:
                    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
                    columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(_said(rng, int(offsets[-1])))))
                arrays = [pa.array(one).cast(field.type) for one, field in zip(columns, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                total += int(lengths.sum())
    return total


def _said(rng: np.random.Generator, tokens: int) -> Any:
    """Token ids in runs of 16, each from somewhere in a text of 4,096: what repeats, for a drafter to find."""
    text, runs = rng.integers(0, 150_000, 4096).astype(np.int32), -(-tokens // 16)
    return text[(rng.integers(0, 4080, runs)[:, None] + np.arange(16)).ravel()[:tokens]]


def measured(command: Sequence[str], settings: dict[str, str] | None = None) -> Measured:
    """Run a command to its end; subprocess.CalledProcessError where it fails. Memory is looked at every hundredth of a second."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | (settings or {}))
    most, over = {"RssAnon": 0, "VmHWM": 0}, threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                told = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            except OSError:
                return
            for name in most:
                most[name] = max(most[name], 1024 * int(told.get(name, "0 kB").split()[0]))
            time.sleep(0.01)

    looking = threading.Thread(target=look)
    looking.start()
    _, status, used = os.wait4(process.pid, 0)
    over.set()
    looking.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(used.ru_utime + used.ru_stime, most["RssAnon"], most["VmHWM"])


def played(kind: Kind, rollouts: int) -> tuple[int, Measured]:
    """The tokens of a trace of so many rollouts, and what it took to play it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.parquet"
        tokens = written(path, rollouts, kind.rl_steps, kind.tokens)
        engine = ["--model", "qwen3-8b", "--device", "h100", "--max-num-seqs", "256"]
        return tokens, measured([*COMMAND, "replay", str(path), *engine, *kind.arguments.split()])


def main() -> None:
    """Print a table of the kinds and sizes asked for."""
    names = [name for name in sys.argv[1:2] if name in KINDS]
    sizes = [int(size) for size in sys.argv[1 + len(names) :]]
    print(
        "| | rollouts | tokens | CPU s | slope | anonymous, peak | slope | with mapped files |\n|---|---|---|---|---|---|---|---|"
    )
    for name in names or KINDS:
        played(KINDS[name], 960)  # compiles
        before: tuple[int, Measured] | None = None
        for rollouts in sizes or KINDS[name].rollouts:
            tokens, took = played(KINDS[name], rollouts)
            slopes = ["", ""]
            if before is not None:
                larger = log(rollouts / before[0])
                pairs = (took.cpu_s, before[1].cpu_s), (took.anonymous_bytes, before[1].anonymous_bytes)
                slopes = [f"{log(mine / its) / larger:.2f}" for mine, its in pairs]
            before = rollouts, took
            print(
                f"| {name} | {rollouts:,} | {tokens / 1e6:,.0f} M | {took.cpu_s:,.1f} | {slopes[0]} | "
                f"{took.anonymous_bytes / 1e9:.2f} GB | {slopes[1]} | {took.resident_bytes / 1e9:.2f} GB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
