"""`rolloutsim policies`: what can follow --policy."""

import json

import click

from simulator.budgets.names import NAMES


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def policies(as_json: bool) -> None:
    """List the budget policies: how to name them, what they do, where they come from."""
    if as_json:
        rows = [{"policy": told.usage, "what": told.what, "source": told.source} for told in NAMES.values()]
        click.echo(json.dumps({"schema_version": 1, "policies": rows}))
        return
    widths = [max(map(len, column)) for column in zip(*NAMES.values(), strict=True)]
    for told in NAMES.values():
        click.echo("  ".join(text.ljust(width) for text, width in zip(told, widths, strict=True)).rstrip())
    click.echo("Your own: module:attr, or an entry point of the group rolloutsim.budgets. A page each: docs/policies/.")
