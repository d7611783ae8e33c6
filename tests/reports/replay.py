"""Replays a report: a made-up trace of its lengths and requests, its acceptance, and the costs of its model and device."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from simulator import Scenario, run
from simulator.catalogue import load_model
from simulator.drafting.strategy import geometric
from simulator.scenario import CompareSettings
from tests.reports.facts import HERE, Drafts, Report, Row, Tree
from traces.errors import InputError
from traces.io import write
from traces.synthesis import synth

SEED = 0
TABLES = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
"""Engines whose kernels were measured, by a report's word for them; vLLM's stand for others."""
QUANTISED: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "mxfp4": {"quant_method": "mxfp4"},
    "int4": {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"},  # a scale for 16 weights where INT4 has 128
}


@dataclass(frozen=True)
class Measured:
    """One simulated run: tokens per second of all requests, seconds per token after a request's first, accepted length.

    by_kernels: whether its costs are sums of measured kernels; else they are an estimate from data sheets. speedup_range: 90 %
    range of its speed-up over no drafts, as far as its costs are off.
    """

    tokens_per_s: float
    tpot_s: float
    acceptance: float
    by_kernels: bool
    speedup_range: tuple[float, float]


@dataclass(frozen=True)
class Replayed:
    """A row beside its replay; `problem`: why there is none."""

    name: str
    report: Report
    row: Row
    simulated: float | None = None
    acceptance: float | None = None
    plain_tokens_per_s: float | None = None
    by_kernels: bool = False
    speedup_range: tuple[float, float] | None = None
    problem: str | None = None

    @property
    def within(self) -> bool | None:
        """Whether the reported speed-up lies in the range of the simulated one; None where that is over other drafts."""
        if self.speedup_range is None:
            return None
        return self.speedup_range[0] <= self.row.speedup <= self.speedup_range[1]

    @property
    def right(self) -> bool | None:
        """Whether the sign is the reported one; None where none is known, as where the requests at once were assumed."""
        if self.simulated is None or self.row.faster is None or "live" in self.report.assumed:
            return None
        return bool(self.simulated > 1) == self.row.faster

    @property
    def plain_ratio(self) -> float | None:
        """Simulated over reported throughput without drafts, where it was reported."""
        if self.plain_tokens_per_s is None or self.row.plain_tokens_per_s is None:
            return None
        return self.plain_tokens_per_s / self.row.plain_tokens_per_s


def replay(name: str, report: Report) -> list[Replayed]:
    """Replay every row of a report."""
    return [_replay_row(name, report, row) for row in report.rows]


def curve(drafts: Drafts) -> list[float]:
    """Conditional acceptance by position: from rates, else the same at every position, for the reported mean length."""
    if drafts.rates is not None:
        return [after / before for before, after in pairwise([1.0, *drafts.rates])]
    return list(geometric(drafts.k, 1, drafts.k, drafts.length).conditional)


def _replay_row(name: str, report: Report, row: Row) -> Replayed:
    problem = report.left_out
    if problem is None:
        try:
            with_drafts, without = _measured(report, row, row, row.tree), _measured(report, row, row.against)
        except InputError as error:
            problem = " ".join(word.rpartition("/")[2] for word in str(error).split())
    if problem is not None:
        return Replayed(name, report, row, problem=problem)
    speed, plain = (_speed(one, report, row) for one in (with_drafts, without))
    alone = row.against is None
    return Replayed(
        name, report, row, speed / plain, with_drafts.acceptance, plain if alone else None, with_drafts.by_kernels,
        with_drafts.speedup_range if alone else None,
    )  # fmt: skip


def _speed(one: Measured, report: Report, row: Row) -> float:
    """Tokens per second as the report measures them: of whole requests, or after their first token."""
    return one.tokens_per_s if report.measure == "throughput" else row.live / one.tpot_s


def _measured(report: Report, row: Row, drafts: Drafts | None, tree: Tree | None = None) -> Measured:
    policy, drafter = ("none", {"kind": "none"}) if drafts is None else _drafting(row.drafter, drafts, tree)
    engine = {"max_num_seqs": row.live}
    return _run(json.dumps(report.setting(row) | {"engine": report.engine}), json.dumps([policy, drafter, engine]))


@cache
def _run(measured: str, served: str) -> Measured:
    of, (policy, drafter, engine) = json.loads(measured), json.loads(served)
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.parquet"
        write(_trace(of["input_tokens"], of["output_tokens"], engine["max_num_seqs"]), trace, {})
        costs = _costs(of, Path(folder))
        scenario = Scenario(
            trace=str(trace), policies=list(dict.fromkeys(["none", policy])), drafter=drafter, engine=engine, seed=SEED,
            compare=CompareSettings(bootstrap=0), **costs,
        )  # fmt: skip
        result = run(scenario)
    assert result.comparison is not None
    found, beside = result.to_pandas().iloc[-1], result.comparison.table.to_pylist()[-1]
    return Measured(
        found.output_tokens / found.makespan_s, found.tpot_s, found.mean_acceptance_length,
        "estimate" not in result.about["profile"]["name"], (beside["profile_low"], beside["profile_high"]),
    )  # fmt: skip


def _trace(input_tokens: int, output_tokens: int, live: int) -> Any:
    """Requests of one length, twice as many as run at once, so that most of the time all of them do."""
    prompts = max(2 * live, 8)
    return synth(
        prompts=prompts, samples=1, steps=1, seed=SEED, median_tokens=output_tokens, max_tokens=output_tokens, log_sigma=0,
        prompt_tokens=input_tokens, sibling_reuse=0, history_reuse=0,
    )  # fmt: skip


def _costs(of: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What `Scenario` takes for costs: measured kernels where there are any of this model and device, else an estimate."""
    return {
        "model": _model(of["model"], of["weights"], folder),
        "device": _device(of["device"]),
        "tensor_parallel_size": of["tensor_parallel"],
        "tables": TABLES.get(of["engine"], "vllm"),
    }


def _model(name: str, weights: str, folder: Path) -> str:
    """What `Scenario.model` takes: a name of the catalogue, or a config.json from `models/` here or made of either."""
    own = HERE / "models" / f"{name}.json"
    found = str(own) if own.exists() else name
    if weights not in QUANTISED:
        raise InputError(f"weights = {weights!r}: no precision of the models that are estimated")
    if (section := QUANTISED[weights]) is None:
        return found
    quantised = folder / f"{name}-{weights}.json"
    quantised.write_text(json.dumps(dict(load_model(found)) | {"quantization_config": section}))
    return str(quantised)


def _device(name: str) -> str:
    """What `Scenario.device` takes: a name of the catalogue, or figures from `devices/` here."""
    own = HERE / "devices" / f"{name}.yaml"
    return str(own) if own.exists() else name


def _drafting(kind: str, drafts: Drafts, tree: Tree | None) -> tuple[str, dict[str, Any]]:
    """Policy and drafter, at the simulator's own price."""
    if tree is None:
        return f"fixed:{drafts.k}", {"kind": kind, "curve": curve(drafts)}
    strategy = {"depth": drafts.k, "topk": tree.topk, "verify": tree.drafts, "accept_length": drafts.length}
    return f"fixed:{tree.drafts}", {"kind": kind, "strategies": [strategy]}
