"""Compiled functions are kept between runs under what they are made of, and nothing else is touched."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import pytest

from simulator.compiled import KEPT, digest_of
from simulator.engine.fleet import parts
from simulator.engine.state import core_at

LEAVES = '''
from simulator.compiled import compiled

STEP = {step}
{extra}
@compiled
def leaf(x):
    """{doc}"""
    return x + STEP


@compiled
def other(x):
    return 2 * x
'''
CALLERS = """
from leaves import leaf, other
from simulator.compiled import entry


@entry
def caller(x):
    return leaf(x) + other(x)


@entry
def stranger(x):
    return other(x) - 1
"""
RUN = """
import json, os
from numba.core import event

names = []


class Listener(event.Listener):
    def on_start(self, e):
        names.append(e.data["dispatcher"].py_func.__qualname__)

    def on_end(self, e):
        pass


event.register("numba:compile", Listener())
from callers import caller, stranger
from leaves import leaf
from simulator.compiled import compiling_elsewhere

"""
BOTH = "print(json.dumps([caller(1), stranger(1), sorted(names)]))"


class Workshop:
    """A folder with two modules, and runs of them that share a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        (folder / "callers.py").write_text(CALLERS)

    def run(self, step: int = 1, doc: str = "", extra: str = "", what: str = BOTH) -> Any:
        (self.folder / "leaves.py").write_text(LEAVES.format(step=step, doc=doc, extra=extra))
        where = {**os.environ, "XDG_CACHE_HOME": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1"}
        path = os.pathsep.join([str(self.folder), str(Path(__file__).parents[2])])
        done = subprocess.run(
            [sys.executable, "-c", RUN + what],
            env=where | {"PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)

    def files(self, name: str) -> list[Path]:
        return list((self.cache / "rolloutsim").glob(f"*.{name}-*.code"))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_change_compiles_what_it_can_have_changed_and_nothing_else(workshop: Workshop) -> None:
    assert workshop.run() == [4, 1, ["caller", "leaf", "other", "stranger"]]
    assert workshop.run() == [4, 1, []], "all is there"
    assert workshop.run(doc="Say more.", extra="# a line more") == [4, 1, []], "words and lines compile nothing"
    assert workshop.run(step=5) == [8, 1, ["caller", "leaf"]], "a constant in another file, and who reads it"
    assert workshop.run(step=1) == [4, 1, []], "what was kept before is there still"


def test_old_code_goes_when_new_code_comes(workshop: Workshop) -> None:
    for step in range(KEPT + 3):
        assert workshop.run(step)[0] == step + 3
    assert len(workshop.files("leaf")) == len(workshop.files("caller")) == KEPT
    assert len(workshop.files("other")) == 1


@pytest.mark.parametrize("kind", ["a file in the way", "cut off"])
def test_a_cache_that_cannot_be_used_costs_a_compilation_and_no_more(workshop: Workshop, kind: str) -> None:
    if kind == "cut off":
        workshop.run()
        for path in (workshop.cache / "rolloutsim").iterdir():
            path.write_bytes(path.read_bytes()[:40])
    else:
        workshop.cache.mkdir()
        (workshop.cache / "rolloutsim").write_text("not a folder")
    assert workshop.run() == [4, 1, ["caller", "leaf", "other", "stranger"]]


def test_a_full_disk_and_killed_processes_leave_nothing(workshop: Workshop) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    assert workshop.run(what=full + BOTH)[:2] == [4, 1]
    cache = workshop.cache / "rolloutsim"
    assert list(cache.iterdir()) == []
    for name, age_s in (("0" * 32, 3600), ("f" * 32, 0)):
        (cache / f"leaves.leaf-1234-5678.{name}").write_bytes(b"half")
        os.utime(cache / f"leaves.leaf-1234-5678.{name}", (time.time() - age_s,) * 2)
    workshop.run()
    left = [path.suffix for path in cache.iterdir() if path.suffix != ".code"]
    assert left == ["." + "f" * 32], "which may be being written"


def test_python_may_call_what_was_compiled_for_compiled_code(workshop: Workshop) -> None:
    what = "print(json.dumps([caller(1), leaf(1), leaf(2.5), caller(2)]))"
    assert workshop.run(what=what) == [4, 2, 3.5, 7]
    assert workshop.run(what=what) == [4, 2, 3.5, 7], "loaded without what Python needs, compiled with it"


ELSEWHERE = """
with compiling_elsewhere(caller, 1) as ready:
    ready()
    ready()
print(json.dumps([caller(1), sorted(names)]))
"""


def test_another_process_compiles_what_is_not_kept(workshop: Workshop) -> None:
    assert workshop.run(what=ELSEWHERE) == [4, []]
    assert len(workshop.files("caller")) == len(workshop.files("leaf")) == 1
    assert workshop.run(what="import sys; sys.executable = 'nowhere'" + ELSEWHERE) == [4, []], "nobody is needed now"


def test_whoever_waited_has_it_before_the_first_call(workshop: Workshop) -> None:
    what = """
with compiling_elsewhere(caller, 1) as ready:
    ready()
print(json.dumps([len(caller.overloads), names]))
"""
    assert workshop.run(what=what) == [1, []], "compiled by the helper"
    assert workshop.run(what=what) == [1, []], "kept"


def test_whoever_waits_compiles_parts(workshop: Workshop) -> None:
    slow = "import simulator.compiled as c; c.HELPER = 'import time; time.sleep(1)' + c.HELPER"
    what = slow + ELSEWHERE.replace("caller, 1", "caller, 1, parts=[(leaf, 1)]")
    assert workshop.run(what=what) == [4, ["leaf"]], "and the other process the rest"
    assert len(workshop.files("caller")) == len(workshop.files("leaf")) == 1
    assert workshop.run(what=what) == [4, []], "nothing is left to compile"


def test_a_helper_ends_with_whom_it_helps(workshop: Workshop) -> None:
    slow = "import simulator.compiled as c; c.HELPER += 'import time; time.sleep(60)'"
    what = """
with compiling_elsewhere(caller, 1):
    print(open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read(), flush=True)
    os._exit(0)
"""
    helper, give_up_s = workshop.run(what=slow + what), time.monotonic() + 20
    with suppress(FileNotFoundError):
        while Path(f"/proc/{helper}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < give_up_s
            time.sleep(0.05)


def test_parts_of_the_engine_are_compiled_for_the_cores_that_it_has() -> None:
    core_at.compile((numba.int64,))
    (found,) = core_at.overloads.values()
    for _, core, *_ in parts(None):
        assert numba.typeof(core) == found.signature.return_type


@pytest.mark.parametrize("kind", ["a file in the way", "a helper that fails", "a helper that is left alone"])
def test_where_no_other_process_can_this_one_compiles(workshop: Workshop, kind: str) -> None:
    what = {
        "a file in the way": ELSEWHERE,
        "a helper that fails": "import simulator.compiled as c; c.HELPER = 'raise SystemExit(1)'" + ELSEWHERE,
        "a helper that is left alone": ELSEWHERE.replace("ready()", "pass", 2),
    }[kind]
    if kind == "a file in the way":
        workshop.cache.mkdir()
        (workshop.cache / "rolloutsim").write_text("not a folder")
    assert workshop.run(what=what) == [4, ["caller", "leaf", "other"]]


def test_importing_changes_nothing_in_the_process_and_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "rolloutsim" / "older").mkdir(parents=True)
    code = """
import os, json
before = dict(os.environ)
import numba
folder = numba.config.CACHE_DIR
import simulator, simulator.replay
print(json.dumps([dict(os.environ) == before, numba.config.CACHE_DIR == folder]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [True, True]
    assert (tmp_path / "rolloutsim" / "older").is_dir()


def test_a_digest_follows_names_to_what_they_stand_for() -> None:
    def made(source: str, **names: Any) -> FunctionType:
        scope: dict[str, Any] = dict(names)
        exec(source, scope)
        found: FunctionType = scope["f"]
        return found

    one = made("def f(x): return x + K", K=1)
    assert digest_of(one) == digest_of(made("def f(x): return x + K", K=1))
    assert digest_of(one) == digest_of(made("\n\ndef f(y):\n    'words'\n    return y + K", K=1))
    assert digest_of(one) != digest_of(made("def f(x): return x + K", K=2))
    assert digest_of(one) != digest_of(made("def f(x): return x - K", K=1))
    inner = made("def f(x): return x * K", K=3)
    calls = made("def f(x): return g(x)", g=inner)
    assert digest_of(calls) != digest_of(made("def f(x): return g(x)", g=made("def f(x): return x * K", K=4)))
    recursive = made("def f(x): return f(x - 1) if x else 0")
    assert digest_of(recursive) == digest_of(made("def f(x): return f(x - 1) if x else 0"))
