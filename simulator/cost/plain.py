"""Says by name what a model has beyond the one kind of decoder that every measurement here can run or add up."""

from simulator.cost.shape import ModelShape
from traces.errors import InputError


def beyond_plain(shape: ModelShape) -> list[str]:
    """What it has beyond grouped-query attention to the whole context, two norms a layer and weights in 16 or 32 bits."""
    found = {
        "multi-head latent attention": shape.latent is not None,
        "linear attention": shape.linear is not None,
        "attention windows": shape.windowed_layers > 0,
        "attention gates or sinks": shape.output_gate or shape.sinks,
        "norms or biases of its own": shape.norms_per_layer != 2 or shape.norm_all_heads or shape.expert_bias,
        "quantised weights": shape.quantised is not None,
        "keys and values of another precision": shape.kv_element_bytes not in (None, shape.bytes_per_parameter),
    }
    return [what for what, there in found.items() if there]


def check_plain(shape: ModelShape, by: str) -> None:
    """Raise InputError for a model that `by` cannot run or add up, with what answers for it."""
    if found := beyond_plain(shape):
        raise InputError(
            f"the model has {', '.join(found)}, which {by} does not have: import tables of another source "
            "(`rolloutsim profile import --help`), or name model and device without a profile for a roofline estimate"
        )
