"""What to simulate, as one validated value: the flags of `replay`, or a YAML file."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from simulator.budgets.resolve import check_spec
from simulator.drafting.settings import DrafterSettings, SuffixSettings, with_kind
from simulator.engine.serving import Blocks, EngineLimits, GraphSizes, HostTime, Lookahead
from simulator.limits import (
    BOOTSTRAP,
    ENGINE,
    MAX_NUM_SEQS,
    REPLICAS,
    RESAMPLES,
    SEED,
    SEEDS,
    STEPS,
    TENSOR_PARALLEL,
    Dispatch,
    KvDtype,
)
from simulator.plugins import only_named_in
from simulator.strict_yaml import load_mapping, load_value
from simulator.system import System, known_parts, load_system
from simulator.systems.built_in import ALL, built_in_systems
from simulator.training.resolve import resolve_stage
from simulator.validated import SettingError, Validated, made, within
from traces.errors import InputError
from traces.files import check_is_no_device


class EngineSettings(EngineLimits):
    """The serving engine: slots of a replica, replicas, how many of them share the model's experts and so step together, and how
    rollouts reach them (`engine.deployment.Deployment`).

    The rest are vLLM's limits and switches (`engine.serving.Serving`). num_gpu_blocks: `auto` derives it from the model and
    the device that the scenario names, and gpu_memory_utilization; cudagraph_capture_sizes: `vllm` stands for vLLM's own;
    lookahead_tokens: left out, what vLLM reserves for the drafter; step_overhead_s: host time of a step beside what its costs
    count; left out, that of vLLM (`roofline.HOST_STEP_S`) where costs are estimated or those of kernels, and else none; arrivals:
    whether rollouts arrive as recorded, where the trace says when.
    """

    max_num_seqs: Annotated[int, within(MAX_NUM_SEQS)] = ENGINE.max_num_seqs
    replicas: Annotated[int, within(REPLICAS)] = ENGINE.replicas
    data_parallel_size: Annotated[int, within(REPLICAS)] = 1
    dispatch: Dispatch = ENGINE.dispatch
    num_gpu_blocks: Blocks | Literal["auto"] | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1, strict=False)] = ENGINE.gpu_memory_utilization
    lookahead_tokens: Lookahead | None = None
    cudagraph_capture_sizes: GraphSizes | Literal["vllm"] | None = None
    step_overhead_s: HostTime | None = None
    arrivals: bool = True

    @model_validator(mode="after")
    def _ranks_are_whole_groups(self) -> Self:
        if self.replicas % self.data_parallel_size:
            raise ValueError(
                f"data_parallel_size = {self.data_parallel_size} does not divide replicas = {self.replicas}: each replica is one "
                "of so many ranks, so give a multiple of replicas"
            )
        return self

    @model_validator(mode="after")
    def _starts(self) -> Self:
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens = {self.max_num_batched_tokens} is less than max_num_seqs = {self.max_num_seqs}, "
                "with which vLLM does not start: raise it, or lower max_num_seqs"
            )
        if self.gpu_memory_utilization != ENGINE.gpu_memory_utilization and self.num_gpu_blocks != "auto":
            raise ValueError(
                f"gpu_memory_utilization = {self.gpu_memory_utilization:g} has no effect: it derives num_gpu_blocks, so say "
                "num_gpu_blocks: auto, or leave it out"
            )
        return self


class CompareSettings(Validated):
    """A comparison with intervals and regret (`compare.report.compare`).

    baseline: the policy that others are held against (default: the first); bootstrap: resamples of prompts, 0 for none;
    profile_error: relative error of the cost profile instead of its own; seeds: so many seeds from the scenario's on, for
    drafters that draw random numbers, the same for all policies.
    """

    baseline: str | None = None
    bootstrap: Annotated[int, within(BOOTSTRAP)] = RESAMPLES
    profile_error: Annotated[float, Field(ge=0, lt=1, strict=False)] | None = None
    seeds: Annotated[int, within(SEEDS)] = 1


class DrafterOnly(Validated):
    """A drafter's settings alone."""

    drafter: DrafterSettings = SuffixSettings()

    @field_validator("drafter", mode="before")
    @classmethod
    def _suffix_unless_named(cls, settings: Any) -> Any:
        return with_kind(settings)


class Scenario(DrafterOnly):
    """One replay. Paths are relative to the current folder; `steps` None means every RL step of the trace.

    `systems`: what is compared, a row each; `policies` is short for systems that differ in their budget policy alone, which come
    first. `stages`: of every system, after its own, but for those that it has itself. `compare`: also hold the policies against
    one of them, with intervals and regret. `model` and `device`: names of the catalogue (or a config.json); without a profile
    they give a roofline estimate, on so many GPUs in tensor parallel, or the sum of measured kernels where `tables` names an
    engine (ENGINE or ENGINE==VERSION) and an installed cost source has them; with a profile they give the memory that
    `num_gpu_blocks: auto` is derived from. `kv_cache_dtype`: what the model's keys and values are cached in, where it is not what
    its config says. Raises InputError for what cannot be run.
    """

    version: Literal[1] = 1
    trace: str
    profile: str | None = None
    model: str | None = None
    device: str | None = None
    tables: Annotated[str, Field(pattern=r"^[a-z]+(==[0-9][0-9a-z.]*)?$")] | None = None
    tensor_parallel_size: Annotated[int, within(TENSOR_PARALLEL)] = 1
    kv_cache_dtype: KvDtype | None = None
    policies: list[str] = Field(default_factory=list)
    systems: list[System] = Field(default_factory=list)
    stages: tuple[str, ...] = ()
    steps: Annotated[list[Annotated[int, within(STEPS)]], Field(min_length=1)] | None = None
    engine: EngineSettings = EngineSettings()
    seed: Annotated[int, within(SEED)] = 0
    compare: CompareSettings | None = None

    @model_validator(mode="after")
    def _costs_are_known(self) -> Self:
        hardware = (self.model, self.device)
        if self.profile is None and None in hardware:
            raise ValueError("profile: missing: name a profile, or a model and a device for a roofline estimate")
        if self.engine.num_gpu_blocks == "auto" and None in hardware:
            raise ValueError(
                "engine.num_gpu_blocks = 'auto': name a model and a device to derive it from, or give a number"
            )
        if self.profile is not None and None in hardware and hardware != (None, None):
            raise ValueError("model and device go together beside a profile: give both, or none")
        if self.profile is not None and self.kv_cache_dtype is not None and self.engine.num_gpu_blocks != "auto":
            raise ValueError(
                f"kv_cache_dtype = {self.kv_cache_dtype} does not change what profile {self.profile} measured: leave it out, or "
                "give a model and a device in its place"
            )
        if self.profile is not None and self.tables is not None:
            raise ValueError(
                f"tables = {self.tables!r} go with a model and a device in place of profile {self.profile}: drop one"
            )
        if self.profile is not None and self.tensor_parallel_size != 1 and self.engine.num_gpu_blocks != "auto":
            raise ValueError(
                f"tensor_parallel_size = {self.tensor_parallel_size} does not change what profile {self.profile} measured: "
                "give a profile of that many GPUs alone, or a model and a device in its place"
            )
        return self

    @field_validator("stages", mode="before")
    @classmethod
    def _stages_are_known(cls, stages: Any) -> Any:
        return known_parts(stages, resolve_stage, "[log_probs, update]")

    @field_validator("policies")
    @classmethod
    def _policies_are_known(cls, policies: list[str]) -> list[str]:
        for number, spec in enumerate(policies):
            if spec in policies[:number]:
                raise ValueError(f"{spec!r} is named twice: name each policy once")
            try:
                check_spec(spec)
            except InputError as error:
                raise SettingError((str(number),), f": {error}") from None
        return policies

    @model_validator(mode="after")
    def _systems_are_told_apart(self) -> Self:
        names = [system.name for system in self.compared]
        if not names:
            raise ValueError("policies: missing: name a policy, or a system")
        if twice := [name for number, name in enumerate(names) if name in names[:number]]:
            raise ValueError(
                f"systems: {twice[0]!r} is named twice: give each system, and each policy, a name of its own"
            )
        for number, system in enumerate(self.systems):
            if self.profile is None and self.engine.step_overhead_s is None and "step_overhead_s" in system.engine:
                raise ValueError(
                    f"systems.{number}.engine.step_overhead_s: estimates and tables count the host in every system's steps: give "
                    "engine.step_overhead_s for all, too, which takes its place"
                )
            try:
                self.of(system)
            except SettingError as error:
                raise SettingError(("systems", str(number), "engine", *error.path), error.rest) from None
        return self

    @model_validator(mode="after")
    def _baseline_is_a_policy(self) -> Self:
        if self.compare and self.systems:
            raise ValueError(
                "compare: intervals are resampled for budget policies alone: leave systems out, or compare"
            )
        if self.compare and self.compare.baseline not in (None, *self.policies):
            raise ValueError(
                f"compare.baseline = {self.compare.baseline!r} is none of the policies: use one of {', '.join(self.policies)}"
            )
        return self

    @property
    def compared(self) -> list[System]:
        """The systems with all their stages, those that policies stand for first."""
        systems = [*(System(name=policy, policy=policy) for policy in self.policies), *self.systems]
        return [one.model_copy(update={"stages": (*one.stages, *self._stages_beside(one))}) for one in systems]

    def _stages_beside(self, system: System) -> list[str]:
        own = {stage.partition(":")[0] for stage in system.stages}
        return [stage for stage in self.stages if stage.partition(":")[0] not in own]

    def of(self, system: System) -> "Scenario":
        """The scenario as it is for one of its systems."""
        given = {name: getattr(self.engine, name) for name in self.engine.model_fields_set} | system.engine
        if system.train_share not in (None, "balanced"):
            given["replicas"] = system.replicas_of(given.get("replicas", self.engine.replicas))[0]
        return self.model_copy(update={
            "policies": [system.policy], "systems": [], "stages": (), "compare": None, "drafter": system.drafter or self.drafter,
            "engine": EngineSettings(**given) if given else self.engine,
        })  # fmt: skip

    def yaml(self) -> str:
        """The file that `load` reads back to this scenario."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(path: Path, overrides: Sequence[str] = (), allow_code: bool = False) -> Scenario:
    """Read a scenario file and apply `a.b=value` overrides; InputError names file, key, value and fix.

    Code (module:attr) that the file names and no override does is refused, unless `allow_code`.
    """
    try:
        document = read_document(path)
        for override in overrides:
            _override(document, override)
        with nullcontext() if allow_code else only_named_in(overrides):
            return build(document, allow_code)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_document(path: Path) -> dict[Any, Any]:
    """What a scenario file says, unchecked; InputError where it is not YAML."""
    check_is_no_device(path)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not text (byte {error.start}): a scenario is a YAML file in UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}): check the path") from None
    return load_mapping(text, "version: 1")


def build(document: dict[Any, Any], allow_code: bool = False) -> Scenario:
    """Validate plain data into a scenario; InputError names the first fault by its key.

    A system may be a built-in one by name, or a file, which names code (module:attr) only with `allow_code`; `all` stands
    for every built-in one.
    """
    if isinstance(systems := document.get("systems"), list):
        each = [name for one in systems for name in (built_in_systems() if one == ALL else [one])]
        document = document | {
            "systems": [load_system(one, allow_code) if isinstance(one, str) else one for one in each]
        }
    scenario: Scenario = made(Scenario, document)
    return scenario


def drafter_settings(document: dict[str, Any]) -> DrafterSettings:
    """Validate a drafter's settings alone; InputError as from `build`."""
    return DrafterOnly(drafter=document).drafter  # type: ignore[arg-type]


def _override(document: dict[Any, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override!r} is not KEY=VALUE: for example engine.max_num_seqs=64")
    try:
        put(document, keys, load_value(text))
    except InputError as error:
        raise InputError(f"--set {override!r}: {error}") from None


def put(document: dict[Any, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value by the keys that lead to it; InputError where one of them is no section."""
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise InputError(f"{key!r} is not a section: check the key")
    document[keys[-1]] = value
