"""Pictures of a sweep: which cells are on the frontier, and that odd sweeps can be drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.report.sweep_plots import Drawn, frontier, keys, pareto, save_sweep_plots


def drawn(*rows: dict[str, Any], columns: tuple[str, ...] = ("a",), **more: Any) -> Drawn:
    base = {"policy": "none", "system": "none", "makespan_s": 1.0, "drafted_tokens": 0}
    return Drawn([base | row for row in rows], columns, more.get("sought", "makespan_s"), False, "4 cells")


def test_nothing_beats_the_frontier() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 40, 200).astype(float), rng.random(200).round(1)
    best = {(x[i], y[i]) for i in pareto(x, y)}
    beaten = {(a, b) for a, b in zip(x, y, strict=True) if any((x <= a) & (y <= b) & ((x < a) | (y < b)))}
    assert best == {*zip(x, y, strict=True)} - beaten


def test_the_frontier_shows_time_by_policy() -> None:
    rows = [
        {"policy": name, "makespan_s": s, "drafted_tokens": n}
        for name, s, n in (("none", 9, 0), ("das", 4, 50), ("x", 6, 90))
    ]
    axes = frontier(drawn(*rows)).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["none", "das", "x", "frontier"]  # type: ignore[union-attr]
    assert axes.lines[-1].get_xydata().tolist() == [[0, 9], [50, 4]]  # type: ignore[union-attr]
    assert axes.get_ylabel() == "makespan, s"
    assert frontier(drawn(*rows, sought="drafted_tokens")).axes[0].get_ylabel() == "makespan, s"


@pytest.mark.parametrize("values", [
    [1, 2, 4, 64], [0.5], [None, 3], ["none", "a very long name of a policy"], [True, False], [[1], [2]], list(range(40)),
])  # fmt: skip
def test_a_panel_a_key_whatever_its_values(values: list[Any]) -> None:
    figure = keys(drawn(*({"a": value, "makespan_s": float(number)} for number, value in enumerate(values))))
    (axes,) = figure.axes
    assert len(axes.lines[0].get_xdata()) == len(values)  # type: ignore[arg-type]
    figure.canvas.draw()


def test_of_nothing_there_is_no_picture(tmp_path: Path) -> None:
    assert save_sweep_plots(drawn(), tmp_path) == []
    assert len(save_sweep_plots(drawn({"a": 1}), tmp_path)) == 2


def test_more_keys_than_panels_are_told() -> None:
    columns = tuple("abcdefgh")
    figure = keys(drawn(dict.fromkeys(columns, 1), dict.fromkeys(columns, 2), columns=columns))
    assert len(figure.axes) == 6
    assert "2 more keys" in " ".join(text.get_text() for text in figure.texts)
