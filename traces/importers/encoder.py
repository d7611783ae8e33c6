"""The model's own tokenizer, for dumps that hold text."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from traces.errors import InputError

BATCH_CHARACTERS = 1 << 20


class Encoder:
    """A Hugging Face tokenizer.json, without the truncation, padding and special tokens that it may ask for."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError(
                "token ids from text need the tokenizers library: pip install 'rolloutsim[tokenizer]'"
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

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """The token ids of each text."""
        ids: dict[str, npt.NDArray[np.int32]] = {}
        for batch in _batches(dict.fromkeys(texts)):
            try:
                encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            except TypeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
                whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in batch]
                encodings = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
            ids |= {text: np.array(one.ids, np.int32) for text, one in zip(batch, encodings, strict=True)}
        return [ids[text] for text in texts]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Few texts at a time: the library holds some hundred bytes for each token that it makes."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
