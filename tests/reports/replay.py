"""Replays a report: a made-up trace of its lengths and requests, its acceptance, and the costs of its model and device."""

import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scipy.optimize import brentq

from simulator import Scenario, run
from simulator.catalogue import load_model
from simulator.drafting.settings import BUILT_IN_KINDS, EagleSettings
from tests.reports.facts import HERE, Drafts, Report, Row
from traces.errors import InputError
from traces.io import write
from traces.synthesis import synth

SEED = 0
PRICE = {"per_pass_s": 0.8e-3, "per_step_s": 1.0e-3}
"""Of a drafter where the simulator has no price of its own: in vllm-project/vllm 20780 a pass of an EAGLE head adds 0.7 to
1.0 ms to a round (accepted length x TPOT, over k), host and kernels together."""
QUANTISED: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "mxfp4": {"quant_method": "mxfp4"},
    "int4": {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"},  # a scale for 16 weights where INT4 has 128
}


@dataclass(frozen=True)
class Measured:
    """One simulated run: tokens per second of all requests, seconds per token after a request's first, accepted length."""

    tokens_per_s: float
    tpot_s: float
    acceptance: float


@dataclass(frozen=True)
class Replayed:
    """A row beside its replay; `problem`: why there is none."""

    name: str
    report: Report
    row: Row
    simulated: float | None = None
    acceptance: float | None = None
    plain_tokens_per_s: float | None = None
    problem: str | None = None

    @property
    def right(self) -> bool | None:
        """Whether the sign is the reported one; None where none is known, as where the requests at once were assumed."""
        if self.simulated is None or self.row.faster is None or "live" in self.report.assumed:
            return None
        return (self.simulated > 1) == self.row.faster

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

    def surplus(p: float) -> float:
        return sum(p**j for j in range(1, drafts.k + 1)) - (drafts.length - 1)

    return [float(brentq(surplus, 0.0, 1.0))] * drafts.k


def _replay_row(name: str, report: Report, row: Row) -> Replayed:
    problem = report.left_out or ("a tree of drafts" if row.tree else None)
    if problem is None:
        try:
            with_drafts, without = _measured(report, row, row), _measured(report, row, row.against)
        except InputError as error:
            problem = " ".join(word.rpartition("/")[2] for word in str(error).split())
    if problem is not None:
        return Replayed(name, report, row, problem=problem)
    speed, plain = (_speed(one, report, row) for one in (with_drafts, without))
    return Replayed(name, report, row, speed / plain, with_drafts.acceptance, None if row.against else plain)


def _speed(one: Measured, report: Report, row: Row) -> float:
    """Tokens per second as the report measures them: of whole requests, or after their first token."""
    return one.tokens_per_s if report.measure == "throughput" else row.live / one.tpot_s


def _measured(report: Report, row: Row, drafts: Drafts | None) -> Measured:
    setting = tuple(sorted(report.setting(row).items()))
    if drafts is None:
        return _run(setting, row.live, None, None)
    return _run(setting, row.live, row.drafter, tuple(curve(drafts)))


@cache
def _run(
    setting: tuple[tuple[str, Any], ...], live: int, kind: str | None, curve: tuple[float, ...] | None
) -> Measured:
    of = dict(setting)
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.parquet"
        write(_trace(of["input_tokens"], of["output_tokens"], live), trace, {})
        scenario = Scenario(
            trace=str(trace),
            model=_model(of["model"], of["weights"], Path(folder)),
            device=_device(of["device"]),
            tensor_parallel_size=of["tensor_parallel"],
            policies=["none" if curve is None else f"fixed:{len(curve)}"],
            drafter={"kind": "none"} if curve is None else _drafter(str(kind), curve),  # type: ignore[arg-type]
            engine={"max_num_seqs": live},  # type: ignore[arg-type]
            seed=SEED,
        )
        found = run(scenario).to_pandas().iloc[0]
    return Measured(found.output_tokens / found.makespan_s, found.tpot_s, found.mean_acceptance_length)


def _trace(input_tokens: int, output_tokens: int, live: int) -> Any:
    """Requests of one length, twice as many as run at once, so that most of the time all of them do."""
    prompts = max(2 * live, 8)
    return synth(
        prompts=prompts, samples=1, steps=1, seed=SEED, median_tokens=output_tokens, max_tokens=output_tokens, log_sigma=0,
        prompt_tokens=input_tokens, sibling_reuse=0, history_reuse=0,
    )  # fmt: skip


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


def _drafter(kind: str, curve: tuple[float, ...]) -> dict[str, Any]:
    """The drafter at the simulator's own price, or at PRICE where it has none."""
    settings = {"kind": kind if kind in BUILT_IN_KINDS else "eagle", "curve": list(curve)}
    return settings | {"cost": PRICE} if EagleSettings.model_fields["cost"].is_required() else settings
