"""How acceptance changes with what a drafter has been trained on."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def relaxed(start: npt.ArrayLike, limit: npt.ArrayLike, samples: float, half_life: float) -> Float64:
    """Return what becomes of `start`: half of the way that is left to `limit` is gone after every `half_life` samples.

    limit + (start - limit) 2^(-samples / half_life), written so that no samples, or an infinite half-life, leave `start` as it
    is to the bit. samples: 0 or more; half_life: above 0.
    """
    left = 2.0 ** (-samples / half_life)
    found: Float64 = np.asarray(start, np.float64) * left + np.asarray(limit, np.float64) * (1.0 - left)
    return found
