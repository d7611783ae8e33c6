"""Policies that compile to tables: by batch size, by tokens emitted, by the prompt's past; against the rules said plainly."""

import random
import statistics
from pathlib import Path

import numpy as np
import pytest

from simulator.budgets.classes import mean_lengths
from simulator.budgets.names import NAMES
from simulator.budgets.policy import TablePolicy
from simulator.budgets.resolve import BUILT_IN, check_spec, resolve_policy
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from tests.budgets.histories import context, long_tail
from tests.budgets.scripted import seen_of
from tests.budgets.test_classes import view
from tests.engine.workloads import affine_pair, assert_same, random_rollout, workload_of
from tests.reference import engine as reference
from tests.reference import policies, rules

ROOT = Path(__file__).parents[2]


def table(spec: str, **known: object) -> TablePolicy:
    policy = resolve_policy(spec, context(**known))  # type: ignore[arg-type]
    assert isinstance(policy, TablePolicy)
    return policy


def by_live(spec: str, slots: int) -> list[int]:
    """Budgets at 1..slots live sequences."""
    policy = table(spec, max_num_seqs=slots)
    return [int(policy(view([0] * live, [9] * live))[0]) for live in range(1, slots + 1)]


@pytest.mark.parametrize("seed", range(40))
def test_a_schedule_gives_the_budget_of_the_range_that_began_last(seed: int) -> None:
    rng = random.Random(seed)
    edges = sorted(rng.sample(range(2, 40), 2 * rng.randint(0, 4) + 1))
    lows = [1, *edges[1::2]]
    found = list(zip(lows, edges[::2], [rng.randint(0, 255) for _ in lows], strict=True))
    spec = "schedule:" + ",".join(
        f"{low}={k}" if low == high and seed % 2 else f"{low}-{high}={k}" for low, high, k in found
    )
    slots = rng.choice((1, 7, 45))
    rule = rules.ranges(found)
    assert by_live(spec, slots) == [rule(seen_of(view([0] * n, [9] * n)))[0] for n in range(1, slots + 1)]
    check_spec(spec)


def test_a_schedule_as_vllm_documents_it() -> None:
    budgets = by_live("schedule:1-16=3,32-128=2,256-2048=0", 300)
    for live, k in ((1, 3), (16, 3), (17, 3), (31, 3), (32, 2), (128, 2), (129, 2), (255, 2), (256, 0), (300, 0)):
        assert budgets[live - 1] == k


@pytest.mark.parametrize("spelling", [
    "[[1,4,2],[5,512,0]]", " [[1, 4, 2], [5, 512, 0]]", '{"num_speculative_tokens_per_batch_size": [[1, 4, 2], [5, 512, 0]]}',
    '{"num_speculative_tokens": 2, "num_speculative_tokens_per_batch_size": [[1, 4, 7], [5, 512, 0]]}',
    "{num_speculative_tokens: 8, num_speculative_tokens_per_batch_size: [[1, 4, 2], [5, 512, 0]]}",
])  # fmt: skip
def test_a_schedule_may_be_spelt_as_vllm_spells_it(spelling: str) -> None:
    assert by_live(f"schedule:{spelling}", 6) == by_live("schedule:1-4=2,5-512=0", 6) == [2, 2, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("buckets", ((1, 2, 5, 21), (8, 6, 4, 2), 32)),
        ("buckets:live=1000", ((1, 2, 5, 21), (8, 6, 4, 2), 1000)),
        ("buckets:live=3,patience=2", ((1, 2, 5, 21), (8, 6, 4, 2), 1000)),
        ("buckets:bounds=1/9,budgets=0/255,live=11", ((1, 9), (0, 255), 11)),
        ("buckets:bounds=1,budgets=4", ((1,), (4,), 32)),
    ],
)
@pytest.mark.parametrize("slots", [1, 20, 64])
def test_buckets_by_batch_size(spec: str, arguments: tuple[tuple[int, ...], tuple[int, ...], int], slots: int) -> None:
    rule = rules.bucket_map(*arguments)
    assert by_live(spec, slots) == [rule(seen_of(view([0] * n, [9] * n)))[0] for n in range(1, slots + 1)]


def test_classes_follow_the_tokens_emitted() -> None:
    emitted = [0, 255, 256, 1023, 1024, 9999]
    assert table("classes")(view([0] * 6, emitted)).tolist() == [0, 0, 8, 8, 24, 24]
    assert table("classes:bounds=10,budgets=7/1")(view([0] * 3, [9, 10, 11])).tolist() == [7, 1, 1]


@pytest.mark.parametrize("seed", range(10))
def test_classes_by_history_are_of_the_median_length(seed: int) -> None:
    prompt, lengths = long_tail(seed, n=60, n_prompts=12)
    bounds, budgets = [300, 900, 4000], [1, 2, 3, 4]
    policy = table(
        "classes:bounds=300/900/4000,budgets=1/2/3/4,by=history", prompt=prompt, output_tokens=lengths, n_prompts=14
    )
    for number in range(14):
        past = lengths[prompt == number].tolist()
        for emitted in (0, 299, 300, 5000):
            length = statistics.median(past) if past else emitted
            expected = budgets[sum(bound <= length for bound in bounds)]
            assert policy(view([number], [emitted])).tolist() == [expected]


def test_a_median_at_a_bound_belongs_to_the_longer_class() -> None:
    known = {"prompt": [0, 0, 1, 1, 1], "output_tokens": [255, 257, 1, 256, 9000]}
    assert table("classes:by=history", **known)(view([0, 1], [5, 5])).tolist() == [8, 8]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("refresh", [1, 7, 100])
@pytest.mark.parametrize("predictor", ["history", "ema"])
def test_das_looks_at_the_class_again_every_so_many_tokens(seed: int, refresh: int, predictor: str) -> None:
    prompt, lengths = long_tail(seed, n=80, n_prompts=12)
    lengths = lengths // 20
    settings = f"budgets=1/2/3,short=20,long=90,predictor={predictor}"
    known = {"prompt": prompt, "output_tokens": lengths, "n_prompts": 14}
    exact, late = table(f"das:{settings}", **known), table(f"das:{settings},refresh={refresh}", **known)
    emitted = list(range(250))
    looks = [t // refresh * refresh for t in emitted]
    for number in range(14):
        assert late(view([number] * 250, emitted)).tolist() == exact(view([number] * 250, looks)).tolist()


@pytest.mark.parametrize("seed", range(10))
def test_das_by_moving_average_only_upgrades(seed: int) -> None:
    prompt, lengths = long_tail(seed, n=80, n_prompts=12)
    policy = table("das:predictor=ema,budgets=0/8/24", prompt=prompt, output_tokens=lengths, n_prompts=14)
    assert (policy.facts["short_below_tokens"], policy.facts["long_from_tokens"]) == (256, 1024)
    starts = set()
    for number in range(14):
        mean = policies_mean(lengths[prompt == number].tolist())
        start = policies.SHORT if mean is None else policies.final_class(mean, (256, 1024))  # type: ignore[arg-type]
        starts.add(start)
        for emitted in (0, 255, 256, 1023, 1024, 20_000):
            reached = policies.final_class(emitted, (256, 1024))
            assert policy(view([number], [emitted])).tolist() == [(0, 8, 24)[max(start, reached)]]
    assert len(starts) > 1


def policies_mean(lengths: list[int]) -> float | None:
    return rules.moving_average(lengths, 0.2)


def test_moving_averages_are_those_of_one_length_after_the_other() -> None:
    rng = random.Random(1)
    prompt = [rng.randrange(6) for _ in range(200)]
    lengths = [rng.randint(1, 9000) for _ in prompt]
    means = mean_lengths(np.array(prompt), np.array(lengths), 8, 0.2)
    for number in range(8):
        expected = rules.moving_average([length for p, length in zip(prompt, lengths, strict=True) if p == number], 0.2)
        assert np.isnan(means[number]) if expected is None else means[number] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "spec",
    ["schedule:1-2=7,4-5=2,6-9=0", "buckets:bounds=1/2/4,budgets=9/3/1,live=5", "classes:bounds=8/20,budgets=1/4/9"],
)
def test_in_the_engine(spec: str, seed: int) -> None:
    rng = random.Random(seed)
    rollouts = [random_rollout(rng, rng.randint(0, 9), rng.randint(1, 60)) for _ in range(15)]
    cost, plain_cost = affine_pair(0.25, 0.125, 0.5, 1 / 1024, 0.0, 0.125)
    plain = {
        "schedule": lambda: _by_step_before(rules.ranges([(1, 2, 7), (4, 5, 2), (6, 9, 0)])),
        "buckets": lambda: _by_live(rules.bucket_map((1, 2, 4), (9, 3, 1), 5)),
        "classes": lambda: policies.class_table([0] * 15, [[8, 20]], [[1, 4, 9]]),
    }[spec.partition(":")[0]]()
    policy = resolve_policy(spec, context(max_num_seqs=7))
    outcome = simulate(workload_of(rollouts), policy, Deployment(cost, 7, 2), check=True)
    assert_same(outcome, reference.simulate(rollouts, plain_cost, plain, 7, 2))


def _by_step_before(rule: rules.Rule) -> reference.Policy:
    return lambda seen: [rule(seen_of(view([0] * seen.before, [0] * seen.before)))[0]] * seen.live


def _by_live(rule: rules.Rule) -> reference.Policy:
    return lambda seen: rule(seen_of(view([0] * seen.live, [0] * seen.live)))


BAD = [
    ("schedule", "needs an argument: write schedule:LOW-HIGH=K,..."),
    ("schedule:2-16=3", "must start with batch size 1"),
    ("schedule:,", "must start with batch size 1"),
    ("schedule:1-16=3,16-20=2", "gives batch size 16 after 16"),
    ("schedule:1-16=3,5=2", "gives batch size 5 after 16"),
    ("schedule:1-16=3,32-20=2", "has range 32-20: give the smaller batch size first"),
    ("schedule:1-16=x", "write LOW-HIGH=K (give a whole number from 0 to 255)"),
    ("schedule:1-=3", "write LOW-HIGH=K"),
    ("schedule:a=3", "write LOW-HIGH=K"),
    ("schedule:1-16", "has setting '1-16': write key=value"),
    ("schedule:1-4=3,1-4=3", "sets 1-4 twice"),
    ("schedule:[[1,4,2],[5,8]]", "has [5, 8]: write [batch from, to, K]"),
    ("schedule:[[1,4,2],[3,8,1]]", "gives batch size 3 after 4"),
    ("schedule:[[2,4,2]]", "must start with batch size 1"),
    ("schedule:[]", "must start with batch size 1"),
    ("schedule:[[1,4,2]", "is no list as vLLM has it"),
    ("schedule:[[1,4,2.5]]", "2.5 is not a whole number"),
    ("schedule:[[1,4,true]]", "True is not a whole number"),
    ("schedule:[[1,4,-1]]", "-1 is not a whole number"),
    ("schedule:[[0,4,1]]", "batch sizes from 1, K from 0 to 255"),
    ("schedule:[[1,4,256]]", "batch sizes from 1, K from 0 to 255"),
    ("schedule:[[4,1,2]]", "has range 4-1: give the smaller batch size first"),
    ("schedule:[1,4,2]", "has 1: write [batch from, to, K]"),
    ("schedule:{}", "has no list of [batch from, to, K]"),
    ("schedule:{method: ngram}", "has key 'method': give num_speculative_tokens_per_batch_size"),
    (
        "schedule:{num_speculative_tokens: many, num_speculative_tokens_per_batch_size: [[1, 2, 3]]}",
        "'many' is not a whole number",
    ),
    ("buckets:bounds=2/5,budgets=3/1", "the first bucket starts at batch size 1"),
    ("buckets:bounds=1/5/5,budgets=3/2/1", "put them in ascending order"),
    ("buckets:bounds=1/5", "has 2 bounds and 4 budgets"),
    ("buckets:live=0", "has live=0: give a whole number from 1"),
    ("buckets:patience=-1", "has patience=-1: give a whole number from 0"),
    ("buckets:reprefill=maybe,patience=1", "has reprefill=maybe: use no or yes"),
    ("buckets:reprefill=yes", "has reprefill=yes, but drafts from the start: give patience="),
    ("bandit:reprefill=yes,patience=0", "has reprefill=yes, but drafts from the start: give patience="),
    ("bandit:every=0", "has every=0: give a whole number from 1"),
    ("classes:bounds=5", "has 1 bounds and 3 budgets: give one budget more than bounds"),
    ("classes:bounds=0/5", "has bounds=0/5: give a whole number from 1"),
    ("classes:by=length", "has by=length: use emitted or history"),
    ("das:predictor=best", "has predictor=best: use history or ema"),
    ("das:refresh=0", "has refresh=0: give a whole number from 1"),
    ("goodput:max=256", "has max=256: give a whole number from 0 to 255"),
    ("goodput:start=1.5", "has start=1.5: give a number from 0 to 1"),
    ("goodput:weight=nan", "has weight=nan: give a number from 0 to 1"),
    ("goodput:weight=", "has weight=: give a number"),
    ("goodput:interval=0", "has interval=0"),
    ("goodput:k=3", "has setting 'k=3': use max=, interval=, start=, weight="),
    ("adaptive:low=31", "has low=31 above high=30: give low <= high"),
    ("adaptive:high=256", "has high=256: give a whole number from 0 to 255"),
    ("adaptive:rho=1.5", "has rho=1.5: give a number from 0 to 1"),
    ("adaptive:rho=nan", "has rho=nan"),
    ("adaptive:delta=-1", "has delta=-1"),
    ("adaptive:compare=both", "has compare=both: use last or average"),
    ("aimd:variant=triple", "has variant=triple: use add or double"),
    ("aimd:start=0", "has start=0"),
    ("aimd:start=40", "has start=40 above cap=32: give start <= cap"),
    ("aimd:variant=double,cap=1", "has start=2 above cap=1"),
    ("bandit:strategies=", "has strategies=: give a whole number"),
    ("bandit:strategies=4/300", "has strategies=4/300: give a whole number from 0 to 255"),
    ("bandit:bounds=3", "the first bucket starts at batch size 1"),
    ("bandit:epsilon=2", "has epsilon=2: give a number from 0 to 1"),
    ("bandit:window=0", "has window=0"),
    ("bandit:seed=-1", "has seed=-1"),
    ("seer:factor=0.5", "has factor=0.5: give a number from 1"),
    ("seer:high=short", "has high=short: use long or probe"),
    ("seer:max=8,max=9", "sets max twice: give it once"),
    ("seer:max=²", "has max=²: give a whole number"),
    ("seer:" + "x" * 5000, "write key=value"),
    ("aimd:cap=" + "9" * 5000, "give a whole number from 1 to 255"),
]


@pytest.mark.parametrize(("spec", "problem"), BAD)
def test_bad_settings_are_refused_in_one_line(spec: str, problem: str) -> None:
    for refuse in (check_spec, lambda spec: resolve_policy(spec, context())):
        with pytest.raises(ValueError, match="policy") as refusal:
            refuse(spec)
        message = str(refusal.value)
        assert problem in message
        assert "\n" not in message
        assert len(message) < 500


def test_the_catalogue_names_every_built_in_and_each_has_a_page() -> None:
    assert list(NAMES) == list(BUILT_IN)
    for name, told in NAMES.items():
        assert told.usage.partition(":")[0] == name
        assert told.what == BUILT_IN[name].__doc__
        assert told.source
        page = (ROOT / f"docs/policies/{name}.md").read_text()
        assert page.startswith(f"# {name}"), name
        assert "**Source.**" in page, name


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"fixed", "threshold", "schedule"}))
def test_a_name_alone_is_a_policy_with_its_defaults(name: str) -> None:
    check_spec(name)
    budgets = np.broadcast_to(np.asarray(resolve_policy(name, context())(view([0, 1, 2], [5, 300, 2000]))), 3)
    assert ((budgets >= 0) & (budgets <= 255)).all()


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_page_names_every_setting_with_its_default(name: str) -> None:
    page = (ROOT / f"docs/policies/{name}.md").read_text()
    module = __import__(BUILT_IN[name].__module__, fromlist=["Settings"])
    settings = getattr(module, "Settings", None)
    for field in getattr(settings, "__dataclass_fields__", {}).values():
        default = "/".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        row = next((line for line in page.splitlines() if line.startswith(f"| `{field.name}` |")), None)
        assert row, f"{name}.md does not say what {field.name} is"
        assert default is None or f"| {default} |" in row, row
