"""What to simulate, as one validated value: the flags of `replay`, or a YAML file."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from simulator.budgets.resolve import check_spec
from simulator.drafting.acceptance import LARGEST_BUDGET
from simulator.drafting.settings import DrafterSettings, SuffixSettings, with_kind
from simulator.scheduling.dispatch import Dispatch
from simulator.strict_yaml import load_mapping, load_value
from traces.errors import InputError


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EngineSettings(_Model):
    """The serving engine: slots of a replica, replicas, and how rollouts reach them (`engine.cluster.simulate`).

    The rest are vLLM's limits and switches (`engine.serving.Serving`). num_gpu_blocks: `auto` derives it from the model and
    the device that the scenario names; cudagraph_capture_sizes: `vllm` stands for vLLM's own; lookahead_tokens: left out,
    what vLLM reserves for the drafter; arrivals: whether rollouts arrive as recorded, where the trace says when.
    """

    max_num_seqs: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    dispatch: Dispatch = "shared"
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = None
    enable_chunked_prefill: bool = True
    block_size: Annotated[int, Field(ge=1, le=1024)] = 16
    num_gpu_blocks: Annotated[int, Field(ge=2, le=10_000_000)] | Literal["auto"] | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.9
    enable_prefix_caching: bool = False
    scheduler_reserve_full_isl: bool = True
    lookahead_tokens: Annotated[int, Field(ge=0, le=LARGEST_BUDGET)] | None = None
    async_scheduling: bool = False
    step_overhead_s: Annotated[float, Field(ge=0, le=10, strict=False)] = 0.0
    cudagraph_capture_sizes: list[Annotated[int, Field(ge=1, le=1_000_000)]] | Literal["vllm"] | None = None
    arrivals: bool = True


class CompareSettings(_Model):
    """A comparison with intervals and regret (`compare.report.compare`).

    baseline: the policy that others are held against (default: the first); bootstrap: resamples of prompts, 0 for none;
    profile_error: relative error of the cost profile instead of its own; seeds: so many seeds from the scenario's on, for
    drafters that draw random numbers, the same for all policies.
    """

    baseline: str | None = None
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 200
    profile_error: Annotated[float, Field(ge=0, lt=1, strict=False)] | None = None
    seeds: Annotated[int, Field(ge=1, le=10_000)] = 1


class _DrafterOnly(_Model):
    drafter: DrafterSettings

    @field_validator("drafter", mode="before")
    @classmethod
    def _suffix_unless_named(cls, settings: Any) -> Any:
        return with_kind(settings)


class Scenario(_DrafterOnly):
    """One replay. Paths are relative to the current folder; `steps` None means every RL step of the trace.

    `compare`: also hold the policies against one of them, with intervals and regret. `model` and `device`: names of the
    catalogue (or a config.json); without a profile they give a roofline estimate, on so many GPUs in tensor parallel.
    """

    version: Literal[1] = 1
    trace: str
    profile: str | None = None
    model: str | None = None
    device: str | None = None
    tensor_parallel_size: Annotated[int, Field(ge=1, le=1024)] = 1
    policies: Annotated[list[str], Field(min_length=1)]
    steps: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    drafter: DrafterSettings = SuffixSettings()
    engine: EngineSettings = EngineSettings()
    seed: Annotated[int, Field(ge=0)] = 0
    compare: CompareSettings | None = None

    def yaml(self) -> str:
        """The file that `load` reads back to this scenario."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(path: Path, overrides: list[str] | None = None) -> Scenario:
    """Read a scenario file and apply `a.b=value` overrides; InputError names file, key, value and fix."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text (byte {error.start}): a scenario is a YAML file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    try:
        document = load_mapping(text, "version: 1")
        for override in overrides or []:
            _override(document, override)
        return build(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def build(document: dict[Any, Any]) -> Scenario:
    """Validate plain data into a scenario; InputError names the first fault by its key."""
    try:
        scenario = Scenario.model_validate(document)
    except ValidationError as error:
        raise InputError(_explain(error.errors()[0], len(error.errors()))) from None
    if scenario.profile is None and None in (scenario.model, scenario.device):
        raise InputError("profile: missing: name a profile, or a model and a device for a roofline estimate")
    if scenario.engine.num_gpu_blocks == "auto" and None in (scenario.model, scenario.device):
        raise InputError(
            "engine.num_gpu_blocks = 'auto': name a model and a device to derive it from, or give a number"
        )
    limits = scenario.engine
    if limits.max_num_batched_tokens is not None and limits.max_num_batched_tokens < limits.max_num_seqs:
        raise InputError(
            f"engine.max_num_batched_tokens = {limits.max_num_batched_tokens} is less than max_num_seqs = {limits.max_num_seqs}, "
            "with which vLLM does not start: raise it, or lower max_num_seqs"
        )
    if len(set(scenario.policies)) < len(scenario.policies):
        twice = next(p for p in scenario.policies if scenario.policies.count(p) > 1)
        raise InputError(f"policies: {twice!r} is named twice: name each policy once")
    if scenario.compare and scenario.compare.baseline not in (None, *scenario.policies):
        raise InputError(
            f"compare.baseline {scenario.compare.baseline!r} is none of the policies: use one of {', '.join(scenario.policies)}"
        )
    for number, spec in enumerate(scenario.policies):
        try:
            check_spec(spec)
        except InputError as error:
            raise InputError(f"policies[{number}]: {error}") from None
    return scenario


def drafter_settings(document: dict[str, Any]) -> DrafterSettings:
    """Validate a drafter's settings alone; InputError as from `build`."""
    try:
        return _DrafterOnly.model_validate({"drafter": document}).drafter
    except ValidationError as error:
        raise InputError(_explain(error.errors()[0], len(error.errors()))) from None


def _override(document: dict[Any, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override!r} is not KEY=VALUE: for example engine.max_num_seqs=64")
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override!r}: {key!r} is not a section: check the key")
    document[keys[-1]] = load_value(text)


def _explain(fault: Any, count: int) -> str:
    alternatives = ("constrained-", "literal[", "list[")  # names that pydantic gives to the members of a union
    path = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(alternatives))
    if fault["type"] == "union_tag_invalid":
        return f"{path}.kind = {fault['ctx']['tag']!r}: use {fault['ctx']['expected_tags']}"
    more = f" (and {count - 1} more faults)" if count > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}" if near else f"use {', '.join(known)}"
        return f"{path}: unknown key: {hint}{more}"
    if fault["type"] == "missing":
        return f"{path}: missing: a scenario needs it{more}"
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    reason = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{path} = {shown}: {reason}{more}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """Return the keys of the section at `location`; a union's section is named by its kind after its key."""
    models: tuple[Any, ...] = (Scenario,)
    for part in location:
        named = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        models = tuple(named) or _alternatives(models[0].model_fields[part].annotation)
    return list(models[0].model_fields)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return tuple(kind for kind in get_args(annotation) if kind is not type(None)) or (annotation,)
