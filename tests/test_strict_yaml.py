"""Values written by hand: numbers that look alike to people are alike, and nothing small becomes large."""

import itertools

import pytest

from simulator.strict_yaml import LARGEST, load_value
from traces.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("-3", -3), ("0", 0), ("1e3", 1000.0), ("1.5", 1.5), ("2.", 2.0), (".5", 0.5), ("-.inf", float("-inf"))],
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert load_value(text) == value
    assert type(load_value(text)) is type(value)


@pytest.mark.parametrize("text", ["1_0", "1:30", "010", "0x10", "0b1", "1_0.5", "٣", "1:30.5"])
def test_what_yaml_1_1_takes_for_a_number_is_a_word(text: str) -> None:
    assert load_value(text) == text


def test_aliases_count_for_what_they_stand_for() -> None:
    once = "a: &a [1, 2]\nb: *a"
    assert load_value(once) == {"a": [1, 2], "b": [1, 2]}
    names = "abcdefgh"
    bomb = f"a: &a [{', '.join('1' * 9)}]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise(names)
    )
    with pytest.raises(InputError, match=f"line 7: aliases make more than {LARGEST:,} values"):
        load_value(bomb)


@pytest.mark.parametrize("opening", ["[" * 50_000, "{a: " * 50_000, "- " * 50_000])
def test_nesting_has_an_end(opening: str) -> None:
    with pytest.raises(InputError, match=r"nested deeper than 16|not YAML"):
        load_value(opening)
