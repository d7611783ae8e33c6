"""A system against plain `sync`, over one setting of the workload, the deployment or the system."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.systems.built_in import BASELINE, built_in_system
from traces.io import from_table, read
from traces.synthesis import synth
from traces.trace import Trace

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@dataclass(frozen=True)
class Sweep:
    """system: a built-in one by name, or its settings; scenario: all else but the trace; trace: a path in the repository, or
    `synth` (arguments of `traces.synthesis.synth`), with `rewards: {mean, concentration}`, `tokens: false` for lengths alone;
    vary: {dotted key: values} below those three; wins, loses: values at which it gains over `sync`, and at which it costs.
    """

    system: str | dict[str, Any]
    scenario: dict[str, Any]
    trace: dict[str, Any]
    vary: dict[str, list[Any]]
    wins: tuple[Any, ...] = ()
    loses: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """What is varied."""
        (key,) = self.vary
        return key

    @property
    def values(self) -> list[Any]:
        """From what to what."""
        return self.vary[self.key]


def load(name: str) -> Sweep:
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    trace = document["trace"]
    document["trace"] = {"path": trace} if isinstance(trace, str) else trace
    return Sweep(**{key: tuple(value) if key in ("wins", "loses") else value for key, value in document.items()})


def results(sweep: Sweep) -> Iterator[tuple[Any, Result]]:
    """Each value, and the run of `sync` and the system at it."""
    settings = built_in_system(sweep.system) if isinstance(sweep.system, str) else sweep.system
    base = {"system": settings, "scenario": sweep.scenario, "trace": sweep.trace}
    traces: dict[str, Trace] = {}
    for value in sweep.values:
        document = _set(base, sweep.key.split("."), value)
        name = repr(document["trace"])
        trace = traces.setdefault(name, traces[name] if name in traces else made(document["trace"]))
        systems = [BASELINE, document["system"]]
        yield value, run(build(document["scenario"] | {"trace": trace.source, "systems": systems}), trace)


def made(settings: dict[str, Any]) -> Trace:
    """The trace that these settings describe."""
    if "path" in settings:
        return read(str(ROOT / settings["path"]))
    table = synth(**settings["synth"])
    if not settings.get("tokens", True):
        table = table.drop_columns(["token_ids", "prompt_token_ids"])
    if "rewards" in settings:
        table = table.append_column("reward", pa.array(rewards(table, **settings["rewards"]), pa.float32()))
    return from_table(table, "made up")


def rewards(
    table: pa.Table, mean: float, concentration: float, seed: int = 0
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """0 or 1 for each rollout, right with a probability of its prompt that is Beta distributed."""
    prompts, prompt = np.unique(table["prompt_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    rng = np.random.default_rng(seed)
    right = rng.beta(mean * concentration, (1 - mean) * concentration, prompts.size)
    return (rng.random(prompt.size) < right[prompt]).astype(np.float64)


def _set(document: Any, keys: list[str], value: Any) -> Any:
    """A copy with one value in another's place, lists by number."""
    if not keys:
        return value
    if isinstance(document, list):
        place = int(keys[0])
        return [_set(one, keys[1:], value) if number == place else one for number, one in enumerate(document)]
    return document | {keys[0]: _set(document.get(keys[0], {}), keys[1:], value)}
