"""traces.jsonl of verifiers, and the rollouts/step_N/train_rollouts.jsonl that prime-rl writes in the same layout.

Written by write_episode (verifiers 0.4): an episode of traces, or a trace, on each line. A trace is a graph of messages; the
rollout is the path to its last leaf. Nodes hold token ids where a renderer was used, calls the provider's counts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traces.errors import InputError
from traces.importers.files import step_in_path
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import in_chunks, json_objects
from traces.importers.parts import ids_at, object_at, objects_at, text_at
from traces.importers.source import Source
from traces.importers.text import prompt_id_of
from traces.importers.values import real, value_at, whole
from traces.importers.whole import drop_partial

NAMES = (
    "step", "prompt_id", "prompt_tokens", "output_tokens", "finish_reason", "reward", "policy", "turns", "prompt_token_ids",
    "token_ids", "logprobs",
)  # fmt: skip
Row = dict[str, Any]


def read_traces(source: Source, options: Options) -> Iterator[Imported]:
    """A rollout for each trace; one that sampled nothing has 0 output tokens."""
    for rows in in_chunks(json_objects(source), source):
        found: list[Row] = []
        places, aside = [], 0
        for line, row in rows:
            place = f"{source}: line {line}"
            traces = objects_at(row, "traces", place) if "traces" in row else [row]
            agents = {text_at(trace, "agent.name", place) for trace in traces}
            work = object_at(row, "run.work", place)
            step = whole(work.get("step", step_in_path(source.path)), f"{place}, run.work.step", 0)
            for trace in traces:
                rollout, off = _rollout(trace, place, name_agent=len(agents) > 1)
                found.append({"step": step, **rollout})
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


@dataclass(frozen=True)
class _Node:
    """A message of the graph: the one before it, whether the model sampled it, its token ids and which of them are its own."""

    parent: int | None
    sampled: bool
    ids: list[int]
    mask: list[bool]
    log_probs: list[float]
    call: Mapping[str, Any]

    @property
    def own(self) -> list[int]:
        """What was sampled of it."""
        return [token for token, own in zip(self.ids, self.mask, strict=True) if own]


def _rollout(trace: Mapping[str, Any], place: str, *, name_agent: bool) -> tuple[Row, int]:
    """The columns of one trace, and how many of its calls are not on the path."""
    nodes = _nodes(trace, place)
    path = []
    at = len(nodes) - 1 if nodes else None  # the last node has no child
    while at is not None:
        path.append(nodes[at])
        at = nodes[at].parent
    path.reverse()
    answers = [node for node in path if node.sampled]
    named = text_at(trace, "task.key", place) or text_at(trace, "task.hash", place)
    task = named or prompt_id_of(json.dumps(value_at(trace, "task.data"), sort_keys=True))
    rollout: Row = {
        "prompt_id": f"{task}/{text_at(trace, 'agent.name', place)}" if name_agent else task,
        "reward": _reward(trace, place),
        "policy": text_at(answers[0].call, "model", place) if answers else None,
        "finish_reason": _finish(trace, answers),
    }
    rollout |= _recorded(path, answers) if all(node.mask for node in answers) else _counted(answers, place)
    generated = rollout.pop("generated")
    off = sum(bool(node.call) for node in nodes) - sum(bool(node.call) for node in answers)
    return rollout | {"output_tokens": sum(generated), "turns": _turns(generated, answers, place)}, off


def _nodes(trace: Mapping[str, Any], place: str) -> list[_Node]:
    if "nodes" not in trace:
        raise InputError(f"{place}: a trace has no nodes: give traces.jsonl as verifiers wrote it")
    calls = {
        value_at(call, "node"): call for call in objects_at(trace, "calls", place) if type(call.get("node")) is int
    }
    nodes: list[_Node] = []
    for index, node in enumerate(objects_at(trace, "nodes", place)):
        parent, where = node.get("parent"), f"{place}, node {index}"
        if parent is not None and not (type(parent) is int and 0 <= parent < index):
            raise InputError(f"{where}: has parent {parent!r:.20}, which is no node before it: export it again")
        ids, mask, log_probs = (
            ids_at(node, "token_ids", where) or [],
            node.get("mask") or [],
            node.get("logprobs") or [],
        )
        if not isinstance(mask, list) or (mask and len(mask) != len(ids)) or not isinstance(log_probs, list):
            raise InputError(f"{where}: mask or logprobs do not fit its {len(ids)} token_ids: export it again")
        nodes.append(_Node(parent, bool(node.get("sampled")), ids, mask, log_probs, calls.get(index, {})))
    return nodes


def _recorded(path: Sequence[_Node], answers: Sequence[_Node]) -> Row:
    """Token ids: what was sampled, and what stood before the first of it; log-probabilities where each token has one."""
    begun = path.index(answers[0]) if answers else len(path)
    prompt = [token for node in path[:begun] for token in node.ids]
    if answers:
        prompt += [token for token, own in zip(answers[0].ids, answers[0].mask, strict=True) if not own]
    ids = [token for node in answers for token in node.own]
    log_probs = [log_prob for node in answers for log_prob in node.log_probs]
    return {
        "prompt_token_ids": prompt,
        "prompt_tokens": len(prompt),
        "token_ids": ids,
        "logprobs": log_probs if len(log_probs) == len(ids) else None,
        "generated": [len(node.own) for node in answers],
    }


def _counted(answers: Sequence[_Node], place: str) -> Row:
    """The provider's counts; its prompt tokens are without those that were cached."""
    usages = [object_at(node.call, "usage", place) for node in answers]
    prompt = [usages[0].get("prompt_tokens"), usages[0].get("cached_input_tokens") or 0]
    return {
        "prompt_tokens": sum(whole(tokens, f"{place}, calls: prompt_tokens", 0) for tokens in prompt),
        "generated": [
            whole(usage.get("completion_tokens"), f"{place}, calls: completion_tokens", 0) for usage in usages
        ],
    }


def _turns(generated: Sequence[int], answers: Sequence[_Node], place: str) -> list[Row] | None:
    """Tokens of each answer and seconds until the next was asked for; None for a single answer."""
    if sum(count > 0 for count in generated) < 2:
        return None
    turns = []
    for index, count in enumerate(generated):
        following = answers[index + 1].call if index + 1 < len(answers) else {}
        end, start = value_at(answers[index].call, "time.end"), value_at(following, "time.start")
        told = end is not None and start is not None
        wait_s = real(start, f"{place}, time.start") - real(end, f"{place}, time.end") if told else 0.0
        if count:
            turns.append({"generated_tokens": count, "wait_s": max(wait_s, 0.0)})
    return turns


def _reward(trace: Mapping[str, Any], place: str) -> float | None:
    """The weighted sum of those that were scored."""
    rewards = object_at(trace, "rewards", place)
    scored = [object_at(rewards, name, place) for name, one in rewards.items() if one is not None]
    if not scored:
        return None
    return sum(
        real(one.get("score"), f"{place}, rewards") * real(one.get("weight", 1), f"{place}, rewards") for one in scored
    )


def _finish(trace: Mapping[str, Any], answers: Sequence[_Node]) -> str | None:
    if trace.get("ok") is False or trace.get("is_timeout"):
        return "aborted"
    return finish_of(answers[-1].call.get("finish_reason")) if answers else None


TRACES = Format(
    "verifiers",
    "traces.jsonl of verifiers, rollouts of prime-rl",
    read_traces,
    lambda head: head.kind == "json" and (head.has("traces", "task", "env") or head.has("nodes", "task", "agent")),
    suffixes=(".jsonl",),
)
