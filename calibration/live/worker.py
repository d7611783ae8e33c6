"""Runs inside vLLM's own Python: one engine, driven step by step, and every step of it written down.

Reads JSON lines from stdin and answers each with one on the stdout it was started with; all else that prints goes to stderr.
The first line starts the engine: {"engine": arguments of vLLM's EngineArgs}; it is answered with {"facts": ...}. Every further
line is a run (`run`). What goes wrong is answered with {"error": ...}, and ends the worker. It imports nothing of this project,
which that Python need not have.
"""

import json
import os
import sys
import time
import traceback
from typing import Any


class Recorder:
    """Writes down what the scheduler decides and what comes back, by taking the place of two of its methods, and of the
    drafter's `propose`.

    A step is [seconds when scheduling began, when it had ended, when its tokens were booked, seconds spent drafting, waiting,
    free KV blocks, preempted so far, shares]; a share is [request, tokens, drafted, emitted, row of the model runner's batch,
    tokens that were returned past the rollout's end], in the order of the scheduler's output. drafter: None where nothing drafts.
    """

    def __init__(self, scheduler: Any, drafter: Any) -> None:
        self.steps: list[list[Any]] = []
        self._scheduler, self._began = scheduler, dict[int, list[Any]]()
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        self._preempt, self.preempted = scheduler._preempt_request, 0
        scheduler.schedule, scheduler.update_from_output = self.schedule, self.update
        scheduler._preempt_request = self.preempt
        self._drafting_s = 0.0
        if drafter is not None:
            self._propose, drafter.propose = drafter.propose, self.propose

    def propose(self, *arguments: Any, **named: Any) -> Any:
        """Draft, by the clock."""
        began = time.perf_counter()
        drafts = self._propose(*arguments, **named)
        self._drafting_s += time.perf_counter() - began
        return drafts

    def preempt(self, *arguments: Any, **named: Any) -> Any:
        """Count a preemption."""
        self.preempted += 1
        return self._preempt(*arguments, **named)

    def schedule(self, *arguments: Any, **named: Any) -> Any:
        """Schedule a step."""
        began = time.perf_counter()
        output = self._schedule(*arguments, **named)
        pool = self._scheduler.kv_cache_manager.block_pool
        self._began[id(output)] = [
            began, time.perf_counter(), 0.0, 0.0, len(self._scheduler.waiting), pool.get_num_free_blocks(), self.preempted,
        ]  # fmt: skip
        return output

    def update(self, output: Any, found: Any, *arguments: Any, **named: Any) -> Any:
        """Book what a step emitted."""
        step, drafts = self._began.pop(id(output)), output.scheduled_spec_decode_tokens
        shares, scheduled = [], []
        for request, tokens in output.num_scheduled_tokens.items():
            row, known = found.req_id_to_index[request], self._scheduler.requests[request]
            sampled = list(found.sampled_token_ids[row]) if found.sampled_token_ids else []
            scheduled.append((known, known.num_output_tokens, sampled))
            shares.append([int(request.split("-")[0]), tokens, len(drafts.get(request, ())), len(sampled), row])
        answer = self._update(output, found, *arguments, **named)
        step[2], step[3], self._drafting_s = time.perf_counter(), self._drafting_s, 0.0
        for share, (known, before, sampled) in zip(shares, scheduled, strict=True):
            share.append(sampled[known.num_output_tokens - before :])
        if shares:
            self.steps.append([*step, shares])
        return answer


def mend_sampling() -> list[str]:
    """Mend what vLLM gets wrong on a CPU; returns what was mended.

    `expand_kernel` there writes into a converted copy, so that temperatures of drafted tokens are whatever lay in memory:
    speculation at a temperature above 0 then rejects nearly all drafts, and emits them nonetheless (seen in 0.32.0).
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return []
    import torch
    from vllm.v1.sample import rejection_sampler

    def expanded(values: Any, ends: Any, count: int, replace_from: float = 0, replace_to: float = 0) -> Any:
        """Each value as often as its request has tokens."""
        several = values.repeat_interleave(torch.diff(ends, prepend=ends.new_zeros(1)))
        return several.masked_fill(several == replace_from, replace_to) if replace_from != replace_to else several

    rejection_sampler.expand_batch_to_tokens = expanded
    return ["expand_batch_to_tokens"]


class Worker:
    """An engine in this process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._mended = mend_sampling()
        self.engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self.core = self.engine.engine_core.engine_core
        self.recorder = Recorder(self.core.scheduler, self.drafter)

    @property
    def drafter(self) -> Any:
        """What proposes drafts; None where nothing does."""
        return getattr(self.core.model_executor.driver_worker.worker.model_runner, "drafter", None)

    def facts(self) -> dict[str, Any]:
        """Settings as the engine resolved them, by vLLM's names, and what it runs on."""
        import platform

        import torch
        import vllm

        config = self.engine.vllm_config
        scheduling, cache = config.scheduler_config, config.cache_config
        drafting = config.speculative_config
        names = ("method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max",
                 "suffix_decoding_max_tree_depth", "suffix_decoding_max_cached_requests",
                 "suffix_decoding_max_spec_factor", "suffix_decoding_min_token_prob",
                 "num_speculative_tokens_per_batch_size")  # fmt: skip
        return {
            "settings": {
                "max_num_seqs": scheduling.max_num_seqs,
                "max_num_batched_tokens": scheduling.max_num_batched_tokens,
                "block_size": cache.block_size,
                "num_gpu_blocks": cache.num_gpu_blocks,
                "enable_prefix_caching": bool(cache.enable_prefix_caching),
                "enable_chunked_prefill": bool(scheduling.enable_chunked_prefill),
                "async_scheduling": bool(scheduling.async_scheduling),
                "scheduler_reserve_full_isl": bool(getattr(scheduling, "scheduler_reserve_full_isl", True)),
                "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
                "max_model_len": config.model_config.max_model_len,
                "dtype": str(config.model_config.dtype).removeprefix("torch."),
                "enforce_eager": bool(config.model_config.enforce_eager),
                "vllm_version": vllm.__version__,
            },
            "speculative": None if drafting is None else {name: getattr(drafting, name, None) for name in names},
            "rolloutsim": getattr(self.drafter, "facts", None),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "mended": self._mended,
        }

    def run(self, prompts: list[list[int]], slots: int, sampling: dict[str, Any]) -> dict[str, Any]:
        """Decode the prompts, all there at once, on so many slots; from empty caches.

        sampling: arguments of vLLM's SamplingParams; `seed` is that of the first prompt, and one more for each further one.
        """
        from vllm import SamplingParams

        self._forget(slots)
        scheduler = self.core.scheduler
        # newer versions tell those that run from those that the model runner has room for
        setattr(
            scheduler,
            "max_num_active_reqs" if hasattr(scheduler, "max_num_active_reqs") else "max_num_running_reqs",
            slots,
        )
        recorder, seed = self.recorder, sampling.pop("seed", None)
        recorder.steps, recorder.preempted = [], 0
        for number, prompt in enumerate(prompts):
            own = {} if seed is None else {"seed": seed + number}
            self.engine.add_request(str(number), {"prompt_token_ids": prompt}, SamplingParams(**sampling, **own))
        began, finished = time.perf_counter(), dict[int, Any]()
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.finished:
                    finished[int(output.request_id)] = output.outputs[0]
        ended = time.perf_counter()
        outputs = [finished[number] for number in range(len(prompts))]
        return {
            "seconds": ended - began,
            "steps": [[*(s - began for s in step[:3]), *step[3:]] for step in recorder.steps],
            "token_ids": [list(output.token_ids) for output in outputs],
            "finish_reason": [output.finish_reason for output in outputs],
        }

    def _forget(self, slots: int) -> None:
        """Empty the prefix cache and forget what suffix decoding has learnt from earlier runs."""
        while self.core.scheduler.has_requests():  # what finished last is yet to be told to the workers
            self.engine.step()
        self.engine.reset_prefix_cache()
        drafter = self.drafter
        if (cache := getattr(drafter, "suffix_cache", None)) is not None:
            drafter.suffix_cache = type(cache)(
                max_tree_depth=cache.max_tree_depth, max_cached_requests=cache.max_cached_requests
            )
        if hasattr(drafter, "reset"):  # of rolloutsim's proposer
            drafter.reset(slots)


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine is driven, and seen, from this process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    worker = None
    for line in sys.stdin:
        asked, answer = json.loads(line), dict[str, Any]()
        try:
            if worker is None:
                worker = Worker(asked["engine"])
                answer = {"facts": worker.facts()}
            else:
                answer = worker.run(**asked)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if "error" in answer:
            break
    os._exit(0)  # nothing is left to save, and an engine takes its time to end


if __name__ == "__main__":
    main()
