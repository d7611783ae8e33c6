"""Whatever is in a file of a known layout is read, or refused in a line; a reader never raises anything else."""

import json

import pytest

from tests.traces import test_agent_importers, test_serving_importers
from tests.traces.mutants import mutants
from tests.traces.test_agent_importers import words
from traces.errors import InputError
from traces.importers.dispatch import named
from traces.importers.encoder import Encoder
from traces.importers.format import Options
from traces.importers.source import Source

__all__ = ["words"]

SAMPLES = test_agent_importers.SAMPLES | test_serving_importers.SAMPLES


@pytest.mark.parametrize(
    ("name", "tokenized"), [(name, text) for name in SAMPLES for text in {False, named(name).takes_tokenizer}]
)
def test_a_reader_reads_or_refuses_in_a_line(tmp_path, words, name, tokenized):
    chosen = named(name)
    options = Options(encoder=Encoder(words) if tokenized else None)
    path = tmp_path / "dump.jsonl"
    read, refusals = 0, []
    for mutant in mutants(SAMPLES[name]):
        path.write_text(json.dumps(mutant) + "\n")
        try:
            read += len(list(chosen.read(Source(path), options)))
        except InputError as error:
            refusals.append(str(error))
    assert refusals
    assert read or (chosen.takes_tokenizer and not tokenized)  # text alone has no lengths
    assert not [message for message in refusals if "\n" in message or not message.startswith(str(path))]
