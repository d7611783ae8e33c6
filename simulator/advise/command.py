"""The command that plays a choice again."""

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from simulator.advise.candidates import Candidate
from simulator.drafting.settings import DrafterSettings
from simulator.scenario import Scenario


def replay_command(base: Scenario, steps: Sequence[int], one: Candidate) -> str:
    """`rolloutsim replay ...`: no drafts and the candidate on these RL steps, to paste into a shell."""
    costs = ("profile", "model", "device", "tables", "kv_cache_dtype")
    flags = [(name.replace("_", "-"), getattr(base, name)) for name in costs]
    flags += [("tensor-parallel-size", base.tensor_parallel_size if base.tensor_parallel_size > 1 else None)]
    flags += [("drafter", drafter_text(one.drafter)), ("policy", "none"), ("policy", one.policy)]
    flags += [("steps", steps_text(steps))]
    flags += [("engine", f"{key}={_text(value)}") for key, value in base.engine.model_dump(exclude_unset=True).items()]
    flags += [("seed", base.seed or None)]
    words = [word for name, value in flags if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["rolloutsim", "replay", base.trace, *words])


def drafter_text(drafter: DrafterSettings) -> str:
    """A drafter as `--drafter` takes it."""
    given = drafter.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    settings = ",".join(f"{key}={_text(value)}" for key, value in given.items())
    return f"{drafter.kind}:{settings}" if settings else drafter.kind


def steps_text(steps: Sequence[int]) -> str:
    """RL steps as `--steps` takes them: `2,4-7`."""
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in _runs(sorted(steps)))


def _runs(steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = steps[0]
    for step in steps[1:]:
        if step > last + 1:
            yield first, last
            first = step
        last = step
    yield first, last


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
