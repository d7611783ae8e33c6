"""The figures of a description, against values worked out by hand or by another route."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from traces import io
from traces.description import between_prompt_share, describe, tail_share
from traces.plots import live_share, plot_lengths, save


def trace_of(lengths, prompts=None, steps=None, **columns):
    n = len(lengths)
    return io.from_table(
        pa.table(
            {
                "step": np.zeros(n, int) if steps is None else steps,
                "prompt_id": [f"p{code}" for code in (range(n) if prompts is None else prompts)],
                "sample": np.arange(n),
                "prompt_tokens": np.ones(n, int),
                "output_tokens": np.asarray(lengths),
                **columns,
            }
        )
    )


def test_tail_share_against_a_simulated_countdown():
    rng = np.random.default_rng(1)
    for n in (1, 5, 9, 10, 11, 20, 57, 200):
        lengths = rng.integers(1, 300, n).astype(np.int32)
        live = [(lengths > step).sum() for step in range(lengths.max())]
        assert tail_share(lengths) == pytest.approx(np.mean([10 * count < n for count in live]))
    assert tail_share(np.full(50, 7, np.int32)) == 0.0


def test_step_figures_and_totals():
    figures = describe(trace_of([10] * 9 + [20] * 9 + [40, 100], steps=[0] * 9 + [1] * 11))
    assert figures["rollouts"] == 20
    assert figures["steps"] == 2
    assert figures["output_tokens"] == 9 * 10 + 9 * 20 + 140
    assert figures["length_tokens"]["p50"] == 20
    assert figures["length_tokens"]["max"] == 100
    first, second = figures["per_step"]
    assert (first["rollouts"], first["tail_share"]) == (9, 0.0)
    assert (second["rollouts"], second["tail_share"]) == (11, 0.6)  # one of 11 live after 40 of 100 steps
    assert figures["tail_share"] == pytest.approx(60 / 110)


def test_censoring_and_the_cap_hint(make_table):
    figures = describe(io.from_table(make_table()))
    assert figures["finish_reasons"] == {"stop": 1, "length": 1, "aborted": 0, "unknown": 1}
    assert figures["censored_share"] == 0.5
    unknown = describe(trace_of([5, 9, 9]))
    assert unknown["censored_share"] is None
    assert "2 rollouts are exactly 9 tokens" in unknown["hints"][0]
    assert describe(trace_of([5, 9, 8]))["hints"] == []
    assert describe(trace_of([9, 9], finish_reason=["length", "length"]))["hints"] == []


def test_a_misspelt_optional_column_is_pointed_out():
    figures = describe(trace_of([5, 6], finish_reasons=["stop", "stop"]))
    assert figures["other_columns"] == ["finish_reasons"]
    assert "meant to be 'finish_reason'" in figures["hints"][0]


def test_description_is_json(make_table):
    figures = describe(io.from_table(make_table()))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert {entry["column"] for entry in figures["columns"]} == set(make_table().column_names)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_between_prompt_share_recovers_the_variance_components(share):
    rng = np.random.default_rng(2)
    groups = 2000
    group = np.repeat(np.arange(groups), rng.integers(1, 6, groups))  # unequal groups
    step = (group % 2).astype(np.int32)  # with a shift between steps, which belongs to neither share
    noise = rng.standard_normal(len(group)) * np.sqrt(1 - share)
    lengths = 1e6 + 1e4 * (rng.standard_normal(groups)[group] * np.sqrt(share) + noise) + 3e5 * step
    # Standard error of the intraclass correlation is below 0.02 for 2,000 groups of 3: 4 of them.
    assert between_prompt_share(lengths.astype(np.int32), group, step) == pytest.approx(share, abs=0.08)


def test_between_prompt_share_where_it_cannot_be_known():
    assert describe(trace_of([5, 6, 7]))["between_prompt_share"] is None  # groups of one
    assert describe(trace_of([5, 6], prompts=[0, 0]))["between_prompt_share"] is None  # one group
    assert describe(trace_of([5, 5, 5, 5], prompts=[0, 0, 1, 1]))["between_prompt_share"] is None  # no variance
    assert describe(trace_of([5, 5, 9, 9], prompts=[0, 0, 1, 1]))["between_prompt_share"] == 1.0


def test_live_share():
    values, live = live_share(np.array([3, 1, 3, 7], np.int32))
    assert values.tolist() == [1, 3, 7]
    assert live.tolist() == [0.75, 0.25, 0.0]


@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [1, 1], list(range(1, 400))])
def test_plot_is_drawn_with_labelled_axes(tmp_path, lengths):
    figure = plot_lengths(trace_of(lengths, steps=np.arange(len(lengths)) % 7))
    for axes in figure.axes:
        assert "tokens" in axes.get_xlabel()
        assert axes.get_ylabel()
    assert len(figure.axes[1].get_legend().get_texts()) <= 5
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(lengths)
    save(figure, tmp_path / "lengths.png")
    with Image.open(tmp_path / "lengths.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
