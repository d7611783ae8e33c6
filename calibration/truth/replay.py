"""Decodes recorded rollouts on a real decoder under each policy, by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.kernels.grid import Limits
from calibration.kernels.machine import conditions, machine_facts
from calibration.model.decoder import Decoder
from calibration.model.runner import Runner
from calibration.model.setup import DTYPES, decode_kernel, device_of, graph_sizes, kernels_of
from calibration.truth.chosen import Choice, chosen, prompt_lengths
from calibration.truth.engine import Engine, Rollouts, StepTime
from calibration.truth.ground_truth import GroundTruth, Run, run_of
from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy
from simulator.budgets.resolve import resolve_policy
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.plain import check_plain
from simulator.drafting.layout import prompts_of
from simulator.drafting.measure import draft_curve
from simulator.drafting.online import OnlineSuffix
from simulator.drafting.suffix import Suffix
from traces.errors import InputError
from traces.trace import Trace

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

WARM_UP_STEPS = 20
SPARE_TOKENS = 64
Progress = Callable[[Iterable[tuple[str, int]]], Iterable[tuple[str, int]]]


@dataclass(frozen=True)
class Settings:
    """What decodes: a model's config on a device; slots; how often each policy is run; profile: what policies plan with."""

    config: Mapping[str, Any]
    name: str
    profile: Profile
    policies: Sequence[str]
    choice: Choice
    max_num_seqs: int
    drafter: Suffix
    device: str = "cpu"
    dtype: str | None = None
    graphs: bool = True
    repeats: int = 1
    seed: int = 0


def replay(settings: Settings, trace: Trace, command: str, progress: Progress = iter) -> GroundTruth:
    """Decode the chosen rollouts under each policy, `repeats` times in random order, and return what each step took."""
    choice = settings.choice
    part, rows, past = chosen(trace, choice, settings.drafter.window)
    if choice.context_tokens is not None and rows.size > settings.max_num_seqs:
        raise InputError(
            f"context_tokens = {choice.context_tokens}: {rows.size} rollouts begin at once on {settings.max_num_seqs} slots: "
            "raise max_num_seqs, or take fewer rollouts"
        )
    slots = min(settings.max_num_seqs, rows.size)
    tables = _tables(settings, part, past, slots)
    device = device_of(settings.device)
    dtype_name = settings.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    most_drafts = min(max(int(table.budgets.max()) for table in tables.values()), settings.drafter.depth)
    sizes = graph_sizes(device, settings.graphs, slots * (1 + most_drafts))
    runner = _runner(settings, part, rows, dtype_name, sizes)
    engine = _engines(settings, tables, runner, part, rows, past)
    for policy in settings.policies:
        warm = engine(policy)
        for _ in range(WARM_UP_STEPS):
            warm.step()
    runner.capture_all()
    order = [(policy, repeat) for repeat in range(settings.repeats) for policy in settings.policies]
    shuffled = [order[i] for i in np.random.default_rng(settings.seed).permutation(len(order))]
    runs: list[Run] = []
    steps: list[Float64] = []
    before = conditions(device)
    for policy, repeat in progress(shuffled):
        log = _decode(engine(policy))
        runs.append(run_of(policy, repeat, tables[policy], log))
        steps.append(np.array(log, np.float64))
    about = {
        "model": settings.name, "config": dict(settings.config), "dtype": dtype_name, **machine_facts(device),
        "conditions": [before, conditions(device)], "command": command, "policies": list(settings.policies),
        "trace": trace.source, "trace_sha256": trace.sha256, "choice": asdict(choice), "drafter": _drafter(settings.drafter),
        "max_num_seqs": slots, "capture_sizes": list(sizes), "seed": settings.seed,
    }  # fmt: skip
    return GroundTruth(about, runs, steps)


def _runner(settings: Settings, part: Trace, rows: Int64, dtype_name: str, sizes: tuple[int, ...]) -> Runner:
    """A decoder with room for the rollouts, and the kernel that decodes them."""
    device, slots = device_of(settings.device), min(settings.max_num_seqs, rows.size)
    prompts = prompt_lengths(part, rows, settings.choice)
    room = int((prompts + part.output_tokens[rows]).max()) + SPARE_TOKENS
    shape = model_shape(settings.config)
    check_plain(shape, "the decoder that is measured")
    decoder = Decoder(shape, DTYPES[dtype_name], device, slots, room, settings.seed, kernels=kernels_of(device))
    limits = Limits(slots, room, SPARE_TOKENS, int(max(prompts.sum(), slots * SPARE_TOKENS)), (slots + 1) * room)
    return Runner(decoder, decode_kernel(decoder, limits), sizes, settings.seed)


def _engines(
    settings: Settings, tables: Mapping[str, TablePolicy], runner: Runner, part: Trace, rows: Int64, past: Int64
) -> Callable[[str], Engine]:
    """What makes an engine that is about to decode the rollouts under a policy."""
    drafter, slots = settings.drafter, min(settings.max_num_seqs, rows.size)
    outputs, prompt = part.output_tokens[rows].astype(np.int64), part.prompt[rows].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(outputs)])
    tokens = np.concatenate([part.tokens[part.offsets[row] : part.offsets[row + 1]] for row in rows])
    history = drafter.learn(part, past)
    group = prompt if drafter.scope == "problem" else np.zeros(rows.size, np.int64)
    at = np.full(rows.size, -1) if drafter.scope == "request" else history.at[group]
    known = part.prompt_tokens[rows].astype(np.int64) + outputs
    prompts, texts = prompt_lengths(part, rows, settings.choice), prompts_of(part, rows, drafter.prompt)

    def made(policy: str) -> Engine:
        table = tables[policy]
        online = OnlineSuffix(drafter, history, at, known) if table.budgets.any() else None
        rollouts = Rollouts(tokens, offsets, texts, prompts, table.rows(prompt))
        engine = Engine(runner, rollouts, table, slots, online, model_shape(settings.config).vocabulary)
        if settings.choice.context_tokens is not None:
            engine.warm()
        return engine

    return made


def _decode(engine: Engine) -> list[StepTime]:
    log = []
    while (step := engine.step()) is not None:
        log.append(step)
    return log


def _tables(settings: Settings, part: Trace, past: npt.NDArray[np.int64], live: int) -> dict[str, TablePolicy]:
    """Policies as tables: what asks the clock or learns would decide otherwise in the simulation."""
    tables = {}
    context = Context(
        len(part.prompt_ids), part.prompt[past].astype(np.int64), part.output_tokens[past].astype(np.int64), settings.profile,
        live, lambda: draft_curve(settings.drafter, part, past, settings.seed) if past.size else None, settings.drafter.cost,
        settings.seed,
    )  # fmt: skip
    for spec in settings.policies:
        policy = resolve_policy(spec, context)
        if not isinstance(policy, TablePolicy):
            raise InputError(
                f"policy {spec!r} decides while it runs: ground truth takes none, fixed:K, unlimited, threshold and das"
            )
        tables[spec] = policy
    return tables


def _drafter(drafter: Suffix) -> dict[str, Any]:
    return {name: value for name, value in asdict(drafter).items() if name != "cost"}
