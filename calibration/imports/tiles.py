"""GEMM times by tokens: steps at multiples of the tile that the kernel works in, flat between them.

Between two measured sizes a straight line is wrong by half a step where a step lies between them. The tile is the one with
which measured sizes that were left out are predicted best.
"""

import numpy as np
import numpy.typing as npt

from calibration.grids import errors_of

Float64 = npt.NDArray[np.float64]

TILES = (0, 64, 128)
"""Tokens of a tile; 0: no steps."""


def stepped(tokens: Float64, time_us: Float64) -> tuple[Float64, Float64, dict[str, float]]:
    """(tokens, times, held-out error), with a point on either side of each step between measured sizes."""
    out = np.arange(1, tokens.size - 1, 2)
    kept = np.setdiff1d(np.arange(tokens.size), out)
    errors = {}
    for tile in TILES:
        predicted = np.interp(tokens[out], *_with_steps(tokens[kept], time_us[kept], tile))
        errors[tile] = errors_of(predicted, time_us[out])
    best = min(TILES, key=lambda tile: errors[tile]["p95"])
    return (*_with_steps(tokens, time_us, best), errors[best])


def _with_steps(tokens: Float64, time_us: Float64, tile: int) -> tuple[Float64, Float64]:
    """Where the sizes on both sides of a gap lie in different tiles: flat up to the last multiple, flat from there on."""
    if tile == 0:
        return tokens, time_us
    grid, values = [tokens[0]], [time_us[0]]
    for low, high, before, after in zip(tokens[:-1], tokens[1:], time_us[:-1], time_us[1:], strict=True):
        edge = np.ceil(low / tile) * tile  # the last size in the tile of `low`
        first = np.floor((high - 1) / tile) * tile  # the last size before the tile of `high`
        if edge < high:
            grid += [edge] if edge > low else []
            values += [before] if edge > low else []
            if first + 1 < high and first + 1 > grid[-1]:
                grid.append(first + 1)
                values.append(after)
        grid.append(high)
        values.append(after)
    return np.array(grid), np.array(values)
