"""What could draft on an engine: its own drafters and rolloutsim's inside it, each with the policies that are worth a try."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.drafting.model import Modelled
from simulator.drafting.settings import DrafterSettings, NgramSettings, SuffixSettings
from simulator.scenario import drafter_settings
from simulator.system import System
from traces.errors import InputError

NGRAM = {"kind": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4, "cost": "vllm-ngram-epyc"}
SUFFIX = {"kind": "suffix", "scope": "global", "match": "scored", "siblings": "live", "cost": "vllm-suffix-epyc"}
PROPOSER = {"kind": "suffix", "siblings": "live"}
OWN: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "vllm": {"ngram": NGRAM, "suffix": SUFFIX, "proposer": PROPOSER},
    "sglang": {"ngram": SUFFIX},
}
"""What engines have that needs no trained head, by the name that `--drafter` takes, and how it is simulated: vLLM's as
`calibration.live.steps` holds it to vLLM, SGLang's trie of n-grams as suffixes of all that was generated, one path of it."""
MODELS = ("eagle", "eagle3", "draft_model", "mtp", "parallel")
POLICIES = {
    "ngram": ("fixed:2", "fixed:4", "fixed:8"),
    "suffix": ("fixed:4", "fixed:8", "fixed:16"),
    "proposer": ("fixed:4", "fixed:8", "fixed:16", "das", "seer"),
}
LENGTHS = (1, 2, 3, 5, 7)
"""Of the drafts of a model, as far as its curve goes."""
SHARES = (16, 4)
"""Batches up to a sixteenth and a quarter of the slots are small."""


@dataclass(frozen=True)
class Candidate:
    """A budget policy with a drafter. family: `ngram`, `suffix` (the engine's own), `proposer` (rolloutsim's in vLLM), or a model's
    kind.
    """  # fmt: skip

    family: str
    policy: str
    drafter: DrafterSettings

    @property
    def name(self) -> str:
        """How it is told."""
        return f"{self.family} {self.policy}"

    @property
    def system(self) -> System:
        """As the simulator plays it."""
        return System(name=self.name, policy=self.policy, drafter=self.drafter)


def candidates(engine: str, drafters: Sequence[Mapping[str, Any]] = (), policies: Sequence[str] = ()) -> list[Candidate]:
    """Every drafter, or those named, with every policy, or those named; simple ones first.

    drafters: settings as of a scenario, or `{"kind": NAME}` for one of the engine's own. Raises InputError for a drafter that no
    engine runs.
    """
    own = OWN[engine]
    asked = drafters or [{"kind": name} for name in own]
    found = [Candidate(family, policy, settings) for family, settings in (_drafter(engine, one) for one in asked)
             for policy in policies or _policies(family, settings)]  # fmt: skip
    names = [one.name for one in found]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"{twice[0]!r} is named twice: name each drafter and each policy once")
    return found


def refined(best: Candidate, slots: int) -> list[Candidate]:
    """The same drafter where its K changes with the batch: nothing, or half as much, above a share of the slots."""
    name, _, text = best.policy.partition(":")
    if name != "fixed" or best.family == "suffix":
        return []
    most = int(text)
    budgets = {f"schedule:1-{few}={most},{few + 1}-{slots}={rest}": None
               for few in (slots // share for share in SHARES) if few for rest in (0, most // 2)}  # fmt: skip
    return [Candidate(best.family, policy, best.drafter) for policy in budgets]


def _drafter(engine: str, given: Mapping[str, Any]) -> tuple[str, DrafterSettings]:
    """Its family and settings."""
    kind, own = given["kind"], OWN[engine]
    if len(given) == 1 and kind in own:
        return kind, drafter_settings(dict(own[kind]))
    if len(given) == 1 and kind == "proposer":
        raise InputError(f"drafter proposer: {engine} cannot run it: leave it out, or use --engine vllm")
    settings = drafter_settings(dict(given))
    if isinstance(settings, NgramSettings):
        return "ngram", settings
    if isinstance(settings, SuffixSettings):
        same = settings.scope != "problem" and settings.match == "scored" and settings.shape == "path"
        family = "suffix" if same else "proposer"
        if family in own:
            return family, settings
    elif settings.kind in MODELS:
        return settings.kind, settings
    raise InputError(f"drafter {kind}: {engine} cannot run it: use {', '.join((*own, *MODELS[:-1]))}")


def _policies(family: str, settings: DrafterSettings) -> Sequence[str]:
    if family in POLICIES:
        return POLICIES[family]
    drafter = settings.drafter()
    if not isinstance(drafter, Modelled):
        return ("unlimited",)
    return [f"fixed:{length}" for length in LENGTHS if length <= len(drafter.curve.conditional)]
