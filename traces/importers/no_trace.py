"""Files that lie beside rollouts and look like them, but hold none: what they are, and what to import instead."""

from traces.importers.head import Head


def why_not(head: Head) -> str | None:
    """What a file is that holds no rollouts, and what to do; None of one that may hold some."""
    keys = head.keys
    if head.kind == "csv" and any(" - " in key and key.endswith("__MIN") for key in keys):
        return (
            "is an export of Weights & Biases, which has means of a step and no rollouts: import what the framework dumped, "
            "or draw lengths with `rolloutsim trace synth`"
        )
    if head.kind == "json" and head.has("task_id", "session_id", "submit_ts"):
        return (
            "holds the times of AReaL's sessions, and no lengths: import the rollout folder beside session_tracer, which takes "
            "them up"
        )
    if head.kind == "json" and keys and all(key.startswith("eval/") for key in keys):
        return "holds SkyRL's means over an evaluation: import the files of the data sources beside it"
    if head.kind == "json" and head.has("episode_files", "summary_stats"):
        return "is rLLM's summary of a batch: import the episode files beside it"
    return None
