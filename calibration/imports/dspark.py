"""SGLang's additive cost table of DSpark: a step's seconds are a bias, a cost by requests and a cost by query tokens.

JSON with bias_seconds > 0, alpha_seconds at bs_probes requests, and theta_seconds at m_probes query tokens (a request's own
token and its drafts to verify), both interpolated linearly; SGLang holds the outermost values beyond the probes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.cost.model import Profile
from simulator.cost.operators import Affine, Bounds, Operator, Table, row
from simulator.cost.work import StepWork
from traces.errors import InputError
from traces.files import check_is_no_device

Float64 = npt.NDArray[np.float64]

PARTS = {"bs_probes": ("alpha_seconds", "live"), "m_probes": ("theta_seconds", "query_tokens")}
"""Values and our feature of each list of probes."""
KEYS = ("bias_seconds", *(key for probes, (values, _) in PARTS.items() for key in (probes, values)))
BY_REQUESTS = ("live", "decode_seqs", "sampled_tokens")
BY_TOKENS = ("query_tokens", "padded_tokens", "expert_tokens")
"""Features that decode steps share with the table's; the first of each is its own."""
MOST_REQUESTS, MOST_TOKENS = 256.0, 2048.0
"""Ends of the probes where a profile bounds neither."""


def import_dspark(path: Path, model: str, device: str) -> Profile:
    """Profile that costs what SGLang's table says within its probes; beyond, it goes on as the last two do.

    Raises InputError.
    """
    table = _read(path)
    constant = table["bias_seconds"][0]
    operators: list[Operator] = []
    valid: Bounds = {}
    for probes, (values, feature) in PARTS.items():
        points, seconds = table[probes], table[values]
        valid[feature] = (float(points[0]), float(points[-1]))
        # a table's costs are >= 0, those of a fit need not be: what all of them lack is taken from the bias
        shift = min(float(seconds.min()), 0.0) if points.size > 1 else float(seconds[0])
        constant += shift
        if points.size > 1:
            operators.append(Table(values.removesuffix("_seconds"), (feature,), (points,), seconds - shift))
    if not constant > 0:
        raise InputError(
            f"{path}: bias_seconds and the lowest of the others sum to {constant:g}: a step takes time; fit it again"
        )
    return Profile(
        name=f"{model} on {device}, DSpark",
        kind="table" if operators else "affine",
        operators=(Affine("bias", row(constant=float(constant))), *operators),
        model=model,
        device=device,
        source=f"SGLang DSpark cost table {path.name}",
        uncertainty="no error is recorded in such a table",
        valid_range=valid,
        notes="Contexts cost nothing of their own: those that it was measured at are in the other costs.",
    )


def export_dspark(
    profile: Profile,
    context_tokens: float,
    most_drafts: int = 8,
    requests: Sequence[int] = (),
    tokens: Sequence[int] = (),
) -> tuple[dict[str, Any], Float64]:
    """SGLang's table of a profile's decode steps at one context, and the relative errors of its fit.

    Least squares on the relative error of all steps that the probes span, each request with up to `most_drafts` drafts.
    Probes left out are those of the profile's own tables of such costs, else powers of two. Raises InputError.
    """
    bs = _probes("requests", requests, profile, BY_REQUESTS, MOST_REQUESTS)
    m = _probes("tokens", tokens, profile, BY_TOKENS, MOST_TOKENS)
    m = m[m >= bs[0]]
    asked = (m >= bs[:, None]) & ((m <= bs[:, None] * (1 + most_drafts)) | (bs[:, None] == bs[-1]))
    if m.size == 0 or not (asked.any(axis=0).all() and asked.any(axis=1).all()):
        raise InputError(
            f"probes of {bs[-1]:g} requests at most and {m.max(initial=0):g} tokens: every request needs a token"
        )
    row_at, column_at = np.nonzero(asked)
    seconds = profile.step_time_s(StepWork.decode(bs[row_at], context_tokens, m[column_at] / bs[row_at]))
    terms = np.zeros((seconds.size, 1 + bs.size + m.size))
    here = np.arange(seconds.size)
    terms[:, 0] = terms[here, 1 + row_at] = terms[here, 1 + bs.size + column_at] = 1
    fitted = np.linalg.lstsq(terms / seconds[:, None], np.ones(seconds.size), rcond=None)[0]
    alpha, theta = fitted[1 : 1 + bs.size], fitted[1 + bs.size :]
    # only sums count: what the first probes cost is the bias, so that it is the time of a step, and > 0
    document = {
        "bias_seconds": float(fitted[0] + alpha[0] + theta[0]),
        "bs_probes": [int(probe) for probe in bs],
        "alpha_seconds": (alpha - alpha[0]).tolist(),
        "m_probes": [int(probe) for probe in m],
        "theta_seconds": (theta - theta[0]).tolist(),
    }
    return document, np.asarray(terms @ fitted / seconds - 1)


def _probes(what: str, given: Sequence[int], profile: Profile, features: tuple[str, ...], most: float) -> Float64:
    if given:
        probes = np.array(given, dtype=np.float64)
        if not ((probes >= 1).all() and (np.diff(probes) > 0).all()):
            raise InputError(f"probes of {what} {', '.join(map(str, given))}: give ascending whole numbers >= 1")
        return probes
    own = [
        points
        for one in profile.operators
        for axis, points in (zip(one.axes, one.grid, strict=True) if isinstance(one, Table) else ())
        if axis == features[0]
    ]
    if own:
        points = np.unique(np.concatenate(own))
        return np.asarray(points[(points >= 1) & (points == np.rint(points))])
    highest = min([most, *(profile.valid_range[name][1] for name in features if name in profile.valid_range)])
    return np.asarray(2.0 ** np.arange(int(np.log2(max(highest, 1.0))) + 1))


def _read(path: Path) -> dict[str, Float64]:
    """Every key of the table as an array, checked."""
    check_is_no_device(path)
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: cannot be read ({reason}): give the JSON of a DSpark cost table") from None
    if isinstance(document, dict) and "sample_steps_per_sec" in document:
        raise InputError(
            f"{path}: sample_steps_per_sec is a table by tokens alone: give the additive one, with {', '.join(KEYS)}"
        )
    if not isinstance(document, dict) or (missing := [key for key in KEYS if key not in document]):
        problem = f"{missing[0]} is missing" if isinstance(document, dict) else "holds no object"
        raise InputError(f"{path}: {problem}: a DSpark cost table has {', '.join(KEYS)}")
    table = {key: _numbers(path, document, key) for key in KEYS}
    for probes, (values, _) in PARTS.items():
        points = table[probes]
        if points.size == 0 or points.size != table[values].size:
            raise InputError(
                f"{path}: {points.size} {probes} and {table[values].size} {values}: give one value for each probe"
            )
        if not ((points >= 1).all() and (points == np.rint(points)).all() and (np.diff(points) > 0).all()):
            raise InputError(f"{path}: {probes} = {str(document[probes])[:60]}: give ascending whole numbers >= 1")
    return table


def _numbers(path: Path, document: Mapping[str, Any], key: str) -> Float64:
    value = document[key]
    numbers = [value] if key == "bias_seconds" else value if isinstance(value, list) else [None]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e300:
            raise InputError(
                f"{path}: {key} = {str(value)[:60]}: give {'a number' if numbers == [value] else 'a list of numbers'}"
            )
    return np.array(numbers, dtype=np.float64)
