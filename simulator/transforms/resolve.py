"""From a transform's name to the transform: a built-in, an installed entry point, or `module:attr`."""

from collections.abc import Callable
from typing import Any

from simulator.plugins import load
from simulator.transforms.cosine import cosine
from simulator.transforms.latent import latent
from simulator.transforms.lengths import compress, grow
from simulator.transforms.transform import Transform
from simulator.transforms.verify import verify
from simulator.transforms.weight_bits import weight_bits
from simulator.transforms.width import width
from traces.errors import InputError

TRANSFORMS: dict[str, Callable[[str], Transform]] = {
    "width": width,
    "compress": compress,
    "grow": grow,
    "latent": latent,
    "cosine": cosine,
    "verify": verify,
    "weight_bits": weight_bits,
}
ENTRY_POINTS = "rolloutsim.transforms"


def resolve_transform(spec: str) -> Transform:
    """Return the transform that `spec` names; InputError says what is wrong with the name."""
    name, _, argument = spec.partition(":")
    if build := TRANSFORMS.get(name):
        return build(argument)
    return _checked(load(spec, ENTRY_POINTS, "transform", list(TRANSFORMS)), spec)


def _checked(transform: Any, spec: str) -> Transform:
    for member in ("name", "lossless", "assumes"):
        if not hasattr(transform, member):
            raise InputError(f"transform {spec!r} has no {member}: a transform has name, lossless and assumes")
    checked: Transform = transform
    return checked
