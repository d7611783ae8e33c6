"""An RL framework that starts engines: how it is told what they shall do, and what it does about speculation itself."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.flags import flags_of
from simulator.deploy.settings.parts import Arguments, Check, without_drafts
from simulator.deploy.settings.snippets import nested

Drafted = Literal["tokens", "mtp", "head"]
"""With n-grams, suffixes or the proposer; with MTP layers of the model; with another head or model."""
Writer = Callable[["Framework", dict[str, Any], Engine, str], str]
"""From an engine's arguments and the model that it loads to text to paste."""


@dataclass(frozen=True)
class Note:
    """What to know where one drafts `by` this, on this engine (None: on any); source: the file that says so."""

    text: str
    source: str
    by: tuple[Drafted, ...] = ("tokens", "mtp", "head")
    engine: str | None = None


@dataclass(frozen=True)
class Framework:
    """One that starts engines, and how it is told.

    name: what it is called; rest: by engine that it starts, the key under which arguments go as they are; own: arguments that
    have keys of their own; always: by engine, keys that choose it; source: by engine, the file that hands arguments over; write:
    how its keys are written; mute: engines that it tells nothing of speculation.
    """

    name: str
    rest: Mapping[str, str]
    source: Mapping[str, str]
    write: Writer
    own: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    mute: tuple[str, ...] = ()

    def heard(self, engine: Engine, choice: Choice, arguments: Arguments) -> Arguments:
        """The arguments that reach the engine: without drafts where it is told nothing of them."""
        if engine.name not in self.mute or _drafted(arguments) is None:
            return arguments
        text = f"{self.name} hands {engine.name} no argument of speculation: the settings are those without drafts"
        silent = without_drafts(choice, Check("refused", text, self.source[engine.name]))
        config = {key: value for key, value in arguments.config.items() if not key.startswith("speculative")}
        return replace(silent, config=config)

    def checks(self, engine: Engine, arguments: Arguments) -> list[Check]:
        """Where its keys were read, and what it does about what is drafted with."""
        read = Check("ok", f"{self.name} hands arguments to {engine.name} by these keys", self.source[engine.name])
        by = _drafted(arguments)
        notes = [note for note in self.notes if by in note.by and note.engine in (None, engine.name)]
        return [read, *(Check("warning", note.text, note.source) for note in notes)]


def by_keys(form: Callable[[Mapping[str, Any]], str]) -> Writer:
    """Arguments under dotted keys, in this form."""

    def write(framework: Framework, config: dict[str, Any], engine: Engine, model: str) -> str:
        rest = framework.rest[engine.name]
        paths = dict(framework.always.get(engine.name, {}))
        return form(nested(paths | {framework.own.get(key, f"{rest}.{key}"): value for key, value in config.items()}))

    return write


def per_rank(write: Writer) -> Writer:
    """GPUs of a rank, where SGLang counts those of all ranks of an engine, and the framework multiplies the two."""

    def written(framework: Framework, config: dict[str, Any], engine: Engine, model: str) -> str:
        ranks = {"tp_size": config["tp_size"] // config["dp_size"]} if "dp_size" in config else {}
        return write(framework, config | ranks, engine, model)

    return written


def behind_a_prefix(framework: Framework, config: dict[str, Any], engine: Engine, model: str) -> str:
    """The engine's own flags behind the framework's prefix, but for those that it has of its own."""
    own = {flag.removeprefix("--"): config[key] for key, flag in framework.own.items() if key in config}
    others = {key: value for key, value in config.items() if key not in framework.own}
    return shlex.join([*flags_of(own), *flags_of(others, framework.rest[engine.name])])


def vllm_server(framework: Framework, config: dict[str, Any], engine: Engine, model: str) -> str:
    """The server of vLLM's that TRL's trainers expect, in place of `trl vllm-serve`, which is to go."""
    words = ["vllm", "serve", model, *flags_of(config)]
    if engine.since("0.30"):
        words.append("--enable-scale-out")
    words += ["--weight-transfer-config", json.dumps({"backend": "nccl"})]
    words += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    return f"VLLM_SERVER_DEV_MODE=1 {shlex.join(words)}"


def _drafted(arguments: Arguments) -> Drafted | None:
    """What is drafted with; None where nothing is."""
    speculative = arguments.config.get("speculative_config", {})
    method = speculative.get("method") or arguments.config.get("speculative_algorithm")
    if method is None:
        return None
    if method in ("ngram", "suffix", "custom_class", "NGRAM"):
        return "tokens"
    return "mtp" if arguments.runs.drafter.kind == "mtp" else "head"
