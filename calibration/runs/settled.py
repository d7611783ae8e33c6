"""The settings that a run is simulated with: its log's, the user's, the deployment's, and vLLM's defaults, in this order."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from calibration.runs.deployment import Deployment
from calibration.runs.facts import EngineFacts, completed, overridden
from calibration.runs.measured import MeasuredRun
from simulator.cost.shape import OVERHEAD_BYTES, ModelShape
from traces.errors import InputError

GIB = 1024**3


@dataclass(frozen=True)
class Settled:
    """Settings to simulate, the names of those that neither log nor user said, and what a reader must know of them."""

    facts: EngineFacts
    assumed: tuple[str, ...]
    notes: tuple[str, ...]


def settle(
    run: MeasuredRun, shape: ModelShape, deployment: Deployment | None = None, overrides: Iterable[str] = ()
) -> Settled:
    """Settle on settings; `overrides` are `KEY=VALUE` and win over what the log says.

    KV blocks that neither says are those that fit a device of the deployment beside the weights of the model; without a
    deployment they have no limit. Raises InputError where user, log and deployment contradict each other.
    """
    overrides = tuple(overrides)
    facts = overridden(run.settings, overrides)
    if deployment is not None:
        facts = _joined(facts, deployment)
        if any(one.startswith("gpu_memory_utilization=") for one in overrides):
            deployment = replace(deployment, gpu_memory_utilization=None)
    facts, assumed = completed(facts, deployment is not None and deployment.large_device)
    _check_experts(facts, shape)
    if facts.num_gpu_blocks is not None:
        return Settled(facts, assumed, ())
    if deployment is None:
        return Settled(facts, assumed, (
            "num_gpu_blocks is unknown, so KV has no limit: give --deployment, or --set num_gpu_blocks=N",
        ))  # fmt: skip
    blocks, note = _blocks(facts, deployment, shape)
    return Settled(replace(facts, num_gpu_blocks=blocks), (*assumed, "num_gpu_blocks"), (note,))


def _check_experts(facts: EngineFacts, shape: ModelShape) -> None:
    """InputError for ranks that divide every expert among them, as vLLM's do without expert parallelism."""
    ranks = facts.data_parallel_size or 1
    if shape.experts and ranks > 1 and not facts.enable_expert_parallel:
        raise InputError(
            f"data_parallel_size {ranks} of a model with experts: without enable_expert_parallel each rank has a part of all of "
            "them, which nothing here prices: --set enable_expert_parallel=true if the run had it"
        )


def _joined(facts: EngineFacts, deployment: Deployment) -> EngineFacts:
    """The facts, and what the deployment adds to them; InputError where they contradict its degrees."""
    degree, devices = facts.tensor_parallel_size, deployment.tensor_parallel_size
    if degree not in (None, devices):
        raise InputError(
            f"--deployment: tp_size {devices}, but the run had tensor_parallel_size {degree}: correct one of them"
        )
    ranks = facts.data_parallel_size or 1
    if ranks not in (1, deployment.replicas):
        raise InputError(
            f"--deployment: {deployment.replicas} instance(s), but the run had data_parallel_size {ranks}: list one "
            "instance for each data-parallel rank"
        )
    share = facts.gpu_memory_utilization or deployment.gpu_memory_utilization
    return replace(facts, tensor_parallel_size=devices, gpu_memory_utilization=share)


def _blocks(facts: EngineFacts, deployment: Deployment, shape: ModelShape) -> tuple[int, str]:
    """KV blocks of one device, and how they came about.

    A deployment's own share of the memory is for weights and KV alone; vLLM's is for activations and graphs too.
    """
    assert facts.block_size is not None
    assert facts.tensor_parallel_size is not None
    share, what, overhead = deployment.gpu_memory_utilization, "less the weights", 0.0
    if share is None:
        share, what = facts.gpu_memory_utilization, "less the weights, activations and CUDA graphs"
        overhead = OVERHEAD_BYTES
    assert share is not None
    ranks = (facts.data_parallel_size or 1) if facts.enable_expert_parallel else 1
    blocks = shape.num_gpu_blocks(
        deployment.memory_bytes,
        share,
        facts.block_size,
        facts.tensor_parallel_size,
        overhead,
        facts.max_num_seqs or 0,
        ranks,
    )
    size_gib = deployment.memory_bytes / GIB
    note = f"num_gpu_blocks = {blocks:,} is derived: {share:g} of {size_gib:g} GiB, {what}; vLLM prints its own when it starts"
    return blocks, note
