"""Reported beside simulated, as lines of text."""

from collections.abc import Iterable
from statistics import median

from tests.reports.replay import Replayed

HEADER = (
    f"{'report':26} {'configuration':58} {'costs':8} {'plain':>6} {'accepted':>8} {'round':>6} {'sim.':>6} "
    f"{'speed-up':>8} {'sim.':>6} {'ratio':>6} {'90 % range':>13}  sign"
)


def line(one: Replayed) -> str:
    """One row: simulated over reported plain throughput, accepted length, a round's cost in plain steps, and speed-up.

    A round's cost and the speed-up stand twice: reported and simulated. costs: sums of measured kernels, or an estimate.
    """
    row = one.row
    plain = "" if one.plain_ratio is None else f"{one.plain_ratio:.2f}"
    costs = "" if one.simulated is None else "kernels" if one.by_kernels else "estimate"
    configuration = f"{one.name:26} {_configuration(one):58} {costs:8} {plain:>6}"
    reported = f"{row.length:8.2f} {row.length / row.speedup:6.2f}"
    if one.simulated is None or one.acceptance is None:
        return f"{configuration} {reported} {'':6} {row.speedup:8.2f} {'':6} {'':6} {'':13}  left out"
    ratio = one.simulated / row.speedup
    simulated = (
        f"{one.acceptance / one.simulated:6.2f} {row.speedup:8.2f} {one.simulated:6.2f} {ratio:6.2f} {_range(one):>13}"
    )
    return f"{configuration} {reported} {simulated}  {_sign(one)}"


def summary(rows: Iterable[Replayed]) -> list[str]:
    """Counts and errors, in all and by where costs are from, and why rows have the wrong sign or are left out."""
    found = list(rows)
    replayed = [one for one in found if one.simulated is not None]
    reports, used = len({one.name for one in found}), len({one.name for one in replayed})
    lines = [f"{used} of {reports} reports replayed, {len(replayed)} of {len(found)} rows: {_errors(replayed)}"]
    for by_kernels, costs in ((True, "measured kernels"), (False, "estimates")):
        if part := [one for one in replayed if one.by_kernels == by_kernels]:
            lines.append(f"with costs from {costs}, {len(part)} rows: {_errors(part)}")
    lines += [
        f"wrong: {one.name}, {_configuration(one)}: {one.row.wrong_because or 'not understood'}"
        for one in replayed
        if one.right is False
    ]
    left = {(one.name, one.problem) for one in found if one.problem}
    return [*lines, *(f"left out: {name}: {problem}" for name, problem in sorted(left))]


def _errors(rows: list[Replayed]) -> str:
    signed = [one for one in rows if one.right is not None]
    errors = [abs(one.simulated / one.row.speedup - 1) for one in rows if one.simulated is not None]
    plain = [one.plain_ratio for one in rows if one.plain_ratio is not None]
    text = f"sign right in {sum(bool(one.right) for one in signed)} of {len(signed)}"
    text += f", median error of the speed-up {median(errors):.0%}" if errors else ""
    if ranged := [one.within for one in rows if one.within is not None]:
        text += f", reported one within the simulated range in {sum(ranged)} of {len(ranged)}"
    return text + (f", median of plain throughput over the reported {median(plain):.2f}" if plain else "")


def _range(one: Replayed) -> str:
    if one.speedup_range is None:
        return "-"
    low, high = one.speedup_range
    return f"{low:.2f} to {high:.2f}"


def _configuration(one: Replayed) -> str:
    row, of = one.row, one.report.setting(one.row)
    gpus = f"{of['tensor_parallel']} x " if of["tensor_parallel"] > 1 else ""
    weights = "" if of["weights"] == "bf16" else f" {of['weights']}"
    tree = f" tree {row.tree.verified}" if row.tree else ""
    against = f" over {row.against.k}" if row.against else ""
    return f"{of['model']}{weights}, {gpus}{of['device']}, {row.drafter} {row.k}{tree}{against}, {row.live} live"


def _sign(one: Replayed) -> str:
    return {True: "right", False: "WRONG", None: "open"}[one.right]
