"""Rollouts of verifiers and prime-rl: traces.jsonl of its message graphs, and results.jsonl as it was before.

traces.jsonl (verifiers 0.2 and later, `write_episode`; also prime-rl's rollouts/step_N/train_rollouts.jsonl): an episode of
traces, or a trace, on each line. A trace is a graph of messages; the rollout is the path to its last leaf. Nodes hold token
ids where a renderer was used, calls the provider's counts.

results.jsonl (before, `save_outputs`): prompt, completion, reward, token_usage, and metrics under names of their own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from traces.errors import InputError
from traces.importers.extras import numeric_extras
from traces.importers.files import step_in_path
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import in_chunks, json_objects
from traces.importers.messages import TEMPLATE, split, text_of
from traces.importers.source import Source
from traces.importers.text import ASSUMED, prompt_id_of
from traces.importers.values import real, value_at, whole
from traces.importers.whole import drop_partial

NAMES = (
    "step", "prompt_id", "prompt_tokens", "output_tokens", "finish_reason", "reward", "policy", "turns", "prompt_token_ids",
    "token_ids", "logprobs",
)  # fmt: skip
KNOWN = (
    "example_id",
    "prompt",
    "completion",
    "reward",
    "prompt_tokens",
    "completion_tokens",
    "token_usage",
    "stop_condition",
)
Row = dict[str, Any]


def read_traces(source: Source, options: Options) -> Iterator[Imported]:
    """A rollout for each trace; one that sampled nothing has 0 output tokens."""
    for rows in in_chunks(json_objects(source), source):
        found: list[Row] = []
        places, aside = [], 0
        for line, row in rows:
            place = f"{source}: line {line}"
            for trace in row.get("traces", [row]):
                rollout, off = _rollout(trace, row, source, place)
                found.append(rollout)
                places.append(f"line {line}")
                aside += off
        columns = {name: [rollout.get(name) for rollout in found] for name in NAMES}
        assumed = list(drop_partial(columns, "prompt_token_ids", "token_ids", "logprobs"))
        if aside:
            assumed.append(
                "model calls off the path to the last message (compaction, subagents) are not in the rollouts"
            )
        if any(columns["turns"]):
            assumed.append("what tools answered between turns is not in the lengths")
        yield Imported(arrow_table(columns, places, str(source)), places, tuple(assumed))


def _rollout(trace: Mapping[str, Any], row: Mapping[str, Any], source: Source, place: str) -> tuple[Row, int]:
    """The columns of one trace, and how many of its calls are not on the path."""
    nodes = trace.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise InputError(f"{place}: a trace has no nodes: give traces.jsonl as verifiers wrote it")
    path = _path(nodes, place)
    sampled = [index for index in path if nodes[index].get("sampled")]
    calls = {call.get("node"): call for call in trace.get("calls", []) if call.get("node") is not None}
    own = [calls.get(index, {}) for index in sampled]
    recorded = bool(sampled) and all(nodes[index].get("token_ids") and nodes[index].get("mask") for index in sampled)
    work = value_at(row, "run.work") or {}
    named = value_at(trace, "task.key") or value_at(trace, "task.hash")
    task = str(named or prompt_id_of(json.dumps(value_at(trace, "task.data"), sort_keys=True)))
    agents = {value_at(one, "agent.name") for one in row.get("traces", [row])}
    agent = value_at(trace, "agent.name")
    rollout: Row = {
        "step": whole(work.get("step", step_in_path(source.path)), f"{place}, run.work.step", 0),
        "prompt_id": f"{task}/{agent}" if len(agents) > 1 else task,
        "reward": _reward(trace, place),
        "policy": own[0].get("model") if own else None,
        "finish_reason": _finish(trace, own),
    }
    if recorded:
        rollout |= _recorded(nodes, path, sampled)
        generated = [sum(nodes[index]["mask"]) for index in sampled]
    else:
        usages = [call.get("usage") or {} for call in own]
        generated = [whole(usage.get("completion_tokens"), f"{place}, calls: completion_tokens", 0) for usage in usages]
        first = usages[0] if usages else {"prompt_tokens": 0}
        prompt = whole(first.get("prompt_tokens"), f"{place}, calls: prompt_tokens", 0)
        rollout["prompt_tokens"] = prompt + (first.get("cached_input_tokens") or 0)
    rollout["output_tokens"] = sum(generated)
    rollout["turns"] = _turns(generated, own)
    return rollout, len(calls) - sum(1 for call in own if call)


def _path(nodes: Sequence[Mapping[str, Any]], place: str) -> list[int]:
    """The nodes from the first message to the last leaf; parents stand before their children."""
    for index, node in enumerate(nodes):
        parent = node.get("parent")
        if parent is not None and not (type(parent) is int and 0 <= parent < index):
            raise InputError(
                f"{place}: node {index} has parent {parent!r:.20}, which is no node before it: export it again"
            )
    path: list[int] = []
    at: int | None = len(nodes) - 1 if nodes else None  # the last node has no child
    while at is not None:
        path.append(at)
        at = nodes[at].get("parent")
    return path[::-1]


def _recorded(nodes: Sequence[Mapping[str, Any]], path: Sequence[int], sampled: Sequence[int]) -> Row:
    """Token ids: what was sampled, and what stood before the first of it; log-probabilities of sampled tokens."""
    prompt: list[int] = []
    for index in path[: path.index(sampled[0])]:
        prompt += nodes[index].get("token_ids", [])
    first = nodes[sampled[0]]
    prompt += [token for token, own in zip(first["token_ids"], first["mask"], strict=False) if not own]
    ids: list[int] = []
    log_probs: list[float] = []
    for index in sampled:
        node = nodes[index]
        ids += [token for token, own in zip(node["token_ids"], node["mask"], strict=False) if own]
        log_probs += node.get("logprobs", [])
    whole_log_probs = log_probs if len(log_probs) == len(ids) else None
    return {"prompt_token_ids": prompt, "prompt_tokens": len(prompt), "token_ids": ids, "logprobs": whole_log_probs}


def _turns(generated: Sequence[int], calls: Sequence[Mapping[str, Any]]) -> list[Row] | None:
    """Tokens of each answer and seconds until the next was asked for; None for a single answer."""
    if len(generated) < 2:
        return None
    ends_s = [value_at(call, "time.end") for call in calls]
    starts_s = [value_at(call, "time.start") for call in calls]
    waits_s = [
        max(start - end, 0.0) if start and end else 0.0
        for end, start in zip(ends_s, [*starts_s[1:], None], strict=True)
    ]
    return [
        {"generated_tokens": count, "wait_s": wait_s} for count, wait_s in zip(generated, waits_s, strict=True) if count
    ]


def _reward(trace: Mapping[str, Any], place: str) -> float | None:
    """The weighted sum of those that were scored."""
    rewards = [one for one in (trace.get("rewards") or {}).values() if one is not None]
    if not rewards:
        return None
    return sum(
        real(one.get("score"), f"{place}, rewards") * real(one.get("weight", 1.0), f"{place}, rewards")
        for one in rewards
    )


def _finish(trace: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> str | None:
    if trace.get("ok") is False or trace.get("is_timeout"):
        return "aborted"
    return finish_of(calls[-1].get("finish_reason")) if calls else None


def read_results(source: Source, options: Options) -> Iterator[Imported]:
    """The rows of results.jsonl; rows of one example are a group."""
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {
            name: [] for name in ("step", "prompt_id", "prompt_tokens", "output_tokens", "finish_reason", "reward")
        }
        prompts, outputs, answers = [], [], 0
        for line, row in rows:
            place = f"{source}: line {line}"
            prompt, (_, own) = text_of(row.get("prompt")), split(row.get("completion"))
            answers = max(answers, len(own))
            prompts.append(prompt)
            outputs.append("\n".join(own))
            columns["step"].append(step_in_path(source.path))
            columns["prompt_id"].append(str(row.get("example_id", prompt_id_of(prompt))))
            reward = row.get("reward")
            columns["reward"].append(None if reward is None else real(reward, f"{place}, key 'reward'"))
            cut = row.get("is_truncated")
            columns["finish_reason"].append(
                "aborted" if row.get("error") else None if cut is None else "length" if cut else "stop"
            )
            if options.encoder is None:
                columns["prompt_tokens"].append(_count(row, "prompt_tokens", "input_tokens", len(own), place))
                columns["output_tokens"].append(_count(row, "completion_tokens", "output_tokens", 1, place))
        places = [f"line {line}" for line, _ in rows]
        extras, ignored = numeric_extras([row for _, row in rows], KNOWN)
        assumed: tuple[str, ...] = ()
        if options.encoder is not None:
            columns["prompt_token_ids"] = options.encoder.encode(prompts)
            columns["token_ids"] = options.encoder.encode(outputs)
            columns["prompt_tokens"] = [len(ids) for ids in columns["prompt_token_ids"]]
            columns["output_tokens"] = [len(ids) for ids in columns["token_ids"]]
            assumed = (ASSUMED, TEMPLATE)
        yield Imported(arrow_table(columns, places, str(source), extras), places, assumed, {"ignored_columns": ignored})


def _count(row: Mapping[str, Any], own: str, usage: str, answers: int, place: str) -> int:
    """Tokens as a metric counts them, else as the provider did, whose input counts every turn's prompt anew."""
    if row.get(own) is not None:
        return whole(row[own], f"{place}, key '{own}'", 0)
    told = value_at(row, f"token_usage.{usage}")
    if told is None or answers > 1:
        what = "the prompt tokens of the first turn" if answers > 1 else own
        raise InputError(f"{place}: does not say {what}: give the model's tokenizer.json (--tokenizer)")
    return whole(told, f"{place}, token_usage.{usage}", 0)


TRACES = Format(
    "verifiers",
    "traces.jsonl of verifiers, rollouts of prime-rl",
    read_traces,
    lambda head: head.kind == "json" and (head.has("traces", "task", "env") or head.has("nodes", "task", "agent")),
    suffixes=(".jsonl",),
)
RESULTS = Format(
    "verifiers-results",
    "results.jsonl of verifiers before traces.jsonl, and rollouts of prime-rl of that time",
    read_results,
    lambda head: head.kind == "json" and head.has("example_id", "prompt", "completion", "reward"),
    suffixes=(".jsonl",),
    takes_tokenizer=True,
)
