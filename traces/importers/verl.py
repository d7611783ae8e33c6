"""verl rollout dumps (`trainer.rollout_data_dir`): text, one JSON line for each rollout, one file for each step.

Of each line, input, output, score and step are read. The dump holds decoded text without special tokens, so the token
ids come from encoding it again: close to what was sampled, not certain to equal it, and without the end-of-text token.
"""

import hashlib
from pathlib import Path
from typing import Any

from traces.errors import InputError
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, json_objects
from traces.importers.values import real, whole


def read_verl(path: Path, tokenizer: Path) -> Imported:
    """The rollouts of one `{step}.jsonl`, or of a folder of them in order of step; file order within.

    Rows of a step with the same input are a group: prompt_id hashes the input, sample counts within the group.
    """
    encoder = _Encoder(tokenizer)
    columns: dict[str, list[Any]] = {name: [] for name in ("step", "prompt_id", "sample", "reward")}
    inputs, outputs, places = [], [], []
    seen: dict[tuple[int, str], int] = {}
    for file in _files(path):
        for line, row in json_objects(file):
            place = f"{file}: line {line}"
            text = _text(cell(row, "input", file, line), f"{place}, key 'input'")
            step = whole(row.get("step", file.stem), f"{place}, key 'step'", 0)
            prompt_id = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
            sample = seen.get((step, prompt_id), 0)
            seen[step, prompt_id] = sample + 1
            score = row.get("score")
            columns["step"].append(step)
            columns["prompt_id"].append(prompt_id)
            columns["sample"].append(sample)
            columns["reward"].append(None if score is None else real(score, f"{place}, key 'score'"))
            inputs.append(text)
            outputs.append(_text(cell(row, "output", file, line), f"{place}, key 'output'"))
            places.append(f"line {line}" if file == path else f"{file.name} line {line}")
    columns["prompt_token_ids"] = encoder.encode(inputs)
    columns["token_ids"] = encoder.encode(outputs)
    columns["prompt_tokens"] = [len(ids) for ids in columns["prompt_token_ids"]]
    columns["output_tokens"] = [len(ids) for ids in columns["token_ids"]]
    assumed = ("token ids come from encoding the logged text again; special tokens were not logged",)
    return Imported(arrow_table(columns, places, str(path)), places, assumed, {"tokenizer_sha256": encoder.sha256})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise InputError(f"{path}: holds no .jsonl file: give verl's rollout_data_dir, or one of its files")
    odd = [file for file in files if not file.stem.isdecimal()]
    if odd:
        raise InputError(f"{odd[0]}: is not named by its step, like 12.jsonl: rename it, or move it elsewhere")
    return sorted(files, key=lambda file: int(file.stem))


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{place}: is {type(value).__name__}, not text: dump the decoded text")
    return value


class _Encoder:
    """A Hugging Face tokenizer.json, without the truncation, padding and special tokens that it may ask for."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError(
                "verl dumps hold text, which needs the tokenizers library: pip install 'rolloutsim[tokenizer]'"
            ) from error
        if not path.is_file():
            raise InputError(f"{path}: no such tokenizer file: give the model's tokenizer.json")
        content = path.read_bytes()
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: is not a tokenizer ({error}): give the model's tokenizer.json") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.sha256 = hashlib.sha256(content).hexdigest()

    def encode(self, texts: list[str]) -> list[list[int]]:
        distinct = list(dict.fromkeys(texts))
        encodings = self._tokenizer.encode_batch(distinct, add_special_tokens=False)
        ids = {text: encoding.ids for text, encoding in zip(distinct, encodings, strict=True)}
        return [ids[text] for text in texts]
