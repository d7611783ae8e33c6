"""The page: its numbers are the tables', nothing in it is loaded or run, and odd results make sensible pages."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator.replay import run
from simulator.report.page import charts, words
from simulator.report.page.axes import line, staircase, stretches, ticks
from simulator.report.page.write import MOST_DRAWN, content, page, shown, write
from simulator.results import ACCEPTANCE, Result
from simulator.scenario import Scenario, build
from tests.report.conftest import PROFILE
from tests.report.parsed import checked
from traces.errors import InputError

HOSTILE = ("<script>document.title='pwned'</script>", "\"><img src=x onerror=\"document.title='pwned'\">", "a\x00b\u202ec\udcff",
           "{{ 7 * 7 }} {% raw %}", "'; }</style><script>document.title='pwned'</script>", "x" * 5000)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def put(table: pa.Table, column: str, values: list[object]) -> pa.Table:
    """The table with another column of that name."""
    return table.set_column(table.column_names.index(column), column, pa.array(values, table.schema.field(column).type))


def renamed(result: Result, names: dict[str, str]) -> Result:
    """The result with systems called otherwise, and hostile prompt ids."""
    tables = {}
    for name in ("runs", "rl_steps", "rollouts", "steps", "spans", "operators"):
        table = getattr(result, name)
        tables[name] = put(table, "system", [names[one] for one in table["system"].to_pylist()])
    ids = [HOSTILE[i % len(HOSTILE)].encode("utf-8", "replace").decode() for i in range(result.rollouts.num_rows)]
    tables["rollouts"] = put(tables["rollouts"], "prompt_id", ids)
    return dataclasses.replace(result, **tables)


def test_numbers_are_those_of_the_tables(result: Result, scenario: Scenario) -> None:
    read = checked(page(result, scenario, "rolloutsim replay 'a b'"))
    runs = result.runs.to_pylist()
    table = read.tables[read.captions.index("Policies")]
    for row, run_ in zip(table[1:], runs, strict=True):
        of = dict(zip((head.replace("\xa0", " ") for head in table[0]), row, strict=True))
        assert (of["policy"], of["makespan, s"], of["speed-up"]) == (
            run_["system"], f"{run_['makespan_s']:.2f}", f"{run_['speedup']:.3f}",
        )  # fmt: skip
        assert of["decode steps"] == f"{run_['decode_steps']:,}"
        assert of["preemptions"] == f"{run_['preemptions']:,}"
    assert sum(run_["preemptions"] for run_ in runs) > 0
    best = max(runs, key=lambda run_: run_["speedup"])
    assert f"{best['system']}: {best['speedup']:.2f} times as fast as none" in read.words
    for known in (
        result.about["trace"]["sha256"],
        result.about["profile"]["sha256"],
        "rolloutsim replay 'a b'",
        scenario.yaml(),
    ):
        assert known in read.words


def test_operators_add_up_to_the_decode_steps(result: Result, staged: tuple[Result, Scenario]) -> None:
    for one in (result, staged[0]):
        for name, operators in charts.seconds_by_operator(one, one.runs["system"].to_pylist()).items():
            mine = one.steps.filter(pa.array([system == name for system in one.steps["system"].to_pylist()]))
            assert sum(operators.values()) == pytest.approx(mine["duration_s"].to_numpy().sum(), rel=1e-9)
            assert all(seconds > 0 for seconds in operators.values())
    drafting = {row["system"]: row["seconds"] for row in result.operators.to_pylist() if row["operator"] == "drafting"}
    runs = {run_["system"]: run_["draft_s"] for run_ in result.runs.to_pylist() if run_["draft_s"] > 0}
    assert drafting == pytest.approx(runs, rel=0.05)  # priced on a sample of decode steps


def test_bars_end_where_their_numbers_say(result: Result) -> None:
    runs = result.runs.to_pylist()
    chart = charts.makespans(runs)
    most = 1.02 * max(run_["makespan_high_s"] for run_ in runs)
    for bar, run_ in zip(chart.rows, runs, strict=True):
        end = bar.parts[-1].at + bar.parts[-1].width
        assert end == pytest.approx(100 * run_["makespan_s"] / most, abs=0.02)
        assert bar.low is not None
        assert bar.low < end < (bar.high or 0)


def test_live_batches_stand_where_they_ran(result: Result, staged: tuple[Result, Scenario]) -> None:
    for one in (result, staged[0]):
        runs = one.runs.to_pylist()
        live = charts.live(one, runs)
        end_s = 1.01 * max(run_["run_s"] for run_ in runs)
        assert not live.missing
        for strip, run_ in zip(live.rows, runs, strict=True):
            moves = [int(x) for x in re.findall(r"H(\d+)", strip.live)]
            last = max(
                row["start_s"] + row["makespan_s"]
                for row in one.rl_steps.to_pylist()
                if row["system"] == run_["system"]
            )
            assert moves == sorted(moves)
            assert moves[-1] == pytest.approx(2000 * last / end_s, abs=1)
    stages = {told for _, told in charts.live(staged[0], staged[0].runs.to_pylist()).legend}
    assert {"log_probs", "update", "sync", "reward"} <= stages


def test_page_of_systems_tells_stages_and_what_is_assumed(staged: tuple[Result, Scenario]) -> None:
    read = checked(page(*staged))
    (table,) = [
        table for table, caption in zip(read.tables, read.captions, strict=True) if caption.startswith("Systems")
    ]
    speedups = [f"{value:.3f}" for value in staged[0].runs["gpu_speedup"].to_pylist()]
    assert [row[1] for row in table[1:]] == speedups
    (steps,) = [
        table for table, caption in zip(read.tables, read.captions, strict=True) if caption.startswith("Seconds from")
    ]
    assert [row[0] for row in steps[1:]] == ["1", "2"]
    assert "FLOPs a parameter and token" in read.words
    assert "What a sample costs in GPU time" in read.words


def test_lossy_systems_are_marked(result: Result) -> None:
    runs = changed(result, lossless=[True, False, True]).runs.to_pylist()
    for chart in (charts.makespans(runs), charts.gpu_time(runs)):
        assert chart is not None
        assert [bar.told.endswith("lossy") for bar in chart.rows] == [False, True, False]


def test_hostile_names_are_text(result: Result, scenario: Scenario, tmp_path: Path) -> None:
    names = dict(zip(("none", "fixed:4", "das"), HOSTILE[:2] + HOSTILE[4:5], strict=True))
    odd = renamed(result, names)
    about = {**odd.about, "trace": {"path": HOSTILE[2] + HOSTILE[0], "sha256": HOSTILE[1]}, "warnings": HOSTILE}
    odd = dataclasses.replace(odd, about=about)
    file = tmp_path / "page.html"
    write(odd, scenario, file, HOSTILE[0])
    text = file.read_text("utf-8")
    read = checked(text)
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "\\u202e" in text
    assert HOSTILE[0] in read.words
    assert HOSTILE[3] in read.words
    assert "x" * 2001 not in text
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the page was parsed, and not opened in a browser")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
               f"--user-data-dir={tmp_path / 'chromium'}", "--dump-dom", file.as_uri()]  # fmt: skip
    shown_ = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>pwned" not in shown_
    assert "<script" not in shown_
    assert "<img" not in shown_
    assert "Where decoding time goes" in shown_


def test_a_browser_would_have_run_it_unescaped(tmp_path: Path) -> None:
    """The check above can fail: the same script in a page of its own is run."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    file = tmp_path / "page.html"
    file.write_text(f"<!DOCTYPE html><title>calm</title>{HOSTILE[0]}")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
               f"--user-data-dir={tmp_path / 'chromium'}", "--dump-dom", file.as_uri()]  # fmt: skip
    assert "<title>pwned" in subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def changed(result: Result, **columns: list[object]) -> Result:
    runs = result.runs
    for name, values in columns.items():
        runs = put(runs, name, values)
    return dataclasses.replace(result, runs=runs)


@pytest.mark.parametrize(
    ("columns", "headline", "line"),
    [
        ({"speedup": [1, 0.5, 0.8]}, "Nothing beats none", "das, is slower: 0.80 times"),
        ({"speedup": [1, 0.999, 1.002]}, "Nothing beats none", "das, makes no difference"),
        ({"speedup": [1, 1.5, 1.2], "gpu_speedup_low": [1, 0.9, 1.1], "gpu_speedup_high": [1, 2, 2]},
         "fixed:4: 1.50 times as fast as none", "so perhaps no gain"),
        ({"speedup": [1, 1.5, 1.2], "gpu_speedup_low": [1, 1.2, 1.1]}, "fixed:4: 1.50 times", "a gain in any case"),
        ({"speedup": [1, 1.5, 1.2], "lossless": [True, False, True]}, "das: 1.20 times", "Faster still, but lossy"),
        ({"speedup": [1, 1.5, 0.9], "lossless": [True, False, True]}, "fixed:4: 1.50 times", "fixed:4 is lossy"),
        ({"extrapolated_fraction": [0.4] * 3}, "times as fast", "40% of its decoding time lies outside"),
    ],
)  # fmt: skip
def test_verdict_says_what_the_figures_say(
    result: Result, columns: dict[str, list[object]], headline: str, line: str
) -> None:
    verdict = words.verdict(changed(result, **columns))
    assert headline in verdict.headline
    assert any(line in one for one in verdict.lines)


def test_tests_against_chance_are_told(made: dict[str, str]) -> None:
    scenario = build(
        {"trace": made["few"], "profile": PROFILE, "policies": ["none", "fixed:4"], "compare": {"bootstrap": 20}}
    )
    compared = run(scenario)
    assert compared.comparison is not None
    row = compared.comparison.table.to_pylist()[1]
    read = checked(page(compared, scenario))
    table = read.tables[read.captions.index("Held against none")]
    assert [table[2][i] for i in (0, 1, 5)] == ["fixed:4", f"{row['speedup']:.3f}", row["verdict"]]
    assert any("Tested against chance" in told for told in words.verdict(compared).lines)
    table = put(compared.comparison.table, "verdict", ["baseline", "no detectable difference"])
    unsure = dataclasses.replace(compared, comparison=dataclasses.replace(compared.comparison, table=table))
    assert words.verdict(unsure).headline.endswith("as fast as none, perhaps by chance")
    assert any("not tested" in told for told in words.verdict(dataclasses.replace(compared, comparison=None)).lines)


def test_one_rollout_under_one_policy_is_a_page(made: dict[str, str]) -> None:
    alone = build({"trace": made["one"], "profile": PROFILE, "policies": ["none"], "steps": [0]})
    read = checked(page(run(alone), alone))
    assert "Nothing to compare with" in read.words
    assert "Replayed: 1 rollout, " in read.words


def test_what_was_not_kept_is_said(result: Result, scenario: Scenario) -> None:
    part = dataclasses.replace(result, steps=result.steps.slice(100), acceptance=ACCEPTANCE.empty_table())
    read = checked(page(part, scenario))
    assert "not every decode step was kept: none" in read.words
    assert "which proposes nothing" in read.words


def test_many_systems_are_cut_and_the_page_says_so(result: Result, scenario: Scenario) -> None:
    count = 40
    row = result.runs.slice(1, 1)
    names = [f"policy {i} {'long ' * 100}" for i in range(count)]
    more = pa.concat_tables([put(row, "system", [name]) for name in names])
    many = dataclasses.replace(result, runs=pa.concat_tables([result.runs.slice(0, 1), put(more, "policy", names)]))
    rollouts = [put(result.rollouts.slice(0, 1), "system", [name]) for name in names]
    many = dataclasses.replace(many, rollouts=pa.concat_tables([result.rollouts, *rollouts]))
    shown_ = content(many, scenario)
    assert len(shown_["makespans"].rows) == MOST_DRAWN
    read = checked(page(many, scenario))
    assert f"the fastest {MOST_DRAWN - 1} of {count} others" in read.words
    lossy = dataclasses.replace(many, runs=put(many.runs, "lossless", [True] + [False] * (count - 1) + [True]))
    lossy = dataclasses.replace(lossy, runs=put(lossy.runs, "speedup", [1.0] + [3.0] * (count - 1) + [2.0]))
    assert names[-1] in [bar.name for bar in content(lossy, scenario)["makespans"].rows]
    assert len(read.tables[read.captions.index("Policies")]) == count + 2


def test_a_file_that_cannot_be_written_is_the_users_error(result: Result, scenario: Scenario, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="create the folder"):
        write(result, scenario, tmp_path / "absent" / "page.html")


def test_text_is_shown_or_spelt_out() -> None:
    assert shown("a\tb\x1b[0m\nc\u200e") == "a\\tb\\x1b[0m\nc\\u200e"
    assert shown("é→日本 ×") == "é→日本 ×"
    assert shown("x" * 11, 10) == "x" * 10 + "… (1 characters more)"


@pytest.mark.parametrize(("most", "labels"), [(10.0, "0 2 4 6 8 10"), (0.031, "0 0.005 0.01 0.015 0.02 0.025 0.03"),
                                              (12345.0, "0 2,000 4,000 6,000 8,000 10,000 12,000")])  # fmt: skip
def test_ticks_are_round(most: float, labels: str) -> None:
    found = ticks(most, 5)
    assert " ".join(tick.label for tick in found) == labels
    assert all(tick.at == pytest.approx(100 * float(tick.label.replace(",", "")) / most) for tick in found)


def test_paths_are_the_series() -> None:
    x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([2.0, 2.0, 1.0, 0.0])
    assert staircase(x, y, 4.0, 2.0) == "M0,200V0H1000V100H2000V200H2000V200Z"
    assert stretches([(0.0, 1.0), (1.0, 2.0), (3.0, 3.0)], 4.0) == "M0,0H1000V200H0ZM1500,0H1501V200H1500Z"
    assert line(x, np.array([0.0, np.nan, 1.0, 2.0]), 4.0, 2.0) == "M0,200.0M1000,100.0L2000,0.0"
