"""What can draft on an engine: its own drafters and rolloutsim's inside it, each with the policies that are worth a try."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.catalogue import load_model
from simulator.deploy.settings import Choice, Engine, EngineSettings, engine_settings
from simulator.drafting.model import Modelled
from simulator.drafting.settings import DrafterSettings
from simulator.scenario import Scenario, drafter_settings
from simulator.system import System
from traces.errors import InputError

OWN: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "vllm": {
        "ngram": {"kind": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4, "cost": "vllm-ngram-epyc"},
        "suffix": {"kind": "suffix", "scope": "global", "match": "scored", "siblings": "live", "cost": "vllm-suffix-epyc"},
        "proposer": {"kind": "suffix", "siblings": "live"},
    },
    "sglang": {
        "ngram": {"kind": "suffix", "scope": "global", "match": "longest", "siblings": "live", "window": 0, "depth": 18,
                  "factor": 255.0, "min_prob": 0.0},
    },
}  # fmt: skip
"""What needs no trained head, by the name that `--drafter` takes, as `deploy.settings` has it run without a refusal."""
POLICIES = {
    "ngram": ("fixed:2", "fixed:4", "fixed:8"),
    "suffix": ("fixed:4", "fixed:8", "fixed:16"),
    "proposer": ("fixed:4", "fixed:8", "fixed:16", "das", "seer"),
}
LENGTHS = (1, 2, 3, 5, 7)
"""Of the drafts of a model, as far as its curve goes."""
SHARES = (16, 4)
"""Batches up to a sixteenth and a quarter of the slots are small."""
WEIGHTS = "DRAFT_MODEL"
"""Stands for a trained head that nobody has named."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A budget policy with a drafter, and the settings that run it. family: which drafter of the engine that is; `proposer` is
    rolloutsim's in vLLM.
    """  # fmt: skip

    family: str
    policy: str
    drafter: DrafterSettings
    settings: EngineSettings

    @property
    def name(self) -> str:
        """How it is told."""
        return f"{self.family} {self.policy}"

    @property
    def fills(self) -> int:
        """Drafts that the engine verifies of every sequence in every step, found or not; 0: those that were found."""
        config = self.settings.config
        return int(config["speculative_num_draft_tokens"]) - 1 if config.get("speculative_algorithm") == "NGRAM" else 0

    @property
    def system(self) -> System:
        """As the simulator plays it."""
        return System(name=self.name, policy=self.policy, drafter=self.drafter)


@dataclass(frozen=True)
class Place:
    """Where candidates would run. base: costs and limits; draft_model: what a drafter that is a model loads."""

    base: Scenario
    engine: Engine
    framework: str | None = None
    draft_model: str | None = None

    def candidate(self, family: str, policy: str, drafter: DrafterSettings) -> Candidate:
        """A policy with a drafter, and what the engine makes of it."""
        base = self.base
        choice = Choice(
            model=_loaded(base.model), draft_model=self.draft_model or (None if drafter.kind == "mtp" else WEIGHTS),
            policy=policy, drafter=drafter, engine=base.engine, tensor_parallel_size=base.tensor_parallel_size,
            kv_cache_dtype=base.kv_cache_dtype, history=base.trace, profile=base.profile,
        )  # fmt: skip
        return Candidate(family, policy, drafter, engine_settings(choice, self.engine, self.framework))


def candidates(
    place: Place, drafters: Sequence[Mapping[str, Any]] = (), policies: Sequence[str] = ()
) -> tuple[list[Candidate], dict[str, str]]:
    """Every drafter of the engine, or those named, with every policy, or those named; simple ones first. And why others are out.

    drafters: settings as of a scenario, or `{"kind": NAME}` for one of `OWN`. Raises InputError where the engine runs none.
    """
    found, left_out = list[Candidate](), dict[str, str]()
    for family, drafter in _drafters(place, drafters):
        for policy in policies or _policies(family, drafter):
            one = place.candidate(family, policy, drafter)
            refusal = next((check.text for check in one.settings.checks if check.level == "refused"), None)
            if refusal is None and _runs_as(one) != family.partition("-")[0]:
                refusal = f"{place.engine.name} runs it by the proposer alone: give other settings, or drafter proposer"
            if refusal is None:
                found.append(one)
            else:
                left_out[one.name] = refusal
    if not found:
        name, why = next(iter(left_out.items()))
        raise InputError(f"{place.engine} runs none of these: {name}: {why}")
    return found, left_out


def refined(place: Place, best: Candidate) -> list[Candidate]:
    """The same drafter where its K changes with the batch: nothing, or half as much, above a share of the slots."""
    name, _, text = best.policy.partition(":")
    if name != "fixed":
        return []
    most, slots = int(text), place.base.engine.max_num_seqs
    few = [slots // share for share in SHARES if slots // share]
    policies = dict.fromkeys(f"schedule:1-{n}={most},{n + 1}-{slots}={rest}" for n in few for rest in (0, most // 2))
    found = (place.candidate(best.family, policy, best.drafter) for policy in policies)
    return [one for one in found if not one.settings.refused and _runs_as(one) == _runs_as(best)]


def _drafters(place: Place, asked: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, DrafterSettings]]:
    """Family and settings of each."""
    own, seen = OWN[place.engine.name], list[str]()
    for number, given in enumerate(asked or [{"kind": name} for name in own]):
        kind = given["kind"]
        if given in asked[:number]:
            raise InputError(f"drafter {kind} is named twice with the same settings: name it once")
        if len(given) == 1 and kind in own:
            family, drafter = kind, drafter_settings(dict(own[kind]))
        elif kind == "proposer":
            raise InputError(f"drafter proposer runs in vLLM, and takes no settings by this name: {_instead(place)}")
        elif kind == "none":
            raise InputError("drafter none is what all others are held against: leave it out")
        else:
            drafter = drafter_settings(dict(given))
            family = _runs_as(place.candidate(kind, "fixed:1", drafter))
        seen.append(family)
        yield (family if seen.count(family) == 1 else f"{family}-{seen.count(family)}"), drafter


def _instead(place: Place) -> str:
    own = OWN[place.engine.name]
    return "write suffix:key=value,..." if "proposer" in own else f"use {', '.join(own)}"


def _runs_as(one: Candidate) -> str:
    """Which drafter of the engine its settings choose."""
    method = one.settings.config.get("speculative_config", {}).get("method")
    if one.drafter.kind != "suffix" or method is None:
        return one.family.partition("-")[0]
    return "proposer" if method == "custom_class" else str(method)


def _policies(family: str, drafter: DrafterSettings) -> Sequence[str]:
    if (named := POLICIES.get(family.partition("-")[0])) is not None:
        return named
    made = drafter.drafter()
    if not isinstance(made, Modelled):
        return ("unlimited",)
    return [f"fixed:{length}" for length in LENGTHS if length <= made.curve.positions]


def _loaded(model: str | None) -> str:
    """What the engine loads: of a config.json its folder, of a model of the catalogue its name on the hub."""
    if model is None:
        return "MODEL"
    if Path(model).suffix == ".json":
        return str(Path(model).parent)
    return str(load_model(model).get("_name_or_path", model))
