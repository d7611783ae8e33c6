"""Made-up traces are reproducible, and their lengths and repetition follow the parameters."""

import numpy as np
import pytest

from traces import io
from traces.description import between_prompt_share
from traces.errors import InputError
from traces.synthesis import synth

SMALL = {"prompts": 20, "samples": 4, "steps": 3, "median_tokens": 150.0, "max_tokens": 2000}


def made(**changes):
    return io.from_table(synth(**{**SMALL, **changes}))


def copied_share(trace, rows, sources, n=5):
    """Share of the n-grams of `rows` that occur in a rollout of the same prompt for which `sources` is true."""
    width = n * np.dtype(np.int32).itemsize

    def grams(row):
        tokens = np.ascontiguousarray(trace.tokens[trace.offsets[row] : trace.offsets[row + 1]])
        if len(tokens) < n:
            return []
        return np.lib.stride_tricks.sliding_window_view(tokens, n).copy().view(f"V{width}").ravel().tolist()

    found = total = 0
    for prompt in range(len(trace.prompt_ids)):
        mine = trace.prompt == prompt
        known = {gram for row in np.flatnonzero(mine & sources) for gram in grams(row)}
        for row in np.flatnonzero(mine & rows):
            these = grams(row)
            found += sum(gram in known for gram in these)
            total += len(these)
    return found / total


def test_same_seed_same_table_other_seed_another():
    first, again, other = synth(**SMALL, seed=3), synth(**SMALL, seed=3), synth(**SMALL, seed=4)
    assert first.equals(again)
    assert first.schema.metadata == again.schema.metadata
    assert not first.equals(other)


def test_shape_order_and_provenance():
    trace = made(seed=5)
    assert len(trace) == 3 * 20 * 4
    assert trace.steps == [0, 1, 2]
    keys = list(zip(trace.step.tolist(), trace.prompt.tolist(), trace.sample.tolist(), strict=True))
    assert keys == sorted(keys)
    assert trace.tokens.max() < 32_000
    assert io.provenance(trace.table)["synthetic"]["seed"] == 5
    texts = trace.table.column("prompt_token_ids").to_pylist()
    for code in range(20):
        rows = np.flatnonzero(trace.prompt == code)
        assert all(texts[row] == texts[rows[0]] for row in rows)  # one text in every step and sample


def test_median_drift_and_tail():
    trace = made(
        prompts=400, samples=4, steps=2, median_tokens=50.0, drift=np.log(2), prompt_share=0.0, max_tokens=20_000
    )
    logs = np.log(trace.output_tokens)
    standard_error = 1.2533 * 0.85 / np.sqrt(1600)  # of the median of 1,600 normal logarithms
    for step in (0, 1):
        assert abs(np.median(logs[trace.step == step]) - np.log(50 * 2**step)) < 4 * standard_error
    # The standard deviation of 1,600 normals has standard error sigma / sqrt(2 n).
    assert abs(logs[trace.step == 1].std() - 0.85) < 4 * 0.85 / np.sqrt(3200)


def test_cut_rollouts_end_by_length():
    trace = made(max_tokens=200)
    reasons = np.array(trace.table.column("finish_reason").to_pylist())
    assert (trace.output_tokens[reasons == "length"] == 200).all()
    assert (trace.output_tokens <= 200).all()
    # P(lognormal > 200) with median 150 is 0.37; prompts are shared, so allow 20 independent draws' error.
    assert abs((reasons == "length").mean() - 0.367) < 4 * np.sqrt(0.367 * 0.633 / 20)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_lengths_hang_together_within_a_prompt(share):
    trace = made(prompts=300, steps=1, median_tokens=2000.0, max_tokens=10**6, prompt_share=share, log_sigma=0.5)
    logs = np.rint(1e6 * np.log(trace.output_tokens)).astype(np.int32)
    measured = between_prompt_share(logs, trace.prompt.astype(np.int64), trace.step)
    # Standard error of the intraclass correlation of 300 groups of 4 is at most 0.035: 4 of them.
    assert measured == pytest.approx(share, abs=0.14)


def test_prompts_keep_their_length_over_steps():
    trace = made(prompts=300, samples=1, steps=2, prompt_share=0.8)
    logs = np.log(trace.output_tokens).reshape(2, 300)
    # Fisher's z of a correlation has standard error 1 / sqrt(n - 3).
    z = np.arctanh(np.corrcoef(logs)[0, 1]) - np.arctanh(0.8)
    assert abs(z) < 4 / np.sqrt(297)


def test_reuse_of_siblings_and_of_history_follow_their_probabilities():
    def shares(sibling, history):
        trace = made(seed=1, sibling_reuse=sibling, history_reuse=history)
        last = (trace.step == 2) & (trace.sample == 3)
        siblings = (trace.step == 2) & (trace.sample < 3)
        return copied_share(trace, last, siblings), copied_share(trace, last, trace.step < 2)

    nothing, some, much = shares(0.0, 0.0), shares(0.2, 0.2), shares(0.5, 0.5)
    assert max(nothing) < 0.03  # a chance 5-gram
    assert nothing[0] + 0.05 < some[0] < much[0] - 0.05
    assert nothing[1] + 0.05 < some[1] < much[1] - 0.05
    siblings_only, history_only = shares(0.6, 0.0), shares(0.0, 0.6)
    assert siblings_only[0] > 0.35  # 0.6 less the n-grams that span a boundary
    assert siblings_only[1] < 0.03
    assert history_only[1] > 0.35


def test_longer_spans_leave_longer_copies():
    short, long = (made(seed=2, sibling_reuse=0.5, history_reuse=0.0, span_tokens=span) for span in (6.0, 60.0))
    shares = [copied_share(t, t.sample == 3, (t.sample < 3) & (t.step == 0), n=12) for t in (short, long)]
    assert shares[0] < 0.1 < shares[1]


def test_reuse_leaves_the_lengths_alone():
    assert made(sibling_reuse=0.0).output_tokens.tolist() == made(sibling_reuse=0.6).output_tokens.tolist()


def test_smallest_and_extreme_settings():
    tiny = made(prompts=1, samples=1, steps=1, median_tokens=1.0, max_tokens=1, prompt_tokens=0, vocabulary=1)
    assert tiny.tokens.tolist() == [0]
    assert tiny.prompt_tokens.tolist() == [0]
    assert made(span_tokens=1.0, sibling_reuse=0.0, history_reuse=1.0).has_tokens
    assert made(drift=5.0, steps=200, prompts=1, samples=1, max_tokens=3).output_tokens.max() == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts is 0"),
        ({"log_sigma": float("nan")}, "log_sigma is nan"),
        ({"prompt_share": 1.5}, "prompt_share is 1.5"),
        ({"span_tokens": 0.5}, "span_tokens is 0.5"),
        ({"seed": -1}, "seed is -1"),
        ({"sibling_reuse": 0.7, "history_reuse": 0.7}, "sum to more than 1"),
        ({"prompts": 10**6, "samples": 10**4}, "rollouts, at most"),
        ({"prompts": 10**5, "median_tokens": 10**7, "max_tokens": 10**8}, "tokens, at most"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(InputError, match=message):
        synth(**{**SMALL, **changes})
