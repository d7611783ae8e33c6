"""How RL frameworks hand arguments to the engine that they start, and what of speculation they know to look after.

Read in verl 0.9.1, SkyRL 0.3.0 and TRL 1.16.0 as released, and in the repositories of slime, NeMo-RL, prime-rl and ROLL.
"""

import difflib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.flags import flags_of
from simulator.deploy.settings.parts import Arguments, Check, without_drafts
from simulator.deploy.settings.snippets import as_yaml, dotlist, hydra, nested, toml
from traces.errors import InputError

VERL, SKYRL, NEMO, PRIME, ROLL = (
    "actor_rollout_ref.rollout", "generator.inference_engine", "policy.generation", "inference",
    "actor_infer.strategy_args",
)  # fmt: skip


@dataclass(frozen=True)
class Framework:
    """One that starts engines, and how it is told.

    name: what it is called; rest: by engine that it starts, the key under which arguments go as they are; own: arguments that
    have keys of their own; always: keys that choose the engine; write: from the tree of settings to text; source: by engine,
    where it hands them over; notes: what else to know, by what is drafted with: `tokens` (n-grams, suffixes, the proposer),
    `mtp`, or another `head`; mute: engines that it tells nothing of speculation.
    """

    name: str
    rest: Mapping[str, str]
    source: Mapping[str, str]
    own: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    write: Callable[[Mapping[str, Any]], str] = as_yaml
    notes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    mute: tuple[str, ...] = ()


FRAMEWORKS = (
    Framework(
        name="verl",
        rest={"vllm": f"{VERL}.engine_kwargs.vllm", "sglang": f"{VERL}.engine_kwargs.sglang"},
        source={
            "vllm": "verl/workers/rollout/vllm_rollout/vllm_async_server.py",
            "sglang": "verl/workers/rollout/sglang_rollout/async_sglang_server.py",
        },
        own={
            "max_num_seqs": f"{VERL}.max_num_seqs", "max_running_requests": f"{VERL}.max_num_seqs",
            "max_num_batched_tokens": f"{VERL}.max_num_batched_tokens", "max_model_len": f"{VERL}.max_model_len",
            "enable_chunked_prefill": f"{VERL}.enable_chunked_prefill",
            "enable_prefix_caching": f"{VERL}.enable_prefix_caching",
            "gpu_memory_utilization": f"{VERL}.gpu_memory_utilization",
            "tensor_parallel_size": f"{VERL}.tensor_model_parallel_size", "tp_size": f"{VERL}.tensor_model_parallel_size",
            "data_parallel_size": f"{VERL}.data_parallel_size", "dp_size": f"{VERL}.data_parallel_size",
        },
        always={"vllm": {f"{VERL}.name": "vllm"}, "sglang": {f"{VERL}.name": "sglang"}},
        write=hydra,
        notes={
            "head": (
                "verl syncs weights into drafters of method mtp alone: a head of its own stays as loaded, and needs "
                "rollout.load_format=auto, not dummy", "verl/workers/rollout/vllm_rollout/utils.py",
            ),
            "mtp": (
                "rollout.mtp sets these arguments too, and on SGLang overrides them: leave its enable_rollout off, or set the "
                "same there", "verl/workers/config/model.py",
            ),
        },
    ),
    Framework(
        name="slime",
        rest={"sglang": "--sglang-"},
        source={"sglang": "slime/backends/sglang_utils/arguments.py"},
        own={"tp_size": "--rollout-num-gpus-per-engine"},
        notes={
            "mtp": (
                "--enable-mtp-training --mtp-num-layers 1 --mtp-loss-scaling-factor 0.2 trains MTP layers along, from a "
                "checkpoint that has them", "slime/docs/advanced/speculative-decoding.md",
            ),
            "head": (
                "slime trains no head but MTP layers: an external one stays as it is",
                "slime/docs/advanced/speculative-decoding.md",
            ),
        },
    ),
    Framework(
        name="nemo-rl",
        rest={"vllm": f"{NEMO}.vllm_kwargs", "sglang": f"{NEMO}.sglang_cfg"},
        source={
            "vllm": "nemo_rl/models/generation/vllm/config.py",
            "sglang": "nemo_rl/models/generation/sglang/sglang_worker.py, _compute_server_args",
        },
        own={
            "tensor_parallel_size": f"{NEMO}.vllm_cfg.tensor_parallel_size",
            "gpu_memory_utilization": f"{NEMO}.vllm_cfg.gpu_memory_utilization",
            "max_model_len": f"{NEMO}.vllm_cfg.max_model_len", "kv_cache_dtype": f"{NEMO}.vllm_cfg.kv_cache_dtype",
            "tp_size": f"{NEMO}.sglang_cfg.sglang_server_config.num_gpus_per_engine",
        },
        always={"vllm": {f"{NEMO}.backend": "vllm"}, "sglang": {f"{NEMO}.backend": "sglang"}},
        mute=("sglang",),
        notes={
            "head": (
                "policy.draft.enabled=true trains an EAGLE head and refits it with the policy; else the head is loaded from its "
                "files and stays", "nemo_rl/models/generation/interfaces.py",
            ),
            "mtp": (
                "MTP layers are refitted where the trainer trains them, else loaded from the checkpoint",
                "nemo_rl/models/generation/interfaces.py",
            ),
        },
    ),
    Framework(
        name="skyrl",
        rest={"vllm": f"{SKYRL}.engine_init_kwargs"},
        source={"vllm": "skyrl/backends/skyrl_train/inference_servers/utils.py"},
        own={
            name: f"{SKYRL}.{name}"
            for name in (
                "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill",
                "gpu_memory_utilization", "tensor_parallel_size", "data_parallel_size", "speculative_config",
            )
        },
        always={"vllm": {f"{SKYRL}.backend": "vllm"}},
        write=dotlist,
        notes={
            "mtp": (
                "trainer.mtp.enabled=true trains MTP heads and syncs them; a speculative_config of one's own goes before its",
                "skyrl/train/utils/utils.py",
            ),
        },
    ),
    Framework(
        name="trl",
        rest={"vllm": ""},
        source={"vllm": "trl/scripts/vllm_serve.py"},
    ),
    Framework(
        name="prime-rl",
        rest={"vllm": f"{PRIME}.vllm_extra"},
        source={"vllm": "packages/prime-rl-configs/src/prime_rl/configs/inference.py"},
        own={
            "tensor_parallel_size": f"{PRIME}.parallel.tp", "data_parallel_size": f"{PRIME}.parallel.dp",
            "max_model_len": f"{PRIME}.model.max_model_len", "enable_prefix_caching": f"{PRIME}.enable_prefix_caching",
            "gpu_memory_utilization": f"{PRIME}.gpu_memory_utilization",
        },
        write=toml,
    ),
    Framework(
        name="roll",
        rest={"vllm": f"{ROLL}.strategy_config", "sglang": f"{ROLL}.strategy_config"},
        source={
            "vllm": "roll/distributed/strategy/vllm_strategy.py", "sglang": "roll/distributed/strategy/sglang_strategy.py",
        },
        own={"tp_size": f"{ROLL}.strategy_config.tensor_parallel_size"},
        always={"vllm": {f"{ROLL}.strategy_name": "vllm"}, "sglang": {f"{ROLL}.strategy_name": "sglang"}},
        notes={
            "head": (
                "ROLL starts engines with load_format dummy, which a head would start from, too: set load_format: auto",
                "roll/distributed/strategy/vllm_strategy.py",
            ),
        },
    ),
)  # fmt: skip


def framework_named(name: str, engine: Engine) -> Framework:
    """Return the framework of this name; InputError where there is none, or where it does not start this engine."""
    key = name.strip().lower().replace("_", "-")
    known = {framework.name: framework for framework in FRAMEWORKS}
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"framework {name[:60]!r}: {hint}use one of {', '.join(known)}")
    framework = known[key]
    if engine.name not in framework.rest:
        raise InputError(f"framework {key!r} starts {' or '.join(framework.rest)}, not {engine.name}: name that engine")
    return framework


def heard(framework: Framework, engine: Engine, choice: Choice, arguments: Arguments) -> Arguments:
    """The arguments that reach the engine: without drafts where the framework tells it nothing of speculation."""
    if engine.name not in framework.mute or _drafted_with(arguments) is None:
        return arguments
    text = f"{framework.name} hands {engine.name} no argument of speculation: the settings are those without drafts"
    silent = without_drafts(choice, Check("refused", text, framework.source[engine.name]))
    config = {key: value for key, value in arguments.config.items() if not key.startswith("speculative")}
    return replace(silent, config=config)


def snippet_of(framework: Framework, engine: Engine, arguments: Arguments, model: str) -> str:
    """The arguments in the framework's own keys, as text to paste."""
    config = dict(arguments.config)
    if (
        framework.name == "verl" and "dp_size" in config
    ):  # verl multiplies the two, and SGLang counts all GPUs of an engine
        config["tp_size"] //= config["dp_size"]
    if framework.name == "slime":
        sizes = {framework.own[key]: config.pop(key) for key in framework.own if key in config}
        return shlex.join(
            [*(word for flag, size in sizes.items() for word in (flag, str(size))), *flags_of(config, "--sglang-")]
        )
    if framework.name == "trl":
        return _trl_server(config, engine, model)
    paths = dict(framework.always.get(engine.name, {}))
    paths |= {framework.own.get(key, f"{framework.rest[engine.name]}.{key}"): value for key, value in config.items()}
    return framework.write(nested(paths))


def framework_checks(framework: Framework, engine: Engine, arguments: Arguments) -> list[Check]:
    """What the framework does about speculation, and where its keys were read."""
    source = framework.source[engine.name]
    checks = [Check("ok", f"{framework.name} hands arguments to {engine.name} by these keys", source)]
    what = _drafted_with(arguments)
    if what is None:
        return checks
    if framework.name == "trl":
        text = "TRL drafts with vllm_mode=server alone: the engine that it starts beside training (colocate) has no such key"
        checks.append(Check("warning", text, "trl/generation/vllm_generation.py"))
    if framework.name == "verl" and engine.name == "vllm":
        text = "weights must not be synced as deltas (delta weight transfer), which refuses speculation"
        checks.append(Check("warning", text, "verl/workers/rollout/vllm_rollout/delta_weight_transfer.py"))
    if note := framework.notes.get(what):
        checks.append(Check("warning", *note))
    return checks


def _drafted_with(arguments: Arguments) -> str | None:
    """`tokens`, `mtp`, or another `head`; None where nothing is drafted."""
    speculative = arguments.config.get("speculative_config", {})
    method = speculative.get("method") or arguments.config.get("speculative_algorithm")
    if method is None or method in ("ngram", "suffix", "custom_class", "NGRAM"):
        return None if method is None else "tokens"
    return "mtp" if arguments.runs.drafter.kind == "mtp" else "head"


def _trl_server(config: Mapping[str, Any], engine: Engine, model: str) -> str:
    """The vLLM server that TRL's trainers expect, whose own `trl vllm-serve` is to go."""
    words = ["vllm", "serve", model, *flags_of(config)]
    if engine.since("0.30"):
        words.append("--enable-scale-out")
    words += ["--weight-transfer-config", json.dumps({"backend": "nccl"})]
    words += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    return f"VLLM_SERVER_DEV_MODE=1 {shlex.join(words)}"
