"""Import of step times that somebody measured: each is kept, and a grid that is not full is refused."""

import itertools

import numpy as np
import pytest

from calibration.imports.step_table import import_step_table
from simulator.cost import StepWork
from traces.errors import InputError

HEAD = "num_reqs,tokens_per_req,context_len,tp,latency_ms"
REQUESTS, TOKENS, CONTEXTS = (1, 8, 64), (1, 5), (512, 4096, 32768)


def latency_ms(requests, tokens, context, tp=1) -> float:
    return (5 + 0.01 * requests * tokens + 1e-6 * requests * context * (1 + 0.1 * tokens)) / tp + 0.3 * (tp > 1)


def rows(requests=REQUESTS, tokens=TOKENS, contexts=CONTEXTS, tps=(1, 2)) -> list[str]:
    cases = itertools.product(requests, tokens, contexts, tps)
    return [f"{r},{t},{c},{tp},{latency_ms(r, t, c, tp)!r}" for r, t, c, tp in cases]


@pytest.fixture
def csv(tmp_path):
    def write(lines, head=HEAD):
        path = tmp_path / "steps.csv"
        path.write_text("\n".join([head, *lines]) + "\n")
        return path

    return write


@pytest.mark.parametrize("tp", [1, 2])
def test_every_measured_step_costs_what_was_measured(csv, tp):
    lines = rows()
    np.random.default_rng(0).shuffle(lines)
    profile = import_step_table(csv(lines), "my-model", "MyGPU", tp)
    for requests, tokens, context in itertools.product(REQUESTS, TOKENS, CONTEXTS):
        work = StepWork.decode(requests, context, tokens)
        assert float(profile.step_time_s(work)) == pytest.approx(
            latency_ms(requests, tokens, context, tp) * 1e-3, rel=1e-12
        )
        assert not profile.outside(work)
    assert (profile.name, profile.model) == (f"my-model on MyGPU, tp {tp}", "my-model")
    assert profile.device == ("MyGPU" if tp == 1 else "2 x MyGPU")
    assert "18 rows at tp " in profile.source
    between = float(profile.step_time_s(StepWork.decode(36, 512)))
    assert between == pytest.approx((latency_ms(8, 1, 512, tp) + latency_ms(64, 1, 512, tp)) / 2e3, rel=1e-12)


@pytest.mark.parametrize("work", [StepWork.decode(65, 512), StepWork.decode(1, 511), StepWork.decode(8, 512, 6)])
def test_steps_beyond_the_measured_ones_are_outside(csv, work):
    assert import_step_table(csv(rows(tps=(1,))), "m", "d").outside(work)


def test_an_axis_of_one_value_is_a_range_of_one_value(csv):
    profile = import_step_table(csv(rows(tokens=(1,), tps=(1,))), "m", "d")
    assert profile.operators[0].axes == ("live", "context_tokens")
    assert profile.valid_range["query_per_seq"] == (1, 1)
    assert profile.outside(StepWork.decode(8, 512, 2))
    assert not profile.outside(StepWork.decode(8, 512))
    single = import_step_table(csv(["4,1,100,1,7.5"]), "m", "d")
    assert float(single.step_time_s(StepWork.decode(4, 100))) == 7.5e-3
    assert single.kind == "affine"
    assert single.outside(StepWork.decode(5, 100))


def test_repeats_count_by_their_median(csv):
    profile = import_step_table(csv([*rows(tps=(1,)), "8,1,512,1,99", "8,1,512,1,6.0"]), "m", "d")
    median = sorted([latency_ms(8, 1, 512), 99, 6.0])[1]
    assert float(profile.step_time_s(StepWork.decode(8, 512))) == pytest.approx(median * 1e-3, rel=1e-12)
    assert "2 repeated measurements count by their median" in profile.notes


def test_a_grid_that_is_not_full_is_refused_with_what_is_missing(csv):
    lines = rows(tps=(1,))
    with pytest.raises(
        InputError, match="not measured: num_reqs 8, tokens_per_req 5, context_len 4096: measure"
    ) as caught:
        import_step_table(csv([line for line in lines if not line.startswith("8,5,4096,")]), "m", "d")
    assert "more" not in str(caught.value)
    with pytest.raises(InputError, match="and 12 more: measure them, or leave out"):
        import_step_table(csv([*lines, "128,3,512,1,9"]), "m", "d")


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        (HEAD, None, "has no rows"),
        ("num_reqs,tokens_per_req,context_len,tp,latency", "1,1,1,1,1", "column latency_ms is missing"),
        (HEAD, "1,1,1,1,fast", r"line 2, latency_ms = .*fast.*: give a finite number > 0"),
        (HEAD, "1,1,1,1,0", "latency_ms = .*0.*: give a finite number > 0"),
        (HEAD, "1,1,1,1,nan", "latency_ms"),
        (HEAD, "0,1,1,1,1", "line 2, num_reqs = .*0.*: give a finite number >= 1"),
        (HEAD, "1,0.5,1,1,1", "tokens_per_req = .*0.5"),
        (HEAD, "1,1,-1,1,1", "context_len = .*-1.*: give a finite number >= 0"),
        (HEAD, "1,1,1,1.5,1", "tp = .*1.5"),
        (HEAD, "1,1,1,1", "latency_ms"),
        (HEAD, '1,1,1,1,"', "cannot be read"),
    ],
)
def test_lines_that_are_wrong(csv, head, line, message):
    path = csv([] if line is None else [line], head)
    with pytest.raises(InputError, match=message) as caught:
        import_step_table(path, "m", "d")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_which_parallelism_must_be_said(csv, tmp_path):
    with pytest.raises(InputError, match="tp is 1, 2: choose one with --tp"):
        import_step_table(csv(rows()), "m", "d")
    with pytest.raises(InputError, match="tp = 4 is not measured, but 1, 2"):
        import_step_table(csv(rows()), "m", "d", 4)
    with pytest.raises(InputError, match=r"absent\.csv: cannot be read"):
        import_step_table(tmp_path / "absent.csv", "m", "d")
