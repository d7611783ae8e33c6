"""The keys of RL frameworks: read back, the snippets hold the engine's arguments, all of them and nothing else."""

import json
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from simulator.deploy.settings import EngineSettings
from simulator.deploy.settings.frameworks import FRAMEWORKS
from tests.deploy.settings.choices import HEAD, OWN_SUFFIX, refusals, settings
from traces.errors import InputError

LIMITS = {
    "max_num_seqs": 64, "max_num_batched_tokens": 4096, "max_model_len": 2048, "enable_prefix_caching": False,
}  # fmt: skip
NAMES = [framework.name for framework in FRAMEWORKS]


def made_by(framework: str, engine: str, policy: str = "schedule:1-8=8,9-64=2", **more: Any) -> EngineSettings:
    drafter = {"kind": "suffix"} if engine.startswith("vllm") else {"kind": "eagle"} | HEAD
    return settings(
        engine,
        policy,
        drafter,
        framework,
        limits=LIMITS,
        tensor_parallel_size=2,
        **{"history": "/a b/r.parquet"} | more,
    )


def overrides(snippet: str | None) -> dict[str, Any]:
    """Values by path; strings in quotes are JSON, all else YAML."""
    assert snippet is not None
    pairs = [word.lstrip("+").split("=", 1) for word in shlex.split(snippet.replace("\\\n", " "))]
    return {path: yaml.safe_load(value) for path, value in pairs}


def leaves(tree: Any, path: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name, one in tree.items() for key, value in leaves(one, f"{path}.{name}").items()}


def test_verl_takes_overrides() -> None:
    made = made_by("verl", "vllm==0.33")
    rollout = "actor_rollout_ref.rollout"
    assert overrides(made.snippet) == {
        f"{rollout}.name": "vllm", f"{rollout}.max_num_seqs": 64, f"{rollout}.max_num_batched_tokens": 4096,
        f"{rollout}.max_model_len": 2048, f"{rollout}.enable_prefix_caching": False,
        f"{rollout}.tensor_model_parallel_size": 2,
        **leaves(made.config["speculative_config"], f"{rollout}.engine_kwargs.vllm.speculative_config"),
        **leaves(made.config["additional_config"], f"{rollout}.engine_kwargs.vllm.additional_config"),
    }  # fmt: skip


def test_verl_counts_the_gpus_of_ranks_itself() -> None:
    made = settings(
        "sglang==0.5.23", "fixed:3", {"kind": "mtp"} | HEAD, "verl", tensor_parallel_size=2,
        limits={"replicas": 4, "data_parallel_size": 4},
    )  # fmt: skip
    assert made.config["tp_size"] == 8
    told = overrides(made.snippet)
    assert told["actor_rollout_ref.rollout.tensor_model_parallel_size"] == 2
    assert told["actor_rollout_ref.rollout.data_parallel_size"] == 4
    assert told["actor_rollout_ref.rollout.max_num_seqs"] == 1024


def test_slime_takes_sglangs_flags_behind_a_prefix() -> None:
    made = made_by("slime", "sglang==0.5.6", "fixed:3")
    words = shlex.split(made.snippet or "")
    assert words[:2] == ["--rollout-num-gpus-per-engine", "2"]
    flags = [word.replace("--sglang-", "--") for word in words[2:]]
    assert flags == [word for word in made.command[5:] if word != "--tp-size" and (word != "2")]


@pytest.mark.parametrize(("framework", "rest"), [("nemo-rl", "vllm_kwargs"), ("roll", "strategy_config")])
def test_yaml_holds_all_of_it(framework: str, rest: str) -> None:
    made = made_by(framework, "vllm==0.33")
    tree = yaml.safe_load(made.snippet or "")
    (inner,) = (tree["policy"]["generation"],) if framework == "nemo-rl" else (tree["actor_infer"]["strategy_args"],)
    flat = inner[rest] | inner.get("vllm_cfg", {})
    assert flat == made.config


def test_toml_holds_all_of_it() -> None:
    made = made_by("prime-rl", "vllm==0.33")
    inference = tomllib.loads(made.snippet or "")["inference"]
    assert inference.pop("parallel") == {"tp": 2}
    assert inference.pop("model") == {"max_model_len": 2048}
    assert inference.pop("vllm_extra") | inference | {"tensor_parallel_size": 2, "max_model_len": 2048} == made.config


def test_skyrl_takes_overrides() -> None:
    told = overrides(made_by("skyrl", "vllm==0.33").snippet)
    engine = "generator.inference_engine"
    assert told[f"{engine}.speculative_config.method"] == "custom_class"
    assert told[f"{engine}.engine_init_kwargs.max_model_len"] == 2048
    assert told[f"{engine}.engine_init_kwargs.additional_config.rolloutsim.history"] == "/a b/r.parquet"
    assert told[f"{engine}.tensor_parallel_size"] == 2


def test_trl_needs_a_server_that_its_trainers_can_sync() -> None:
    made = made_by("trl", "vllm==0.33")
    words = shlex.split(made.snippet or "")
    assert words[0] == "VLLM_SERVER_DEV_MODE=1"
    assert tuple(words[1 : 1 + len(made.command)]) == made.command
    assert json.loads(words[words.index("--weight-transfer-config") + 1]) == {"backend": "nccl"}
    assert "--enable-scale-out" in words
    assert "--enable-scale-out" not in (made_by("trl", "vllm==0.29").snippet or "")


@pytest.mark.parametrize("name", ["true", "Null", "1e5", "42", "a,b", "x=y", 'it\'s "so"', "nan", "/data/r-1.parquet"])
@pytest.mark.parametrize("framework", ["verl", "skyrl"])
def test_strings_stay_strings(framework: str, name: str) -> None:
    told = overrides(made_by(framework, "vllm==0.33", history=name).snippet)
    (value,) = [value for path, value in told.items() if path.endswith("additional_config.rolloutsim.history")]
    assert value == name
    assert isinstance(value, str)


@pytest.mark.parametrize("framework", NAMES)
def test_every_framework_says_where_its_keys_were_read(framework: str) -> None:
    engine = "sglang==0.5.23" if framework == "slime" else "vllm==0.33"
    made = made_by(framework, engine)
    assert made.framework == framework
    assert [one for one in made.checks if one.level == "ok" and "by these keys" in one.text and one.source]
    assert not refusals(made)


@pytest.mark.parametrize("name", ["slime", "skyrl", "trl", "prime-rl"])
def test_frameworks_of_one_engine_refuse_the_other(name: str) -> None:
    engine = "vllm" if name == "slime" else "sglang"
    with pytest.raises(InputError, match=f"framework '{name}' starts .*, not {engine}: name that engine"):
        made_by(name, engine)


def test_unknown_frameworks_are_one_line() -> None:
    with pytest.raises(InputError, match="did you mean 'nemo-rl'"):
        made_by("nemo_rll", "vllm")
    with pytest.raises(InputError, match="use one of verl, slime"):
        made_by("", "vllm")
    assert made_by("NeMo_RL", "vllm").framework == "nemo-rl"


def test_speculation_that_never_reaches_the_engine_is_refused() -> None:
    made = made_by("nemo-rl", "sglang==0.5.23")
    assert "no argument of speculation" in refusals(made)[0]
    assert made.runs.policy == "none"
    assert not [name for name in made.config if name.startswith("speculative")]
    assert not made.files


def test_heads_and_mtp_layers_are_told_apart() -> None:
    for kind, says in (
        ("mtp", "rollout.mtp sets these"),
        ("eagle3", "syncs weights into drafters of method mtp alone"),
    ):
        made = settings("vllm==0.33", "fixed:3", {"kind": kind} | HEAD, "verl")
        assert [one for one in made.checks if says in one.text]
    assert not [one for one in settings("vllm==0.33", "fixed:3", OWN_SUFFIX, "verl").checks if "mtp" in one.text]
