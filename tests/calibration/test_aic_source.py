"""Where aiconfigurator's tables are found: layouts, versions that take tables of others, columns that older ones lack."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.imports import aic_source
from calibration.imports.aic_source import open_source, packaged, systems
from calibration.imports.aiconfigurator import import_aiconfigurator
from simulator.cost import Affine, StepWork, Table
from tests.calibration import aiconfigurator_folder as toy
from traces.errors import InputError

GEMM, ATTENTION = f"gemm/{toy.ENGINE}/{toy.VERSION}/gemm", f"attention/{toy.ENGINE}/{toy.VERSION}/"
REDUCE = f"comm/{toy.ENGINE}/{toy.VERSION}/custom_allreduce"


def imported(folder: Path, config=toy.CONFIG, **settings):
    return import_aiconfigurator(folder, config, toy.SYSTEM, **settings)


def operator(profile, name) -> Table:
    return next(one for one in profile.operators if one.name == name)


def costs(profile) -> np.ndarray:
    live, context, width = np.meshgrid([1, 4, 8], [1, 256, 4096], [1, 2, 9], indexing="ij")
    return profile.step_time_s(StepWork.decode(live, context, width))


def test_the_layout_of_the_package_is_read_as_the_flat_one(tmp_path):
    flat, packed = toy.write_folder(tmp_path / "flat"), toy.write_folder(tmp_path / "packed", packaged=True)
    np.testing.assert_array_equal(costs(imported(flat, tp=2)), costs(imported(packed, tp=2)))
    assert systems(flat) == systems(packed) == [(toy.SYSTEM, toy.ENGINE)]


def test_without_a_folder_the_installed_package_counts(tmp_path, monkeypatch):
    if importlib.util.find_spec(aic_source.PACKAGE) is not None:
        assert packaged().name == "systems"
        assert (packaged() / "h200_sxm.yaml").exists()
    monkeypatch.setattr(aic_source, "PACKAGE", "no_such_package_of_tables")
    with pytest.raises(InputError, match=r"aiconfigurator-core is not installed: pip install 'rolloutsim\[tables\]'"):
        import_aiconfigurator(None, toy.CONFIG)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_every_engine_has_all_reduces_of_its_own(tmp_path, engine):
    folder = toy.write_folder(tmp_path, engine=engine)
    reduce = operator(imported(folder, engine=engine, tp=2), "all-reduce")
    np.testing.assert_allclose(reduce.values_s[:3], [toy.reduce_s(size) for size in (1024, 2**20, 2**24)], rtol=1e-12)


def test_all_reduces_without_a_graph_where_there_is_none(tmp_path):
    eager = toy.tables()[REDUCE].query("backend == 'vllm_eager'")
    reduce = operator(imported(toy.write_folder(tmp_path / "eager", {REDUCE: eager}), tp=2), "all-reduce")
    assert reduce.values_s[0] == pytest.approx(9 * toy.reduce_s(1024), rel=1e-12)
    # TensorRT-LLM's tables have one kind and no such column
    plain = toy.tables()[REDUCE].query("backend == 'vllm_graph'").drop(columns="backend")
    reduce = operator(imported(toy.write_folder(tmp_path / "plain", {REDUCE: plain}), tp=2), "all-reduce")
    assert reduce.values_s[0] == pytest.approx(toy.reduce_s(1024), rel=1e-12)


def test_all_reduces_that_nobody_measured_are_a_ring_and_said(tmp_path):
    library = "comm/nccl/2.1.0/nccl"
    profile = imported(toy.write_folder(tmp_path / "library", {REDUCE: None}), tp=2)
    assert operator(profile, "all-reduce").values_s[0] == pytest.approx(2 * toy.reduce_s(1024), rel=1e-12)
    assert "nccl 2.1.0" in profile.source
    profile = imported(toy.write_folder(tmp_path / "ring", {REDUCE: None, library: None}), tp=2)
    ring = operator(profile, "all-reduce (estimate)")
    assert isinstance(ring, Affine)
    seconds = float(profile.operator_times(StepWork.decode(16, 256))[ring.name])
    assert seconds == pytest.approx(2 * 4 * (5e-6 + 16 * 1024 * 2 / 1e11), rel=1e-12)  # 2 (tp - 1) / tp is 1
    assert "a ring at the bandwidth and the latency of the link" in profile.notes
    assert ring.name not in profile.held_out


def test_a_version_without_a_table_takes_the_newest_before_it(tmp_path):
    tables = toy.tables()
    slower = tables[REDUCE].assign(latency=3 * tables[REDUCE]["latency"])
    moved = {REDUCE: None, REDUCE.replace("0.10.0", "0.9.0"): tables[REDUCE],
             REDUCE.replace("0.10.0", "0.8.0"): slower, REDUCE.replace("0.10.0", "0.11.0"): slower}  # fmt: skip
    profile = imported(toy.write_folder(tmp_path, moved), tp=2, engine_version="0.10.0")
    assert operator(profile, "all-reduce").values_s[0] == pytest.approx(toy.reduce_s(1024), rel=1e-12)
    assert "vllm 0.10.0 (all-reduce 0.9.0, nccl 2.1.0)" in profile.source


def test_reuse_is_followed_and_only_there_a_later_version_counts(tmp_path):
    tables, later = toy.tables(), ATTENTION.replace("0.10.0", "0.12.0")
    moved = {ATTENTION + name: None for name in ("generation_attention", "context_attention")}
    moved |= {later + name: tables[ATTENTION + name] for name in ("generation_attention", "context_attention")}
    folder = toy.write_folder(tmp_path / "refused", moved)
    with pytest.raises(InputError, match=r"0\.10\.0/generation_attention_perf\.parquet: no such file"):
        imported(folder, engine_version="0.10.0")
    reuse = folder / toy.SYSTEM / ATTENTION / "reuse.yaml"
    reuse.parent.mkdir(parents=True)
    entries = (
        f"- {{table: {name}_perf, from_version: 0.12.0}}" for name in ("generation_attention", "context_attention")
    )
    reuse.write_text("\n".join(["reuse:", *entries]))
    profile = imported(folder, engine_version="0.10.0")
    np.testing.assert_array_equal(costs(profile), costs(imported(toy.write_folder(tmp_path / "whole"))))
    assert "(decode attention 0.12.0, prefill attention 0.12.0)" in profile.source


def test_a_version_that_nobody_measured_is_refused(tmp_path):
    folder = toy.write_folder(tmp_path)
    with pytest.raises(
        InputError, match=r"9.9 has no measurements of .*: give one of its versions .0.10.0., or leave it out"
    ):
        open_source(folder, toy.SYSTEM, toy.ENGINE, "9.9")


def test_the_version_that_the_folder_calls_current(tmp_path):
    folder = toy.write_folder(tmp_path, {GEMM.replace("0.10.0", "0.12.0"): toy.tables()[GEMM]})
    assert open_source(folder, toy.SYSTEM, toy.ENGINE, None).version == "0.12.0"
    slots = folder / "query_versions.yaml"
    slots.write_text("defaults: {vllm: {current: 0.10.0}}\n")
    assert open_source(folder, toy.SYSTEM, toy.ENGINE, None).version == "0.10.0"
    slots.write_text(
        f"defaults: {{vllm: {{current: 0.10.0}}}}\noverrides: {{{toy.SYSTEM}: {{vllm: {{current: 0.12.0}}}}}}\n"
    )
    assert open_source(folder, toy.SYSTEM, toy.ENGINE, None).version == "0.12.0"
    assert open_source(folder, toy.SYSTEM, toy.ENGINE, "0.10.0").version == "0.10.0"


def test_tables_from_before_windows_have_none(tmp_path):
    older = {
        ATTENTION + name: toy.tables()[ATTENTION + name].drop(columns="window_size")
        for name in ("generation_attention", "context_attention")
    }
    found = imported(toy.write_folder(tmp_path / "older", older))
    np.testing.assert_array_equal(costs(found), costs(imported(toy.write_folder(tmp_path / "newer"))))


def test_of_several_kernels_for_one_shape_the_one_that_was_measured_most_counts(tmp_path):
    path = ATTENTION + "generation_attention"
    rows = toy.tables()[path]
    some = rows.query("batch_size == 1")
    both = pd.concat([
        rows.assign(kernel_source="usual"), some.assign(kernel_source="another", latency=some["latency"] / 2)
    ])  # fmt: skip
    found = imported(toy.write_folder(tmp_path / "both", {path: both}))
    np.testing.assert_array_equal(costs(found), costs(imported(toy.write_folder(tmp_path / "one"))))


def test_the_most_even_routing_that_was_measured_counts_unless_told(tmp_path):
    path = f"moe/{toy.ENGINE}/{toy.VERSION}/moe"
    uneven = toy.tables()[path].query("distribution != 'balanced'")
    profile = imported(toy.write_folder(tmp_path, {path: uneven}), toy.MOE)
    assert "routing is power_law_1.2" in profile.notes
    with pytest.raises(InputError, match="with balanced routing is not measured: leave --moe-distribution out"):
        imported(tmp_path, toy.MOE, moe_distribution="balanced")
