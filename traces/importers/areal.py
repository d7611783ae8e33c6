"""AReaL's rollouts (`rollout/VERSION/TASK.jsonl` in a run's log folder), with the times of its sessions where these lie beside.

Written by WorkflowExecutor._dump_trajectory (AReaL 1.0): text with special tokens, prompt_len and seqlen, reward, and the
versions of the policy that sampled it. The newest is the RL step, as the folder is named. session_tracer/ROLE/sessions-r*.jsonl
hold no lengths: what they add is how long each session generated, waited for tools and was scored.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, in_chunks, json_objects
from traces.importers.source import Source
from traces.importers.text import ASSUMED, is_text, prompt_id_of
from traces.importers.values import real, whole

SECONDS = ("generate_s", "reward_s", "toolcall_s")
Sessions = Mapping[int, list[dict[str, Any]]]
"""Accepted sessions by task, in the order of their ids."""
ABOVE = 3
"""How many folders above a rollout's the log folder may be."""


def read_areal(source: Source, options: Options) -> Iterator[Imported]:
    """The rollouts of one task, or of several, in file order; rollouts of a step with the same prompt are a group."""
    sessions = _sessions_beside(source.path.absolute().parent)
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {
            name: [] for name in ("step", "prompt_id", "prompt_tokens", "output_tokens", "reward", "policy")
        }
        prompts, outputs = [], []
        for line, row in rows:
            place = f"{source}: line {line}"
            prompts.append(is_text(cell(row, "prompt", source, line), f"{place}, key 'prompt'"))
            outputs.append(is_text(cell(row, "completion", source, line), f"{place}, key 'completion'"))
            prompt = whole(cell(row, "prompt_len", source, line), f"{place}, key 'prompt_len'", 0)
            tokens = whole(cell(row, "seqlen", source, line), f"{place}, key 'seqlen'", prompt)
            head, tail = (
                whole(cell(row, key, source, line), f"{place}, key '{key}'") for key in ("head_version", "tail_version")
            )
            columns["step"].append(max(tail, 0))
            columns["prompt_id"].append(prompt_id_of(prompts[-1]))
            columns["prompt_tokens"].append(prompt)
            columns["output_tokens"].append(tokens - prompt)
            columns["reward"].append(real(cell(row, "reward", source, line), f"{place}, key 'reward'"))
            columns["policy"].append(str(tail) if head == tail else f"{head} to {tail}")
        places = [f"line {line}" for line, _ in rows]
        assumed = ["rollouts of a step with the same prompt are a group"]
        if options.encoder is not None:
            columns["prompt_token_ids"], columns["token_ids"] = map(options.encoder.encode, (prompts, outputs))
            columns["prompt_tokens"] = [len(ids) for ids in columns["prompt_token_ids"]]
            columns["output_tokens"] = [len(ids) for ids in columns["token_ids"]]
            assumed.append(ASSUMED)
        extras = _seconds([row for _, row in rows], sessions)
        if extras:
            assumed.append(
                f"{', '.join(extras)} are those of AReaL's sessions, the n-th of a task for its n-th rollout"
            )
        yield Imported(arrow_table(columns, places, str(source), extras), places, tuple(assumed))


def _seconds(rows: list[dict[str, Any]], sessions: Sessions) -> dict[str, Any]:
    """What sessions took; null where a task has no session of that number."""
    found = []
    for row in rows:
        task, index = row.get("task_id"), row.get("sample_idx", 0)
        own = sessions.get(task, []) if type(task) is int else []
        found.append(own[index] if type(index) is int and 0 <= index < len(own) else {})
    taken = {name: [one.get(name) for one in found] for name in SECONDS}
    return {name: pa.array(values, pa.float64()) for name, values in taken.items() if any(values)}


def _sessions_beside(folder: Path) -> Sessions:
    """The sessions of the session_tracer folder next to the rollouts', none where there is none."""
    tracers = (above / "session_tracer" for above in list(folder.parents)[:ABOVE])
    tracer = next((tracer for tracer in tracers if tracer.is_dir()), None)
    return {} if tracer is None else _sessions_in(tracer)


@lru_cache(maxsize=1)
def _sessions_in(tracer: Path) -> Sessions:
    found: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(tracer.rglob("sessions*.jsonl")):
        for _, row in json_objects(Source(file)):
            if (
                row.get("status") == "accepted"
                and type(row.get("task_id")) is int
                and type(row.get("session_id")) is int
            ):
                found.setdefault(row["task_id"], []).append(row)
    return {task: sorted(rows, key=lambda row: int(row["session_id"])) for task, rows in found.items()}


AREAL = Format(
    "areal",
    "AReaL's rollout folder (with the session_tracer folder beside it, times)",
    read_areal,
    lambda head: head.kind == "json" and head.has("task_id", "seqlen", "prompt_len", "head_version", "tail_version"),
    suffixes=(".jsonl",),
    takes_tokenizer=True,
)
