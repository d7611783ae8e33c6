"""`rolloutsim advise`: the answer first, exit codes, and one line for what cannot be used."""

import json

import pytest

from tests.cli.conftest import PROFILE

QUICK = ("--profile", PROFILE, "--drafter", "proposer", "--policy", "fixed:4", "--bootstrap", 2)


def test_the_answer_comes_first_and_the_settings_follow(shell, small):
    ran = shell("advise", small, *QUICK, "--engine", "vllm==0.33", "--engine", "max_num_seqs=8", "--framework", "verl")
    assert ran.code == 0
    assert ran.out.split(":")[0] in ("ENABLE", "DO NOT ENABLE", "CANNOT TELL")
    assert "again: rolloutsim replay" in ran.out


def test_json_is_one_document_and_out_keeps_it(shell, small, tmp_path):
    ran = shell("advise", small, *QUICK, "--json", "--out", tmp_path / "out")
    document = json.loads(ran.out)
    assert document == json.loads((tmp_path / "out/advice.json").read_text())
    assert (tmp_path / "out/runs.parquet").exists()
    assert document["engine"].startswith("vllm==0.33")
    assert document["split"] == {"by": "RL steps", "searched": [0], "judged": [1, 2], "prompts": 6}


def test_the_run_that_judged_can_be_a_page(shell, small, tmp_path):
    assert shell("advise", small, *QUICK, "--html", tmp_path / "page.html").code == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "rolloutsim replay" in text
    assert "proposer" in text
    assert shell("advise", small, *QUICK, "--html", tmp_path / "nowhere/page.html").code == 3


def test_no_gain_can_fail(shell, small):
    assert shell("advise", small, *QUICK[:-4], "--policy", "fixed:0", "--fail-if-no-gain").code == 5


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--engine", "vllm=0.33"), 2, "write vllm==0.33"),
        (("--engine", "vllm", "--engine", "sglang"), 2, "name one"),
        (("--engine", "vllm==0.5"), 3, "upgrade"),
        (("--engine", "slots=4"), 2, "engine.slots"),
        (("--framework", "vrl"), 3, "did you mean 'verl'"),
        (("--policy", "none"), 2, "leave it out"),
        (("--policy", "fixd:4"), 2, "fixd"),
        (("--policy", "das", "--policy", "das"), 2, "named twice"),
        (("--drafter", "none"), 3, "held against"),
        (("--drafter", "ngram", "--policy", "das"), 3, "runs none of these"),
        (("--steps", "77"), 3, "no RL step 77"),
        (("--bootstrap", "1"), 2, "--bootstrap"),
        (("--profile-error", "nan"), 2, "not a number"),
    ],
)
def test_what_cannot_be_used_is_one_line(shell, small, flags, code, told):
    ran = shell("advise", small, "--profile", PROFILE, *flags)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err
    assert ran.err.count("\n") == 1
