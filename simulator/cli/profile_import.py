"""`rolloutsim profile import` and `export`: other tools' measurements to profiles, and profiles to what engines read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from simulator.cli.existing import force_option, refuse_existing
from simulator.cli.numbers import Count, Finite
from simulator.limits import KvDtype

if TYPE_CHECKING:
    from simulator.cost import Profile

FOLDER = click.Path(path_type=Path)
out_option = click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Profile to write: .parquet, or .yaml for small ones."
)
config_option = click.option("--model", required=True, help="The model's config.json, or its name in the catalogue.")
model_option = click.option("--model", required=True, help="Name of the model that was measured.")
device_option = click.option("--device", required=True, help="Name of the device that it was measured on.")


@click.group("import")
def import_group() -> None:
    """Make a profile of what others measured."""


@import_group.command("llmservingsim")
@click.argument("folder", type=FOLDER)
@config_option
@click.option("--tp", type=Count(1), default=1, show_default=True, help="GPUs that hold the model.")
@click.option(
    "--link-bandwidth", type=Finite(), metavar="BYTES_PER_S", help="Between GPUs, one direction; for --tp or --ep > 1."
)
@click.option(
    "--link-latency", type=Finite(), metavar="SECONDS", help="Of a message between GPUs; for --tp or --ep > 1."
)
@click.option("--ep", type=Count(1), default=1, show_default=True, help="Ranks that the experts are spread over.")
@click.option(
    "--skew", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True,
    help="Charge batches of uneven contexts what skew.csv says; auto: if its authors do.",
)  # fmt: skip
@out_option
@force_option
def llmservingsim(
    folder: Path, model: str, tp: int, link_bandwidth: float | None, link_latency: float | None, ep: int, skew: Any,
    out: Path, force: bool,
) -> None:  # fmt: skip
    """Import the kernels that LLMServingSim measured: FOLDER holds meta.yaml and tp1/."""
    from calibration.imports.llmservingsim import import_llmservingsim
    from simulator.catalogue import load_model

    _write(
        lambda: import_llmservingsim(folder, load_model(model), tp, link_bandwidth, link_latency, skew, ep), out, force
    )


@import_group.command("aiconfigurator")
@click.argument("folder", type=FOLDER, required=False)
@config_option
@click.option(
    "--system",
    default="h200_sxm",
    show_default=True,
    help="The device: a system of the tables, or a name of the catalogue.",
)
@click.option("--engine", default="vllm", show_default=True, help="Engine whose kernels were measured.")
@click.option("--engine-version", help="Version of the engine; left out, the one that the tables call current.")
@click.option("--tp", type=Count(1), default=1, show_default=True, help="GPUs that hold the model.")
@click.option("--ep", type=Count(1), default=1, show_default=True, help="GPUs that the experts are spread over.")
@click.option("--moe-distribution", help="How tokens are routed to experts; left out, the most even that was measured.")
@click.option(
    "--kv-cache-dtype", type=click.Choice(get_args(KvDtype)), help="Of keys and values [default: what the config says]."
)
@out_option
@force_option
def aiconfigurator(
    folder: Path | None, model: str, system: str, engine: str, engine_version: str | None, tp: int, ep: int,
    moe_distribution: str | None, kv_cache_dtype: KvDtype | None, out: Path, force: bool,
) -> None:  # fmt: skip
    """Import the kernels that aiconfigurator measured: FOLDER holds <system>.yaml; left out, aiconfigurator-core's own."""
    from calibration.imports.aic_tables import system_of
    from calibration.imports.aiconfigurator import import_aiconfigurator
    from simulator.catalogue import load_model

    _write(
        lambda: import_aiconfigurator(
            folder,
            load_model(model, kv_cache_dtype),
            system_of(system, folder),
            engine,
            tp,
            ep,
            engine_version,
            moe_distribution,
        ),
        out,
        force,
    )


@import_group.command("table")
@click.argument("csv", type=FOLDER)
@model_option
@device_option
@click.option("--tp", type=Count(1), help="Which of the measured ones; may be left out where there is one.")
@out_option
@force_option
def table(csv: Path, model: str, device: str, tp: int | None, out: Path, force: bool) -> None:
    """Import measured step times: CSV has the columns num_reqs, tokens_per_req, context_len, tp and latency_ms."""
    from calibration.imports.step_table import import_step_table

    _write(lambda: import_step_table(csv, model, device, tp), out, force)


@import_group.command("vllm-log")
@click.argument("log", type=FOLDER)
@model_option
@device_option
@out_option
@force_option
def vllm_log(log: Path, model: str, device: str, out: Path, force: bool) -> None:
    """Fit step times in the log of a vLLM server that ran with --enable-logging-iteration-details."""
    from calibration.imports.iteration_log import import_iteration_log

    _write(lambda: import_iteration_log(log, model, device), out, force)


@import_group.command("dspark")
@click.argument("json_file", metavar="JSON", type=FOLDER)
@model_option
@device_option
@out_option
@force_option
def dspark(json_file: Path, model: str, device: str, out: Path, force: bool) -> None:
    """Import SGLang's additive cost table of DSpark."""
    from calibration.imports.dspark import import_dspark

    _write(lambda: import_dspark(json_file, model, device), out, force)


@click.group("export")
def export_group() -> None:
    """Write a profile in another tool's format."""


@export_group.command("dspark")
@click.argument("name")
@click.option("--context", type=Count(0), default=4096, show_default=True, help="Tokens before each query.")
@click.option("--most-drafts", type=Count(0), default=8, show_default=True, help="Drafts that a step verifies.")
@click.option("--requests", type=Count(1), multiple=True, help="Probes by requests; repeatable.")
@click.option("--tokens", type=Count(1), multiple=True, help="Probes by query tokens; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
@force_option
def export(
    name: str,
    context: int,
    most_drafts: int,
    requests: tuple[int, ...],
    tokens: tuple[int, ...],
    out: Path,
    force: bool,
) -> None:
    """Fit SGLang's additive cost table of DSpark to the decode steps of a profile at one context."""
    import numpy as np

    from calibration.imports.dspark import export_dspark
    from simulator.cost import load_profile
    from traces.atomic import replacing

    refuse_existing(out, force)
    document, errors = export_dspark(load_profile(name), context, most_drafts, requests, tokens)
    with replacing(out) as file:
        file.write(json.dumps(document, indent=1).encode())
    size = np.abs(errors)
    click.echo(
        f"{len(document['bs_probes'])} probes by requests, {len(document['m_probes'])} by tokens, context {context:,}: the "
        f"additive table is off by {np.median(size):.2%} in the median and {size.max():.2%} at most"
    )
    click.echo(f"wrote {out}")


def _write(read: Callable[[], Profile], out: Path, force: bool) -> None:
    """Import, write, and say what was written and what to know of it."""
    from simulator.cli.profile_show import uncertainty
    from simulator.cost.profiles import check_suffix, write_profile

    check_suffix(out)
    refuse_existing(out, force)
    start = time.perf_counter()
    one = read()
    write_profile(one, out)
    click.echo(
        f"{one.name}: {len(one.operators)} operators, relative error {uncertainty(one)}; {time.perf_counter() - start:.2f} s"
    )
    for text in filter(None, (one.uncertainty, one.notes)):
        click.echo(f"note: {text}")
    click.echo(f"wrote {out}")
