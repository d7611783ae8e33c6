"""The host's part of a draft model's price, out of the report that it is set from: `python -m tests.reports.host_time`."""

import numpy as np

from simulator.catalogue import load_device, load_model
from simulator.cost.roofline import KERNEL_S, roofline
from simulator.cost.work import StepWork
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.default_price import HOST, LAYERS, head_config
from tests.reports.facts import Report, Row, load_reports

SET_FROM = "vllm-20780"


def beyond_kernels_s(report: Report, row: Row) -> float:
    """Seconds of a round beyond a plain step and the kernels of the head's passes."""
    assert row.plain_tokens_per_s is not None
    kind = row.drafter
    assert kind in ("eagle", "eagle3")
    head = roofline(
        head_config(kind, load_model(report.model), LAYERS[kind]), load_device(report.device), kernel_s=KERNEL_S
    )
    plain_s = 1 / row.plain_tokens_per_s
    return row.length / row.speedup * plain_s - plain_s - row.k * float(head.step_time_s(StepWork.decode(1, 0)))


def host_time(kinds: tuple[str, ...] = ("eagle", "eagle3")) -> tuple[float, float, float]:
    """Seconds a step and seconds a pass, least squares over the rows of these kinds, and the largest error, over a round."""
    report = load_reports()[SET_FROM]
    rows = [row for row in report.rows if row.drafter in kinds]
    of = np.array([[1, row.k] for row in rows])
    seconds = np.array([beyond_kernels_s(report, row) for row in rows])
    per_step_s, per_pass_s = np.linalg.lstsq(of, seconds, rcond=None)[0].tolist()
    rounds = np.array([row.length / row.speedup / (row.plain_tokens_per_s or np.nan) for row in rows])
    return per_step_s, per_pass_s, float(np.abs((of @ (per_step_s, per_pass_s) - seconds) / rounds).max())


def main() -> None:
    """Print it for both heads, for each alone, and what is shipped."""
    for kinds in (("eagle", "eagle3"), ("eagle",), ("eagle3",)):
        per_step_s, per_pass_s, error = host_time(kinds)
        told = f"{per_step_s * 1e3:.3f} ms a step, {per_pass_s * 1e3:.3f} ms a pass, rounds within {error:.0%}"
        print(f"{' and '.join(kinds)}: {told}")
    shipped = load_draft_cost(HOST)
    print(f"shipped: {shipped.per_step_s * 1e3:.3f} ms a step, {shipped.per_pass_s * 1e3:.3f} ms a pass")


if __name__ == "__main__":
    main()
