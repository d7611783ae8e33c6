"""From values to scenarios, and which values are refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from simulator.sweep.axes import parse_axes
from simulator.sweep.grid import Study, check, grid, in_order
from tests.sweep.inline import document
from traces.errors import InputError

BASE = document(Path("nowhere.parquet"))


def checked(*keys: str, baseline: str | None = None, **more: Any) -> None:
    check(Study(BASE | more, baseline), parse_axes(keys))


def test_a_cell_is_the_scenario_with_its_values() -> None:
    study = Study(BASE)
    (first, *_, last) = grid(parse_axes(("engine.max_num_seqs=8,16", "policy=none,das", "drafter.window=1..2")))
    assert first == {"engine.max_num_seqs": 8, "policy": "none", "drafter.window": 1}
    found = study.scenario(last)
    assert (found.engine.max_num_seqs, found.policies, found.drafter.window) == (16, ["das"], 2)  # type: ignore[union-attr]
    assert document(Path("nowhere.parquet")) == BASE, "a cell changed what all of them begin with"


def test_a_whole_section_is_set_before_what_is_in_it() -> None:
    (cell,) = grid(parse_axes(("drafter.window=3", "drafter={kind: suffix, depth: 9}")))
    drafter: Any = Study(BASE).scenario(cell).drafter
    assert (drafter.window, drafter.depth) == (3, 9)
    (again,) = grid(parse_axes(("drafter={kind: suffix, depth: 9}",)))
    assert again["drafter"] == {"kind": "suffix", "depth": 9}, "a cell's own value was written into"


def test_a_baseline_comes_first() -> None:
    study = Study(BASE, "none")
    assert study.scenario({"policy": "das"}).policies == ["none", "das"]
    assert study.scenario({"policy": "none"}).policies == ["none"]
    assert Study(BASE | {"policies": ["das", "none", "fixed:2"]}, "none").scenario({}).policies == [
        "none",
        "das",
        "fixed:2",
    ]


def test_cells_that_draft_alike_follow_each_other_after_one_of_each() -> None:
    cells = grid(parse_axes(("engine.max_num_seqs=8,16,32", "drafter.window=1,2")))
    windows = [cell["drafter.window"] for cell in in_order(cells)]
    assert windows == [1, 2, 1, 1, 2, 2]


@pytest.mark.parametrize(("keys", "told"), [
    (("engine.max_num_seq=1",), "engine.max_num_seq: unknown key: did you mean 'engine.max_num_seqs'"),
    (("max_num_seqs=1",), "max_num_seqs: unknown key: did you mean 'engine.max_num_seqs'"),
    (("drafter.windw=1",), "did you mean 'drafter.window'"),
    (("polcy=none",), "did you mean 'policy'"),
    (("trace.path=1",), "is not a section"),
    (("engine.max_num_seqs=64,many",), "engine.max_num_seqs = 'many'"),
    (("engine.max_num_seqs=64,0",), "engine.max_num_seqs = 0"),
    (("policy=none,dsa",), "policy 'dsa' is unknown"),
    (("drafter.kind=suffix", "drafter.window=-1"), "drafter.window = -1"),
])  # fmt: skip
def test_what_no_cell_can_have_is_refused_at_once(keys: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        checked(*keys)
    assert "\n" not in str(error.value)


def test_what_only_some_cells_cannot_have_is_theirs() -> None:
    checked("drafter.kind=ngram,suffix", "drafter.window=2,4")
    checked("engine.max_num_batched_tokens=16,64", "engine.max_num_seqs=32,64")


def test_too_many_cells_are_refused_before_they_are_made() -> None:
    with pytest.raises(InputError, match="that is 10,000,000,000 cells"):
        grid(parse_axes(("engine.max_num_seqs=1..100000", "drafter.depth=1..100000")))


def test_what_a_sweep_cannot_mean_is_refused() -> None:
    with pytest.raises(InputError, match="a sweep has no intervals"):
        checked("engine.max_num_seqs=2", compare={"bootstrap": 10})
    with pytest.raises(InputError, match="the scenario names systems"):
        checked("policy=das", systems=["das"])
    with pytest.raises(InputError, match="--baseline"):
        checked("engine.max_num_seqs=2", baseline="none", systems=["das"])
