"""Token ids from logged text, with the model's own tokenizer."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.errors import InputError
from traces.importers.format import Options
from traces.importers.lines import Rows
from traces.importers.source import Source
from traces.importers.values import value_at, whole

ASSUMED = "token ids come from encoding the logged text again; special tokens that were not logged are missing"


def prompt_id_of(prompt: "str | npt.NDArray[np.int64]") -> str:
    """A name for a prompt, from its text or tokens, that is the same wherever they are."""
    content = prompt.encode("utf-8", "surrogatepass") if isinstance(prompt, str) else prompt.tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def is_text(value: object, place: str) -> str:
    """The value where it is text; InputError, begun by `place`, where it is not."""
    if not isinstance(value, str):
        raise InputError(f"{place}: is {type(value).__name__}, not text: dump the decoded text")
    return value


def token_columns(
    source: Source,
    rows: Rows,
    prompts: Sequence[str],
    outputs: Sequence[str],
    options: Options,
    recorded: Mapping[str, Sequence[int | None]] | None = None,
) -> tuple[dict[str, Sequence[Any]], tuple[str, ...]]:
    """Token ids of the texts where there is a tokenizer, else how many there are; and what is assumed so.

    Counts are those `recorded` (prompt_tokens, output_tokens), or those of the keys that --map names; InputError without.
    """
    if options.encoder is not None:
        columns: dict[str, Sequence[Any]] = {
            "prompt_token_ids": options.encoder.encode(prompts),
            "token_ids": options.encoder.encode(outputs),
        }
        return columns, (ASSUMED,)
    counts = dict(recorded or {})
    for name, found in options.names.items():
        if name not in ("prompt_tokens", "output_tokens"):
            raise InputError(f"{source}: --map {name}={found}: only prompt_tokens and output_tokens can be named here")
        counts[name] = [whole(value_at(row, found), f"{source}: line {line}, key '{found}'", 0) for line, row in rows]
    missing = [name for name in ("prompt_tokens", "output_tokens") if name not in counts]
    if missing:
        raise InputError(
            f"{source}: holds text without {' and '.join(missing)}: give the model's tokenizer.json (--tokenizer), or name "
            f"the keys that hold the counts ({' '.join(f'--map {name}=KEY' for name in missing)})"
        )
    return counts, ("token ids are unknown: text without a tokenizer",)
