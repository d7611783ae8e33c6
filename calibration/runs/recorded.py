"""Runs that `rolloutsim calibrate vllm` recorded, as requests with their times."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from calibration.asked import read_json
from calibration.live.recording import Recorded, Run, read_one, runs_of
from calibration.live.steps import facts_of, rollouts_of, shares_of
from calibration.runs.bench import OVERHEAD
from calibration.runs.measured import Float64, MeasuredRun, Requests
from traces.errors import InputError

DRIVEN, ATTACHED = "vLLM, driven step by step", "vLLM server"
KINDS = (".steps.parquet", ".requests.parquet", ".parquet")
COUNTERS = {"drafted": "vllm:spec_decode_num_draft_tokens", "accepted": "vllm:spec_decode_num_accepted_tokens",
            "preempted": "vllm:num_preemptions"}  # fmt: skip
HOST = "what drafting takes on the host is not simulated"
PAST_END = "a server counts what is accepted past the end of a rollout, too; the simulation knows nothing of it"
LEARNT = "suffix decoding had learnt from what the server was asked before; the simulation has not"


def is_recording(path: Path) -> bool:
    """Whether the path is a recording's folder, or a file of one."""
    folder = path.parent if path.name.endswith(KINDS) else path
    return (folder / "run.json").exists()


def read_recorded(path: Path) -> MeasuredRun:
    """Read a run of a recording: the only one in a folder, or the one that a file is of; its rollouts are all there at once.

    Times are the engine's where it was driven step by step: a token is there when its step was booked. Of a server that was
    there they are the client's, from the run's begin on. InputError where a folder holds several runs, and as `recording.read`.
    """
    folder = path if path.is_dir() else path.parent
    run = read_one(folder, _chosen(path, runs_of(folder)))
    attached = run.requests is not None
    rollouts = rollouts_of(run)
    facts = facts_of(run)
    if run.about["settings"].get("enforce_eager") or run.about.get("device") == "cpu":
        facts = replace(facts, cudagraph_capture_sizes=())
    return MeasuredRun(
        path, ATTACHED if attached else DRIVEN, read_json(folder / "run.json")["engine"]["model"],
        _of_requests(run) if attached else _of_steps(run), facts, "arrival",
        notes=_notes(run, attached), counts=_counted(run) if attached else _summed(run),
        rollouts=rollouts,
    )  # fmt: skip


def _chosen(path: Path, runs: list[Run]) -> Run:
    if path.is_dir():
        if len(runs) > 1:
            raise InputError(
                f"{path}: holds {len(runs)} runs ({', '.join(map(str, runs))}): give the file of one, such as "
                f"{runs[0].rollouts(path)}"
            )
        return runs[0]
    name = next(path.name.removesuffix(kind) for kind in KINDS if path.name.endswith(kind))
    for run in runs:
        if str(run) == name:
            return run
    raise InputError(f"{path}: is of no run that is done: give that of {' or '.join(map(str, runs))}")


def _of_steps(run: Recorded) -> Requests:
    shares = shares_of(run)
    n, last = len(run.trace), run.trace.output_tokens[shares.rollout].astype(np.int64)
    times = {name: run.steps.column(name).to_numpy()[shares.step] for name in ("scheduled_s", "end_s")}
    emits = shares.emitted > 0
    first, ends = emits & (shares.position == 0), emits & (shares.position + shares.emitted == last)
    scheduled_s = np.full(n, np.inf)
    np.minimum.at(scheduled_s, shares.rollout, times["scheduled_s"])
    found = {"first_token_s": np.empty(n), "last_token_s": np.empty(n)}
    for name, which in (("first_token_s", first), ("last_token_s", ends)):
        found[name][shares.rollout[which]] = times["end_s"][which]
    return _requests(run, scheduled_s, **found)


def _of_requests(run: Recorded) -> Requests:
    assert run.requests is not None
    chunk_s: list[Any] = run.requests.column("chunk_s").to_pylist()
    first_s, last_s = (np.array([one[at] for one in chunk_s]) for at in (0, -1))
    return _requests(run, np.full(len(run.trace), np.nan), first_s, last_s)


def _requests(run: Recorded, scheduled_s: Float64, first_token_s: Float64, last_token_s: Float64) -> Requests:
    there_s = np.zeros(len(run.trace))
    prompts, outputs = (lengths.astype(np.int64) for lengths in (run.trace.prompt_tokens, run.trace.output_tokens))
    ids = tuple(map(str, range(len(run.trace))))
    return Requests(ids, there_s, prompts, outputs, there_s, scheduled_s, first_token_s, last_token_s)


def _summed(run: Recorded) -> dict[str, int]:
    """Drafts, where any were made, and preemptions."""
    shares, preempted = shares_of(run), int(pc.sum(run.steps.column("preempted")).as_py())
    drafts = {"drafted": int(shares.drafted.sum()), "accepted": int(shares.accepted.sum())}
    return (drafts if run.about["speculative"] else {}) | {"preempted": preempted}


def _counted(run: Recorded) -> dict[str, int]:
    """What the server counted."""
    counters = run.about["counters"]
    return {name: counters[counter] for name, counter in COUNTERS.items() if counter in counters}


def _notes(run: Recorded, attached: bool) -> tuple[str, ...]:
    config = run.about["speculative"]
    learns = config is not None and config["method"] == "suffix" and config["suffix_decoding_max_cached_requests"]
    told = {OVERHEAD: attached, HOST: config, PAST_END: attached and config, LEARNT: attached and learns}
    return tuple(note for note, holds in told.items() if holds)
