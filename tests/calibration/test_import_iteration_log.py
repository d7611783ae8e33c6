"""Fits to vLLM's iteration log: known costs come back, errors are those of steps left out, odd lines are refused."""

import numpy as np
import pytest

from calibration.imports.iteration_log import import_iteration_log
from simulator.cost import StepWork
from traces.errors import InputError

OLD = "(EngineCore_DP0 pid=201) INFO 12-22 21:44:40 [core.py:349] "
NEW = "(APIServer pid=7) INFO 10-05 12:00:00 [loggers.py:182] Engine 000: "
CACHE = "(EngineCore pid=9) INFO 10-05 11:59:00 [kv_cache_utils.py:870] GPU KV cache size: 512,000 tokens"
COSTS = {"constant": 6e-3, "live": 2e-5, "query_tokens": 1.5e-5, "prefill_tokens": 4e-5, "kv_tokens": 3e-8}


def line(number, context, prompt, generating, generated, seconds, usage=None, dummy=False, head=NEW) -> str:
    text = (
        f"{head}Iteration({number}): {context} context requests, {prompt} context tokens, {generating} generation requests, "
        f"{generated} generation tokens, iteration elapsed time: {1e3 * seconds:.2f} ms"
    )
    return text + " (dummy)" * dummy + ("" if usage is None else f", GPU KV cache usage: {100 * usage:.1f}%")


def steps(count=1500, seed=0, drafts=True):
    """(requests prefilled, their tokens, decoding, their tokens, KV tokens) of made-up steps."""
    rng = np.random.default_rng(seed)
    decoding = rng.integers(1, 200, count)
    width = rng.integers(1, 6, count) if drafts else np.ones(count, int)
    prefilled = np.where(rng.random(count) < 0.3, rng.integers(1, 4, count), 0)
    prompt = prefilled * rng.integers(50, 700, count)
    return prefilled, prompt, decoding, decoding * width, rng.integers(10_000, 500_000, count)


def seconds_of(work, costs=COSTS):
    prefilled, prompt, decoding, generated, kv = work
    return (
        costs["constant"] + costs["live"] * (prefilled + decoding) + costs["query_tokens"] * (prompt + generated)
        + costs["prefill_tokens"] * prompt + costs.get("kv_tokens", 0) * kv
    )  # fmt: skip


@pytest.fixture
def log(tmp_path):
    def write(lines):
        path = tmp_path / "server.log"
        path.write_text("\n".join(["INFO starting", *lines, "INFO: 10.0.0.1 - POST /v1/completions 200"]) + "\n")
        return path

    return write


def lines_of(work, seconds, kv=False, head=NEW):
    return [
        line(
            at, *(int(column[at]) for column in work[:4]), seconds[at], work[4][at] / 512_000 if kv else None, head=head
        )
        for at in range(len(seconds))
    ]


def test_known_costs_come_back_from_either_format(log):
    work = steps()
    costs = {name: cost for name, cost in COSTS.items() if name != "kv_tokens"}
    for head in (OLD, NEW):
        profile = import_iteration_log(log(lines_of(work, seconds_of(work, costs), head=head)), "m", "d")
        found = dict(zip(("constant", "live", "query_tokens"), profile.operators[0].row_s, strict=False))
        assert found == pytest.approx({name: costs[name] for name in found}, rel=0.01)
        assert profile.operators[0].row_s[5] == pytest.approx(costs["prefill_tokens"], rel=0.01)
        assert profile.relative_error < 1e-3  # vLLM rounds to 0.01 ms
        assert "does not count KV" in profile.notes
        assert "1,500 steps" in profile.source
    seconds = float(profile.step_time_s(StepWork.decode(100, 1000, 3)))
    assert seconds == pytest.approx(6e-3 + 100 * 2e-5 + 300 * 1.5e-5, rel=5e-3)


def test_kv_is_counted_where_the_log_tells_its_size(log):
    work = steps()
    made = lines_of(work, seconds_of(work), kv=True)
    profile = import_iteration_log(log([CACHE, *made]), "m", "d")
    assert profile.operators[0].row_s[3] == pytest.approx(COSTS["kv_tokens"], rel=0.01)
    assert profile.valid_range["kv_tokens"] == pytest.approx((10_000, 500_000), rel=0.03)
    assert "context_tokens" in profile.valid_range
    without = import_iteration_log(log(made), "m", "d")
    assert without.operators[0].row_s[3] == 0
    assert without.relative_error > 10 * profile.relative_error


def test_the_stored_error_is_that_of_steps_left_out_and_stalls_do_not_move_the_fit(log):
    work = steps()
    rng = np.random.default_rng(1)
    exact = seconds_of(work, COSTS | {"kv_tokens": 0})
    noisy = exact * (1 + 0.05 * rng.choice([-1, 1], exact.size))
    profile = import_iteration_log(log(lines_of(work, noisy)), "m", "d")
    assert profile.relative_error == pytest.approx(0.05, abs=0.003)
    assert "off by 5." in profile.uncertainty or "off by 4.9" in profile.uncertainty
    stalled = np.where(rng.random(exact.size) < 0.02, 50 * exact, exact)
    kept = import_iteration_log(log(lines_of(work, stalled)), "m", "d")
    assert float(kept.step_time_s(StepWork.decode(64, 500))) == pytest.approx(6e-3 + 64 * 3.5e-5, rel=0.01)
    assert "all steps together took +" in kept.uncertainty  # by what they took longer than the fit says


def test_a_trend_that_the_fit_lacks_shows_in_the_steps_left_out(log):
    """A negative control: when the second half of the log is slower, its steps are not predicted by the first."""
    work = steps()
    exact = seconds_of(work, COSTS | {"kv_tokens": 0})
    drifting = np.where(np.arange(exact.size) < exact.size / 2, exact, 1.5 * exact)
    assert import_iteration_log(log(lines_of(work, drifting)), "m", "d").relative_error > 0.15


def test_the_valid_range_is_what_the_log_saw(log):
    work = steps()
    profile = import_iteration_log(log(lines_of(work, seconds_of(work))), "m", "d")
    prefilled, prompt, decoding, generated, _ = work
    assert profile.valid_range["live"] == ((prefilled + decoding).min(), (prefilled + decoding).max())
    assert profile.valid_range["query_tokens"] == ((prompt + generated).min(), (prompt + generated).max())
    assert profile.valid_range["prefill_tokens"] == (0, prompt.max())
    assert profile.outside(StepWork.decode(1000, 10))


def test_what_the_log_cannot_tell_apart_is_fitted_once_and_said(log):
    work = steps(drafts=False)
    none = np.zeros_like(work[0])
    work = (none, none, *work[2:])
    profile = import_iteration_log(log(lines_of(work, seconds_of(work))), "m", "d")
    assert "No cost per query_tokens: it is proportional to live in every step." in profile.notes
    assert "No cost per prefill_tokens: it is zero in every step." in profile.notes
    assert profile.valid_range["query_per_seq"] == (1, 1)
    assert profile.outside(StepWork.decode(8, 10, 2))
    assert profile.operators[0].row_s[1] == pytest.approx(3.5e-5, rel=0.3)


def test_dummy_and_idle_steps_are_left_out_and_counted(log):
    work = steps(200)
    made = lines_of(work, seconds_of(work))
    made[50:50] = [line(0, 0, 0, 0, 0, 3e-3, dummy=True)] * 3 + [line(0, 0, 0, 0, 0, 1e-4)] * 2
    profile = import_iteration_log(log(made), "m", "d")
    assert "3 dummy steps are left out." in profile.notes
    assert "2 steps without tokens or time are left out." in profile.notes
    assert "200 steps" in profile.source


def test_a_stretch_without_prefill_is_no_obstacle(log):
    work = steps(500)
    decoding = np.arange(500) >= 100
    work = (np.where(decoding, 0, work[0]), np.where(decoding, 0, work[1]), *work[2:])
    profile = import_iteration_log(log(lines_of(work, seconds_of(work, COSTS | {"kv_tokens": 0}))), "m", "d")
    assert profile.operators[0].row_s[5] == pytest.approx(COSTS["prefill_tokens"], rel=0.02)
    assert profile.relative_error > 0.01  # the stretch that prefills is predicted by four that do not


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "0 steps with work: a fit needs 50; log a run with --enable-logging-iteration-details"),
        ([line(1, 0, 0, 4, 4, 0.01)] * 49, "49 steps with work"),
        ([line(1, 0, 0, 4, 4, 0.01).replace("context tokens", "ctx tokens")], r"line 2: 'Iteration\(1\): 0 context"),
        ([line(1, 0, 0, 4, 4, 0.01).replace("10.00 ms", "nan ms")], "is no step as vLLM logs it: remove the line"),
        ([NEW + "Iteration("], "line 2"),
        ([line(1, 0, 0, 10**12, 4, 0.01)], "is no step as vLLM logs it"),
    ],
)
def test_logs_that_cannot_be_used(log, lines, message):
    path = log(lines)
    with pytest.raises(InputError, match=message) as caught:
        import_iteration_log(path, "m", "d")
    assert str(path) in str(caught.value)


def test_a_log_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        import_iteration_log(tmp_path / "absent.log", "m", "d")
    with pytest.raises(InputError, match="cannot be read"):
        import_iteration_log(tmp_path, "m", "d")
