"""What other people's policies cannot do: write into what the next one reads, or end the run without a word."""

import sys
import types
from pathlib import Path

import pytest

from simulator.replay import run
from simulator.scenario import Scenario
from traces.errors import InputError

TRACE = Path(__file__).parents[2] / "traces/data/countdown.parquet"
PROFILE = "h100-llama-3.1-8b-published"


def writes(view):
    view.requests.prompt_tokens[:] = 10**6
    return 0


def leaves(view):
    sys.exit(0)


class LeavesEarly:
    def prepare(self, context):
        sys.exit(0)


@pytest.fixture
def spoilers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("spoilers")
    vars(module).update(writes=writes, leaves=leaves, early=LeavesEarly())
    module.__spec__ = types.SimpleNamespace(name="spoilers", parent="")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "spoilers", module)


@pytest.mark.usefixtures("spoilers")
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("spoilers:writes", "read-only"),
        ("spoilers:leaves", "SystemExit"),
        ("spoilers:early", "prepare raised SystemExit"),
    ],
)
def test_a_policy_that_writes_or_exits_is_an_error(policy: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(Scenario(trace=str(TRACE), profile=PROFILE, policies=["none", policy], steps=[20]))


@pytest.mark.parametrize("policies", [["none", "none"], []])
def test_policies_are_named_once(policies: list[str]) -> None:
    with pytest.raises(InputError, match="policies"):
        Scenario(trace=str(TRACE), profile=PROFILE, policies=policies)


def test_a_scenario_needs_costs() -> None:
    with pytest.raises(InputError, match="profile"):
        Scenario(trace=str(TRACE), policies=["none"])
