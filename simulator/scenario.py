"""What to simulate, as one validated value: the flags of `replay`, or a YAML file."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulator.strict_yaml import load_mapping, load_value
from traces.errors import InputError


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DrafterSettings(_Model):
    """What proposes drafts; see `simulator.drafting.suffix.Suffix`. `none` proposes nothing and needs no token ids."""

    kind: Literal["suffix", "none"] = "suffix"
    scope: Literal["problem", "global", "request"] = "problem"
    own: bool = True
    match: Literal["longest", "scored"] = "longest"
    window: Annotated[int, Field(ge=1)] = 16
    depth: Annotated[int, Field(ge=2, le=255)] = 24
    factor: Annotated[float, Field(gt=0, le=255, strict=False)] = 1.0
    min_prob: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.1


class EngineSettings(_Model):
    """The serving engine: slots of a replica, replicas, and how rollouts reach them (`engine.cluster.simulate`)."""

    max_num_seqs: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    dispatch: Literal["shared", "static"] = "shared"


class Scenario(_Model):
    """One replay. Paths are relative to the current folder; `steps` None means every RL step of the trace."""

    version: Literal[1] = 1
    trace: str
    profile: str
    policies: Annotated[list[str], Field(min_length=1)]
    steps: list[Annotated[int, Field(ge=0)]] | None = None
    drafter: DrafterSettings = DrafterSettings()
    engine: EngineSettings = EngineSettings()
    seed: Annotated[int, Field(ge=0)] = 0

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
    if len(set(scenario.policies)) < len(scenario.policies):
        twice = next(p for p in scenario.policies if scenario.policies.count(p) > 1)
        raise InputError(f"policies: {twice!r} is named twice: name each policy once")
    return scenario


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
    path = ".".join(str(part) for part in fault["loc"])
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
    model: Any = Scenario
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
