"""A system: one way of doing RL rollouts, as one small value. A comparison has a row for each."""

import difflib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from simulator.budgets.resolve import check_spec
from simulator.drafting.settings import DrafterSettings, with_kind
from simulator.limits import TRAIN_GPUS
from simulator.plugins import only_named_in
from simulator.reasoning.resolve import resolve_reasoning
from simulator.scheduling.resolve import resolve_placement
from simulator.strict_yaml import load_mapping
from simulator.systems.built_in import built_in_system, built_in_systems
from simulator.systems.needs import Need
from simulator.training.resolve import resolve_loop, resolve_stage
from simulator.transforms.resolve import resolve_transform
from simulator.validated import SettingError, Validated, made, within
from traces.errors import InputError
from traces.files import check_is_no_device


class System(Validated):
    """Drafter, budget policy, placement, loop, stages and transforms, each by name or `module:attr`; what is left out is the
    scenario's.

    name: how results call it; policy: budget policy; drafter: instead of the scenario's; placement: `scheduling.resolve`, in
    place of the engine's dispatch; loop: `training.resolve`; stages: what happens after the last token, in order, such as
    `reward:seconds=2,servers=8`, `log_probs`, `update`, `sync`; reasoning: steps drafted ahead
    (`reasoning.resolve_reasoning`); transforms: what it changes before anything runs, one after another
    (`transforms.resolve`); engine: settings that differ from the scenario's; train_gpus: GPUs of the trainer (None: as many as
    generate; they are the same ones where the loop waits for the update), or in their place train_share: share of the
    scenario's replicas whose GPUs train and do not generate (`replicas_of`), `balanced`: so that both would take as long. paper:
    arXiv id; about: what it is; needs: what a trace or scenario must have (`systems.needs`), without which it is left out;
    assumes: what its results rest on besides.
    """  # fmt: skip

    name: Annotated[str, Field(min_length=1)]
    policy: str = "none"
    drafter: DrafterSettings | None = None
    placement: str | None = None
    loop: str = "sync"
    stages: tuple[str, ...] = ()
    reasoning: str | None = None
    transforms: tuple[str, ...] = ()
    engine: dict[str, Any] = Field(default_factory=dict)
    train_gpus: Annotated[int, within(TRAIN_GPUS)] | None = None
    train_share: Annotated[float, Field(gt=0, lt=1, strict=False)] | Literal["balanced"] | None = None
    paper: Annotated[str, Field(pattern=r"^[0-9]{4}\.[0-9]{5}$")] | None = None
    about: str = ""
    needs: tuple[Need, ...] = ()
    assumes: tuple[str, ...] = ()

    @field_validator("drafter", mode="before")
    @classmethod
    def _kind(cls, settings: Any) -> Any:
        return None if settings is None else with_kind(settings)

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, policy: str) -> str:
        return _known(policy, check_spec)

    @field_validator("placement")
    @classmethod
    def _placement_is_known(cls, placement: str | None) -> str | None:
        return None if placement is None else _known(placement, resolve_placement)

    @field_validator("loop")
    @classmethod
    def _loop_is_known(cls, loop: str) -> str:
        return _known(loop, resolve_loop)

    @field_validator("stages", mode="before")
    @classmethod
    def _stages_are_known(cls, stages: Any) -> Any:
        return known_parts(stages, resolve_stage, "[log_probs, update]")

    @field_validator("transforms", mode="before")
    @classmethod
    def _transforms_are_known(cls, transforms: Any) -> Any:
        return known_parts(transforms, resolve_transform, "[mine:transform]")

    @field_validator("reasoning")
    @classmethod
    def _reasoning_is_known(cls, reasoning: str | None) -> str | None:
        return None if reasoning is None else _known(reasoning, resolve_reasoning)

    @field_validator("needs", "assumes", mode="before")
    @classmethod
    def _lists(cls, lines: Any) -> Any:
        return tuple(lines) if isinstance(lines, list) else lines

    @model_validator(mode="after")
    def _trainer_is_said_once(self) -> Self:
        if self.train_gpus is not None and self.train_share is not None:
            raise ValueError(f"train_share = {self.train_share} beside train_gpus = {self.train_gpus}: give one")
        return self

    def replicas_of(self, replicas: int) -> tuple[int, int]:
        """Of so many replicas those that generate, and those whose GPUs train; a single one generates, and as much trains."""
        if self.train_share is None:
            return replicas, 0
        assert self.train_share != "balanced", "it was settled"
        trains = min(max(round(self.train_share * replicas), 1), max(replicas - 1, 1))
        return max(replicas - trains, 1), trains


def load_system(name: str, allow_code: bool = False) -> dict[str, Any]:
    """The settings of a built-in system, or in a YAML file; InputError names file, key and fix.

    Code (module:attr) that the file names is refused, unless `allow_code`.
    """
    if name in built_in_systems():
        return built_in_system(name)
    path = Path(name)
    check_is_no_device(path)
    try:
        document = load_mapping(path.read_text("utf-8"), "policy: das")
        document = {"name": path.stem, **document}
        with nullcontext() if allow_code else only_named_in(()):
            made(System, document)
        return document
    except OSError as error:
        near = difflib.get_close_matches(name, built_in_systems(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"system {name!r}: cannot be read ({error.strerror}): {hint}give a YAML file, or a name of `rolloutsim systems`"
        ) from None
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: {error}") from None


def known_parts(specs: Any, resolve: Callable[[str], Any], example: str) -> tuple[str, ...]:
    """Return a list of parts by name, each of which `resolve` knows; ValueError says which it does not."""
    if not isinstance(specs, list | tuple) or not all(isinstance(one, str) for one in specs):
        raise ValueError(f"{specs!r:.60}: give a list such as {example}")
    for number, spec in enumerate(specs):
        try:
            resolve(spec)
        except InputError as error:
            raise SettingError((str(number),), f": {error}") from None
    return tuple(specs)


def _known(spec: str, check: Any) -> str:
    try:
        check(spec)
    except InputError as error:
        raise ValueError(str(error)) from None
    return spec
