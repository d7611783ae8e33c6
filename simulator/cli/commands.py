"""The command line: commands load when they are called, so that help is instant; every error is a line."""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from simulator.cli.ending import BySignals, Signalled

COMMANDS = {
    "replay": ("simulator.cli.replay", "replay", "Simulate recorded rollouts under speculation policies and whole systems."),
    "run": ("simulator.cli.replay", "run_command", "Do what `replay` does, from a scenario file."),
    "advise": ("simulator.cli.advise", "advise", "Say whether to draft, with what, and the settings for an engine."),
    "validate": ("simulator.cli.validate", "validate", "Simulate a measured serving run, and say how far off that is."),
    "sweep": ("simulator.cli.sweep", "sweep", "Run a scenario with every combination of some values, or search for the best."),
    "acceptance": ("simulator.cli.acceptance", "acceptance", "Replay a drafter alone: what it proposes and what is accepted."),
    "policies": ("simulator.cli.policies", "policies", "List the budget policies and how to name them."),
    "systems": ("simulator.cli.systems", "systems", "List the published ways of doing RL rollouts that are built in."),
    "catalogue": ("simulator.cli.catalogue", "catalogue", "List the models and devices that have names."),
    "trace": ("simulator.cli.trace", "trace", "Describe, validate, import or synthesise traces of rollouts."),
    "calibrate": ("simulator.cli.calibrate", "calibrate", "Measure costs on this machine."),
    "profile": ("simulator.cli.profile", "profile", "List and show cost profiles: what a decode step takes."),
}  # fmt: skip

USAGE, INVALID, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141
LONGEST_ERROR = 1500
"""Letters of an error line: more of what was given tells nobody more."""


class _Lazy(click.Group):
    """A group that knows its commands' one-line help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line."""
        with _aborting(extra.get("obj")):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _aborting(ctx.obj):
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; where there is none, name those like it, which click knows of loaded ones alone."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            raise click.UsageError(f"{error.message}{f' Did you mean {near[0]!r}?' if near else ''}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@contextmanager
def _aborting(signals: BySignals | None) -> Iterator[None]:
    """Make an Abort of a signal, of which click says more than a line, and which may become another error where modules load."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise click.Abort from error
    except BaseException:
        if signals is None or signals.taken is None:
            raise
        raise click.Abort from signals.taken


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rolloutsim", message="%(prog)s %(version)s")
def cli() -> None:
    """Which speculation policy, on my rollouts, on my GPU, and how sure are we.

    Exit codes: 0 done, 2 the command line is wrong, 3 the input cannot be used, 4 beyond what the profile measured, 5 no
    gain (advise --fail-if-no-gain).
    """


def main(arguments: Sequence[str] | None = None, signals: BySignals | None = None) -> None:
    """Run the command line; every error that is the user's to mend is one line on stderr. signals: by which it may end."""
    from traces.errors import InputError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal has no letters for is shown in others
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments, signals)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a pipe that nobody reads can still be told of
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(USAGE)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "rolloutsim"
        _fail(f"{error.format_message()} (see {command} --help)", USAGE)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        for one in (error, error.__cause__):
            if isinstance(one, Signalled):
                one.leave()
        _fail("interrupted", INTERRUPTED)
    except InputError as error:
        _fail(str(error), INVALID)
    except MemoryError as error:
        _fail(
            f"out of memory ({error}): simulate fewer RL steps (--steps), or fewer rollouts, or on a larger machine",
            INVALID,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more when it ends
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}: free space, or choose another place", INVALID)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _run(arguments: Sequence[str] | None, signals: BySignals | None) -> Any:
    from simulator.cli.waiting import told

    try:
        with told():
            return cli.main(args=arguments, prog_name="rolloutsim", standalone_mode=False, obj=signals)
    except SystemExit as ending:
        if ending.code == 1:  # so click and rich end where nobody reads what they print
            raise BrokenPipeError from ending
        raise


def _fail(message: str, code: int) -> None:
    """Say in one line what is wrong; what a terminal would act on is shown, not sent."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if len(line) > LONGEST_ERROR:
        line = f"{line[: LONGEST_ERROR // 2]} [...] {line[-LONGEST_ERROR // 2 :]}"
    with suppress(OSError):  # nobody can be told
        click.echo(f"error: {line}", err=True)
    sys.exit(code)
