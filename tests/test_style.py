"""What keeps the code readable: short functions, few arguments to compiled ones, no definition without types."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGES = ("simulator", "traces", "calibration")
TRITON = ("flash_kernels.py", "fused_kernels.py")
"""Kernels are compiled whole, with all that they read as arguments."""


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name not in TRITON:
                for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                    if isinstance(node, ast.FunctionDef):
                        yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_functions_are_short() -> None:
    lines = {where: (node.end_lineno or 0) - node.lineno + 1 for where, node in functions()}
    assert median(lines.values()) <= 8
    assert not {where: count for where, count in lines.items() if count > 60}


def test_compiled_functions_take_few_arguments() -> None:
    compiled = {
        where: len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
        for where, node in functions()
        if any(ast.unparse(one) in ("compiled", "entry") for one in node.decorator_list)
    }
    assert len(compiled) > 50
    assert not {where: count for where, count in compiled.items() if count > 12}


def test_no_definition_goes_without_types() -> None:
    without = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "no-untyped-def" in path.read_text("utf-8")
    ]
    assert not without
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]["overrides"]
    loosened = {name for one in overrides if "disallow_untyped_defs" in one for name in one["module"]}
    assert {name.rpartition(".")[2] + ".py" for name in loosened} == set(TRITON)
