"""The acceptance curve: its probabilities, its spread and drift, and every file that it is read from."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_files import read_curve
from simulator.drafting.curve_fits import from_counters, from_lengths
from traces.errors import InputError

CONDITIONAL = (0.8, 0.7, 0.9, 0.2)
MIDPOINTS = (np.arange(20_000) + 0.5) / 20_000

OWN = """\
format: rolloutsim.acceptance/1
name: head
source: counted
conditional: [0.8, 0.7, 6e-1]
spread: 0.05
drift_per_step: -0.1
drift_from: 4
"""
METRICS = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 600.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 400.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="m"} 1.7e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 1800.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="m"} 1200.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 500.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="0"} 300.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 300.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="1"} 100.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="2"} 100.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="2"} 100.0
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "curve"
    path.write_text(text)
    return path


# The curve ------------------------------------------------------------------------------------------------------------


def test_survival_is_the_running_product_and_its_sum_the_mean() -> None:
    curve = AcceptanceCurve(CONDITIONAL)
    np.testing.assert_allclose(curve.survival(), [0.8, 0.56, 0.504, 0.1008], rtol=1e-15)
    assert curve.mean_accepted(2) == pytest.approx(1.36)
    assert curve.mean_accepted(0) == 0


def test_beyond_the_measured_positions_a_curve_refuses() -> None:
    curve = AcceptanceCurve(CONDITIONAL, spread=0.1)
    assert curve.cut(2) == AcceptanceCurve(CONDITIONAL[:2], spread=0.1)
    with pytest.raises(InputError, match="knows 4 draft positions, 5 are asked for"):
        curve.cut(5)
    with pytest.raises(InputError, match="nothing is extrapolated"):
        curve.mean_accepted(5)


@pytest.mark.parametrize("spread", [0.001, 0.1, 0.5, 0.95])
def test_spread_keeps_every_mean_and_is_the_share_of_variance_between_rollouts(spread: float) -> None:
    curve = AcceptanceCurve(CONDITIONAL, spread=spread)
    each = curve.survival_of(np.zeros(MIDPOINTS.size, np.int64), MIDPOINTS)
    mean = curve.survival()
    # Integrals by the midpoint rule: not statistics, but beta quantiles are steep at the ends where the spread is large.
    np.testing.assert_allclose(each.mean(axis=0), mean, atol=1e-4)
    np.testing.assert_allclose(each.var(axis=0), spread * mean * (1 - mean), rtol=1e-2)
    assert (np.diff(each, axis=1) <= 1e-9).all(), "every rollout has a survival that falls"
    assert (np.diff(each, axis=0) >= -1e-9).all(), "a better level is better at every position"


def test_certain_and_impossible_tokens_stay_so_under_spread_and_drift() -> None:
    curve = AcceptanceCurve((1.0, 0.5, 0.0), spread=0.3, drift_per_step=-1.0)
    each = curve.survival_of(np.full(9, 3), np.linspace(0.05, 0.95, 9))
    assert (each[:, 0] == 1).all()
    assert (each[:, 2] == 0).all()
    assert np.ptp(each[:, 1]) > 0.1


def test_drift_moves_the_log_odds_of_every_position_by_the_same_each_step() -> None:
    curve = AcceptanceCurve(CONDITIONAL, drift_per_step=-0.25, drift_from=2)
    survival = curve.survival(6)
    conditional = survival / np.concatenate([[1], survival[:-1]])
    np.testing.assert_allclose(logit(conditional), logit(CONDITIONAL) - 4 * 0.25)
    np.testing.assert_array_equal(curve.survival(2), AcceptanceCurve(CONDITIONAL).survival())
    assert (curve.survival(1) > curve.survival(2)).all()
    by_row = curve.survival_of(np.array([6, 2, 6]), np.full(3, 0.5))
    np.testing.assert_array_equal(by_row, [curve.survival(6), curve.survival(2), curve.survival(6)])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"conditional": ()}, "0 positions"),
        ({"conditional": (0.5, 1.2)}, "position 2 is accepted with probability 1.2"),
        ({"conditional": (float("nan"),)}, "position 1 is accepted with probability nan"),
        ({"conditional": (0.5,), "spread": 1.0}, "spread = 1"),
        ({"conditional": (0.5,), "drift_per_step": float("inf")}, "drift_per_step = inf"),
    ],
)
def test_what_is_no_curve_is_refused(broken: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AcceptanceCurve(**broken)  # type: ignore[arg-type]


# Files ----------------------------------------------------------------------------------------------------------------


def test_own_yaml(tmp_path: Path) -> None:
    curve = read_curve(written(tmp_path, OWN))
    assert curve == AcceptanceCurve((0.8, 0.7, 0.6), 0.05, -0.1, 4, "head", "counted")
    assert read_curve(written(tmp_path, OWN), 2).positions == 2


def test_counters_as_json_and_as_prometheus_text_are_the_same_curve(tmp_path: Path) -> None:
    from_json = read_curve(written(tmp_path, json.dumps({"num_drafts": 1000, "accepted_per_pos": [800, 400, 200]})))
    assert from_json.conditional == (0.8, 0.5, 0.5)
    assert read_curve(written(tmp_path, METRICS)).conditional == from_json.conditional


def test_a_position_that_was_never_reached_accepts_nothing() -> None:
    assert from_counters(10, np.array([5.0, 0.0, 0.0]), "c").conditional == (0.5, 0.0, 0.0)


def test_lengths_that_a_curve_can_have_give_it_exactly() -> None:
    curve = AcceptanceCurve(CONDITIONAL)
    lengths = {k: 1 + curve.mean_accepted(k) for k in (4, 2, 1, 3)}
    np.testing.assert_allclose(from_lengths(lengths, None, "c").conditional, CONDITIONAL, rtol=1e-6)
    np.testing.assert_allclose(from_lengths(lengths, 2, "c").conditional, CONDITIONAL[:2], rtol=1e-6)


def test_lengths_that_no_curve_can_have_are_fitted_if_near_and_refused_if_far() -> None:
    near = from_lengths({1: 1.80, 2: 2.30, 3: 2.82}, None, "c")  # the third difference exceeds the second by 0.02
    assert "fitted within 0.0" in near.source
    fitted = 1 + np.cumsum(near.survival())
    assert np.abs(fitted - [1.80, 2.30, 2.82]).max() < 0.01
    with pytest.raises(InputError, match="no acceptance by position has them"):
        from_lengths({1: 1.8, 2: 1.9, 3: 2.6}, None, "c")


def test_published_lengths_are_read_by_mode(shared_data: Path) -> None:
    folder = shared_data / "acceptance" / "inferencex_golden_al"
    path = folder / "kimik2.5_eagle3.yaml"
    curve = read_curve(path, mode="thinking_on")
    lengths = [1.83, 2.43, 2.88, 3.24, 3.46, 3.62, 3.71, 3.77]
    np.testing.assert_allclose(1 + np.cumsum(curve.survival()), lengths, atol=1e-6)
    np.testing.assert_allclose(read_curve(path, 1, "thinking_off").conditional, [0.80], atol=1e-6)
    with pytest.raises(InputError, match="thinking_on, thinking_off: choose one"):
        read_curve(path)
    with pytest.raises(InputError, match="has no mode 'fast'"):
        read_curve(path, mode="fast")
    with pytest.raises(InputError, match="known up to 8 drafted tokens, 9 are asked for"):
        read_curve(path, 9, "thinking_on")
    falling = folder / "dsv4-pro-0813-dspark.yaml"  # 8 drafted tokens had fewer accepted than 7
    with pytest.raises(InputError, match=r"0\.19 tokens off"):
        read_curve(falling)
    assert read_curve(falling, 6).positions == 6


HOSTILE = {
    "unknown key": (OWN + "sprad: 1\n", "'sprad' is not a key"),
    "no source": ("format: rolloutsim.acceptance/1\nname: a\nconditional: [0.5]\n", "source is missing"),
    "format": ("format: rolloutsim.acceptance/9\n", "reads 'format: rolloutsim.acceptance/1'"),
    "not a number": (OWN.replace("0.7", "much"), r"conditional\[1\] = 'much'"),
    "probability": (OWN.replace("0.7", "7"), "position 2 is accepted with probability 7"),
    "twice": (OWN + "spread: 0.1\n", "given twice"),
    "empty list": (OWN.replace("[0.8, 0.7, 6e-1]", "[]"), "give a list of probabilities"),
    "drift_from": (OWN.replace("drift_from: 4", "drift_from: soon"), "drift_from = 'soon'"),
    "not JSON": ("{", "not JSON"),
    "JSON keys": ('{"num_drafts": 1}', "those two keys alone"),
    "JSON of something else": ('{"a": 1}', "JSON without acceptance"),
    "JSON list": ('{"num_drafts": 1, "accepted_per_pos": 3}', "give a list of counts"),
    "no drafts": ('{"num_drafts": 0, "accepted_per_pos": [0]}', "no draft was counted"),
    "no positions": ('{"num_drafts": 5, "accepted_per_pos": []}', "each draft position"),
    "rising": ('{"num_drafts": 10, "accepted_per_pos": [5, 6]}', "6 drafts had position 2 accepted but only 5 position 1"),
    "more than drafts": ('{"num_drafts": 4, "accepted_per_pos": [5]}', "only 4 drafts"),
    "null": ('{"num_drafts": null, "accepted_per_pos": [5]}', "num_drafts = 'None'"),
    "two models": (METRICS.replace('engine="1",model_name="m"', 'engine="1",model_name="n"'), "counters of 2 models"),
    "no draft counter": (METRICS.replace("num_drafts_total", "num_other_total"), "num_drafts is missing"),
    "gap": (METRICS.replace('position="1"', 'position="7"'), r"positions \[0, 2, 7\]"),
    "no label": (METRICS.replace('position="1"', 'pos="1"'), "no position label"),
    "uneven drafts": (METRICS.replace("1200.0", "900.0"), "2700 tokens in 1000 drafts of up to 3: the drafts differ"),
    "not lengths": ("a: 1\nb: 2\n", "top-level keys"),
    "length of no draft": ("m:\n  on: {0: 1.0, 1: 1.5}\n", "of 0 drafted tokens"),
    "impossible length": ("m:\n  on: {1: 2.5}\n", "2.5 of 1 drafted tokens is not between 1 and 2"),
    "text lengths": ("m:\n  on: fast\n", "by number of drafted tokens"),
    "empty": ("# nothing\n", "the file is empty"),
    "list": ("- 1\n", "not a mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_curve_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        read_curve(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_mode_is_refused_where_there_is_none_to_choose(tmp_path: Path) -> None:
    for text in (OWN, METRICS, '{"num_drafts": 2, "accepted_per_pos": [1]}'):
        with pytest.raises(InputError, match="mode 'on' chooses between mean lengths"):
            read_curve(written(tmp_path, text), mode="on")


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_curve(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not text"):
        read_curve(tmp_path / "binary")
