"""The model's own tokenizer, for dumps that hold text."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from traces.errors import InputError


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

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text."""
        distinct = list(dict.fromkeys(texts))
        encodings = self._tokenizer.encode_batch_fast(distinct, add_special_tokens=False)
        ids = {text: encoding.ids for text, encoding in zip(distinct, encodings, strict=True)}
        return [ids[text] for text in texts]
