"""What a command line says of the values to try."""

import pytest

from simulator.sweep.axes import Axis, Range, parse_axes, parse_axis, split
from traces.errors import InputError


@pytest.mark.parametrize(("text", "values"), [
    ("engine.max_num_seqs=64,128", (64, 128)),
    ("policy=none,fixed:4,das", ("none", "fixed:4", "das")),
    ("steps=[1, 2],[3],null", ([1, 2], [3], None)),
    ("drafter={kind: suffix, window: 4},{kind: ngram}", ({"kind": "suffix", "window": 4}, {"kind": "ngram"})),
    ("policy='das:window=4,k=2',none", ("das:window=4,k=2", "none")),
    ('policy="a,b"', ("a,b",)),
    ("engine.arrivals=true,false", (True, False)),
    ("drafter.factor=0.5,1e0", (0.5, 1.0)),
    ("drafter.window=1..32", Range(1, 32)),
    ("engine.max_num_seqs=32..512:log", Range(32, 512, log=True)),
    ("engine.block_size=16..64:16", Range(16, 64, step=16)),
    ("drafter.factor=0.5..2", Range(0.5, 2)),
    ("drafter.min_prob=-1.5..2:0.25", Range(-1.5, 2, step=0.25)),
])  # fmt: skip
def test_values_are_yaml_and_ranges_are_numbers(text: str, values: object) -> None:
    assert parse_axis(text) == Axis(text.partition("=")[0], values)  # type: ignore[arg-type]


def test_commas_within_something_do_not_split() -> None:
    assert split("a,[b,{c: d,e: f}],'g,h'") == ["a", "[b,{c: d,e: f}]", "'g,h'"]


@pytest.mark.parametrize(("text", "listed"), [
    ("a=1..4", (1, 2, 3, 4)),
    ("a=1..8:3", (1, 4, 7)),
    ("a=0.1..0.5:0.1", (0.1, 0.2, 0.3, 0.4, 0.5)),
])  # fmt: skip
def test_a_range_with_steps_is_a_list(text: str, listed: tuple[float, ...]) -> None:
    assert parse_axis(text).listed == listed


@pytest.mark.parametrize(("text", "told"), [
    ("engine.max_num_seqs", "is not KEY=VALUE"),
    ("=3", "is not KEY=VALUE"),
    ("a..b=3", "is not KEY=VALUE"),
    ("a=", "is not KEY=VALUE"),
    ("a=1,,2", "a value is missing"),
    ("a=1,1", "1 is given twice"),
    ("a={b: 1},{b: 1}", "is given twice"),
    ("a=[1,2", "not YAML"),
    ("a=9..3", "9 is not below 3"),
    ("a=3..3", "3 is not below 3"),
    ("a=0..3:log", "begins above 0"),
    ("a=1..3:5", "a step of 5 does not lead"),
    ("a=1..3:0", "a step of 0 does not lead"),
])  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        parse_axis(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a=0.5..2", "a=1..8:log"])
def test_a_grid_refuses_a_range_without_steps(text: str) -> None:
    with pytest.raises(InputError, match="a grid needs steps"):
        _ = parse_axis(text).listed


def test_a_key_is_given_once() -> None:
    with pytest.raises(InputError, match="a says what a said"):
        parse_axes(("a=1", "b=2", "a=3"))
    with pytest.raises(InputError, match="policies says what policy said"):
        parse_axes(("policy=none", "policies=[das]"))
