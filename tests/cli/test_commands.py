"""The commands on good input: what they print, write and agree on."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from simulator.cli.flags import parse_drafter
from simulator.cost.roofline import TOO_FAST
from tests.cli.conftest import PROFILE, Shell
from tests.conftest import ROOT

POLICIES = [flag for name in ("none", "fixed:4", "unlimited", "das") for flag in ("--policy", name)]


def test_help_names_every_command(shell: Callable[..., Shell]) -> None:
    help_ = shell("--help")
    assert help_.code == 0
    for command in ("replay", "run", "acceptance", "trace", "profile"):
        assert command in help_.out
        assert shell(command, "--help").code == 0


def test_replay_writes_tables_plots_and_the_scenario(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    result = shell(
        "replay", small, "--profile", PROFILE, *POLICIES, "--steps", 2, "--max-num-seqs", 4, "--out", tmp_path
    )
    assert result.code == 0, result.err
    for name in ("none", "fixed:4", "unlimited", "das"):
        assert name in result.out
    written = {path.name for path in tmp_path.iterdir()}
    tables = {
        f"{name}.parquet" for name in ("runs", "rl_steps", "rollouts", "steps", "acceptance", "spans", "operators")
    }
    assert written == tables | {"scenario.yaml", "live_batch.png", "makespan.png", "acceptance.png"}
    runs = pq.read_table(tmp_path / "runs.parquet")
    assert json.loads(runs.schema.metadata[b"rolloutsim"])["schema_version"] == 2
    assert shell("run", tmp_path / "scenario.yaml", "--json").code == 0


def test_json_run_and_print_scenario_agree(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    flags = ["replay", small, "--profile", PROFILE, *POLICIES, "--steps", "1-2", "--max-num-seqs", 4, "--match", "scored",
             "--replicas", 2, "--dispatch", "static", "--no-own", "--min-prob", 0.2]  # fmt: skip
    document = json.loads(shell(*flags, "--json").out)
    file = tmp_path / "scenario.yaml"
    file.write_text(shell(*flags, "--print-scenario").out)
    again = json.loads(shell("run", file, "--json").out)
    for one in (document, again):
        for run in one["runs"]:
            assert run.pop("wall_s") > 0
        assert [row["step"] for row in one["rl_steps"]] == [1] * 4 + [2] * 4
    assert again == document
    wider = json.loads(shell("run", file, "--json", "--set", "engine.max_num_seqs=64", "--set", "policies=[none]").out)
    assert wider["scenario"]["engine"]["max_num_seqs"] == 64
    assert [run["policy"] for run in wider["runs"]] == ["none"]
    needed = {"policy", "drafter", "makespan_s", "speedup", "decode_steps", "output_tokens", "drafted_tokens",
              "accepted_tokens", "mean_acceptance_length", "draft_acceptance_rate", "mean_live_batch", "straggler_s",
              "extrapolated_fraction"}  # fmt: skip
    assert all(needed <= run.keys() for run in document["runs"])
    assert document["runs"][0]["speedup"] == 1
    assert document["runs"][0]["draft_acceptance_rate"] is None


def test_a_policy_of_the_users_own(
    shell: Callable[..., Shell], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_policies.py").write_text("def four(view):\n    return [4] * view.live\n")
    monkeypatch.syspath_prepend(tmp_path)
    document = json.loads(
        shell(
            "replay", small, "--profile", PROFILE, "--policy", "fixed:4", "--policy", "my_policies:four", "--json"
        ).out
    )
    built_in, own = document["runs"]
    for key in ("makespan_s", "decode_steps", "drafted_tokens", "accepted_tokens"):
        assert own[key] == built_in[key], key


def test_acceptance_agrees_with_replay(shell: Callable[..., Shell], small: Path) -> None:
    for match in ("longest", "scored"):
        flags = ["--match", match, "--steps", 2]
        alone = json.loads(shell("acceptance", small, *flags, "--max-spec", 4, "--json").out)
        assert alone["schema_version"] == 1
        (step,) = alone["steps"]
        replay = ["replay", small, "--profile", PROFILE, "--policy", "fixed:4", *flags, "--json"]
        (run,) = json.loads(shell(*replay).out)["runs"]
        assert step["output_tokens"] == run["output_tokens"]
        # the engine's first token comes from the prefill, without a draft; alone, the prompt may draft it
        assert run["mean_acceptance_length"] == pytest.approx(step["mean_acceptance_length"], rel=0.02)
        assert run["draft_acceptance_rate"] == pytest.approx(step["draft_acceptance_rate"], rel=0.05)


def test_a_recorded_drafter_replays_under_every_policy(
    shell: Callable[..., Shell], small: Path, tmp_path: Path
) -> None:
    record = tmp_path / "recorded.parquet"
    shell("acceptance", small, "--drafter", "ngram:prompt_lookup_min=1", "--record", record)
    flags = ["--profile", PROFILE, "--policy", "fixed:2", "--policy", "aimd", "--policy", "unlimited", "--json"]
    original = json.loads(shell("replay", small, "--drafter", "ngram:prompt_lookup_min=1", *flags).out)["runs"]
    replayed = json.loads(shell("replay", record, "--drafter", "recorded:cost={}", *flags).out)["runs"]
    for one, other in zip(original, replayed, strict=True):
        for key in ("makespan_s", "decode_steps", "drafted_tokens", "accepted_tokens"):
            assert one[key] == other[key], key
        assert one["accepted_tokens"] > 0


def test_acceptance_options(shell: Callable[..., Shell], small: Path) -> None:
    def steps(*flags: object) -> list[dict[str, float]]:
        found: list[dict[str, float]] = json.loads(shell("acceptance", small, "--json", *flags).out)["steps"]
        return found

    whole, one = steps(), steps("--samples", 1)
    assert [s["rollouts"] for s in whole] == [18, 18, 18]
    assert [s["rollouts"] for s in one] == [6, 6, 6]
    assert steps("--max-spec", 0)[2]["sequence_steps"] == whole[2]["output_tokens"]
    assert steps("--no-history")[2]["accepted_tokens"] < whole[2]["accepted_tokens"]
    assert steps("--window", 1, "--steps", 1) == [steps()[1]]
    assert steps("--no-history", "--no-prompt", "--max-spec", 4)[0]["drafted_tokens"] >= 0


def test_compare_gives_intervals_verdicts_and_regret(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    flags = ["replay", small, "--profile", PROFILE, *POLICIES, "--steps", 2, "--max-num-seqs", 8]
    document = json.loads(
        shell(*flags, "--baseline", "fixed:4", "--bootstrap", 20, "--profile-error", 0.1, "--json").out
    )
    rows = {row["policy"]: row for row in document["comparison"]["policies"]}
    assert rows["fixed:4"]["verdict"] == "baseline"
    assert rows["none"]["low"] <= rows["none"]["speedup"] <= rows["none"]["high"]
    assert rows["none"]["profile_low"] <= rows["none"]["speedup"] <= rows["none"]["profile_high"]
    assert rows["none"]["closed"] == 0
    for row in rows.values():
        assert row["bound_s"] <= row["oracle_s"] * (1 + 1e-9)
        assert row["bound_s"] <= row["makespan_s"] * (1 + 1e-9)
    assert shell(*flags, "--baseline", "fixed:9").code == 2
    printed = shell(*flags, "--compare", "--bootstrap", 10, "--out", tmp_path)
    assert "gap closed" in printed.out
    assert (tmp_path / "comparison.parquet").exists()


def test_every_makespan_has_a_range_and_says_what_it_rests_on(shell: Callable[..., Shell], small: Path) -> None:
    flags = ["replay", small, *POLICIES, "--steps", 2]
    document = json.loads(shell(*flags, "--profile", PROFILE, "--json").out)
    assert {one["name"] for one in document["errors"]} == {"profile", "device", "extrapolation", "drafting"}
    for run in document["runs"]:
        assert 0.5 < run["makespan_low_s"] / run["makespan_s"] < 0.9
        assert 1.1 < run["makespan_high_s"] / run["makespan_s"] < 2
        assert run["errors"].keys() == {one["name"] for one in document["errors"]}
        assert run["errors"]["device"] == pytest.approx([1 / 1.04, 1.04], rel=0.02)
    surer = json.loads(shell(*flags, "--profile", PROFILE, "--profile-error", 0.02, "--json").out)["runs"]
    assert all(one["makespan_low_s"] > run["makespan_low_s"] for one, run in zip(surer, document["runs"], strict=True))
    estimate = [
        "--model",
        "qwen3-30b-a3b",
        "--device",
        "h100",
        "--policy",
        "none",
        "--policy",
        "fixed:4",
        "--bootstrap",
        "10",
    ]
    assert (
        "drafting"
        not in shell("replay", small, "--profile", PROFILE, "--policy", "none", "--steps", 2).out.split("90 % range")[1]
    )
    printed = shell("replay", ROOT / "traces/data/countdown.parquet", "--steps", 20, "--max-num-seqs", 8, *estimate).out
    assert f"90 % range: profile 1 to {TOO_FAST['moe']} times (stated by the profile); device" in printed
    assert "undecided" in printed, "an estimate that may be too fast by more than the speed-up"
    with_host = ["--engine", "step_overhead_s=0.001", "--json"]
    assert "host" in {one["name"] for one in json.loads(shell(*flags, "--profile", PROFILE, *with_host).out)["errors"]}


def test_seeds_widen_what_a_drawn_acceptance_rests_on(shell: Callable[..., Shell], small: Path) -> None:
    eagle = "eagle:curve=[0.7],cost=eagle"
    flags = ["replay", small, "--profile", PROFILE, "--policy", "none", "--policy", "fixed:1", "--drafter", eagle]

    def makespan_s(*more: object) -> float:
        rows = json.loads(shell(*flags, "--steps", 2, "--bootstrap", 0, "--json", *more).out)["comparison"]["policies"]
        found: float = rows[1]["makespan_s"]
        return found

    one, two = makespan_s("--seed", 5), makespan_s("--seed", 6)
    assert one != two
    assert makespan_s("--seed", 5, "--seeds", 2) == pytest.approx(one + two, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("eagle3:curve=[0.8,0.7],layers=2", {"kind": "eagle3", "curve": [0.8, 0.7], "layers": 2}),
        ("mtp:curve=[0.8],cost={per_pass_s: 1.0e-3, per_step_s: 0.5},mode=on", {
            "kind": "mtp", "curve": [0.8], "cost": {"per_pass_s": 1e-3, "per_step_s": 0.5}, "mode": True,
        }),
        ("my.module:make,depth=3", {"kind": "my.module:make", "depth": 3}),
    ],
)  # fmt: skip
def test_a_drafter_s_lists_and_mappings_may_hold_commas(text: str, settings: dict[str, object]) -> None:
    assert parse_drafter(text) == settings


def test_page_and_timeline_are_written_beside_the_table(
    shell: Callable[..., Shell], small: Path, tmp_path: Path
) -> None:  # fmt: skip
    html, timeline = tmp_path / "page of a run.html", tmp_path / "run.pftrace.gz"
    flags = ["replay", small, "--profile", PROFILE, "--policy", "none", "--policy", "fixed:4", "--steps", 2]
    result = shell(*flags, "--html", html, "--timeline", timeline)
    assert result.code == 0, result.err
    assert f"page: {html}" in result.out
    assert f"timeline: {timeline} (" in result.out
    assert (
        f"rolloutsim replay {small} --profile {PROFILE} --policy none --policy fixed:4 --steps 2 --html"
        in html.read_text("utf-8")
    )
    assert timeline.read_bytes()[:2] == b"\x1f\x8b"
    file = tmp_path / "scenario.yaml"
    file.write_text(shell(*flags, "--print-scenario").out)
    again = tmp_path / "again.html"
    document = shell("run", file, "--html", again, "--json")
    assert len(json.loads(document.out)["runs"]) == 2
    headings = [path.read_text("utf-8").partition("<h1>")[2].partition("</h1>")[0] for path in (html, again)]
    assert headings[0] == headings[1]


def test_reports_that_cannot_be_written_are_refused_before_the_run(
    shell: Callable[..., Shell], small: Path, tmp_path: Path
) -> None:  # fmt: skip
    flags = ["replay", small, "--profile", PROFILE, "--policy", "none"]
    for flag in ("--html", "--timeline"):
        refused = shell(*flags, flag, tmp_path)
        assert (refused.code, refused.out) == (3, "")
        assert f"{tmp_path}: is a folder: give {flag} the name of a file" in refused.err
        refused = shell(*flags, flag, tmp_path / "absent" / "file")
        assert refused.code == 3
        assert "cannot be written (No such file or directory)" in refused.err
        assert shell(*flags, flag, tmp_path / "file", "--print-scenario").code == 2
    refused = shell(*flags, "--html", tmp_path / "x", "--timeline", tmp_path / "x")
    assert refused.code == 2
    assert "give each a file of its own" in refused.err
    assert [*tmp_path.iterdir()] == []
