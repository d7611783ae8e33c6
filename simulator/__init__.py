"""What would happen: drafters, budget policies, costs and the event simulator that joins them.

`import simulator` loads nothing: each of its names is imported when it is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # that of typing, which takes longer to load than all else here
if TYPE_CHECKING:
    from typing import Any

    from simulator.cost.profiles import load_profile
    from simulator.replay import run
    from simulator.results import Result
    from simulator.scenario import Scenario
    from simulator.system import System
    from traces.io import read as load_trace

__all__ = ["Result", "Scenario", "System", "load_profile", "load_trace", "run"]

_HOMES = {
    "Result": "simulator.results:Result",
    "Scenario": "simulator.scenario:Scenario",
    "System": "simulator.system:System",
    "load_profile": "simulator.cost.profiles:load_profile",
    "load_trace": "traces.io:read",
    "run": "simulator.replay:run",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return globals().setdefault(name, getattr(import_module(module), attribute))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
