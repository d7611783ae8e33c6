"""The proposer by the interface that vLLM calls, without vLLM: settings, history, policies."""

import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulator.budgets.view import BatchView
from simulator.deploy.vllm_proposer import SuffixProposer
from tests.deploy.test_sequences import END, random_case, requests_of
from tests.deploy.toy_engine import Int32, ToyEngine
from traces import io
from traces.errors import InputError

VIEWS: list[tuple[list[int], list[int], list[int]]] = []


def watching(view: BatchView) -> list[int]:
    """A policy that is asked: notes what it sees."""
    VIEWS.append((view.rollout.tolist(), view.emitted_tokens.tolist(), view.accepted_tokens.tolist()))
    return [3] * view.live


def config(settings: dict[str, Any], slots: int = 3, most: int = 6) -> Any:
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=most),
        scheduler_config=SimpleNamespace(max_num_seqs=slots),
        model_config=SimpleNamespace(
            max_model_len=200, hf_config=SimpleNamespace(), try_get_generation_config=lambda: {"eos_token_id": [END]}
        ),
        additional_config={"rolloutsim": settings},
    )  # fmt: skip


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two RL steps of three prompts."""
    path = tmp_path / "history.parquet"
    io.write(
        next(case for case in map(random_case, map(random.Random, range(99))) if len(case.now) == 3).trace(), path, {}
    )
    return path


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"policy": "oracle"}, "rolloutsim: policy 'oracle' is unknown"),
        ({"polcy": "das"}, "rolloutsim: polcy: unknown key: did you mean 'policy'"),
        ({"drafter": {"siblings": "next-step"}}, "rolloutsim: drafter.siblings = 'next-step'"),
        ({"drafter": {"depth": 1}}, "rolloutsim: drafter.depth = 1"),
        ({"history": "/nowhere.parquet"}, "/nowhere.parquet"),
        ({"step": 3}, "step has no effect without a history"),
        ({"max_tokens": 0}, "rolloutsim: max_tokens = 0"),
        ({"profile": "h1000"}, "h1000"),
        ({"policy": "buckets:patience=3,reprefill=yes"}, "reprefill=yes computes all that runs again"),
    ],
)
def test_a_wrong_setting_is_one_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as error:
        SuffixProposer(config(settings))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_das_asks_for_a_profile_where_it_needs_one(history: Path) -> None:
    with pytest.raises(InputError, match="profile: missing"):
        SuffixProposer(config({"history": str(history), "policy": "das"}))
    assert SuffixProposer(config({"policy": "das"})).facts["policy"]["budget_long"] == 24


def test_a_policy_sees_what_it_sees_when_simulated_and_its_budgets_are_cut() -> None:
    rng, proposer = random.Random(2), SuffixProposer(config({"policy": f"{__name__}:watching"}, most=2))
    requests = requests_of(random_case(rng), rng)
    VIEWS.clear()
    longest = 0

    class Watched:
        def propose(self, sampled: list[list[int]], counts: Int32, rows: Int32) -> list[list[int]]:
            nonlocal longest
            drafts = proposer.propose(sampled, counts, rows)
            longest = max(longest, *map(len, drafts))
            live = [one for one in engine.rows if one.emitted < len(one.output)]
            if live:
                seen = sorted(zip(VIEWS[-1][1], VIEWS[-1][2], strict=True))
                assert seen == sorted((one.emitted, one.emitted - one.steps) for one in live)
            return drafts

    engine = ToyEngine(requests, 3, Watched(), rng)
    engine.run()
    assert longest == 2
    assert {number for view in VIEWS for number in view[0]} <= set(range(len(requests)))


def test_a_policy_that_waits_drafts_once_few_have_run_for_so_many_steps() -> None:
    rng = random.Random(2)
    settings = {"policy": "buckets:bounds=1,budgets=6,live=2,patience=4", "drafter": {"min_prob": 0.0}}
    proposer = SuffixProposer(config(settings))
    engine_rows: list[int] = []
    first: list[int] = []

    class Watched:
        def propose(self, sampled: list[list[int]], counts: Int32, rows: Int32) -> list[list[int]]:
            drafts = proposer.propose(sampled, counts, rows)
            engine_rows.append(sum(one.emitted < len(one.output) for one in engine.rows))
            if any(drafts) and not first:
                first.append(len(engine_rows))
            return drafts

    engine = ToyEngine(requests_of(random_case(rng), rng), 3, Watched(), rng)
    engine.run()
    calm = [sum(n <= 2 for n in engine_rows[end - 4 : end]) for end in range(4, len(engine_rows) + 1)]
    assert first
    assert first[0] >= 4 + calm.index(4), "not before"


def test_history_is_loaded_anew_and_strangers_are_told_once(history: Path, caplog: pytest.LogCaptureFixture) -> None:
    trace = io.read(history)
    proposer = SuffixProposer(
        config({"history": str(history), "step": 1, "policy": "fixed:6", "drafter": {"prompt": False}})
    )
    before = proposer.facts["history_tokens"]
    assert before == trace.output_tokens[trace.step == 0].sum()
    proposer.begin_step(step=None)
    assert proposer.facts["history_tokens"] == trace.output_tokens.sum()
    assert proposer.facts["history_sha256"] == trace.sha256
    row = int(np.argmax(np.where(trace.step == 1, trace.output_tokens, 0)))
    prompt = trace.table.column("prompt_token_ids")[row].as_py()
    output = trace.table.column("token_ids")[row].as_py()
    known = np.zeros((3, 200), np.int32)

    def drafts(tokens: list[int], emitted: int) -> list[int]:
        known[0, : len(tokens)] = tokens
        return proposer.propose([tokens[-emitted:]], np.array([len(tokens), 0, 0], np.int32), known)[0]

    with caplog.at_level(logging.WARNING, logger="vllm"):
        assert drafts([*prompt, *output[:3]], 3), "its history continues it"
        assert not caplog.records
        assert not drafts([5, 5, 5, 9], 1), "nobody has emitted it"
        assert drafts([6, 6, 6, 8], 1) == []
    assert len(caplog.records) == 1
    proposer.reset()
    assert proposer.sequences.begun == 0
