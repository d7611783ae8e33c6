"""Conformance of transforms, and of what keeps prefixes."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from simulator.cost.model import Profile
from simulator.testing.examples import SEED, example_cost, example_trace, with_log_probs, with_rewards
from simulator.training.stage import Prices, Rollouts
from simulator.training.trainer import asked
from simulator.transforms.prefixes import NOBODY, KeepsPrefixes, Kept, kept_of
from simulator.transforms.transform import ChangesRollouts
from traces.io import from_table
from traces.trace import Trace
from traces.validation import validate

Int64 = npt.NDArray[np.int64]

NAMES = ("step", "prompt_id", "sample")


def check_transform(transform: Any, trace: Trace | None = None) -> None:
    """Assert that a transform keeps its contract on a trace with token ids and rewards.

    transform: what `module:attr` would name. Checked: it says what it is; the trace it makes is valid, of the same RL steps, with
    the rollouts that were there before in their order; the trace it was given stays as it was; the same arguments give the same
    trace; and what becomes of a rollout does not depend on where it stands.
    """
    assert transform.name, "it has a name"
    assert isinstance(transform.lossless, bool), "lossless is True or False"
    assert transform.assumes, "assumes says what is not known"
    assert "\n" not in transform.assumes, "assumes is one line"
    if not isinstance(transform, ChangesRollouts):
        return
    trace = with_rewards(trace or example_trace())
    before = from_table(trace.table, trace.source).sha256
    made = transform.rollouts(trace, SEED)
    validate(made.table, "transformed trace")
    assert made.table.schema.names == list(dict.fromkeys(made.table.schema.names)), "each column is there once"
    assert made.steps == trace.steps, "RL steps stay"
    assert from_table(trace.table, trace.source).sha256 == before, "the trace given stays as it was"
    assert made.table.equals(transform.rollouts(trace, SEED).table), "the same arguments give the same trace"
    places = {key: place for place, key in enumerate(_names(trace))}
    kept = [places[key] for key in _names(made) if key in places]
    assert kept == sorted(kept), "rollouts stay in their order"
    backwards = transform.rollouts(trace.select(np.arange(len(trace))[::-1]), SEED)
    one, other = (each.table.sort_by([(name, "ascending") for name in NAMES]) for each in (made, backwards))
    assert one.equals(other), "what becomes of a rollout does not depend on where it stands"


def check_prefixes(keeps: KeepsPrefixes, trace: Trace | None = None) -> None:
    """Assert that a transform that keeps prefixes keeps its contract, on a trace with log-probs under two policies.

    Checked: what is verified is an earlier response of the same slot; a prefix is of it, and no longer than the rollout; the same
    seed keeps the same, whoever is asked beside a rollout and in whatever order; verifying takes finite seconds, once for all.
    """
    trace = with_log_probs(trace or example_trace())
    for step in trace.steps:
        rows = np.flatnonzero(trace.step == step)
        whole = kept_of(keeps, trace, rows, SEED)
        has = whole.previous != NOBODY
        mine, earlier = rows[has], whole.previous[has]
        assert (trace.step[earlier] < step).all(), "what is verified is of an earlier RL step"
        assert (trace.prompt[earlier] == trace.prompt[mine]).all(), "what is verified answers the same prompt"
        assert (trace.sample[earlier] == trace.sample[mine]).all(), "what is verified is of the same slot"
        for part in (np.arange(rows.size), np.arange(rows.size)[::-1], np.arange(1)):
            again = kept_of(keeps, trace, rows[part], SEED)
            for one, other in zip(_columns(whole), _columns(again), strict=True):
                assert (one[part] == other).all(), (
                    "what a rollout keeps does not depend on who is asked, nor in which order"
                )
    stage = keeps.verification(Prices(trace, cast(Profile, example_cost()), None, None, 1, SEED), "seconds=1")
    assert stage.per == "batch", "it is verified once for all"
    rollouts = Rollouts(rows, trace.prompt_tokens[rows].astype(np.int64), trace.output_tokens[rows].astype(np.int64))
    assert np.asarray(asked(stage, rollouts)).shape == (), "verifying takes so many seconds in all"


def _names(trace: Trace) -> list[tuple[Any, ...]]:
    return list(zip(*(trace.table.column(name).to_pylist() for name in NAMES), strict=True))


def _columns(kept: Kept) -> tuple[Int64, ...]:
    return kept.previous, kept.prefix_tokens, kept.total_tokens
