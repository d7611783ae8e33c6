"""Runs of a trace's prompts on a vLLM server that somebody started: what its API gives, which is no steps."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex
from typing import Any

import pyarrow as pa

from calibration.live.recording import REQUESTS, WARM_UP, Asked, runs_left, told, write_run
from calibration.live.server import Answer, RefusedError, Server
from calibration.runs.facts import NAMES, checked
from calibration.runs.vllm_log import settings_of
from simulator.strict_yaml import load_value
from traces.errors import InputError

NEEDED = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "num_gpu_blocks",
    "enable_prefix_caching",
    "async_scheduling",
)
"""Settings that steps follow from, and that no default is put for."""
PLAIN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Sampling as without a generation_config.json, which a server may have read."""
SUFFIX = {"suffix_decoding_max_tree_depth": 24, "suffix_decoding_max_cached_requests": 10_000,
          "suffix_decoding_max_spec_factor": 1.0, "suffix_decoding_min_token_prob": 0.1}  # fmt: skip
"""vLLM's defaults (vllm/config/speculative.py of 0.32.0)."""
BY_BATCH = "num_speculative_tokens_per_batch_size"
DRAFTS, GENERATED = "vllm:spec_decode_num_drafts", "vllm:generation_tokens"
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
COUNTERS = ("vllm:spec_decode_", "vllm:num_preemptions", "vllm:prefix_cache_", GENERATED, "vllm:prompt_tokens")
"""Counters that are kept, as they rose over a run: those whose names begin so."""
SETTLED_S = 10.0
"""How long counters may lag behind the last answer."""


def record(asked: Asked, url: str, out: Path, command: str, tell: Callable[[str], None]) -> None:
    """Do every run that the folder does not hold yet on the server at a URL.

    InputError where the folder holds another recording, where the server is not there or not as it was said to be, and where a
    request fails; of a run of which one failed nothing is kept.
    """
    server = Server(url)
    facts = facts_of(server, asked)
    model, prompts, most = asked.engine["model"], asked.prompts, facts["settings"]["max_num_seqs"]
    if asked.slots[-1] > most:
        raise InputError(f"{url}: runs at most {most} sequences, fewer than --slots {asked.slots[-1]}: ask for fewer")
    left = runs_left(asked, out, command)
    if left:
        _warm_up(server, model, prompts[:8])
    for count, run in enumerate(left):
        salt = token_hex(16)  # no run finds blocks of another in the prefix cache
        bodies = [_body(model, prompt, asked.sampling, salt, row) for row, prompt in enumerate(prompts)]
        with _counted(server) as counted:
            began_s = time.perf_counter()
            # where the server decodes so many, it queues the others; else they wait here
            answers = _completed(server, bodies, len(bodies) if run.slots == most else run.slots)
            counted["tokens"] = sum(len(one.token_ids) for one in answers)
        found = {
            "token_ids": [one.token_ids for one in answers], "finish_reason": [one.finish_reason for one in answers],
            "seconds": max(one.finished_s for one in answers) - began_s,
        }  # fmt: skip
        write_run(asked, out, run, found, facts | {"counters": counted["counters"]}, _requests(answers, began_s))
        tell(f"{count + 1} of {len(left)}: {told(run, found)}")


def facts_of(server: Server, asked: Asked) -> dict[str, Any]:
    """Settings and speculation of the server, as it tells and `asked` adds; InputError where they disagree or say too little."""
    about = server.document("/version")
    if about is None or "version" not in about:
        raise InputError(f"{server.url}: is no vLLM server (it serves no /version): give the address of `vllm serve`")
    models = server.document("/v1/models")
    if models is None or not isinstance(models.get("data"), list):
        raise InputError(f"{server.url}: serves no /v1/models: give the address of `vllm serve`")
    model = asked.engine["model"]
    served = {one["id"]: one for one in models["data"]}
    if model not in served:
        raise InputError(f"{server.url}: serves no model {model!r:.80}: give --model {' or '.join(served)}")
    told = (server.document("/server_info?config_format=json") or {}).get("vllm_config") or {}
    given = {key: value for key, value in asked.engine.items() if key != "model"}
    settings = _settings(server, about["version"], served[model], told, given)
    (config,) = asked.configurations.values()
    return {
        "settings": settings,
        "speculative": _speculative(server, config, told.get("speculative_config")),
        "server": {"url": server.url, "model": model, "max_num_seqs": settings["max_num_seqs"]},
    }


def resolved(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """A speculative_config as vLLM completes it."""
    if config is None:
        return None
    lookup = {
        "prompt_lookup_min": config.get("prompt_lookup_max", 5),
        "prompt_lookup_max": config.get("prompt_lookup_min", 5),
    }
    found = SUFFIX | lookup | {BY_BATCH: None} | config
    return {"num_speculative_tokens": found["suffix_decoding_max_tree_depth"]} | found


def _settings(
    server: Server, version: str, model: dict[str, Any], told: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """What the server tells and then what the command line adds, in this order."""
    if strange := [key for key in given if key not in (*NAMES, "enforce_eager")]:
        raise InputError(f"--engine {strange[0]}: is no setting that is simulated: use one of {', '.join(NAMES)}")
    cache = {name: load_value(value) for name, value in server.cache_config().items() if name in NAMES}
    log = {
        "vllm_version": version, "kv_cache": cache | {"max_model_len": model.get("max_model_len")}, "engine_kwargs": given,
        "resolved_config": {name: part for name, part in told.items() if name != "speculative_config"},
    }  # fmt: skip
    found = asdict(settings_of(log, server.url))
    for name in NAMES:
        if name in given and found[name] != checked(name, given[name], "--engine"):
            raise InputError(
                f"--engine {name}={given[name]}: the server has {found[name]}: correct it, or leave it out"
            )
    if missing := [name for name in NEEDED if found[name] is None]:
        raise InputError(
            f"{server.url}: does not say {', '.join(missing)}: give --engine {missing[0]}=VALUE and so on as it was started, or "
            "start it with VLLM_SERVER_DEV_MODE=1, where it tells all settings"
        )
    if (engines := found["data_parallel_size"] or 1) > 1:
        raise InputError(
            f"{server.url}: is {engines} engines, whose slots are their own: attach to one without data parallelism"
        )
    return {name: value for name, value in found.items() if value is not None}


def _speculative(server: Server, config: dict[str, Any] | None, told: dict[str, Any] | None) -> dict[str, Any] | None:
    """The configuration as it was completed; InputError where the server's own is another."""
    speculates = DRAFTS in server.metrics()
    if speculates != (config is not None):
        fix = "give its --speculative-config" if speculates else "give --speculative-config none"
        raise InputError(f"{server.url}: drafts {'some' if speculates else 'no'} tokens, other than was said: {fix}")
    if config is None or told is None:
        return resolved(config)
    for key, value in config.items():
        if told.get(key) != value:
            raise InputError(
                f"{server.url}: its speculative_config has {key} {told.get(key)!r}, not {value!r}: correct it"
            )
    return {
        key: told.get(key)
        for key in ("method", "num_speculative_tokens", *SUFFIX, "prompt_lookup_min", "prompt_lookup_max", BY_BATCH)
    }


def _warm_up(server: Server, model: str, prompts: Sequence[list[int]]) -> None:
    """Have it compile what it compiles, one prompt first; InputError where it does not take token ids, or give them back."""
    bodies = [_body(model, prompt, WARM_UP, "", 0) for prompt in prompts]
    try:
        server.complete(bodies[0])
    except RefusedError as error:
        raise InputError(f"{server.url}: refuses a prompt of token ids ({error}): see its log") from None
    _completed(server, bodies, len(bodies))


def _body(model: str, prompt: list[int], sampling: dict[str, Any], salt: str, row: int) -> dict[str, Any]:
    """A request for one prompt; `seed` is that of row 0, and one more for each further one."""
    own = {key: value for key, value in sampling.items() if key != "detokenize"}
    if "seed" in own:
        own["seed"] += row
    return {"model": model, "prompt": prompt, **PLAIN, **own, **({"cache_salt": salt} if salt else {})}


def _completed(server: Server, bodies: Sequence[dict[str, Any]], in_flight: int) -> list[Answer]:
    """The answers to requests, sent in their order, so many at once; InputError for the first that fails."""
    with ThreadPoolExecutor(in_flight) as threads:
        asked = {threads.submit(server.complete, body): row for row, body in enumerate(bodies)}
        try:
            for one in as_completed(asked):
                if isinstance(error := one.exception(), RefusedError):
                    raise InputError(
                        f"{server.url}: request {asked[one]} failed ({error}): nothing of this run is kept: mend the server, and "
                        "repeat the command"
                    )
                one.result()
        except BaseException:
            server.stop.set()
            threads.shutdown(cancel_futures=True)
            raise
    return [one.result() for one in asked]


@contextmanager
def _counted(server: Server) -> Iterator[dict[str, Any]]:
    """What the server's counters rose by, under `counters`, once `tokens` is what the requests were given.

    InputError where it serves others besides.
    """
    counted: dict[str, Any] = {}
    before = _settled(server, lambda now: not any(now.get(name, 0) for name in BUSY))
    others = f"{server.url}: serves others, so that times are not of this run alone: wait until it serves nobody else"
    if before is None:
        raise InputError(others)
    if GENERATED not in before:
        raise InputError(
            f"{server.url}: its /metrics lack {GENERATED}: give the address of `vllm serve`, 0.10 or later"
        )
    yield counted
    wanted = before[GENERATED] + counted["tokens"]
    after = _settled(server, lambda now: now[GENERATED] >= wanted)
    if after is None or after[GENERATED] > wanted:
        raise InputError(f"{others} (it did not count the {counted['tokens']:,} tokens of this run)")
    counted["counters"] = {
        name: int(value - before.get(name, 0))
        for name, value in sorted(after.items())
        if name.startswith(COUNTERS) and "_created" not in name
    }


def _settled(server: Server, holds: Callable[[dict[str, float]], bool]) -> dict[str, float] | None:
    """The server's metrics once something holds of them, which lag behind its answers; None where it does not come to."""
    until_s = time.perf_counter() + SETTLED_S
    while not holds(found := server.metrics()):
        if time.perf_counter() > until_s:
            return None
        time.sleep(0.05)
    return found


def _requests(answers: Sequence[Answer], began_s: float) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "sent_s": [one.sent_s - began_s for one in answers],
        "finished_s": [one.finished_s - began_s for one in answers],
        "prompt_tokens": [one.usage["prompt_tokens"] for one in answers],
        "completion_tokens": [one.usage["completion_tokens"] for one in answers],
        "cached_tokens": [(one.usage.get("prompt_tokens_details") or {}).get("cached_tokens") for one in answers],
        "chunk_s": [[at_s - began_s for at_s in one.chunk_s] for one in answers],
        "chunk_tokens": [[len(chunk) for chunk in one.chunks] for one in answers],
    }
    return pa.table({name: pa.array(columns[name], kind) for name, kind in REQUESTS.items()})
