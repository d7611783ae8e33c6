"""The deployment of a run: memory of a device, links between devices, and how many replicas of how many devices.

Format: the cluster configuration of LLMServingSim (github.com/casys-kaist/LLMServingSim), JSON. `npu_mem.mem_size` is in
GiB (its KV capacity is mem_size x mem_util less the weights), `link_bw` in GB/s, `link_latency` in ns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.runs.facts import checked
from calibration.runs.values import count, finite, json_object, text
from traces.errors import InputError

GIB = 1024**3
LARGE_BYTES = 70 * GIB
"""vLLM serves more sequences at once on devices of this memory, except on the A100."""


@dataclass(frozen=True)
class Deployment:
    """Replicas of one kind: `replicas` engines of `tensor_parallel_size` devices each; None where the file does not say."""

    device: str
    memory_bytes: float
    gpu_memory_utilization: float | None
    tensor_parallel_size: int
    replicas: int
    link_bandwidth_bytes_per_s: float | None
    link_latency_s: float | None

    @property
    def large_device(self) -> bool:
        """Whether vLLM's defaults are those of a large device."""
        return self.memory_bytes >= LARGE_BYTES and "a100" not in self.device.lower()


def read_deployment(path: Path) -> Deployment:
    """Read a deployment whose instances are all alike.

    Raises InputError for anything missing or out of range, for instances that differ, and for what is not simulated:
    pipeline parallelism and separate prefill and decode instances.
    """
    document = json_object(path)
    found = [
        (f"{path}: nodes[{n}].instances[{i}]", one)
        for n, node in enumerate(_list(document, "nodes", str(path)))
        for i, one in enumerate(_list(node, "instances", f"{path}: nodes[{n}]"))
    ]
    alike = {_instance(one, place): place for place, one in found}
    if len(alike) != 1:
        places = ", ".join(alike.values()) or f"{path}: nodes"
        raise InputError(
            f"{places}: need one kind of instance, found {len(alike)}: split the deployment, or make them equal"
        )
    device, memory_gib, utilization, tp = next(iter(alike))
    bandwidth_gb_per_s = _link(document, "link_bw", path)
    if bandwidth_gb_per_s == 0:
        raise InputError(f"{path}: link_bw: 0 is no bandwidth: give GB/s, or leave it out where devices do not talk")
    latency_ns = _link(document, "link_latency", path)
    return Deployment(
        device=device,
        memory_bytes=memory_gib * GIB,
        gpu_memory_utilization=utilization,
        tensor_parallel_size=tp,
        replicas=len(found),
        link_bandwidth_bytes_per_s=None if bandwidth_gb_per_s is None else bandwidth_gb_per_s * 1e9,
        link_latency_s=None if latency_ns is None else latency_ns * 1e-9,
    )


def _instance(one: dict[str, Any], place: str) -> tuple[str, float, float | None, int]:
    """(device, memory in GiB, memory utilization, devices) of an instance."""
    if (kind := one.get("pd_type")) is not None:
        raise InputError(
            f"{place}.pd_type: {kind!r:.60}: separate prefill and decode instances are not simulated: use null"
        )
    if (stages := count(one.get("pp_size", 1), f"{place}.pp_size", 1)) != 1:
        raise InputError(f"{place}.pp_size: {stages}: pipeline parallelism is not simulated: use 1")
    devices = one.get("tp_size", one.get("num_npus"))
    if devices is None:
        raise InputError(f"{place}: no 'tp_size': give the number of devices that share one replica")
    tp = count(devices, f"{place}.tp_size", 1)
    if count(one.get("num_npus", tp), f"{place}.num_npus", 1) != tp:
        raise InputError(f"{place}.num_npus: {one['num_npus']} devices for tp_size {tp}: make them equal")
    memory = one.get("npu_mem")
    if not isinstance(memory, dict):
        raise InputError(
            f"{place}.npu_mem: {memory!r:.60} is not an object: give {{'mem_size': GiB, 'mem_util': share}}"
        )
    size_gib = finite(memory.get("mem_size"), f"{place}.npu_mem.mem_size", 0)
    if size_gib == 0:
        raise InputError(f"{place}.npu_mem.mem_size: 0 is no memory: give the device's memory in GiB")
    utilization = checked("gpu_memory_utilization", memory.get("mem_util"), f"{place}.npu_mem.mem_util")
    return text(one.get("hardware")) or "unknown device", size_gib, utilization, tp


def _link(document: dict[str, Any], key: str, path: Path) -> float | None:
    """A figure of the links; one for each dimension of the network is good if all are equal."""
    if (value := document.get(key)) is None:
        return None
    figures = {finite(one, f"{path}: {key}", 0) for one in (value if isinstance(value, list) and value else [value])}
    if len(figures) > 1:
        raise InputError(
            f"{path}: {key}: {value!r:.60} differs between dimensions, which is not simulated: give one number"
        )
    return figures.pop()


def _list(parent: dict[str, Any], key: str, place: str) -> list[dict[str, Any]]:
    children = parent.get(key)
    if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
        raise InputError(f"{place}: {key}: {children!r:.60} is not a list of objects: see the format of a deployment")
    return children
