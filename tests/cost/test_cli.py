"""`rolloutsim profile list` and `show`."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from simulator.cli.profile import profile
from simulator.cost import StepWork, list_profiles, load_profile
from simulator.cost.document import parse
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
    row = next(line for line in text.splitlines() if line.split()[:2] == ["64", "512"])
    assert row.split()[-1] == f"{1e3 * seconds:.3f}"
    assert all(
        cell.endswith("*") for line in text.splitlines() if line.split()[:1] == ["256"] for cell in line.split()[2:]
    )


def test_show_json_is_the_profile_and_its_times():
    document = json.loads(run("show", LLAMA, "--json"))
    times = document.pop("step_times")
    model = load_profile(LLAMA)
    assert document.pop("sha256") == model.sha256
    np.testing.assert_array_equal(parse(json.dumps(document)).packed[1], model.packed[1])
    for case in times:
        work = StepWork.decode(case["live"], case["context_tokens"], case["query_per_seq"])
        assert case["step_time_s"] == model.step_time_s(work)
        assert case["outside_valid_range"] == model.outside(work)
    assert {case["outside_valid_range"] for case in times} == {True, False}


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
    for key in ("step_times", "sha256"):
        del document[key]
    file = Path(tmp_path / "mine.yaml")
    file.write_text(json.dumps(document | {"name": "mine"}))
    assert "mine" in run("show", str(file))
    with pytest.raises(InputError, match="did you mean"):
        run("show", "h100-lama-3.1-8b-published")
