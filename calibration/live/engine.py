"""A live engine in a process of its own, under whatever Python has vLLM."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from traces.errors import InputError

WORKER = Path(__file__).with_name("worker.py")
QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""Environment of an engine, unless the user's own says otherwise."""


class Engine:
    """vLLM with these arguments of its EngineArgs; `facts` is what it resolved them to. As a context manager it ends with it.

    log: the file that gets whatever it prints. Raises InputError where it does not start, and so does a run that fails.
    """

    def __init__(self, python: str, arguments: dict[str, Any], log: Path, name: str) -> None:
        self._python, self._log, self._name = python, log, name
        try:
            with log.open("w") as errors:
                self._process = subprocess.Popen(
                    [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                    env=QUIET | _threads() | os.environ,
                )  # fmt: skip
        except OSError as error:
            raise InputError(
                f"{python}: cannot be run ({error.strerror}): give --python the Python that has vLLM"
            ) from None
        try:
            self.facts: dict[str, Any] = self._ask({"engine": arguments})["facts"]
        except BaseException:
            self.end()
            raise

    def run(self, prompts: list[list[int]], slots: int, sampling: dict[str, Any]) -> dict[str, Any]:
        """Decode the prompts on so many slots, and return what `worker.Worker.run` does."""
        return self._ask({"prompts": prompts, "slots": slots, "sampling": sampling})

    def __enter__(self) -> "Engine":
        """Return the engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.end()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise InputError(f"{self._name}: the engine ended (exit code {self._process.wait()}): {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "No module named 'vllm'" in answer.get("error", ""):
            raise InputError(
                f"{self._python} has no vLLM: give --python that of an environment which has, such as `make vllm` makes"
            )
        if "error" in answer:
            raise InputError(f"{self._name}: {_shown(answer['error']).rstrip('.')}: see {self._log}")
        return answer

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{_shown(lines[-1]) if lines else 'it said nothing'}: see {self._log}"


def _threads() -> dict[str, str]:
    """What keeps n-gram drafting from changing the forward pass: as many threads for numba as for OpenMP.

    numba makes OpenMP take as many threads as numba has itself, by default one for each core, in the whole process.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return {"NUMBA_NUM_THREADS": given} if given else {}


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."
