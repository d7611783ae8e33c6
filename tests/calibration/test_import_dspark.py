"""DSpark's additive cost table: what SGLang computes from it, both ways."""

import json

import numpy as np
import pytest

from calibration.imports.dspark import export_dspark, import_dspark
from simulator.cost import Profile, StepWork, Table, load_profile
from traces.errors import InputError

TABLE = {
    "bias_seconds": 0.0071,
    "bs_probes": [1, 2, 8, 32, 128],
    "alpha_seconds": [0.0, 1e-4, 3e-4, 2e-3, 9e-3],
    "m_probes": [1, 8, 64, 256, 1024],
    "theta_seconds": [2e-4, 3e-4, 1e-3, 5e-3, 0.021],
}


def sglang_s(table, requests, tokens):
    """Step time as SGLang's SpsAdditiveCostTable: the bias, and two interpolations that hold their ends."""
    alpha = np.interp(requests, table["bs_probes"], table["alpha_seconds"])
    return table["bias_seconds"] + alpha + np.interp(tokens, table["m_probes"], table["theta_seconds"])


def written(tmp_path, table):
    path = tmp_path / "sps.json"
    path.write_text(json.dumps(table))
    return path


CASES = [(r, m) for r in (1, 2, 5, 8, 20, 77, 128) for m in range(r, 1025, 13)]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"alpha_seconds": [-1e-3, 0.0, 1e-3, 2e-3, 9e-3]},
        {"theta_seconds": [-2e-3, -1e-3, 0.0, 5e-3, 0.021], "alpha_seconds": [-1e-3, 0.0, 1e-3, 2e-3, 9e-3]},
        {"bs_probes": [1], "alpha_seconds": [1e-3]},
        {"bs_probes": [4], "alpha_seconds": [-1e-3], "m_probes": [16], "theta_seconds": [2e-3]},
    ],
)
def test_an_import_costs_what_sglang_computes(tmp_path, change):
    table = TABLE | change
    profile = import_dspark(written(tmp_path, table), "m", "d")
    for requests, tokens in CASES:
        work = StepWork.decode(requests, 500, tokens / requests)
        assert float(profile.step_time_s(work)) == pytest.approx(sglang_s(table, requests, tokens), rel=1e-12)
    assert profile.valid_range["live"] == (table["bs_probes"][0], table["bs_probes"][-1])
    assert profile.outside(StepWork.decode(129, 10))
    assert "Contexts cost nothing of their own" in profile.notes


def test_export_is_the_inverse_of_import(tmp_path):
    profile = import_dspark(written(tmp_path, TABLE), "m", "d")
    document, errors = export_dspark(profile, 4096)
    assert np.abs(errors).max() < 1e-12
    assert (document["bs_probes"], document["m_probes"]) == (TABLE["bs_probes"], TABLE["m_probes"])
    for requests, tokens in CASES:
        assert sglang_s(document, requests, tokens) == pytest.approx(sglang_s(TABLE, requests, tokens), rel=1e-11)
    again = import_dspark(written(tmp_path, json.loads(json.dumps(document))), "m", "d")
    for requests, tokens in CASES:
        work = StepWork.decode(requests, 0, tokens / requests)
        assert float(again.step_time_s(work)) == pytest.approx(float(profile.step_time_s(work)), rel=1e-11)


def test_export_has_the_types_that_sglang_reads(tmp_path):
    document, _ = export_dspark(load_profile("h100-llama-3.1-8b-published"), 512)
    assert document.keys() == TABLE.keys()
    assert document["bias_seconds"] > 0
    for probes, values in (("bs_probes", "alpha_seconds"), ("m_probes", "theta_seconds")):
        assert all(type(probe) is int for probe in document[probes])
        assert document[probes] == sorted(set(document[probes]))
        assert len(document[probes]) == len(document[values])
        assert document[values][0] == 0
    import_dspark(written(tmp_path, document), "m", "d")


def test_an_affine_profile_is_additive_but_for_its_context():
    profile = load_profile("h100-llama-3.1-8b-published")
    for context in (0, 512, 1000):
        document, errors = export_dspark(profile, context)
        assert np.abs(errors).max() < 1e-9  # KV is proportional to requests at one context
        for requests, tokens in ((1, 1), (8, 24), (64, 512)):
            seconds = float(profile.step_time_s(StepWork.decode(requests, context, tokens / requests)))
            assert sglang_s(document, requests, tokens) == pytest.approx(seconds, rel=1e-9)


def test_what_is_not_additive_is_off_and_said():
    grid = 2.0 ** np.arange(10)
    product = Table("x", ("live", "query_tokens"), (grid, grid), 1e-3 + 1e-6 * grid[:, None] * grid)
    profile = Profile("p", "table", (product,), "m", "d", "s", "u")
    document, errors = export_dspark(profile, 4096)
    assert document["bs_probes"] == document["m_probes"] == grid.tolist()
    assert np.abs(errors).max() > 0.05
    pairs = [(bs, m) for bs in grid for m in grid if bs <= m <= 9 * bs or (bs == 512 and m >= 512)]
    exact = np.array([float(profile.step_time_s(StepWork.decode(bs, 4096, m / bs))) for bs, m in pairs])
    fitted = np.array([sglang_s(document, bs, m) for bs, m in pairs])
    np.testing.assert_allclose(fitted / exact - 1, errors, atol=1e-12)


def test_without_drafts_there_is_one_step_for_each_number_of_requests():
    profile = load_profile("h100-llama-3.1-8b-published")
    document, errors = export_dspark(profile, 512, most_drafts=0, requests=(1, 8, 64), tokens=(1, 8, 64))
    assert np.abs(errors).max() < 1e-9
    assert document["bias_seconds"] == pytest.approx(float(profile.step_time_s(StepWork.decode(1, 512))), rel=1e-9)


def test_powers_of_two_are_probed_within_the_valid_range():
    document, _ = export_dspark(load_profile("h100-llama-3.1-8b-published"), 512)
    assert document["bs_probes"] == [1, 2, 4, 8, 16, 32, 64]
    assert document["m_probes"][-1] == 2048


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"requests": (4, 2)}, "probes of requests 4, 2: give ascending"),
        ({"tokens": (0, 2)}, "probes of tokens 0, 2: give ascending"),
        ({"requests": (64,), "tokens": (8,)}, "probes of 64 requests at most and 0 tokens"),
        ({"requests": (1, 64), "tokens": (8,)}, "every request needs a token"),
    ],
)
def test_probes_that_cannot_be_fitted(settings, message):
    with pytest.raises(InputError, match=message):
        export_dspark(load_profile("h100-llama-3.1-8b-published"), 512, **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[1]", "holds no object"),
        ("[" * 100_000, "cannot be read"),
        (
            json.dumps({"sample_batch_tokens": [1], "sample_steps_per_sec": [1.0], "max_batch_tokens": 1}),
            "by tokens alone",
        ),
        (json.dumps({key: TABLE[key] for key in TABLE if key != "m_probes"}), "m_probes is missing"),
        (json.dumps(TABLE | {"bias_seconds": "x"}), "bias_seconds = x: give a number"),
        (json.dumps(TABLE | {"bias_seconds": True}), "bias_seconds = True"),
        (json.dumps(TABLE | {"bias_seconds": -0.1}), "sum to -0.1: a step takes time"),
        (json.dumps(TABLE | {"bias_seconds": float("nan")}), "bias_seconds = nan"),
        (json.dumps(TABLE | {"alpha_seconds": [1, 2]}), "5 bs_probes and 2 alpha_seconds"),
        (json.dumps(TABLE | {"alpha_seconds": 3}), "alpha_seconds = 3: give a list of numbers"),
        (json.dumps(TABLE | {"alpha_seconds": [0, 1, 2, None, 4]}), "alpha_seconds = .*None.*: give a list"),
        (json.dumps(TABLE | {"bs_probes": [1, 2, 2, 3, 4]}), "bs_probes = .*ascending"),
        (json.dumps(TABLE | {"bs_probes": [0, 2, 3, 4, 5]}), "bs_probes = .*ascending whole numbers >= 1"),
        (json.dumps(TABLE | {"m_probes": [1.5, 2, 3, 4, 5]}), "m_probes = .*whole"),
        (json.dumps(TABLE | {"m_probes": [], "theta_seconds": []}), "0 m_probes"),
    ],
)
def test_tables_that_are_wrong(tmp_path, content, message):
    path = tmp_path / "sps.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        import_dspark(path, "m", "d")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
