"""The written search is a depth-first search, and the verifier and the moves agree with brute force."""

from fractions import Fraction
from functools import cache
from itertools import combinations

import pytest

from calibration.rl.countdown import LARGEST, Problem, after, draw, ends, operations
from calibration.rl.keyed import keyed
from calibration.rl.search import spelled, write
from calibration.rl.verifier import answer_of, reward
from calibration.rl.vocabulary import decode, encode, prompt_of

PROBLEMS = [draw(keyed(7, "test", which)) for which in range(60)]


@cache
def reachable(numbers):
    """Every value that an expression of all these numbers has, by splitting them in two in every way."""
    if len(numbers) == 1:
        return frozenset(numbers)
    found = set()
    places = range(len(numbers))
    for size in range(1, len(numbers)):
        for chosen in combinations(places, size):
            left = tuple(sorted(numbers[i] for i in chosen))
            right = tuple(sorted(numbers[i] for i in places if i not in chosen))
            for a in reachable(left):
                for b in reachable(right):
                    found |= {Fraction(a + b), Fraction(a - b), Fraction(a * b)}
                    found |= {Fraction(a) / b} if b else set()
    return frozenset(v for v in found if v.denominator == 1 and 1 <= v <= LARGEST)


def test_moves_reach_what_expressions_of_all_numbers_reach():
    """But for factors of 1, which the search leaves out, and which brute force shows to reach more now and then."""
    more = 0
    for problem in PROBLEMS:
        found = set(ends(problem.numbers))
        assert problem.target in found
        assert found <= reachable(problem.numbers)
        more += found != reachable(problem.numbers)
        if 1 not in problem.numbers and len(problem.numbers) == 3 and len(set(problem.numbers)) == 3:
            assert found >= {v for v in reachable(problem.numbers) if v not in problem.numbers}
    assert more < len(PROBLEMS) / 2


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_search_is_depth_first_and_solves_its_problem(problem):
    words = write(problem, keyed(7, "search", *problem.numbers), 100_000)
    path, tried = [(problem.numbers, None)], {}  # states, and the moves that led to them
    at = 0
    while words[at] != "!":
        a, sign, b, equals, value = words[at : at + 5]
        move = (int(a), sign, int(b), int(value))
        assert equals == "="
        assert move in operations(path[-1][0])
        assert move not in tried.setdefault(tuple(path), set())
        tried[tuple(path)].add(move)
        state, at = after(path[-1][0], move), at + 5
        if len(state) == 1:
            assert words[at] == str(problem.target)
            at += 1
        if words[at] == ":":
            assert words[at + 1 : at + 1 + len(state)] == [str(n) for n in state]
            path, at = [*path, (state, move)], at + 1 + len(state)
        if words[at] == "<":
            while len(tried.get(tuple(path), ())) == len(operations(path[-1][0])):
                path.pop()
            state = path[-1][0]
            assert words[at + 1 : at + 1 + len(state)] == [str(n) for n in state]
            at += 1 + len(state)
    assert words[-1] == "end"
    assert reward(problem, words) == 1
    assert problem.target in reachable(problem.numbers)
    assert decode(encode(words)) == words


def test_a_search_is_cut_where_it_is_to_end_and_then_earns_nothing():
    problem = max(PROBLEMS, key=lambda p: len(write(p, keyed(1, "x"), 100_000)))
    whole = write(problem, keyed(1, "x"), 100_000)
    assert write(problem, keyed(1, "x"), 20) == whole[:20]
    assert reward(problem, whole[:20]) == 0
    assert reward(problem, whole) == 1


ANSWER = [(12, "/", 3, 4), (4, "*", 5, 20)]


@pytest.mark.parametrize(
    "answer",
    [
        [(12, "/", 3, 4), (4, "+", 5, 9)],  # not the target
        [(12, "/", 3, 5), (5, "*", 4, 20)],  # wrong arithmetic
        [(5, "*", 4, 20)],  # a number that is not there, and two that are left
        [(12, "+", 5, 17), (17, "+", 3, 20), (20, "/", 1, 20)],  # one operation too many
        [(12, "/", 3, 4), (4, "*", 5, 20), (20, "+", 20, 40)],
        [],
    ],
)
def test_what_is_no_answer_earns_nothing(answer):
    problem = Problem((12, 5, 3), 20)
    words = ["!", *(word for step in answer for word in spelled(step)), "end"]
    right = ["!", *(word for step in ANSWER for word in spelled(step)), "end"]
    assert (reward(problem, right), reward(problem, words)) == (1, 0)


@pytest.mark.parametrize("words", ["", "end", "! end", "12 / 3 = 4 end", "! 12 / 3 = end", "! 12 3 / = 4 end"])
def test_what_cannot_be_read_is_no_answer(words):
    assert answer_of(words.split()) is None


def test_a_prompt_says_what_is_asked():
    assert prompt_of(Problem((12, 5, 3), 20)) == ["begin", "12", "5", "3", "target", "20", "search"]
