"""Write a depth-first search with backtracking out in words, as the policy is taught to do."""

from dataclasses import dataclass

import numpy as np

from calibration.rl.countdown import Operation, Problem, State, after, operations
from calibration.rl.vocabulary import ANSWER, BACK, END, EQUALS, STATE


@dataclass
class _Node:
    """A state on the way from the root to where the search is, how it was reached, and what is left to try there."""

    state: State
    reached_by: Operation | None
    untried: list[Operation]


def write(problem: Problem, random: np.random.Generator, most: int) -> list[str]:
    """The search for a solution, in words, at most so many; operations are tried in random order, none twice at a node.

    `a sign b = c` tries an operation, and `: ...` is the state that it leads to. Beside a number that is left alone stands
    the target, as it is with what stands side by side that a small transformer learns to compare. `< ...` is the state that
    the search falls back to, `! ... end` the operations of the solution. A search that was cut short has no `end`.
    """
    path = [_node(problem.numbers, None, random)]
    words: list[str] = []
    while len(words) < most:
        node = path[-1]
        move = node.untried.pop()
        words += spelled(move)
        state = after(node.state, move)
        if len(state) == 1:
            words.append(str(problem.target))
        if state == (problem.target,):
            solution = [step.reached_by for step in path[1:] if step.reached_by] + [move]
            words += [ANSWER, *(word for step in solution for word in spelled(step)), END]
            break
        if len(state) > 1:
            path.append(_node(state, move, random))
            words += [STATE, *map(str, state)]
        if len(state) == 1 or not path[-1].untried:
            while not path[-1].untried:
                path.pop()
            words += [BACK, *map(str, path[-1].state)]
    return words[:most]


def spelled(operation: Operation) -> list[str]:
    """The words of an operation: `a sign b = c`."""
    a, sign, b, value = operation
    return [str(a), sign, str(b), EQUALS, str(value)]


def _node(state: State, reached_by: Operation | None, random: np.random.Generator) -> _Node:
    moves = operations(state)
    return _Node(state, reached_by, [moves[i] for i in random.permutation(len(moves))])
