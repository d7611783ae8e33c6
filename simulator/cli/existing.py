"""What commands do that write a file which is there already."""

from pathlib import Path

import click

from traces.errors import InputError

force_option = click.option("--force", is_flag=True, help="Replace the file that is there.")


def refuse_existing(out: Path, force: bool) -> None:
    """Raise InputError where the file to write is there already."""
    if out.exists() and not force:
        raise InputError(f"{out}: already exists: choose another name, or pass --force to replace it")
