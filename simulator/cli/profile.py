"""Commands about cost profiles: `rolloutsim profile list`, `show`, `import` and `export`."""

from __future__ import annotations

import click

from simulator.cli.profile_import import export_group, import_group
from simulator.cli.profile_show import show, uncertainty


@click.group("profile")
def profile() -> None:
    """Cost profiles: what a decode step takes on a model and a device."""


@profile.command("list")
def list_command() -> None:
    """List the profiles that installed packages ship."""
    from simulator.cost import list_profiles, load_profile

    rows = [("name", "kind", "model", "device", "uncertainty")]
    for name in list_profiles():
        one = load_profile(name)
        rows.append((name, one.kind, one.model, one.device, uncertainty(one)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


profile.add_command(show)
profile.add_command(import_group)
profile.add_command(export_group)
