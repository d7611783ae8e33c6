"""Importing verl dumps: megabytes a second and peak memory, without a tokenizer and with one.

ROLLOUTSIM_IMPORT_MB is how much text to write and read (100); it makes no difference to the memory.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.timing import row

WORDS = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=1 + n % 9)) for n in range(5000)]
MEASURED = """
import re, resource, sys
from traces.importers import import_files
import_files(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
NAMES = {"output_tokens": "response_length", "prompt_tokens": "prompt_length"}


def main() -> None:
    """Print the rows."""
    megabytes = int(os.environ.get("ROLLOUTSIM_IMPORT_MB", "100"))
    with tempfile.TemporaryDirectory() as folder:
        size = _dump(Path(folder) / "dump", megabytes * 1_000_000)
        for what, options in (("lengths", {"column_map": NAMES}), ("text", {"tokenizer": _tokenizer(Path(folder))})):
            command = [sys.executable, "-c", MEASURED, f"{folder}/dump", f"{folder}/t.parquet", repr(options)]
            seconds, kib = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
            row(
                f"importing {size / 1e6:,.0f} MB of verl JSON lines, {what}",
                size / float(seconds) / 1e6,
                "MB/s of CPU",
                "",
            )
            row(f"peak memory of that, {what}", int(kib) * 1024 / 1e9, "GB", "≤ 1 GB")


def _dump(folder: Path, size: int) -> int:
    """Files of 4 RL steps with groups of 8, responses of some 2,000 words; how many bytes they are."""
    folder.mkdir()
    draw = random.Random(0)
    for step in range(1, 5):
        with (folder / f"{step}.jsonl").open("w") as file:
            while file.tell() < size // 4:
                prompt = " ".join(draw.choices(WORDS, k=100))
                for sample in range(8):
                    words = int(draw.lognormvariate(7.5, 0.8))
                    lengths = {"response_length": words, "prompt_length": 100}
                    found = {
                        "input": prompt,
                        "output": " ".join(draw.choices(WORDS, k=words)),
                        "score": float(sample % 2),
                    }
                    file.write(json.dumps({**found, "gts": "7", "step": step, **lengths}) + "\n")
    return sum(file.stat().st_size for file in folder.iterdir())


def _tokenizer(folder: Path) -> str:
    """A byte-pair tokenizer of some thousand pairs, trained on the words that there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator([" ".join(WORDS)], trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    path = folder / "tokenizer.json"
    made.save(str(path))
    return str(path)


if __name__ == "__main__":
    main()
