"""Which files are to be imported, and as what: as the user says, or as they show themselves to be."""

import difflib
from pathlib import Path

from traces.errors import InputError
from traces.importers.areal import AREAL
from traces.importers.azure import AZURE
from traces.importers.bench import BENCH
from traces.importers.columns import CSV, JSONL, PARQUET
from traces.importers.files import files_of, suffix_of
from traces.importers.format import Format
from traces.importers.head import Head, look
from traces.importers.lm_eval import LM_EVAL
from traces.importers.mooncake import MOONCAKE
from traces.importers.nemo_rl import NEMO_RL
from traces.importers.no_trace import why_not
from traces.importers.openai import OPENAI
from traces.importers.rllm import RLLM
from traces.importers.serving_csv import BURSTGPT, SPLITWISE, VIDUR
from traces.importers.sglang import SGLANG
from traces.importers.skyrl import SKYRL
from traces.importers.slime import SLIME
from traces.importers.trl import TRL
from traces.importers.verifiers import TRACES
from traces.importers.verifiers_results import RESULTS
from traces.importers.verl import VERL

FORMATS = (
    VERL, SLIME, NEMO_RL, TRL, TRACES, RESULTS, AREAL, SKYRL, RLLM, LM_EVAL, OPENAI, SGLANG, BENCH, AZURE, BURSTGPT, MOONCAKE,
    VIDUR, SPLITWISE, PARQUET, CSV, JSONL,
)  # fmt: skip


def choose(paths: list[Path], name: str | None, mapped: bool = False) -> tuple[Format, list[Path], list[str]]:
    """The format, the files in order, and the names of those left out.

    Without a name all files must show themselves to be of one and the same format.
    Where columns are mapped, a file that shows no format is a table of its kind: csv, jsonl or parquet. Of a folder, files that
    hold no rollouts beside some that do (no_trace.why_not) are left out.
    """
    if name is not None:
        chosen = named(name)
        return chosen, files_of(paths, chosen.suffixes), []
    formats, reasons = {}, {}
    for file in files_of(paths):
        head = look(file)
        if reason := why_not(head):
            reasons[file] = reason
        else:
            formats[file] = recognised(head, mapped)
    for file, reason in reasons.items():
        if file in paths or not formats:
            raise InputError(f"{file}: {reason}")
    files = list(formats)
    first = formats[files[0]]
    for file, found in formats.items():
        if found != first:
            raise InputError(
                f"{file}: is {found.name}, but {files[0]} is {first.name}: import them apart, or say --format"
            )
    return first, files, list(dict.fromkeys(file.name for file in reasons))


def named(name: str) -> Format:
    """The format of that name; InputError with the nearest where there is none."""
    for one in FORMATS:
        if one.name == name:
            return one
    names = [one.name for one in FORMATS]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise InputError(f"unknown format '{name}': {hint}choose from {', '.join(names)}")


def recognised(head: Head, mapped: bool = False) -> Format:
    """The one format that a file shows itself to be; InputError that lists what it might be where that is not clear."""
    found = [one for one in FORMATS if one.recognises(head) and not one.fallback]
    found = found or [one for one in FORMATS if one.recognises(head)]
    generic = {"json": JSONL, "csv": CSV, "parquet": PARQUET}.get(head.kind)
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(one.name for one in found)
        raise InputError(f"{head.path}: may be {names} ({head}): say which with --format")
    if mapped and generic is not None:
        return generic
    candidates = [one.name for one in FORMATS if suffix_of(head.path) in one.suffixes] or [one.name for one in FORMATS]
    raise InputError(
        f"{head.path}: shows no known format ({head}): say which with --format ({', '.join(candidates)})"
        + (" or name its columns with --map COLUMN=NAME" if generic is not None else "")
    )
