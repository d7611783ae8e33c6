"""How every benchmark times: medians of repeated runs, after one that is not counted."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def median_s(call: Callable[[], Any], runs: int = 7) -> float:
    """Return the median seconds of `call` over `runs` runs, after one warm-up."""
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def row(what: str, value: float, unit: str, target: str, note: str = "") -> None:
    """Print one line of the table."""
    print(f"| {what} | {value:,.3g} {unit} | {target} | {note} |", flush=True)
