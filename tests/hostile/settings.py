"""Wrong values for every key of every model of settings, and for every option of every command."""

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import click
import yaml
from pydantic import BaseModel

from tests.hostile.cases import PROFILE, Case
from traces import io
from traces.synthesis import synth

WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, float("nan"), float("inf"), -1e308, "", "x", "1_0", "1:30", "٣", "é", "\x1b[31m", "x" * 5000,
    [], [[]], ["x"], {}, {"a": 1}, {"kind": "x"}, "no:such", "os:system", "../x", "*", "0x10", "fixed:4", 2**31,
)  # fmt: skip
WORDS = (
    *(
        "",
        "x",
        "-1",
        "0",
        "1.5",
        "1e9",
        "1_0",
        "٣",
        "nan",
        "inf",
        "-inf",
        "10" * 20,
        "é",
        "\x1b[31m",
        "x" * 5000,
        "0x10",
        "true",
        "null",
    ),
    *(
        "[",
        "{",
        "a=b",
        "=",
        "a=",
        "=b",
        ",",
        ":",
        "/",
        "/dev/null",
        "/nonexistent/x",
        ".",
        "*",
        "[[1,2]]",
        "1,2",
        "9-1",
        "no:such",
    ),
)
NOT_RUN = ("calibrate",)
"""Commands that measure this machine: what they take is refused by their own tests."""
SLOW = (
    "--seeds",
    "--bootstrap",
    "--prompts",
    "--samples",
    "--steps",
    "--max-tokens",
    "--median-tokens",
    "--trials",
    "--workers",
)
"""Options by which a valid value may ask for hours."""


@cache
def _trace() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    table = synth(prompts=3, samples=2, steps=2, median_tokens=12, max_tokens=40, seed=5)
    pq.write_table(io.with_provenance(table, {"made": "for tests"}), sink)
    return sink.getvalue().to_pybytes()


def _models(kind: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every model within a model, and the keys that lead to it."""
    seen.add(kind)
    yield (), kind
    for name, field in kind.model_fields.items():
        waiting = [field.annotation]
        while waiting:
            one = waiting.pop()
            if isinstance(one, type) and issubclass(one, BaseModel):
                if one not in seen:
                    yield from (((name, *path), inner) for path, inner in _models(one, seen))
            else:
                waiting.extend(get_args(one))


def _base() -> dict[str, Any]:
    return {"version": 1, "trace": "trace.parquet", "profile": PROFILE, "policies": ["none", "fixed:2"], "steps": [1]}


def keys(seed: int, count: int) -> Iterator[Case]:
    """Every key of a scenario, its systems and its drafters, with a value that it cannot have, or may."""
    from simulator.scenario import Scenario

    draw, targets = random.Random(seed), []
    for path, kind in _models(Scenario, set()):
        for name, field in kind.model_fields.items():
            targets.append((path, kind, name, field))
    for number in range(count):
        path, kind, name, _ = targets[number % len(targets)]
        value = draw.choice(WRONG)
        inner: dict[str, Any] = {name: value}
        if "kind" in kind.model_fields and name != "kind":
            inner = {"kind": kind.model_fields["kind"].default} | inner
        for key in reversed(path):
            inner = {key: [{"name": "s", **inner}] if key == "systems" else inner}
        document = _base() | inner
        text = yaml.safe_dump(document, allow_unicode=True)

        def make(folder: Path, text: str = text) -> None:
            (folder / "trace.parquet").write_bytes(_trace())
            (folder / "scenario.yaml").write_text(text, "utf-8")

        yield Case(f"{'.'.join((*path, name))} = {value!r:.40}", ("run", "scenario.yaml", "--json"), make)


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        if name in NOT_RUN:
            continue
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


GOOD: dict[tuple[str, ...], tuple[str, ...]] = {
    ("replay",): ("trace.parquet", "--profile", PROFILE, "--policy", "none", "--steps", "1"),
    ("run",): ("scenario.yaml",),
    ("acceptance",): ("trace.parquet",),
    ("trace", "describe"): ("trace.parquet",),
    ("trace", "validate"): ("trace.parquet",),
    ("trace", "synth"): (
        *("--prompts", "2", "--samples", "2", "--steps", "1"),
        *("--median-tokens", "9", "--max-tokens", "20", "--out", "o.parquet"),
    ),
    ("trace", "import"): ("trace.parquet", "--out", "o.parquet"),
    ("profile", "show"): (PROFILE,),
}  # fmt: skip


def options(seed: int, count: int) -> Iterator[Case]:
    """Every option of every command with a word that it cannot take, or may; and arguments that name no file."""
    from simulator.cli import cli

    draw, targets = random.Random(seed), []
    for path, command in _commands(cli):
        for one in command.params:
            if isinstance(one, click.Option) and not one.is_flag and not {*one.opts} & {*SLOW}:
                targets.append((path, one.opts[-1]))
            elif isinstance(one, click.Argument):
                targets.append((path, ""))

    def make(folder: Path) -> None:
        (folder / "trace.parquet").write_bytes(_trace())
        (folder / "scenario.yaml").write_text(yaml.safe_dump(_base()))

    for number in range(count):
        path, option = targets[number % len(targets)]
        word = draw.choice(WORDS)
        good = GOOD.get(path, ())
        if not option:
            yield Case(f"{' '.join(path)} {word!r:.40}", (*path, word, *good[1:]), make)
            continue
        rest = [*good]
        if option in rest:
            del rest[(at := rest.index(option)) : at + 2]
        yield Case(f"{' '.join(path)} {option} {word!r:.40}", (*path, *rest, option, word), make)
