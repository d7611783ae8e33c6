"""Steps at another price are those of a run in which that is so."""

import numpy as np
import pyarrow as pa
import pytest

from simulator import load_profile, run
from simulator.advise.candidates import Place, candidates
from simulator.advise.judge import judge
from simulator.advise.repriced import filled
from simulator.advise.split import Part
from simulator.deploy.settings import parse_engine
from simulator.results import Result
from simulator.scenario import build
from tests.cli.conftest import PROFILE
from traces.io import from_table
from traces.synthesis import synth


@pytest.mark.parametrize("drafts", [1, 4, 16])
def test_drafts_that_are_verified_unfound_cost_what_drafts_cost_that_are_never_accepted(drafts: int) -> None:
    """No suffix is found in tokens that all differ; a model's drafts, accepted never and made for nothing, are K everywhere."""
    table = synth(prompts=6, samples=4, steps=1, median_tokens=80, max_tokens=300, seed=2)
    ids = pa.array(
        [[*range(1000 * row, 1000 * row + count)] for row, count in enumerate(table["output_tokens"].to_pylist())]
    )
    at = table.column_names.index("token_ids")
    trace = from_table(
        table.set_column(at, "token_ids", ids.cast(pa.list_(pa.int32()))).drop_columns(["prompt_token_ids"])
    )

    def played(**drafter: object) -> Result:
        settings = {"policies": [f"fixed:{drafts}"], "drafter": drafter, "engine": {"max_num_seqs": 16}}
        return run(build({"trace": "t", "profile": PROFILE, **settings}), trace)

    found_none = played(kind="suffix", cost="none", prompt=False)
    never = played(kind="eagle", curve=[0.0] * drafts, cost={"per_pass_s": 0.0})
    first, second = (one.runs.to_pylist()[0] for one in (found_none, never))
    assert first["drafted_tokens"] == 0 < second["drafted_tokens"]
    ratio = filled(found_none, load_profile(PROFILE), first["system"], drafts)
    np.testing.assert_allclose(first["makespan_s"] * ratio, second["makespan_s"], rtol=1e-9)
    assert ratio > 1


def test_what_sglang_verifies_in_vain_is_in_its_gain_and_in_no_other() -> None:
    trace = from_table(synth(prompts=4, samples=4, steps=2, median_tokens=60, max_tokens=200, vocabulary=9, seed=5))
    base = build({"trace": "t", "profile": PROFILE, "policies": ["none"], "drafter": {"kind": "none"}})
    for engine, fills in (("sglang", 4), ("vllm==0.33", 0)):
        found, _ = candidates(Place(base, parse_engine(engine)), [{"kind": "ngram"}], ["fixed:4"])
        assert [one.fills for one in found] == [fills]
        told, result = judge(base, Part(trace, [1]), found, 2, None, lambda what: None)
        simulated_s = result.runs.to_pylist()[1]["makespan_s"]
        in_vain = filled(result, load_profile(PROFILE), found[0].name, fills) if fills else 1.0
        assert told[0].makespan_s == simulated_s * in_vain
        assert (in_vain > 1) == bool(fills)
