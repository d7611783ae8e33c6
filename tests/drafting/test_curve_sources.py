"""Acceptance where engines leave it: log lines, tables, gauges, benchmarks and requests.

Lines and objects are laid out as these write them: vLLM 0.33 `SpecDecodingLogging.log`, `RequestSpecDecodeMetrics.to_dict`
and `vllm bench serve`; SGLang 0.5.23 `metrics_reporter.report_decode_stats`, `FileRequestMetricsExporter` and
`bench_serving`; and earlier spellings of the same.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_files import read_curve
from simulator.drafting.curve_fits import from_lengths
from tests.traces.mutants import mutants
from traces.errors import InputError


def curve_of(folder: Path, text: str, positions: int | None = None) -> AcceptanceCurve:
    path = folder / "pasted"
    path.write_text(text)
    return read_curve(path, positions)


def steps_of(seed: int, steps: int, conditional: tuple[float, ...]) -> np.ndarray:
    """Accepted drafts of each of so many decode steps, drawn at random."""
    drawn = np.random.default_rng(seed).random((steps, len(conditional))) < conditional
    return np.asarray(drawn.cumprod(axis=1).sum(axis=1))


def survival(accepted: np.ndarray, positions: int) -> np.ndarray:
    return np.array([(accepted >= j).mean() for j in range(1, positions + 1)])


# vLLM's log ----------------------------------------------------------------------------------------------------------


def vllm_line(accepted: np.ndarray, k: int, prefix: str = "(APIServer pid=95) ") -> str:
    rates = ", ".join(f"{share:.3f}" for share in survival(accepted, k))
    return (
        f"{prefix}INFO 07-20 18:11:49 [metrics.py:101] SpecDecoding metrics: Mean acceptance length: {1 + accepted.mean():.2f}, "
        f"Accepted throughput: 9.40 tokens/s, Drafted throughput: 15.10 tokens/s, Accepted: {accepted.sum()} tokens, "
        f"Drafted: {k * accepted.size} tokens, Per-position acceptance rate: {rates}, "
        f"Avg Draft acceptance rate: {100 * accepted.mean() / k:.1f}%"
    )


OLD_VLLM = (
    "INFO 06-06 14:20:54 [metrics.py:86] SpecDecoding metrics: Draft acceptance rate: 61.0%, Mean acceptance length: 2.83, "
    "Accepted: 5306 tokens, Drafted: 8703 tokens, Per-position acceptance rate: 0.730, 0.590, 0.510"
)
NO_POSITIONS = "INFO SpecDecoding metrics: Draft acceptance rate: 50.0%, Accepted: 300 tokens, Drafted: 600 tokens"
OTHER = "(APIServer pid=95) INFO 07-20 18:11:49 [loggers.py:271] Engine 000: Avg prompt throughput: 0.1 tokens/s, Running: 1 reqs"


def test_lines_of_vllm_count_by_their_drafts_and_replicas_count_together(tmp_path: Path) -> None:
    few, many = steps_of(1, 50, (0.2, 0.1, 0.1)), steps_of(2, 5000, (0.9, 0.8, 0.7))
    replica = "(vLLMHttpServer pid=12, ip=10.0.0.7) "
    log = "\n".join([OTHER, vllm_line(few, 3), OTHER, vllm_line(many, 3, replica), ""])
    found = curve_of(tmp_path, log)
    np.testing.assert_allclose(found.survival(), survival(np.concatenate([few, many]), 3), atol=5e-4)
    assert not found.assumed
    assert curve_of(tmp_path, log, 2).positions == 2


def test_earlier_lines_of_vllm(tmp_path: Path) -> None:
    np.testing.assert_allclose(curve_of(tmp_path, OLD_VLLM).survival(), [0.73, 0.59, 0.51], rtol=1e-12)
    alike = curve_of(tmp_path, NO_POSITIONS, 2)
    assert alike.mean_accepted(2) == pytest.approx(1.0)  # half of two
    assert alike.assumed == "positions 1 to 2 are accepted alike"
    with pytest.raises(InputError, match="say how many tokens were drafted with `draft_tokens`"):
        curve_of(tmp_path, NO_POSITIONS)


WHOLE = vllm_line(steps_of(3, 400, (0.8, 0.7, 0.6)), 3)
ENGINE = "INFO [core.py:1] Initializing a V1 LLM engine (v0.33) with config: model='{}', speculative_config=None, tokenizer='t'"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            f"{WHOLE}\n{vllm_line(steps_of(3, 400, (0.8, 0.7)), 2)}",
            "differ in draft positions .2 in line 2, 3 in line 1",
        ),
        (f"{OTHER}\n{WHOLE[: WHOLE.index('Drafted: ')]}", "line 2 is cut short"),
        (WHOLE[: WHOLE.index("Per-position") + 40], "line 1: mean acceptance length .* the line is cut short"),
        (WHOLE[: WHOLE.index("rate: 0") + 3], "line 1 is cut short"),
        (WHOLE.replace("Drafted: 1200", "Drafted: 900"), "line 1: .* the drafts differ in length"),
        (f"{ENGINE.format('a')}\n{ENGINE.format('b')}\n{WHOLE}", "a log of 2 models"),
        (f"{WHOLE}\n[x] Decode batch, #running-req: 1, accept len: 2.00, ", "of vLLM and of SGLang"),
        (OLD_VLLM.replace("8703", "0").replace("5306", "0"), "no line counts a drafted token"),
        (OTHER, "no line tells of acceptance"),
    ],
)
def test_lines_of_vllm_that_tell_nothing_certain_are_refused(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        curve_of(tmp_path, log)
    assert "\n" not in str(error.value)


# SGLang's log --------------------------------------------------------------------------------------------------------


def sglang_line(length: float, rate: float, requests: int = 8, rank: str = " TP0") -> str:
    return (
        f"[2026-10-22 10:27:57{rank}] Decode batch, #running-req: {requests}, #token: 108, token usage: 0.00, accept len: "
        f"{length:.2f}, accept rate: {rate:.2f}, cuda graph: True, gen throughput (token/s): 178.86, #queue-req: 0"
    )


@pytest.mark.parametrize(
    ("lengths", "k", "rate"),
    [
        ((2.17, 2.10), 3, lambda length: length / 4),  # before 2026
        ((2.36, 2.9, 3.31), 7, lambda length: (length - 1) / 7),
        ((5.3, 3.62), 15, lambda length: (length - 1) / 15),  # drafts of a diffusion model
    ],
)
def test_how_many_tokens_sglang_drafted_follows_from_length_and_rate(tmp_path: Path, lengths, k, rate) -> None:  # type: ignore[no-untyped-def]
    log = "\n".join(sglang_line(length, rate(length)) for length in lengths)
    found = curve_of(tmp_path, log)
    assert found.positions == k
    assert 1 + found.mean_accepted(k) == pytest.approx(np.mean(lengths))
    assert len(set(np.round(found.conditional, 9))) == 1
    assert f"assumed: positions 1 to {k} are accepted alike" in found.describe()


def test_lines_of_sglang_count_by_their_requests(tmp_path: Path) -> None:
    log = sglang_line(2.0, 1 / 3, 1, " DP0 TP0") + "\n" + sglang_line(3.0, 2 / 3, 9, " DP1 TP0")
    assert 1 + curve_of(tmp_path, log).mean_accepted(3) == pytest.approx(2.9)


def test_what_sglang_was_started_with_says_how_many_tokens_it_drafts(tmp_path: Path) -> None:
    started = (
        "[x] server_args=ServerArgs(model_path='m', speculative_draft_model_path='d', speculative_num_steps=3, "
        "speculative_eagle_topk={}, speculative_num_draft_tokens=4)\n"
    )
    ambiguous = sglang_line(2.0, 0.5)  # 2 tokens, or 3 as the rate was counted before 2026
    assert curve_of(tmp_path, started.format(1) + ambiguous).positions == 3
    assert curve_of(tmp_path, ambiguous, 3).positions == 3
    assert curve_of(tmp_path, ambiguous, 2).positions == 2
    with pytest.raises(InputError, match="may have had 2 or 3 tokens"):
        curve_of(tmp_path, ambiguous)
    with pytest.raises(InputError, match="speculative_eagle_topk = 4: its drafts are trees"):
        curve_of(tmp_path, started.format(4) + ambiguous)
    with pytest.raises(InputError, match="a log of 2 values of model_path"):
        curve_of(tmp_path, started.format(1) + started.format(1).replace("'m'", "'n'") + ambiguous)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (sglang_line(2.17, 0.54)[:-120].rsplit("accept len: 2", 1)[0] + "accept len: 2.", "line 1 is cut short"),
        ("[x] Decode batch, #running-req: 3, accept len: 2.17, accept rate: 0.5", "line 1 is cut short"),
        ("[x] Decode batch, #running-req: 3, accept len: 2.17, cuda graph: False", "no accept rate tells"),
        (sglang_line(2.17, 0.54) + "\n" + sglang_line(2.17, 0.2), "fit no one draft length"),
    ],
)
def test_lines_of_sglang_that_tell_nothing_certain_are_refused(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        curve_of(tmp_path, log)


# Tables and gauges ---------------------------------------------------------------------------------------------------

TABLE = """\
---------------Speculative Decoding---------------
Acceptance rate (%):                     60.83
Acceptance length:                       2.83
Drafts:                                  2901
Draft tokens:                            8703
Accepted tokens:                         5294
Per-position acceptance (%):
  Position 0:                            73.00
  Position 1:                            59.00
  Position 2:                            50.50
==================================================
"""
GAUGES = """\
# HELP sglang:spec_accept_length Mean acceptance length of speculative decoding.
# TYPE sglang:spec_accept_length gauge
sglang:spec_accept_length{engine_type="unified",model_name="m",dp_rank="0"} 2.5
sglang:spec_accept_length{engine_type="unified",model_name="m",dp_rank="1"} 3.1
sglang:spec_accept_rate{engine_type="unified",model_name="m",dp_rank="0"} 0.3
sglang:spec_accept_rate{engine_type="unified",model_name="m",dp_rank="1"} 0.42
"""


def test_the_table_that_a_benchmark_prints(tmp_path: Path) -> None:
    np.testing.assert_allclose(curve_of(tmp_path, TABLE).survival(), [0.73, 0.59, 0.505], rtol=1e-12)
    with pytest.raises(InputError, match="copy the table whole"):
        curve_of(tmp_path, TABLE[: TABLE.index("  Position 2")])
    lone = "Accept length:                           2.50      \n"
    assert curve_of(tmp_path, lone, 4).mean_accepted(4) == pytest.approx(1.5)


def test_gauges_of_sglang(tmp_path: Path) -> None:
    found = curve_of(tmp_path, GAUGES)
    assert found.positions == 5
    assert found.mean_accepted(5) == pytest.approx(1.8)
    steps = 'sglang:spec_num_steps{model_name="m"} 3.0\nsglang:spec_num_draft_tokens{model_name="m"} 4.0\n'
    told = GAUGES.replace("rate", "other") + steps
    assert curve_of(tmp_path, told).positions == 3
    with pytest.raises(InputError, match="are trees"):
        curve_of(tmp_path, told.replace("} 3.0", "} 2.0"))
    with pytest.raises(InputError, match="nothing was drafted before the scrape"):
        curve_of(tmp_path, GAUGES.replace("2.5", "0.0").replace("3.1", "0.0"))


def test_two_scrapes_in_one_file_are_not_added_up(tmp_path: Path) -> None:
    scrape = "\n".join(
        [
            'vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 100.0',
            'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 50.0',
        ]
    )
    assert curve_of(tmp_path, scrape).conditional == (0.5,)
    with pytest.raises(InputError, match=r"line 3: .* with the labels of line 1: two scrapes or two servers"):
        curve_of(tmp_path, f"{scrape}\n{scrape.replace('100.0', '900.0')}")


# Benchmarks ----------------------------------------------------------------------------------------------------------


def test_results_of_benchmarks(tmp_path: Path) -> None:
    vllm = {
        "num_prompts": 40, "input_lens": [1], "spec_decode_acceptance_rate": 66.7, "spec_decode_num_drafts": 1000,
        "spec_decode_draft_tokens": 2000, "spec_decode_per_position_acceptance_rates": [0.8, 0.5],
    }  # fmt: skip
    np.testing.assert_allclose(curve_of(tmp_path, json.dumps(vllm, indent=1)).survival(), [0.8, 0.5])
    with pytest.raises(InputError, match="differ in length"):
        curve_of(tmp_path, json.dumps(vllm | {"spec_decode_draft_tokens": 1500}))
    sglang = {"backend": "sglang", "input_lens": [1], "accept_length": 2.5}
    assert curve_of(tmp_path, json.dumps(sglang), 3).mean_accepted(3) == pytest.approx(1.5)
    server = {"server_info": {"speculative_num_steps": 3, "speculative_num_draft_tokens": 4}}
    assert curve_of(tmp_path, json.dumps(sglang | server)).positions == 3
    with pytest.raises(InputError, match="does not say how many tokens"):
        curve_of(tmp_path, json.dumps(sglang))
    with pytest.raises(InputError, match="the server did not speculate"):
        curve_of(tmp_path, json.dumps(sglang | {"accept_length": None}))
    with pytest.raises(InputError, match="holds 2 benchmarks"):
        curve_of(tmp_path, f"{json.dumps(sglang)}\n{json.dumps(sglang)}")


# Requests ------------------------------------------------------------------------------------------------------------

SPELLINGS = [
    ("spec_num_correct_drafts", "spec_num_proposed_drafts", "spec_correct_drafts_histogram"),
    ("spec_accepted_drafts", "spec_proposed_drafts", "spec_accept_histogram"),
    ("spec_accept_token_num", "spec_draft_token_num", "spec_accept_histogram"),
]


def sglang_request(accepted: np.ndarray, k: int, spelling: tuple[str, str, str], histogram: bool = True) -> dict:  # type: ignore[type-arg]
    correct, proposed, counts = spelling
    found = {
        "request_parameters": "{}", "prompt_tokens": 20, "completion_tokens": int(accepted.sum() + accepted.size + 1),
        correct: int(accepted.sum()), proposed: k * accepted.size, "spec_verify_ct": accepted.size,
    }  # fmt: skip
    return found | ({counts: np.bincount(accepted).tolist()} if histogram else {})


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_requests_of_sglang_in_every_spelling(tmp_path: Path, spelling: tuple[str, str, str]) -> None:
    each = [steps_of(seed, 40 * seed, (0.7, 0.6, 0.5)) for seed in (4, 5, 6)]
    together = survival(np.concatenate(each), 3)
    lines = "\n".join(json.dumps(sglang_request(accepted, 3, spelling)) for accepted in each)
    np.testing.assert_allclose(curve_of(tmp_path, lines).survival(), together, rtol=1e-12)
    answers = "\n".join(json.dumps({"meta_info": sglang_request(accepted, 3, spelling, False)}) for accepted in each)
    mean = curve_of(tmp_path, answers)
    assert mean.mean_accepted(3) == pytest.approx(together.sum())
    assert mean.assumed


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_zero_that_sglang_never_counted_is_missing(tmp_path: Path, spelling: tuple[str, str, str]) -> None:
    accepted = steps_of(7, 200, (0.7, 0.6, 0.5))
    request = sglang_request(accepted, 3, spelling, False) | {spelling[0]: 0}
    assert curve_of(tmp_path, json.dumps(request)).mean_accepted(3) == pytest.approx(accepted.mean())
    rejected = request | {"completion_tokens": accepted.size}
    assert curve_of(tmp_path, json.dumps(rejected)).mean_accepted(3) == 0


def vllm_request(accepted: np.ndarray, drafted: np.ndarray, k: int, detailed: bool) -> dict:  # type: ignore[type-arg]
    found = {
        "mean_acceptance_length": 1 + accepted.mean(), "acceptance_histogram": np.bincount(accepted, minlength=k + 1).tolist(),
        "num_spec_steps": accepted.size, "num_draft_tokens": int(drafted.sum()), "num_spec_tokens": k,
    }  # fmt: skip
    steps = {"per_step_accepted": accepted.tolist(), "per_step_drafted": drafted.tolist()}
    return {"id": "cmpl-1", "choices": [], "metrics": {"speculative_decoding": found | (steps if detailed else {})}}


def test_requests_of_vllm_by_step_and_by_histogram(tmp_path: Path) -> None:
    accepted = steps_of(8, 300, (0.7, 0.6, 0.5))
    full = np.full(300, 3)
    several_sequences = {"id": "cmpl-2", "metrics": {"speculative_decoding": None}}
    for detailed in (True, False):
        lines = [
            several_sequences,
            vllm_request(accepted[:100], full[:100], 3, detailed),
            vllm_request(accepted[100:], full[100:], 3, detailed),
        ]
        found = curve_of(tmp_path, "\n".join(map(json.dumps, lines)))
        np.testing.assert_allclose(found.survival(), survival(accepted, 3), rtol=1e-12)


def test_drafts_that_differ_in_length_are_told_apart_by_step_alone(tmp_path: Path) -> None:
    drafted = np.random.default_rng(9).integers(1, 4, 4000)
    accepted = np.minimum(steps_of(10, 4000, (0.8, 0.6, 0.4)), drafted)
    found = curve_of(tmp_path, json.dumps(vllm_request(accepted, drafted, 3, True)))
    np.testing.assert_allclose(
        found.conditional, (0.8, 0.6, 0.4), atol=0.08
    )  # 4 standard errors of the third: some 640 of 4000 drafts come so far
    with pytest.raises(InputError, match=r"differ in length.*--per-request-spec-decode-metrics detailed"):
        curve_of(tmp_path, json.dumps(vllm_request(accepted, drafted, 3, False)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"spec_verify_ct": 0, "completion_tokens": 4}', "no request was verified"),
        ('{"spec_verify_ct": 4, "spec_accept_token_num": 2}', "how many are drafted with `draft_tokens`"),
        (
            '{"spec_verify_ct": 4, "spec_draft_token_num": 9, "spec_accept_token_num": 2}',
            "unlike numbers of tokens .2.25",
        ),
        ('{"spec_verify_ct": 4, "spec_draft_token_num": 8}', "neither accepted drafts nor completion_tokens"),
        ('{"spec_verify_ct": "many"}', "spec_verify_ct = 'many' is not a finite number"),
        ('{"meta_info": {"completion_tokens": 9}}', "counts no drafts"),
        ('{"a": 1}\n{"b": ', "line 2: not JSON"),
        ('{"spec_verify_ct": 1}\n7', "line 2: 7 is no JSON object"),
        ('{"metrics": {"speculative_decoding": {"num_spec_tokens": 0}}}', "no num_spec_tokens"),
        (
            '{"metrics": {"speculative_decoding": {"num_spec_tokens": 2, "acceptance_histogram": [1]}}}',
            "1 entries for 2",
        ),
    ],
)
def test_requests_that_tell_nothing_certain_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        curve_of(tmp_path, text)
    assert "\n" not in str(error.value)


COUNTED = [
    {
        "input_lens": [1],
        "accept_length": 2.5,
        "server_info": {"speculative_num_steps": 3, "speculative_num_draft_tokens": 4},
    },
    {
        "spec_decode_num_drafts": 9,
        "spec_decode_draft_tokens": 18,
        "spec_decode_per_position_acceptance_rates": [0.8, 0.5],
    },
    vllm_request(np.array([2, 0, 1]), np.array([2, 2, 2]), 2, True),
    vllm_request(np.array([2, 0, 1]), np.array([2, 2, 2]), 2, False),
    {"meta_info": sglang_request(np.array([2, 0, 1]), 2, SPELLINGS[0])},
]


@pytest.mark.parametrize("counted", COUNTED)
def test_whatever_is_counted_is_read_or_refused_in_a_line(tmp_path: Path, counted: object) -> None:
    refusals = 0
    for mutant in mutants(counted):
        try:
            curve_of(tmp_path, json.dumps(mutant))
        except InputError as error:
            refusals += 1
            assert "\n" not in str(error)  # noqa: PT017 - many of them
    assert refusals > 10


# Lengths with gaps ---------------------------------------------------------------------------------------------------


def test_positions_between_lengths_are_assumed_alike() -> None:
    found = from_lengths({2: 2.36, 4: 3.08}, None, "c")
    one, two, three, four = found.conditional
    assert one == pytest.approx(two)
    assert three == pytest.approx(four)
    assert [1 + found.mean_accepted(k) for k in (2, 4)] == pytest.approx([2.36, 3.08])
    assert found.assumed == "positions 1 to 2 and 3 to 4 are accepted alike"
    assert from_lengths({1: 1.7, 2: 2.2}, None, "c").assumed == ""
    with pytest.raises(InputError, match="tokens off"):
        from_lengths({3: 1.3, 4: 2.3}, None, "c")


@pytest.mark.parametrize("length", [1.0, 4.0])
def test_all_or_nothing_accepted(length: float) -> None:
    found = from_lengths({3: length}, None, "c")
    np.testing.assert_allclose(found.survival(), (length - 1) / 3, atol=1e-9)


def test_files_of_others(shared_data: Path) -> None:
    cases = shared_data / "cases"
    if not cases.is_dir():
        pytest.skip(f"{cases} is not there: files as users have them")
    expected = {
        "curves/vllm_log.txt": 2.83, "curves/sglang_log.txt": 2.17, "curves/lengths.yaml": 3.54,
        "curves/prom.txt": 1 + 40000 / 26407,
        "logs/vllm_plain.log": 2.867, "bench/vllm_spec.json": 2.5, "bench/sglang_spec.jsonl": 2.5,
    }  # fmt: skip
    for name, length in expected.items():
        found = read_curve(cases / name)
        assert 1 + found.mean_accepted(found.positions) == pytest.approx(length, abs=1e-6), name
