"""Countdown: make a target from a few numbers, each used exactly once, with + - * /.

All results along the way are whole numbers from 1 to LARGEST, so that each is one token. A state is the numbers that are
left, largest first; an operation takes two of them and puts its result back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

LARGEST = 24
LARGEST_GIVEN = 12
SIGNS = "+-*/"
State = tuple[int, ...]
Operation = tuple[int, str, int, int]  # a sign b = result, with a >= b


@dataclass(frozen=True)
class Problem:
    """The numbers that are given, largest first, and the target."""

    numbers: State
    target: int


def result_of(a: int, sign: str, b: int) -> int | None:
    """What the operation yields, or None where that is no whole number from 1 to LARGEST."""
    quotient = a // b if b and a % b == 0 else 0
    value = {"+": a + b, "-": a - b, "*": a * b, "/": quotient}[sign]
    return value if 1 <= value <= LARGEST else None


def operations(state: State) -> list[Operation]:
    """Every operation on two numbers of the state, each once; those that change nothing (times 1, over 1) left out."""
    found = []
    for a, b in sorted(set(combinations(state, 2)), reverse=True):
        for sign in SIGNS:
            value = result_of(a, sign, b)
            if value is not None and not (sign in "*/" and b == 1):
                found.append((a, sign, b, value))
    return found


def after(state: State, operation: Operation) -> State:
    """The state that an operation leads to."""
    left = list(state)
    left.remove(operation[0])
    left.remove(operation[2])
    return tuple(sorted([*left, operation[3]], reverse=True))


def ends(state: State) -> Iterator[int]:
    """What every complete line of play ends with, as often as there are such lines."""
    if len(state) == 1:
        yield state[0]
    for operation in operations(state):
        yield from ends(after(state, operation))


def draw(random: np.random.Generator, sizes: tuple[int, ...] = (3, 4)) -> Problem:
    """A problem with a solution: random numbers, and what random operations on them end with."""
    while True:
        size = int(random.choice(sizes))
        numbers = tuple(sorted((int(n) for n in random.integers(1, LARGEST_GIVEN + 1, size)), reverse=True))
        state = numbers
        while len(state) > 1 and (moves := operations(state)):
            state = after(state, moves[int(random.integers(len(moves)))])
        if len(state) == 1 and state[0] not in numbers:
            return Problem(numbers, state[0])
