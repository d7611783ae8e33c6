"""From names to policies: built-ins, `module:attr`, `prepare`, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from simulator.budgets.policy import TablePolicy
from simulator.budgets.resolve import check_spec, resolve_policy
from tests.budgets.histories import context
from tests.budgets.test_classes import view
from traces.errors import InputError

BAD = [
    ("", "is unknown: use none, fixed"),
    ("fixd:4", "did you mean 'fixed:4'?"),
    ("thresold:4@8", "did you mean 'threshold:4@8'?"),
    ("none:1", "none takes no argument: write 'none'"),
    ("unlimited:", "takes no argument"),
    ("fixed", "needs an argument: write fixed:K"),
    ("fixed:", "needs an argument"),
    ("fixed:x", "has budget 'x': give a whole number from 0 to 255"),
    ("fixed:-1", "has budget '-1'"),
    ("fixed:256", "has budget '256'"),
    ("fixed:4.0", "has budget '4.0'"),
    ("fixed:²", "has budget '²'"),
    ("fixed:4@8", "has budget '4@8'"),
    ("threshold:4", "is not threshold:K@B"),
    ("threshold:4@0", "with B at least 1"),
    ("threshold:4@x", "is not threshold:K@B"),
    ("threshold:@4", "has budget ''"),
    ("threshold:300@4", "has budget '300'"),
    ("das:oops", "has setting 'oops'"),
    ("no_such_module_at_all:thing", "is unknown"),
    ("tests.no_such_module:thing", "is unknown"),
    (":thing", "is unknown"),
    (".relative:thing", "is unknown"),
    ("math:", "is unknown"),
    ("math:no_such_name", "'math' has no 'no_such_name'"),
    ("math:pi", "is a float: it must be callable"),
]


def one_line(refusal: pytest.ExceptionInfo[InputError], spec: str) -> str:
    message = str(refusal.value)
    assert repr(spec) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("spec", "problem"), BAD)
def test_bad_names_are_refused_in_one_line_that_names_them(spec: str, problem: str) -> None:
    with pytest.raises(InputError) as refusal:
        resolve_policy(spec, context())
    assert problem in one_line(refusal, spec)
    if not spec.startswith("math:pi"):  # is found, and turns out to be none only when it is prepared
        with pytest.raises(InputError):
            check_spec(spec)


@pytest.mark.parametrize("spec", ["fixed:" + "9" * 5000, "das:short=" + "9" * 5000, "das:long=" + "9" * 30])
def test_numbers_too_large_for_a_computer_are_refused_like_others(spec: str) -> None:
    with pytest.raises(InputError):
        resolve_policy(spec, context())


@pytest.mark.parametrize(
    ("spec", "by_live"),
    [
        ("none", [0, 0, 0, 0]),
        ("fixed:0", [0, 0, 0, 0]),
        ("fixed:255", [255] * 4),
        ("unlimited", [255] * 4),
        ("threshold:4@2", [4, 4, 0, 0]),
        ("threshold:4@1", [4, 0, 0, 0]),
        ("threshold:7@1000000", [7, 7, 7, 7]),
    ],
)
def test_built_ins_give_the_budgets_of_their_names(spec: str, by_live: list[int]) -> None:
    policy = resolve_policy(spec, context(max_num_seqs=4))
    assert isinstance(policy, TablePolicy)
    assert [policy(view([0] * n, [9] * n)).tolist() for n in range(1, 5)] == [[k] * n for n, k in enumerate(by_live, 1)]
    check_spec(spec)


SOURCE = """
from types import SimpleNamespace
from simulator.budgets.policy import by_live

def plain(view):
    return [2] * view.live

class Prepared:
    every = 3
    def prepare(self, context):
        return by_live([context.max_num_seqs])

class Lazy:
    every = -1
    def __call__(self, view):
        return 1

class Broken:
    def prepare(self, context):
        raise RuntimeError("two\\nlines")

class Odd:
    def prepare(self, context):
        return "not a policy"

prepared, lazy, broken, odd = Prepared(), Lazy(), Broken(), Odd()
inside = SimpleNamespace(deep=SimpleNamespace(plain=plain))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module of a user's policies."""
    name = "users_own_policies"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / "users_broken_module.py").write_text("import math\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for imported in (name, "users_broken_module"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    return name


def test_a_users_own_policy_is_found_by_module_and_attribute(module: str) -> None:
    for attribute in ("plain", "inside.deep.plain"):
        policy = resolve_policy(f"{module}:{attribute}", context())
        assert np.asarray(policy(view([0, 0], [1, 1]))).tolist() == [2, 2]
        check_spec(f"{module}:{attribute}")


def test_a_policy_that_prepares_is_replaced_by_what_it_prepared(module: str) -> None:
    policy = resolve_policy(f"{module}:prepared", context(max_num_seqs=17))
    assert isinstance(policy, TablePolicy)
    assert policy.budgets.ravel().tolist() == [17]


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [
        ("lazy", "every = -1: give decode steps"),
        ("broken", "prepare raised RuntimeError: two lines: mend the policy"),
        ("odd", "is a str: it must be callable"),
        ("inside.deeper", "has no 'inside.deeper'"),
    ],
)
def test_a_users_mistakes_are_told_in_one_line(module: str, attribute: str, problem: str) -> None:
    spec = f"{module}:{attribute}"
    with pytest.raises(InputError) as refusal:
        resolve_policy(spec, context())
    assert problem in one_line(refusal, spec)


def test_a_module_that_cannot_be_imported_is_told_in_one_line(module: str) -> None:
    spec = "users_broken_module:policy"
    with pytest.raises(InputError) as refusal:
        resolve_policy(spec, context())
    assert "importing it raised ZeroDivisionError" in one_line(refusal, spec)
