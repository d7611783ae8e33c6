"""`rolloutsim calibrate`: measure what things cost on this machine."""

from pathlib import Path

import click

from simulator.cli.calibrate_campaign import campaign
from simulator.cli.calibrate_kernels import kernels
from simulator.cli.calibrate_record import record
from simulator.cli.calibrate_truth import replay, validate
from simulator.cli.calibrate_vllm import vllm
from simulator.cli.numbers import Count


@click.group()
def calibrate() -> None:
    """Measure costs on this machine."""


@calibrate.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="YAML file to write.")
@click.option("--history-tokens", type=Count(1000), multiple=True, help="History sizes; repeatable.")
@click.option("--seed", type=Count(0), default=0, show_default=True)
def drafter(out: Path, history_tokens: tuple[int, ...], seed: int) -> None:
    """Measure the suffix drafter: CPU seconds per query and per inserted token, by history size."""
    from calibration.drafter import HISTORY_TOKENS, measure
    from simulator.drafting.cost import write_draft_cost

    document = measure(tuple(sorted(history_tokens)) or HISTORY_TOKENS, seed)
    write_draft_cost(document, out)
    for row in document["measured"]:
        click.echo(
            f"history {row['history_tokens']:>9,} tokens: {1e6 * row['query_s']:.3f} us per query, "
            f"{1e6 * row['insert_s']:.3f} us per inserted token"
        )
    click.echo(f"wrote {out}")


for command in (kernels, replay, validate, campaign, record, vllm):
    calibrate.add_command(command)
