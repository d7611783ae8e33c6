"""What was found best, in the words of a scenario, with the names that a real engine needs besides."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from simulator.budgets.resolve import check_spec
from simulator.drafting.settings import DrafterSettings, SuffixSettings, with_kind
from simulator.limits import TENSOR_PARALLEL, KvDtype
from simulator.scenario import EngineSettings, Scenario
from simulator.validated import Validated, within
from traces.errors import InputError


class Choice(Validated):
    """One budget policy and drafter on one engine.

    model: what the engine loads, a hub name or a folder; draft_model: the trained head or small model of drafters that are one.
    policy, drafter, engine, tensor_parallel_size, kv_cache_dtype: as in a scenario. history, profile: what the proposer of
    policies that no engine has reads, a trace and a cost profile. max_tokens: where sampling cuts responses.
    """

    model: Annotated[str, Field(min_length=1)]
    draft_model: Annotated[str, Field(min_length=1)] | None = None
    policy: str = "none"
    drafter: DrafterSettings = SuffixSettings()
    engine: EngineSettings = EngineSettings()
    tensor_parallel_size: Annotated[int, within(TENSOR_PARALLEL)] = 1
    kv_cache_dtype: KvDtype | None = None
    history: str | None = None
    profile: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("drafter", mode="before")
    @classmethod
    def _kind(cls, settings: Any) -> Any:
        return with_kind(settings)

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, policy: str) -> str:
        try:
            check_spec(policy)
        except InputError as error:
            raise ValueError(str(error)) from None
        return policy


def choice_of(scenario: Scenario, model: str | None = None, **names: Any) -> Choice:
    """The one system of a scenario as a choice; InputError where there are several, or no model to load.

    model: what the engine loads, where it is not the scenario's; names: `draft_model`, `max_tokens` and others of `Choice`.
    """
    if len(scenario.compared) != 1:
        raise InputError(
            f"a deployment is of one system, and the scenario compares {len(scenario.compared)}: choose one"
        )
    model = model or scenario.model
    if model is None:
        raise InputError("model: missing: name the model that the engine shall load")
    one = scenario.of(scenario.compared[0])
    return Choice(**{
        "model": model, "policy": one.policies[0], "drafter": one.drafter, "engine": one.engine, "history": one.trace,
        "tensor_parallel_size": one.tensor_parallel_size, "kv_cache_dtype": one.kv_cache_dtype, "profile": one.profile,
    } | names)  # fmt: skip
