"""`rolloutsim systems`: what can follow --system."""

import json
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def systems(as_json: bool) -> None:
    """List the built-in systems: what they are, whether they are lossless, what they need and assume."""
    from simulator.systems.listing import listing

    rows = listing()
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "systems": rows}))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        click.echo(f"{row['name'].ljust(width)}  {'lossless' if row['lossless'] else 'lossy   '}  {_told(row)}")
        for line in row["assumes"]:
            click.echo(f"{' ' * width}            assumes {line}")
    click.echo(
        "Your own: a YAML file of the same keys (docs/formats.md). A page each: docs/systems/. All of them on your trace: "
        "rolloutsim replay TRACE --system all."
    )


def _told(row: dict[str, Any]) -> str:
    needs = f"; needs {', '.join(row['needs'])}" if row["needs"] else ""
    return f"{row['about']}{needs}" + (f" (arXiv {row['paper']})" if row["paper"] else "")
