"""From what a scenario names to what rollouts are decoded on: costs, drafter, limits."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from simulator.catalogue import estimate, load_device, load_model
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.profiles import load_profile
from simulator.cost.roofline import ESTIMATED, HOST_STEP_S, KERNEL_S, roofline, with_host
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError, measured
from simulator.drafting.drafter import Drafter, ReservesSlots, Target, strategies_of
from simulator.drafting.nothing import Nothing
from simulator.drafting.pricing import priced
from simulator.engine.deployment import Deployment
from simulator.engine.serving import LARGEST_GRAPH, Serving, capture_sizes
from simulator.scenario import Scenario
from simulator.system import System
from simulator.training.stage import Prices
from traces.errors import InputError
from traces.trace import Trace


def costs_of(scenario: Scenario) -> tuple[Profile, list[str]]:
    """Costs, and what to say of where they are from: a profile by name, measured tables, or an estimate from data sheets."""
    if scenario.profile is not None:
        return load_profile(scenario.profile), []
    assert scenario.model is not None, "the scenario was validated"
    assert scenario.device is not None
    model, device, tp = scenario.model, scenario.device, scenario.tensor_parallel_size
    host_s = HOST_STEP_S if scenario.engine.step_overhead_s is None else 0.0
    why = []
    if scenario.tables is not None:
        try:
            found = measured(load_model(model, scenario.kv_cache_dtype), device, scenario.tables, tp)
        except NotMeasuredError as error:
            why = [f"costs are a roofline estimate, not measured, for tables have none of {model}: {error}"]
        else:
            told = f"costs are from tables, with {1e3 * host_s:g} ms of the host a step: {found.source}"
            return with_host(found, host_s), [told]
    ranks = scenario.engine.data_parallel_size
    return estimate(model, device, tp, overhead_s=host_s, kv_cache_dtype=scenario.kv_cache_dtype, ranks=ranks), why


def drafter_of(scenario: Scenario, trace: Trace, target: Target) -> Drafter:
    """The drafter at its price for the target; InputError where it replays tokens that the trace lacks, and is asked to."""
    drafter = priced(scenario.drafter.drafter(), target)
    if not drafter.needs_tokens or trace.has_tokens:
        return drafter
    if scenario.policies == ["none"]:
        return Nothing()
    raise InputError(
        f"{trace.source}: has no token_ids, which drafter {scenario.drafter.kind} replays: record them, use policy none alone, "
        "drafter none, or a drafter of a model by its acceptance, such as eagle:curve=[0.8,0.7]"
    )


def target_of(scenario: Scenario, cost: Profile) -> Target:
    """What all systems' drafters draft for, and what prices other models on its device, each once.

    Tables do, where the scenario names some and they know the shape, else an estimate.
    """
    model, device, tp = scenario.model, scenario.device, gpus_per_replica(scenario, cost)
    if model is None or device is None:
        return Target(cost)

    @cache
    def priced_alike(document: str) -> Profile:
        config = json.loads(document)
        if scenario.tables is not None:
            with suppress(InputError):  # they price the target, so what they refuse is the drafter's shape
                return measured(config, device, scenario.tables, tp)
        return roofline(config, load_device(device), tp=tp, kernel_s=KERNEL_S)

    return Target(
        cost, load_model(model), lambda config: priced_alike(json.dumps(config)), _repriced(scenario, cost, device, tp)
    )


def _repriced(scenario: Scenario, cost: Profile, device: str, tp: int) -> Callable[[Mapping[str, Any]], Profile] | None:
    """What estimates the costs again under another config; None where they were measured."""
    if scenario.profile is not None or not cost.source.startswith(ESTIMATED):
        return None
    host_s = HOST_STEP_S if scenario.engine.step_overhead_s is None else 0.0

    def repriced(config: Mapping[str, Any]) -> Profile:
        config, ranks = _with_kv_dtype(config, scenario), scenario.engine.data_parallel_size
        return roofline(config, load_device(device), "max", host_s, cost.name, tp, KERNEL_S, ranks)

    return repriced


def _with_kv_dtype(config: Mapping[str, Any], scenario: Scenario) -> Mapping[str, Any]:
    return config if scenario.kv_cache_dtype is None else {**config, "kv_cache_dtype": scenario.kv_cache_dtype}


def deployment_of(
    scenario: Scenario, cost: Profile, drafter: Drafter, config: Mapping[str, Any] | None = None
) -> Deployment:
    """Everything that all policies have in common. config: the model's, where a system changes it."""
    engine = scenario.engine
    serving = serving_of(scenario, drafter, gpus_per_replica(scenario, cost), config)
    pull_s_per_token = _pull_s_per_token(scenario, gpus_per_replica(scenario, cost))
    return Deployment(
        cost, engine.max_num_seqs, engine.replicas, engine.dispatch, drafter.cost, serving, pull_s_per_token,
        strategies_of(drafter), engine.data_parallel_size,
    )  # fmt: skip


def check_parallel(scenario: Scenario, cost: Profile) -> None:
    """Raise InputError where costs are of other parallelism than the deployment; where they say nothing, experts are on one GPU.

    vLLM spreads experts over all GPUs of the ranks that share them: tensor_parallel_size x data_parallel_size.
    """
    asked, ranks = scenario.tensor_parallel_size, scenario.engine.data_parallel_size
    gpus, spread = gpus_per_replica(scenario, cost), cost.parallel.get("expert_parallel_size", 1)
    if asked not in (1, gpus):
        raise InputError(
            f"tensor_parallel_size = {asked}, but profile {cost.name} says {gpus}: give {gpus}, or a profile of {asked} GPUs"
        )
    if ranks > 1 and spread != ranks * gpus:
        raise InputError(
            f"engine.data_parallel_size = {ranks}: {ranks} ranks of {gpus} GPU(s) spread their experts over {ranks * gpus}, but "
            f"profile {cost.name} says expert_parallel_size {spread}: import one with --ep {ranks * gpus}, or give 1"
        )
    if ranks == 1 and spread > gpus:
        raise InputError(
            f"profile {cost.name} says expert_parallel_size {spread}, and a replica has {gpus} GPU(s): ranks that share experts "
            f"step together, so give engine.data_parallel_size={spread // gpus} and as many replicas, or a multiple"
        )


def gpus_per_replica(scenario: Scenario, cost: Profile) -> int:
    """GPUs of one replica."""
    return int(cost.parallel.get("tensor_parallel_size", scenario.tensor_parallel_size))


def prices_of(scenario: Scenario, system: System, trace: Trace, cost: Profile) -> Prices:
    """What the costs of training follow from. scenario: as all systems have it."""
    shape, device = hardware_of(scenario)
    replicas = int(system.engine.get("replicas", scenario.engine.replicas))
    gpus = system.train_gpus or (system.replicas_of(replicas)[1] or replicas) * gpus_per_replica(scenario, cost)
    return Prices(trace, cost, shape, device, gpus, scenario.seed)


def hardware_of(
    scenario: Scenario, config: Mapping[str, Any] | None = None
) -> tuple[ModelShape, Mapping[str, Any]] | tuple[None, None]:
    """Shape of the model and figures of the device, where the scenario names them. config: in place of the model's own."""
    if scenario.model is None or scenario.device is None:
        return None, None
    config = load_model(scenario.model) if config is None else config
    return model_shape(_with_kv_dtype(config, scenario)), load_device(scenario.device)


def _pull_s_per_token(scenario: Scenario, gpus: int) -> float | None:
    """Seconds to send a token's KV over the device's link, each GPU its share; None where model and device are not named."""
    shape, device = hardware_of(scenario)
    if shape is None or device is None:
        return None
    return shape.kv_bytes_per_token / gpus / float(device["link_bandwidth_bytes_per_s"])


def serving_of(
    scenario: Scenario, drafter: Drafter, gpus: int | None = None, config: Mapping[str, Any] | None = None
) -> Serving:
    """The engine's limits, those derived that the scenario leaves to the model, the device and the drafter.

    gpus: of one replica; left out, as the scenario says. config: in place of the model's own.
    """
    engine = scenario.engine
    chosen = {name: getattr(engine, name) for name in Serving.model_fields}
    fitting = _blocks_that_fit(scenario, gpus or scenario.tensor_parallel_size, config)
    if engine.num_gpu_blocks == "auto":
        chosen["num_gpu_blocks"] = fitting
    if engine.step_overhead_s is None:
        chosen["step_overhead_s"] = 0.0  # the costs count it
    if engine.lookahead_tokens is None:
        chosen["lookahead_tokens"] = drafter.lookahead_tokens if isinstance(drafter, ReservesSlots) else 0
    if engine.cudagraph_capture_sizes == "vllm":
        drafts = max((one.verify for one in strategies_of(drafter)), default=chosen["lookahead_tokens"])
        chosen["cudagraph_capture_sizes"] = capture_sizes(
            engine.max_num_seqs, engine.max_num_batched_tokens or LARGEST_GRAPH, drafts
        )
    return Serving(**chosen)


def _blocks_that_fit(scenario: Scenario, gpus: int, config: Mapping[str, Any] | None) -> int | None:
    """KV blocks beside the model on the device, None where the scenario names neither; InputError where none fit."""
    shape, device = hardware_of(scenario, config)
    if shape is None or device is None:
        return None
    engine, memory_bytes = scenario.engine, int(device["memory_bytes"])
    try:
        return shape.num_gpu_blocks(
            memory_bytes, engine.gpu_memory_utilization, engine.block_size, gpus, max_num_seqs=engine.max_num_seqs,
            ranks=engine.data_parallel_size,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{scenario.model} on {scenario.device}: {error}") from None
