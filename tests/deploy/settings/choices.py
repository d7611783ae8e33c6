"""Choices that the tests of settings share."""

from typing import Any

from simulator.deploy.settings import Check, Choice, EngineSettings, engine_settings, parse_engine
from simulator.scenario import EngineSettings as Limits

OWN_SUFFIX = {"kind": "suffix", "scope": "global", "match": "scored", "siblings": "live"}
"""Suffix drafts as vLLM's own method makes them."""
HEAD = {"curve": [0.7, 0.6, 0.5, 0.4]}


def choice(policy: str, drafter: dict[str, Any], limits: dict[str, Any] | None = None, **names: Any) -> Choice:
    weights = {"draft_model": "org/head"} if drafter["kind"] in ("eagle", "eagle3", "draft_model", "parallel") else {}
    return Choice(**{
        "model": "org/model", "policy": policy, "drafter": drafter, "engine": Limits(**(limits or {"max_num_seqs": 64})),
    } | weights | names)  # fmt: skip


def settings(
    engine: str, policy: str, drafter: dict[str, Any], framework: str | None = None, **more: Any
) -> EngineSettings:
    return engine_settings(choice(policy, drafter, **more), parse_engine(engine), framework)


def refusals(made: EngineSettings) -> list[str]:
    return [check.text for check in made.checks if check.level == "refused"]


def check_of(made: EngineSettings, part: str) -> Check:
    """The one check whose sentence has this part."""
    (found,) = [check for check in made.checks if part in check.text]
    return found
