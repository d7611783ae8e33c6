"""Measures every point of a grid once, in random order, and makes the profile; goes on where a killed run stopped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.kernels.assemble import profile_of
from calibration.kernels.bench import Bench
from calibration.kernels.grid import SPARE, Grid, Limits, Point, points, room_of
from calibration.kernels.journal import Journal, Key, over_rounds, read_points
from calibration.kernels.machine import conditions, machine_facts
from calibration.kernels.steps import measure_mixed, measure_step
from calibration.kernels.suffix import measure_suffix
from calibration.model.decoder import Decoder
from calibration.model.layers import PLAIN
from calibration.model.runner import Runner
from calibration.model.setup import DTYPES, decode_kernel, device_of, graph_sizes, kernels_of
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.plain import check_plain
from simulator.cost.profiles import check_suffix, write_profile
from simulator.cost.shape import ModelShape
from traces.errors import InputError

CONDITIONS_EVERY = 50
KV_SHARE = 0.8
"""Of the memory that weights leave free."""
CPU_KV_BYTES = 4e9
ACTIVATION_BYTES = 16e9
"""Left for activations, logits and CUDA graphs."""
DEFAULTS = {"cuda": Limits(512, 32768, 33, 8192, 0), "cpu": Limits(64, 1024, 33, 2048, 0)}
LEAST = {"max_num_seqs": 2, "max_model_len": 128, "max_width": 2, "max_num_batched_tokens": 64}
"""A table has two points along each axis at least."""
Progress = Callable[[Iterable[Key]], Iterable[Key]]


@dataclass(frozen=True)
class Settings:
    """What to measure: a model's config, on a device; limits left out are the device's; draft: a draft model's config.

    rounds: how often everything is measured, one round after the other: a machine that is slow for a while is slow in one.
    """

    config: Mapping[str, Any]
    name: str
    device: str = "cpu"
    dtype: str | None = None
    grid: Grid = "quick"
    draft: Mapping[str, Any] | None = None
    graphs: bool = True
    seed: int = 0
    rounds: int = 1
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    max_width: int | None = None
    max_num_batched_tokens: int | None = None


def journal_of(out: Path) -> Path:
    """Where the points of a profile are kept while it is measured, and after."""
    return out.with_name(out.name + ".journal.jsonl")


@dataclass(frozen=True, eq=False)
class Plan:
    """Settings settled on this machine: the model as it is measured, limits, sizes of graphs."""

    settings: Settings
    shape: ModelShape
    device: torch.device
    dtype_name: str
    limits: Limits
    graph_sizes: tuple[int, ...]

    @property
    def about(self) -> dict[str, Any]:
        """What the measurements are of."""
        return {
            "model": self.settings.name, "dtype": self.dtype_name, **machine_facts(self.device), "grid": self.settings.grid,
            "seed": self.settings.seed, "rounds": self.settings.rounds, "graphs": len(self.graph_sizes),
            "fused": kernels_of(self.device) is not PLAIN, **asdict(self.limits),
        }  # fmt: skip

    def points(self) -> list[Point]:
        """All points."""
        draft = self.settings.draft is not None
        return list(points(self.shape, self.limits, self.settings.grid, self.graph_sizes, draft))

    def runner(self, config: Mapping[str, Any] | None = None) -> Runner:
        """What runs the model, or the one of another config."""
        shape, room = self.shape if config is None else model_shape(config), self.limits.max_model_len + SPARE
        decoder = Decoder(
            shape, DTYPES[self.dtype_name], self.device, 0, self.limits.kv_tokens, self.settings.seed, room,
            kernels_of(self.device),
        )  # fmt: skip
        sizes = self.graph_sizes if config is None else ()
        return Runner(decoder, decode_kernel(decoder, self.limits), sizes, self.settings.seed)


def plan_of(settings: Settings) -> Plan:
    """Settle the settings. Raises InputError where they cannot be had on this machine."""
    device = device_of(settings.device)
    dtype_name = settings.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    shape = replace(model_shape(settings.config), bytes_per_parameter=DTYPES[dtype_name].itemsize)
    for measured in (shape, *([] if settings.draft is None else [model_shape(settings.draft)])):
        check_plain(measured, "the decoder that is measured")
    return Plan(
        settings, shape, device, dtype_name, _limits(settings, shape, device), graph_sizes(device, settings.graphs)
    )


def measure(settings: Settings, out: Path, progress: Progress = iter) -> Profile:
    """Measure, write the profile to `out` and return it. Raises InputError where settings cannot be had on this machine."""
    check_suffix(out)
    plan = plan_of(settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    identity = {"config": dict(settings.config), "draft": dict(settings.draft or {}), **plan.about}
    journal = Journal(journal_of(out), identity)
    draw, every = np.random.default_rng(settings.seed), plan.points()
    order = [
        (every[i][0], (*every[i][1], number)) for number in range(settings.rounds) for i in draw.permutation(len(every))
    ]
    try:
        if todo := [key for key in order if key not in journal.points]:
            _measure(todo, plan, journal, progress)
    finally:
        journal.close()
    about = plan.about | _observed(journal.points)
    name = out.name.rsplit(".", 1)[0]
    profile = profile_of(over_rounds(journal.points), plan.shape, plan.limits, about, plan.graph_sizes, name)
    write_profile(profile, out)
    return profile


def drift(settings: Settings, out: Path, steps: int = 24) -> float:
    """By what share whole steps take longer now than when the profile at `out` was measured: the machine's own doing."""
    plan, measured = plan_of(settings), read_points(journal_of(out))
    runner = plan.runner()
    ratios = [
        measure_step(runner, plan.limits, number, settings.seed)["median_s"] / measured["step", (number,)]["median_s"]
        for number in range(steps)
    ]
    return float(np.median(ratios)) - 1


@torch.inference_mode()
def _measure(todo: list[Key], plan: Plan, journal: Journal, progress: Progress) -> None:
    settings, limits = plan.settings, plan.limits
    runner = plan.runner()
    bench = Bench(runner, None if settings.draft is None else plan.runner(settings.draft))
    for count, key in enumerate(progress(todo)):
        operator, at = key[0], key[1][:-1]
        if operator == "step":
            found = measure_step(runner, limits, at[0], settings.seed)
        elif operator == "mixed":
            found = measure_mixed(runner, limits, at[0], settings.seed)
        elif operator in ("propose", "learn"):
            found = measure_suffix(operator, at[0], settings.seed)
        else:
            found = bench.measure((operator, at))
        if count % CONDITIONS_EVERY == 0:
            found |= conditions(plan.device)
            gc.collect()
        journal.add(key, found)


def _limits(settings: Settings, shape: ModelShape, device: torch.device) -> Limits:
    given = asdict(DEFAULTS[device.type])
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if value is not None:
            if value < least:
                raise InputError(f"{name} = {value}: give at least {least}")
            given[name] = value
    if shape.context_limit is not None:
        given["max_model_len"] = min(given["max_model_len"], shape.context_limit)
    shapes = [shape] if settings.draft is None else [shape, model_shape(settings.draft)]
    per_token = sum(2 * one.layers * one.kv_heads * one.head_dim * shape.bytes_per_parameter for one in shapes)
    most = room_of(given["max_model_len"], given["max_width"])
    wanted = max((given["max_num_seqs"] + 1) * most, given["max_num_batched_tokens"] + 512)
    free = CPU_KV_BYTES
    if device.type == "cuda":
        weights = sum(one.parameters for one in shapes) * shape.bytes_per_parameter
        free = (torch.cuda.mem_get_info(device)[0] - weights - ACTIVATION_BYTES) * KV_SHARE
    given["kv_tokens"] = int(min(wanted, free // per_token))
    left = f"{max(free, 0) / 1e9:.1f} GB are left for KV, {given['kv_tokens']:,} tokens"
    if given["kv_tokens"] < max(2 * most, given["max_num_batched_tokens"] + 512):
        raise InputError(
            f"model of {shape.parameters:,} parameters: {left}, not two sequences of {most:,}: give a smaller "
            "--max-model-len, --max-num-batched-tokens or model"
        )
    return Limits(**given)


def _observed(points: Mapping[Key, Mapping[str, Any]]) -> dict[str, str]:
    """Range of clocks and temperature while it was measured."""
    seen: dict[str, list[float]] = {}
    for point in points.values():
        for name in ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw"):
            if name in point:
                seen.setdefault(name, []).append(point[name])
    return {name: f"{min(found):g} to {max(found):g}" for name, found in seen.items()}
