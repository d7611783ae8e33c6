"""Records: a class is a layout, a field an address, and a copy points at its own arrays."""

import copy
import pickle

import numpy as np
import pytest

from simulator.compiled import compiled
from simulator.cost import load_profile
from simulator.cost.work import StepWork
from simulator.records import FLOAT, INT, Array, Pointing, array_field, beginning, joined, layout, record_field, records


class Point:
    x: float
    hits: int


class Named(Point):
    busy: bool


class Board:
    turn: int
    points: Array[Point]
    best: Point
    numbers: Array[float]


POINT, NAMED, BOARD = layout(Point), layout(Named), layout(Board)
points_of, best_of, numbers_of = (
    array_field("points", POINT),
    record_field("best", POINT),
    array_field("numbers", FLOAT),
)


@compiled
def play(boards, named):
    board = boards[0]
    points, total = points_of(board), 0.0
    for i in range(points.size):
        points[i].hits += board.turn
        total += points[i].x
    best_of(board).x = total
    beginning(named[0], POINT).hits = 7
    return total + numbers_of(board)[1]


def board() -> tuple[Pointing, np.ndarray, np.ndarray]:
    points, best = records(POINT, 3), records(POINT, 1)
    points["x"] = 1.0, 2.0, 4.0
    made = Pointing(BOARD, turn=2)
    made.point(points=points, best=best, numbers=np.array([0.5, 0.25]))
    return made, points, best


def test_a_class_is_its_layout_bases_first() -> None:
    assert NAMED.names == ("x", "hits", "busy")
    assert [np.dtype(NAMED)[name] for name in NAMED.names] == [FLOAT, INT, INT]
    assert BOARD.names == ("turn", "points", "points_size", "best", "numbers", "numbers_size")


def test_compiled_code_reads_and_writes_what_a_record_points_at() -> None:
    made, points, best = board()
    named = records(NAMED, 1)
    assert play(made.record, named) == 7.25
    assert points["hits"].tolist() == [2, 2, 2]
    assert best["x"][0] == 7.0
    assert named["hits"][0] == 7, "a record may be taken for the one that it begins with"
    assert (made["turn"], made["points_size"]) == (2, 3)
    made["turn"] = 5
    play(made.record, named)
    assert points["hits"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_points_at_arrays_of_its_own(duplicate) -> None:
    made, points, _ = board()
    assert made["turn"] == 2
    other = duplicate(made)
    assert play(other.record, records(NAMED, 1)) == 7.25
    assert points["hits"].tolist() == [0, 0, 0]
    assert other.target("points")["hits"].tolist() == [2, 2, 2]
    other["turn"] = 9
    assert (made["turn"], other["turn"]) == (2, 9)


def test_a_profile_that_was_used_can_be_copied_and_sent_elsewhere() -> None:
    profile, work = load_profile("h100-llama-3.1-8b-published"), StepWork.decode([1, 8], [10, 900])
    before = profile.step_time_s(work)
    for other in (copy.deepcopy(profile), pickle.loads(pickle.dumps(profile))):
        assert (other.step_time_s(work) == before).all()
        assert other.packed["data"] != profile.packed["data"], "at another address"


def test_joined_is_one_after_another() -> None:
    parts = [records(POINT, n) for n in (2, 0, 3)]
    parts[0]["x"], parts[2]["hits"] = 1.5, 4
    whole = joined(parts)
    assert whole.dtype == parts[0].dtype
    assert whole.tolist() == [row for part in parts for row in part.tolist()]
    assert joined([parts[2][::2]]).tolist() == parts[2][::2].tolist()
