"""A system that gives a share of the scenario's GPUs to training: how many, what it costs, and the share that balances."""

import pytest

from simulator.system import System
from simulator.validated import SettingError
from tests.systems.test_built_in import compared, made


@pytest.mark.parametrize(("share", "replicas", "expected"), [
    (0.25, 8, (6, 2)), (0.01, 8, (7, 1)), (0.99, 8, (1, 7)), (0.5, 1, (1, 1)), (0.5, 2, (1, 1)), (None, 8, (8, 0)),
])  # fmt: skip
def test_replicas_are_divided_with_one_for_each_at_least(
    share: float | None, replicas: int, expected: tuple[int, int]
) -> None:
    assert System(name="s", train_share=share).replicas_of(replicas) == expected


def test_gpus_that_train_and_generate_are_the_scenarios() -> None:
    system = {"name": "apart", "drafter": {"kind": "none"}, "loop": "one_step_async", "train_share": 0.25}
    engine = {"max_num_seqs": 8, "replicas": 4}
    sync, apart = compared(made(1), ["sync", system], engine=engine).runs.to_pylist()
    assert sync["gpus"] == apart["gpus"] == 4
    assert apart["train_s"] == pytest.approx(4 * sync["train_s"]), "one GPU trains in place of four"
    idle = compared(made(1), [system], engine=engine, stages=[]).runs.to_pylist()[0]
    assert idle["gpus"] == 4, "also where nothing is trained"


def test_balanced_is_the_best_of_all_ways_to_divide_an_rl_step() -> None:
    system = {"name": "apart", "drafter": {"kind": "none"}, "loop": "one_step_async"}
    engine = {"max_num_seqs": 2, "replicas": 6}

    def slower_s(share: float | str) -> float:
        row = compared(made(2), [system | {"train_share": share}], engine=engine, steps=[0]).runs.to_pylist()[0]
        return float(max(row["makespan_s"], row["train_s"]))

    each = [slower_s(trains / 6) for trains in range(1, 6)]
    assert slower_s("balanced") == pytest.approx(min(each))


def test_the_trainer_is_said_once() -> None:
    with pytest.raises(SettingError, match=r"train_share = 0.5 beside train_gpus = 2: give one"):
        System(name="s", train_share=0.5, train_gpus=2)
