"""The saved policy: every weight is there, and the tokenizer reads and writes the policy's own words."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from calibration.rl.hugging_face import save
from calibration.rl.policy import Shape, fresh
from calibration.rl.record import prompts_of
from calibration.rl.settings import Settings
from calibration.rl.vocabulary import WORDS, encode, prompt_of
from tests.calibration.live.live_engine import MODEL
from tests.calibration.live.test_vllm import weights_of


def test_weights_come_back(tmp_path: Path) -> None:
    weights = fresh(Shape(), 3)
    save(weights, Shape(), 100, tmp_path / "model")
    found = weights_of(tmp_path / "model")
    assert found.keys() == weights.keys()
    for name, one in weights.items():
        # norms are written less 1
        assert torch.allclose(found[name], one, atol=1e-7 if "norm" in name else 0.0), name
    assert all(
        not one.any() for name, one in load_file(tmp_path / "model" / "model.safetensors").items() if "bias" in name
    )


def test_the_tokenizer_is_the_vocabulary() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    words = prompt_of(prompts_of(Settings())[0])
    assert tokenizer.encode(" ".join(words)).ids == encode(words)
    assert tokenizer.get_vocab_size() == len(WORDS)
    assert tokenizer.decode(encode(words), skip_special_tokens=False).split() == words


def test_the_shipped_model_fits_its_description() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["vocab_size"] == len(WORDS)
    assert config["max_position_embeddings"] == 8 + 1024
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 5e6
