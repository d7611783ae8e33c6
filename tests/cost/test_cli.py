"""`rolloutsim profile list`, `show`, `import` and `export`."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from calibration.imports.llmservingsim import import_llmservingsim
from simulator.catalogue import load_model
from simulator.cli.profile import profile
from simulator.cli.profile_import import import_group
from simulator.cost import FEATURES, StepWork, list_profiles, load_profile
from simulator.cost.document import parse
from simulator.cost.profiles import write_profile
from tests.calibration.aiconfigurator_folder import CONFIG, SYSTEM, write_folder
from tests.cost.packed import assert_packed_alike
from traces.errors import InputError

LLAMA = "h100-llama-3.1-8b-published"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(profile, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_has_a_line_for_every_profile():
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "kind", "model", "device", "uncertainty"]
    assert [line.split()[0] for line in lines[1:]] == list_profiles()
    assert "not published" in next(line for line in lines if line.startswith(LLAMA))
    assert "12 %" in next(line for line in lines if "qwen" in line)


def test_show_prints_provenance_operators_range_and_times():
    text = run("show", LLAMA)
    for fact in ("arXiv 2601.11580", load_profile(LLAMA).sha256, "2.101e-05 s per query_tokens", "live 1 to 64"):
        assert fact in text
    seconds = float(load_profile(LLAMA).step_time_s(StepWork.decode(64, 512, 8)))
    times, shares = (block.splitlines() for block in text.split("\n\n")[1:3])
    row = next(line for line in times if line.split()[:2] == ["64", "512"])
    assert row.split()[-1] == f"{1e3 * seconds:.3f}"
    assert all(cell.endswith("*") for line in times if line.split()[:1] == ["256"] for cell in line.split()[2:])
    parts = load_profile(LLAMA).operator_times(StepWork.decode(64, 512))
    row = next(line for line in shares if line.split()[:2] == ["64", "512"])
    assert shares[1].split()[2:] == ["verify", "overhead"]
    assert row.split()[2:] == [f"{float(parts[name] / sum(parts.values())):.1%}" for name in ("verify", "overhead")]


def test_show_json_is_the_profile_and_its_times():
    document = json.loads(run("show", LLAMA, "--json"))
    times, parts = document.pop("step_times"), document.pop("breakdown")
    model = load_profile(LLAMA)
    assert document.pop("held_out") == {}
    for case in parts:
        seconds = model.step_time_s(StepWork.decode(case["live"], case["context_tokens"]))
        assert sum(case["operators_s"].values()) == pytest.approx(float(seconds), rel=1e-12)
    assert document.pop("sha256") == model.sha256
    assert_packed_alike(parse(json.dumps(document)), model)
    for case in times:
        work = StepWork.decode(case["live"], case["context_tokens"], case["query_per_seq"])
        assert case["step_time_s"] == model.step_time_s(work)
        assert case["outside_valid_range"] == model.outside(work)
    assert {case["outside_valid_range"] for case in times} == {True, False}


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """A profile of the made-up device, imported by the command."""
    folder = write_folder(tmp_path_factory.mktemp("imported") / "toys")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    file = folder / "toy.parquet"
    text = run(
        "import",
        "aiconfigurator",
        str(folder),
        "--system",
        SYSTEM,
        "--model",
        str(folder / "config.json"),
        "--out",
        str(file),
    )
    assert f"wrote {file}" in text
    assert "toy-1b on toy_sxm, tp 1: " in text
    assert "note: kernels measured apart and summed" in text
    assert "lm_head (n 32000, k 1024: n beyond 8192)" in text
    return file


def test_show_tells_held_out_errors_and_where_time_goes(imported):
    text = run("show", str(imported))
    profile = load_profile(imported)
    errors = next(block for block in text.split("\n\n") if block.startswith("held-out error"))
    told = {line.rsplit(maxsplit=3)[0]: line.split()[-3:] for line in errors.splitlines()[2:]}
    assert told.keys() == profile.held_out.keys()
    assert told["qkv_proj"] == [f"{profile.held_out['qkv_proj'][key]:{form}}" for key, form in
                                (("points", ".0f"), ("median", ".2%"), ("p95", ".2%"))]  # fmt: skip
    shares = next(block for block in text.split("\n\n") if block.startswith("share of a decode step")).splitlines()
    assert shares[1].endswith("other")
    assert len(re.split(r"\s{2,}", shares[1].strip())) == 2 + 6 + 1
    for line in shares[2:]:
        assert sum(float(cell[:-1]) for cell in line.split()[2:]) == pytest.approx(100, abs=0.5)
    assert "derived         decode_width beyond 1" in text
    assert json.loads(run("show", str(imported), "--json"))["held_out"] == profile.held_out


def test_show_holds_a_profile_against_a_devices_roof(imported, tmp_path):
    flags = ("--roof", "h200", "--model", str(imported.parent / "config.json"))
    text = run("show", str(imported), *flags, "--out", str(tmp_path))
    line = next(line for line in text.splitlines() if line.startswith("roof of h200"))
    assert line.startswith("roof of h200: 0.00% of ")
    told = json.loads(run("show", str(imported), *flags, "--json"))["roof"]
    assert (told["device"], told["below_fraction"]) == ("h200", 0)
    assert f"{told['least_ratio']:.3f} times the roof" in line
    assert f"{told['steps']:,} decode steps" in line
    for suffix in ("", "-operators", "-roof"):
        assert imread(tmp_path / f"toy-1b-on-toy_sxm-tp-1{suffix}.png").std() > 0.05
    # a negative control: a hundred times faster, most steps are impossible
    fast = imported.parent / "fast.parquet"
    write_profile(load_profile(imported).scaled(0.01), fast)
    assert json.loads(run("show", str(fast), *flags, "--json"))["roof"]["below_fraction"] > 0.9
    alone = CliRunner().invoke(profile, ["show", str(imported), "--roof", "h200"])
    assert alone.exit_code == 2
    assert "--roof and --model go together" in alone.output


def test_import_of_a_step_table_a_log_and_dspark_and_back(tmp_path):
    named = ("--model", "m", "--device", "d")
    csv = tmp_path / "steps.csv"
    csv.write_text("num_reqs,tokens_per_req,context_len,tp,latency_ms\n1,1,100,2,5\n8,1,100,2,6\n")
    run("import", "table", str(csv), *named, "--tp", "2", "--out", str(tmp_path / "table.yaml"))
    assert float(load_profile(tmp_path / "table.yaml").step_time_s(StepWork.decode(8, 100))) == pytest.approx(6e-3)
    log = tmp_path / "server.log"
    log.write_text("\n".join(
        f"INFO Iteration({n}): 0 context requests, 0 context tokens, {n} generation requests, {n} generation tokens, iteration "
        f"elapsed time: {5 + n / 10:.2f} ms" for n in range(1, 101)
    ))  # fmt: skip
    run("import", "vllm-log", str(log), *named, "--out", str(tmp_path / "log.yaml"))
    assert load_profile(tmp_path / "log.yaml").relative_error < 1e-6
    assert float(load_profile(tmp_path / "log.yaml").step_time_s(StepWork.decode(40, 100))) == pytest.approx(
        9e-3, rel=1e-3
    )
    table = tmp_path / "sps.json"
    assert "off by 0.00% in the median" in run("export", "dspark", str(tmp_path / "log.yaml"), "--out", str(table))
    run("import", "dspark", str(table), *named, "--out", str(tmp_path / "dspark.parquet"))
    assert float(load_profile(tmp_path / "dspark.parquet").step_time_s(StepWork.decode(40, 100))) == pytest.approx(
        9e-3, rel=1e-3
    )


def test_import_of_llmservingsim(tmp_path, shared_data):
    folder = shared_data / "profiles/llmservingsim/RTX4090/Llama-3.1-8B/bf16"
    file = tmp_path / "rtx.parquet"
    run("import", "llmservingsim", str(folder), "--model", "llama-3.1-8b", "--out", str(file))
    kernels = import_llmservingsim(folder, load_model("llama-3.1-8b"))
    work = StepWork.decode([1, 64], 1000)
    np.testing.assert_array_equal(load_profile(file).step_time_s(work), kernels.step_time_s(work))
    assert load_profile(file).held_out == kernels.held_out


def test_the_example_in_the_docs_is_a_profile():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    example = parse(re.search(r"## Profile.*?```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert (example.kind, len(example.operators), example.derived) == ("table", 2, {"decode_width": 1})
    missing = [name for name in FEATURES if f"`{name}`" not in text]
    assert not missing


def test_import_refuses_before_it_reads(tmp_path):
    flags = ["import", "dspark", str(tmp_path / "absent.json"), "--model", "m", "--device", "d", "--out"]
    with pytest.raises(InputError, match=r"a\.json: a profile is written as"):
        run(*flags, str(tmp_path / "a.json"))
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        run(*flags, str(tmp_path / "a.yaml"))
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_without_force(tmp_path):
    csv, kept = tmp_path / "steps.csv", tmp_path / "kept.yaml"
    csv.write_text("num_reqs,tokens_per_req,context_len,tp,latency_ms\n1,1,100,1,5\n8,1,100,1,6\n")
    kept.write_text("mine")
    for words in (("import", "table", str(csv), "--model", "m", "--device", "d"), ("export", "dspark", LLAMA)):
        with pytest.raises(InputError, match=r"kept\.yaml: already exists: choose another name, or pass --force"):
            run(*words, "--out", str(kept))
        assert kept.read_text() == "mine"
        run(*words, "--out", str(kept), "--force")
        assert kept.read_text() != "mine"
        kept.write_text("mine")
    with pytest.raises(InputError, match="is a device or pipe, no file to replace"):
        run("export", "dspark", LLAMA, "--out", os.devnull, "--force")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("command", import_group.commands.values(), ids=str)
def test_every_import_says_how_to_replace(command):
    assert "--force" in {name for option in command.params for name in option.opts}


@pytest.mark.parametrize("name", [LLAMA, "h100-r1-distill-qwen-7b-published"])
def test_show_writes_a_picture_that_shades_what_is_outside(tmp_path, name):
    text = run("show", name, "--out", str(tmp_path / "new" / "folder"))
    picture = tmp_path / "new" / "folder" / f"{name}.png"
    assert f"wrote {picture}" in text
    pixels = (255 * imread(picture)[..., :3]).round()
    shaded = (np.abs(pixels - 230) < 3).all(axis=-1)
    left, right = np.hsplit(shaded.mean(axis=0) > 0.5, 2)  # columns that are shaded from top to bottom
    assert left.sum() > 10
    assert (right.sum() > 10) == ("context_tokens" in load_profile(name).valid_range)


def test_show_of_a_file_and_of_an_unknown_name(tmp_path):
    document = json.loads(run("show", LLAMA, "--json"))
    for key in ("step_times", "sha256", "breakdown", "held_out"):
        del document[key]
    file = Path(tmp_path / "mine.yaml")
    file.write_text(json.dumps(document | {"name": "mine"}))
    assert "mine" in run("show", str(file))
    with pytest.raises(InputError, match="did you mean"):
        run("show", "h100-lama-3.1-8b-published")
