"""Public reports of speculative decoding, replayed: whether it pays must come out as it was measured."""

from pathlib import Path

import numpy as np
import pytest

from simulator.drafting.cost import load_draft_cost
from simulator.drafting.default_price import HOST
from tests.reports.facts import Drafts, Report, Row, load_report, load_reports
from tests.reports.host_time import host_time
from tests.reports.replay import Replayed, curve, replay
from tests.reports.summary import HEADER, line, summary
from traces.errors import InputError

REPORTS = load_reports()
LEAST_RIGHT = 0.9
"""Share of the rows that say whether speculation paid, in which the replay says the same."""


@pytest.fixture(scope="module")
def replayed() -> list[Replayed]:
    return [one for name, report in REPORTS.items() for one in replay(name, report)]


def test_signs_are_right(replayed: list[Replayed]) -> None:
    print(HEADER, *map(line, replayed), *summary(replayed), sep="\n")
    signed = [one for one in replayed if one.right is not None]
    assert len(signed) >= 60
    wrong = [one for one in signed if not one.right]
    assert len(wrong) <= (1 - LEAST_RIGHT) * len(signed), [line(one) for one in wrong]


def test_marks_of_wrong_rows_are_taken_away_when_they_are_right(replayed: list[Replayed]) -> None:
    assert not [line(one) for one in replayed if one.row.wrong_because is not None and one.right]


def test_a_replay_accepts_what_was_reported(replayed: list[Replayed]) -> None:
    ratios = {line(one): one.acceptance / one.row.length for one in replayed if one.acceptance is not None}
    assert len(ratios) >= 30
    assert not {row: ratio for row, ratio in ratios.items() if abs(ratio - 1) > 0.06}


def test_reports_are_as_many_and_as_mixed_as_they_should_be() -> None:
    rows = [(report, row) for report in REPORTS.values() for row in report.rows]
    assert len(REPORTS) >= 25
    assert len({report.source.model_dump_json() for report in REPORTS.values()}) == len(REPORTS)
    assert len({report.setting(row)["device"] for report, row in rows}) >= 10
    assert sum(row.faster is False for _, row in rows) >= 15


def test_the_shipped_host_time_is_the_one_that_its_report_gives() -> None:
    per_step_s, per_pass_s, error = host_time()
    shipped = load_draft_cost(HOST)
    assert (shipped.per_step_s, shipped.per_pass_s) == pytest.approx((per_step_s, per_pass_s), rel=5e-3)
    assert error < 0.17


@pytest.mark.parametrize(
    "drafts", [Drafts(k=1, acceptance=1.6), Drafts(k=7, acceptance=3.5), Drafts(k=32, acceptance=2.2)]
)
def test_one_probability_gives_the_mean_accepted_length(drafts: Drafts) -> None:
    conditional = curve(drafts)
    assert len(set(conditional)) == 1
    assert 1 + np.cumprod(conditional).sum() == pytest.approx(drafts.length)


def test_rates_by_position_become_a_curve() -> None:
    assert curve(Drafts(k=3, rates=[0.8, 0.4, 0.3])) == pytest.approx([0.8, 0.5, 0.75])


REPORT = {
    "source": {"arxiv": "2503.01840"}, "engine": "sglang", "model": "llama-3.1-8b", "device": "h100", "workload": "chat",
    "input_tokens": 1, "output_tokens": 1, "measure": "throughput", "assumed": [],
    "rows": [{"drafter": "eagle", "live": 1, "k": 2, "acceptance": 2.0, "speedup": 1.2}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": {"repository": "a/b"}}, "source.repository: give a repository and a number or a file"),
        ({"assumed": ["weather"]}, "assumed = 'weather' is no field"),
        ({"rows": []}, "rows"),
        ({"rows": [{"drafter": "eagle", "live": 1, "k": 2, "speedup": 1.2}]}, "acceptance: missing"),
        (
            {"rows": [{"drafter": "eagle", "live": 1, "k": 1, "acceptance": 2.5, "speedup": 1.2}]},
            "exceeds the 2 tokens",
        ),
        ({"rows": [{"drafter": "eagle", "live": 1, "k": 3, "acceptance": 2.0, "speedup": 3.0}]}, "say so in left_out"),
        (
            {"rows": [{"drafter": "eagle", "live": 1, "k": 2, "rates": [0.3, 0.6], "speedup": 1.2}]},
            "none above the one before",
        ),
    ],
)
def test_a_report_that_cannot_be_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    Report(**REPORT)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        Report(**(REPORT | change))  # type: ignore[arg-type]


def test_a_file_is_named_with_its_fault(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("source: {arxiv: '1'}\nweather: fine\n")
    with pytest.raises(InputError, match=r"one\.yaml: "):
        load_report(tmp_path / "one.yaml")


@pytest.mark.parametrize(
    ("speedup", "spread", "faster"), [(1.04, 0, None), (1.06, 0, True), (0.8, 0.3, None), (0.8, 0.1, False)]
)
def test_a_report_near_one_says_nothing(speedup: float, spread: float, faster: bool | None) -> None:
    row = Row(drafter="mtp", live=1, k=1, acceptance=1.9, speedup=speedup, spread=spread)
    assert row.faster is faster
