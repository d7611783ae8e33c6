"""From a choice, an engine and a framework to what to paste and what to know before."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import KNOWN, Engine
from simulator.deploy.settings.flags import flags_of
from simulator.deploy.settings.frameworks import framework_named
from simulator.deploy.settings.parts import Check
from simulator.deploy.settings.sglang import sglang_arguments
from simulator.deploy.settings.vllm import vllm_arguments

ARGUMENTS = {"vllm": vllm_arguments, "sglang": sglang_arguments}
SERVE = {"vllm": ("vllm", "serve"), "sglang": ("python", "-m", "sglang.launch_server", "--model-path")}


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one engine for one choice.

    config: the engine's arguments by their Python names, as JSON knows them; command: the words that start a server; framework:
    the RL framework's name; snippet: the same in its own keys, to paste; install: packages that the engine needs besides; files:
    text of files that arguments name; checks: what was looked at, refusals first; runs: the choice that these settings really
    run, another than the one asked for where a check is a refusal.
    """

    engine: Engine
    config: Mapping[str, Any]
    command: tuple[str, ...]
    runs: Choice
    checks: tuple[Check, ...]
    install: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    framework: str | None = None
    snippet: str | None = None

    @property
    def shell(self) -> str:
        """The command as a shell reads it."""
        return shlex.join(self.command)

    @property
    def refused(self) -> bool:
        """Whether the engine does not run what was asked for, but the nearest that it can."""
        return any(check.level == "refused" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """All of it in what JSON knows."""
        return {
            "engine": str(self.engine), "config": dict(self.config), "command": self.shell, "install": list(self.install),
            "files": dict(self.files),
            "framework": self.framework, "snippet": self.snippet,
            "checks": [{"level": one.level, "text": one.text, "source": one.source} for one in self.checks],
            "runs": {"policy": self.runs.policy, "drafter": self.runs.drafter.model_dump(mode="json", exclude_none=True)},
        }  # fmt: skip


def engine_settings(choice: Choice, engine: Engine, framework: str | None = None) -> EngineSettings:
    """Return the settings that run the choice, or the nearest that this engine can; InputError names an unknown framework."""
    inside = None if framework is None else framework_named(framework, engine)
    arguments = ARGUMENTS[engine.name](choice, engine)
    if inside is not None:
        arguments = inside.heard(engine, choice, arguments)
    command = (*SERVE[engine.name], choice.model, *flags_of(arguments.config))
    checks, snippet = [*_release(engine), *arguments.checks], None
    if inside is not None:
        checks += inside.checks(engine, arguments)
        snippet = inside.write(inside, dict(arguments.config), engine, choice.model)
    order = ("refused", "warning", "ok")
    return EngineSettings(
        engine=engine, config=arguments.config, command=command, runs=arguments.runs, install=arguments.install,
        checks=tuple(sorted(checks, key=lambda check: order.index(check.level))), files=arguments.files,
        framework=None if inside is None else inside.name, snippet=snippet,
    )  # fmt: skip


def _release(engine: Engine) -> list[Check]:
    """What is known of the release that was asked for."""
    newest = KNOWN[engine.name].newest
    if engine.assumed:
        return [Check("warning", f"no release was named: the settings are those of {engine.name} {newest}", "")]
    if engine.too_new:
        text = f"{engine} is newer than {newest}, the newest release that is known: the settings are those of {newest}"
        return [Check("warning", text, "")]
    return []
