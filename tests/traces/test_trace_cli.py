"""`rolloutsim trace` does from the command line what the package does, and does not overwrite by accident."""

import inspect
import json

import pytest
from click.testing import CliRunner

from simulator.cli.trace import synth as synth_command
from simulator.cli.trace import trace
from traces import io
from traces.errors import InputError
from traces.synthesis import synth

SMALL = ["--prompts", "3", "--samples", "2", "--steps", "2", "--median-tokens", "20"]


def run(*arguments):
    return CliRunner().invoke(trace, [str(argument) for argument in arguments])


@pytest.fixture
def recorded(make_table, tmp_path):
    path = tmp_path / "recorded.parquet"
    io.write(make_table(), path, {})
    return path


def test_describe_for_people(recorded):
    result = run("describe", recorded)
    assert result.exit_code == 0
    for text in ("3 in 3 groups", "Response length (tokens)", "tail share", "1 stop, 1 length, 1 unknown", "token_ids"):
        assert text in result.output


def test_describe_as_json_and_picture(recorded, tmp_path):
    result = run("describe", recorded, "--json", "--out", tmp_path / "lengths.png")
    assert result.exit_code == 0
    figures = json.loads(result.output)
    assert figures["output_tokens"] == 6
    assert figures["sha256"] == io.read(recorded).sha256
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    again = run("describe", recorded, "--out", tmp_path / "lengths.png")
    assert isinstance(again.exception, InputError)


def test_validate(recorded, tmp_path):
    assert "valid, 3 rollouts, 6 response tokens" in run("validate", recorded).output
    assert json.loads(run("validate", recorded, "--json").output)["valid"] is True
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    result = run("validate", broken, "--json")
    assert isinstance(result.exception, InputError)
    answer = json.loads(result.output)
    assert answer["valid"] is False
    assert answer["error"] == str(result.exception)


def test_import_says_what_it_did(tmp_path):
    source, out = tmp_path / "log.csv", tmp_path / "t.parquet"
    source.write_text("prompt_id,prompt_tokens,gen,extra\na,1,2,x\na,1,0,y\nb,1,3,z\n")
    arguments = ["import", source, "--format", "csv", "--map", "output_tokens=gen", "--out", out]
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert not out.exists()
    result = run(*arguments, "--drop-empty")
    assert result.exit_code == 0
    assert "2 rollouts, 5 response tokens" in result.output
    assert "dropped 1 rollouts of 0 tokens" in result.output
    assert "assumed: all rollouts are in step 0" in result.output
    assert "ignored columns: extra" in result.output
    written = io.read(out)
    assert written.output_tokens.tolist() == [2, 3]
    assert io.provenance(written.table)["imported_from"] == "log.csv"


def test_usage_errors(recorded, tmp_path):
    out = tmp_path / "t.parquet"
    assert run("import", recorded, "--format", "xlsx", "--out", out).exit_code == 2
    result = run("import", recorded, "--format", "csv", "--map", "gen_len", "--out", out)
    assert result.exit_code == 2
    assert "not COLUMN=NAME" in result.output
    twice = ("--map", "prompt_id=p", "--map", "prompt_id=q")
    assert "prompt_id is given twice" in run("import", recorded, "--format", "csv", *twice, "--out", out).output
    assert run("synth").exit_code == 2


def test_synth_writes_once_unless_forced(tmp_path):
    out = tmp_path / "made.parquet"
    assert run("synth", *SMALL, "--out", out).exit_code == 0
    first = out.read_bytes()
    result = run("synth", *SMALL, "--seed", "1", "--out", out)
    assert isinstance(result.exception, InputError)
    assert "--force" in str(result.exception)
    assert out.read_bytes() == first
    assert run("synth", *SMALL, "--seed", "1", "--out", out, "--force").exit_code == 0
    assert out.read_bytes() != first
    assert io.provenance(io.read(out).table)["synthetic"]["seed"] == 1


def test_options_match_the_functions():
    defaults = {name: parameter.default for name, parameter in inspect.signature(synth).parameters.items()}
    options = {option.name: option.default for option in synth_command.params if option.name not in ("out", "force")}
    assert options == defaults
