"""The command `rolloutsim catalogue`: which models and devices have names, and their figures."""

from __future__ import annotations

import click

Rows = list[tuple[str, ...]]


@click.command("catalogue")
@click.argument("what", type=click.Choice(["models", "devices", "all"]), default="all")
def catalogue(what: str) -> None:
    """List the models and devices that --model and --device know by name.

    Others are given by the path of a config.json or of a device's YAML file (docs/formats.md).
    """
    tables = {"models": _models, "devices": _devices}
    click.echo("\n\n".join(_aligned(rows()) for name, rows in tables.items() if what in (name, "all")))


def _models() -> Rows:
    from simulator.catalogue import list_models, load_model
    from simulator.cost.model_config import model_shape

    rows: Rows = [("model", "parameters", "active", "weights", "KV a token", "beyond grouped-query attention")]
    for name in list_models():
        shape = model_shape(load_model(name))
        found = {
            "latent": shape.latent,
            f"{shape.windowed_layers} of {shape.layers} layers see {shape.window} tokens": shape.windowed_layers,
            f"{shape.linear.layers if shape.linear else 0} of {shape.layers} layers linear": shape.linear,
            f"{shape.quantised.kind if shape.quantised else ''} weights": shape.quantised,
        }
        counts = (f"{shape.parameters / 1e9:.1f} B", f"{shape.active_parameters / 1e9:.1f} B")
        sizes = (f"{shape.weight_bytes / 1e9:.0f} GB", f"{shape.kv_bytes_per_token / 1e3:.0f} kB")
        rows.append((name, *counts, *sizes, ", ".join(words for words, there in found.items() if there)))
    return rows


def _devices() -> Rows:
    from simulator.catalogue import list_devices, load_device
    from simulator.cost.device_rates import PEAKS

    rows: Rows = [("device", "memory", "bandwidth", *(f"{kind} TFLOPS" for kind in PEAKS), "link", "called")]
    for name in list_devices():
        device = load_device(name)
        peaks = (f"{device[key] / 1e12:.0f}" if key in device else "-" for key in PEAKS.values())
        link = f"{device['link']}, {device['link_bandwidth_bytes_per_s'] / 1e9:.0f} GB/s"
        memory, bandwidth = device["memory_bytes"] / 1e9, device["bandwidth_bytes_per_s"] / 1e12
        rows.append((name, f"{memory:.0f} GB", f"{bandwidth:.2f} TB/s", *peaks, link, device["name"]))
    return rows


def _aligned(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
