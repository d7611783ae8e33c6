"""`rolloutsim policies`: what can follow --policy."""

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def policies(as_json: bool) -> None:
    """List the budget policies: how to name them, what they do, where they come from."""
    from simulator.budgets.resolve import catalogue

    rows = [dict(zip(("policy", "what", "source"), row, strict=True)) for row in catalogue()]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "policies": rows}))
        return
    widths = [max(len(row[column]) for row in rows) for column in ("policy", "what", "source")]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row.values(), widths, strict=True)).rstrip())
    click.echo("Your own: module:attr, or an entry point of the group rolloutsim.budgets. A page each: docs/policies/.")
