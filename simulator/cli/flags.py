"""Flags that several commands share, and how they become settings: each given once, none dropped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click

from simulator.cli.completing import kinds
from simulator.cli.numbers import Count, Finite
from simulator.limits import DEPTH, FACTOR, PROBABILITY, SUFFIX, WINDOW, DrafterKind, Match, Scope, Shape
from simulator.spec import split

Command = Callable[..., Any]
FLAG_OF = {"own": "--own/--no-own", "cost": "--draft-cost", "prompt": "--no-prompt"}
"""Flags that are not called as the setting."""


def drafter_options(command: Command) -> Command:
    """Add the flags that are settings of a drafter, of the suffix drafter above all; None where a flag is not given."""
    for option in reversed([
        click.option("--scope", type=click.Choice(get_args(Scope)),
                     help=f"Past responses searched: those to the same problem, all, or none [default: {SUFFIX.scope}]."),
        click.option("--own/--no-own", default=None, help="Also search the rollout's own prompt and output [default: own]."),
        click.option("--match", type=click.Choice(get_args(Match)), help="Draft from the longest match, or the draft of the "
                     f"highest expected acceptance [default: {SUFFIX.match}]."),
        click.option("--shape", type=click.Choice(get_args(Shape)),
                     help=f"One continuation, or with --match scored a best-first tree of them [default: {SUFFIX.shape}]."),
        click.option("--window", type=Count(*WINDOW), help=f"RL steps of history [default: {SUFFIX.window}]."),
        click.option("--depth", type=Count(*DEPTH), help=f"Longest string known, tokens [default: {SUFFIX.depth}]."),
        click.option("--factor", type=Finite(*FACTOR, min_open=True),
                     help=f"Drafted tokens per matched token, at most [default: {SUFFIX.factor}]."),
        click.option("--min-prob", type=Finite(*PROBABILITY),
                     help=f"A draft ends where its path probability falls below [default: {SUFFIX.min_prob}]."),
    ]):  # fmt: skip
        command = option(command)
    return command


def output_options(command: Command) -> Command:
    """Add the flags that say where results go."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")(command)
    return click.option("--out", type=click.Path(path_type=Path), help="Folder for the result tables and plots.")(
        command
    )


def allow_code_option(command: Command) -> Command:
    """Add the flag that lets a scenario or system file name code."""
    return click.option(
        "--allow-code",
        is_flag=True,
        help="Let scenario and system files name Python code to import (module:attr).",
    )(command)


def with_flags(drafter: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Put the flags that were given into the drafter's settings; refuse what is given twice, or no setting of the drafter."""
    from simulator.drafting.settings import BUILT_IN_KINDS, names_of

    given = {name: value for name, value in flags.items() if value is not None}
    kind = drafter["kind"]
    for name in given:
        flag = FLAG_OF.get(name, f"--{name.replace('_', '-')}")
        if name in drafter:
            raise click.UsageError(
                f"{flag} and --drafter {kind}:{name}={drafter[name]} say the same thing: give one of them"
            )
        if kind in BUILT_IN_KINDS and name not in names_of(kind):
            known = ", ".join(names_of(kind)) or "none"
            raise click.UsageError(f"{flag}: drafter {kind} has no setting {name!r} (it has: {known}): leave it out")
    return drafter | given


@contextmanager
def refusing_flags() -> Iterator[None]:
    """Say that the command line is wrong where settings are that were made of it."""
    from simulator.validated import SettingError

    try:
        yield
    except SettingError as error:
        raise click.UsageError(str(error)) from None


def drafter_option(command: Command) -> Command:
    """Add --drafter, which becomes settings."""
    return click.option(
        "--drafter", default="suffix", show_default=True, callback=lambda c, p, v: parse_drafter(v), shell_complete=kinds,
        metavar="KIND[:key=value,...]",
        help=f"What drafts: {', '.join(get_args(DrafterKind)[:-1])}; your own is its NAME, module:attr, or custom:target=NAME. "
        "Values are YAML: curve=[0.8,0.7], cost={per_pass_s: 0.001}. suffix also has the flags below; settings of every kind: "
        "docs/formats.md.",
    )(command)  # fmt: skip


def parse_drafter(text: str) -> dict[str, Any]:
    """Read `kind:key=value,...` into drafter settings; values are YAML, and module:attr is a kind too."""
    from simulator.strict_yaml import load_value
    from traces.errors import InputError

    kind, _, rest = text.partition(":")
    if rest and "=" not in rest.partition(",")[0]:  # module:attr
        attribute, _, rest = rest.partition(",")
        kind = f"{kind}:{attribute}"
    settings: dict[str, Any] = {"kind": kind}
    try:
        parts = split(rest)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r}: {part!r} is not key=value")
        if key in settings:
            raise click.BadParameter(f"{text!r}: {key} is given twice: give it once")
        try:
            settings[key] = load_value(value)
        except InputError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None
    return settings


def parse_limits(limits: tuple[str, ...], flags: dict[str, Any]) -> dict[str, Any]:
    """Read KEY=VALUE pairs, values as YAML, beside the flags that are such pairs, too; refuse what is given twice."""
    from simulator.strict_yaml import load_value

    parsed = {key: value for key, value in flags.items() if value is not None}
    for text in limits:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise click.UsageError(f"--engine {text!r} is not KEY=VALUE: for example max_num_batched_tokens=8192")
        if key in parsed:
            raise click.UsageError(f"--engine {text!r}: {key} = {parsed[key]!r} was given before: give it once")
        parsed[key] = load_value(value)
    return parsed


def parse_steps(text: str | None) -> list[int] | None:
    """Read `1` or `2,4-7` into a list of RL steps."""
    if text is None:
        return None
    steps: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise click.BadParameter(f"{text!r} is not a list of RL steps: write for example 1 or 2,4-7")
        if dash and int(last) - int(first) > 1_000_000:
            raise click.BadParameter(f"{part.strip()!r} spans over a million RL steps: give fewer")
        steps.extend(range(int(first), int(last or first) + 1))
    return steps
