"""A search: what it tries follows from what it has tried, however often it was stopped."""

import json
from collections import Counter
from pathlib import Path

import pytest

from simulator.sweep.axes import canonical, parse_axes
from simulator.sweep.journal import NAME
from simulator.sweep.search import Search, Trial, at_an_edge, objective, proposed
from tests.sweep.inline import asked, document, small, swept, table
from traces.errors import InputError

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'rolloutsim[search]'")

KEYS = ("engine.max_num_seqs=2..32:log", "policy=none,fixed:2,das", "drafter.factor=0.5..4.0")
AIM = objective("makespan_s", False)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("search") / "small.parquet")


def test_a_search_that_was_stopped_tries_what_it_would_have_tried(trace: Path, tmp_path: Path) -> None:
    what = asked(document(trace), *KEYS, search=Search(24, seed=5, at_once=6))
    whole, ran = swept(what, tmp_path / "whole")
    assert ran == len(whole.outcomes) <= 24
    for stop in (3, 5):  # within a round each time
        with pytest.raises(KeyboardInterrupt):
            swept(what, tmp_path / "part", stop=stop)
    found, _ = swept(what, tmp_path / "part")
    assert table(what, found).equals(table(what, whole))
    lines = (tmp_path / "part" / NAME).read_text().splitlines()[1:]
    assert Counter(canonical(json.loads(line)["cell"]) for line in lines).most_common(1)[0][1] == 1
    assert len(lines) == len(found.outcomes)


def test_more_trials_go_on(trace: Path, tmp_path: Path) -> None:
    few, _ = swept(asked(document(trace), *KEYS, search=Search(10, at_once=4)), tmp_path / "few")
    first, again = swept(asked(document(trace), *KEYS, search=Search(16, at_once=4)), tmp_path / "few")
    whole, _ = swept(asked(document(trace), *KEYS, search=Search(16, at_once=4)), tmp_path / "whole")
    assert [one.cell for one in first.outcomes] == [one.cell for one in whole.outcomes]
    assert again == len(first.outcomes) - len(few.outcomes)


def test_it_finds_what_is_best() -> None:
    axes = parse_axes(("x=-10.0..10.0", "n=1..64:log", "p=a,b,c"))
    search, told = Search(120), list[Trial]()
    while len(told) < search.trials:
        for cell in proposed(search, axes, told, AIM):
            told.append(Trial(cell, (cell["x"] - 3) ** 2 + abs(cell["n"] - 20) + (0 if cell["p"] == "b" else 50)))
    best = min(told, key=lambda trial: trial.value or 0.0)
    assert best.value is not None
    assert best.value < 4, "by chance alone, 120 trials do so one time in ten"
    assert best.cell["p"] == "b"
    assert {type(trial.cell["n"]) for trial in told} == {int}


def test_cells_that_cannot_be_do_not_stop_it(trace: Path, tmp_path: Path) -> None:
    what = asked(document(trace), "engine.max_num_batched_tokens=8..64", "engine.max_num_seqs=2..32", search=Search(20))
    found = table(what, swept(what, tmp_path)[0]).to_pylist()
    assert Counter(row["status"] for row in found).keys() == {"done", "failed"}


def test_a_search_goes_by_one_row(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are 2 \(none, das\): name one policy, or --baseline"):
        swept(asked(document(trace, policies=["none", "das"]), KEYS[0], search=Search(4)), tmp_path)
    found, _ = swept(
        asked(document(trace, policies=["das"]), KEYS[0], baseline="none", search=Search(4)), tmp_path / "baseline"
    )
    assert {row["system"] for one in found.outcomes for row in one.rows} == {"das"}


def test_another_range_is_another_search(trace: Path, tmp_path: Path) -> None:
    swept(asked(document(trace), "engine.max_num_seqs=2..8", search=Search(4)), tmp_path)
    with pytest.raises(InputError, match=r"search.ranges.engine.max_num_seqs"):
        swept(asked(document(trace), "engine.max_num_seqs=2..9", search=Search(4)), tmp_path)
    with pytest.raises(InputError, match=r"search.* now it is null"):
        swept(asked(document(trace), "engine.max_num_seqs=2,8"), tmp_path)


def test_the_edge_of_a_range_is_told() -> None:
    axes = parse_axes(("a=1..8", "b=1..8:3", "c=1,2"))
    assert at_an_edge(axes, {"a": 4, "b": 4, "c": 1}) == []
    assert [line.split(" is ")[0] for line in at_an_edge(axes, {"a": 8, "b": 7, "c": 2})] == [
        "the best a = 8",
        "the best b = 7",
    ]
