"""What RL frameworks dump becomes a trace: files in the layout of their writers, and those writers where they are installed."""

import ast
import builtins
import enum
import importlib.util
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from traces import io
from traces.errors import InputError
from traces.importers import import_trace

GROUPED = "rollouts of a step with the same prompt are a group"


def refused(path, *arguments, **options):
    with pytest.raises(InputError) as refusal:
        import_trace(path, *arguments, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def format_of(table):
    return io.provenance(table)["format"]


# verl


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer of whole words that would cut at 2 tokens and pad, if it were let."""
    words = ["[UNK]", "What", "is", "two", "plus", "one", "three", "no", "idea"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=4)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def verl_line(text, output, step, score=1.0):
    return {"input": text, "output": output, "gts": "three", "score": score, "step": step, "acc": True}


def test_verl_folder(tmp_path, tokenizer):
    folder = tmp_path / "dump"
    folder.mkdir()
    jsonl(folder / "10.jsonl", verl_line("What is two", "three no idea", 10))
    jsonl(
        folder / "2.jsonl",
        verl_line("What is two", "three", 2, 0.5),
        verl_line("plus one", "no idea", 2),
        verl_line("What is two", "two plus one", 2, None),
    )
    table = import_trace(folder, "verl", tokenizer=tokenizer)
    trace = io.from_table(table)
    assert trace.step.tolist() == [2, 2, 2, 10]  # by number, not by name
    assert trace.prompt.tolist() == [0, 1, 0, 0]
    assert trace.sample.tolist() == [0, 0, 1, 0]
    assert trace.prompt_tokens.tolist() == [3, 2, 3, 3]
    assert trace.output_tokens.tolist() == [1, 2, 3, 3]
    assert trace.tokens.tolist() == [6, 7, 8, 3, 4, 5, 6, 7, 8]
    assert table.column("reward").to_pylist() == [0.5, 1.0, None, 1.0]
    assert any("encoding the logged text again" in sentence for sentence in io.provenance(table)["assumed"])
    single = import_trace(folder / "10.jsonl", "verl", tokenizer=tokenizer)
    assert single.column("prompt_id")[0].as_py() == trace.prompt_ids[0]  # stable between files and runs


def test_verl_empty_output_names_file_and_line(tmp_path, tokenizer):
    folder = tmp_path / "dump"
    folder.mkdir()
    jsonl(folder / "1.jsonl", verl_line("one", "two", 1), verl_line("one", "", 1))
    assert "1.jsonl: line 2: 0 output tokens" in refused(folder, "verl", tokenizer=tokenizer)
    assert import_trace(folder, "verl", tokenizer=tokenizer, drop_empty=True).num_rows == 1


def test_verl_refusals(tmp_path, tokenizer, monkeypatch):
    path = jsonl(tmp_path / "1.jsonl", verl_line("one", "two", 1), verl_line("one", ["two"], 1))
    assert "line 2, key 'output': is list, not text" in refused(path, "verl", tokenizer=tokenizer)
    assert "give the model's tokenizer.json" in refused(jsonl(tmp_path / "2.jsonl", verl_line("one", "two", 1)), "verl")
    assert "no such tokenizer file" in refused(path, "verl", tokenizer=tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{}")
    assert "is not a tokenizer" in refused(path, "verl", tokenizer=tmp_path / "bad.json")
    folder = tmp_path / "dump"
    folder.mkdir()
    assert "holds no .jsonl file" in refused(folder, "verl", tokenizer=tokenizer)
    row = verl_line("one", "two", 1)
    del row["step"]
    assert "key 'step': None is not a whole number" in refused(
        jsonl(tmp_path / "best.jsonl", row), "verl", tokenizer=tokenizer
    )

    installed = builtins.__import__

    def without_tokenizers(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError(name)
        return installed(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tokenizers)
    assert "pip install 'rolloutsim[tokenizer]'" in refused(path, "verl", tokenizer=tokenizer)


def test_verl_extras_and_lengths(tmp_path, tokenizer):
    """Numbers that a reward function returned are columns; lengths among them serve in place of a tokenizer."""
    rows = [verl_line("What is two", "three", 2) | {"response_length": 9, "pred": "3", "turns": 2} for _ in range(2)]
    rows[1] |= {"acc": None, "response_length": 4}
    path = jsonl(tmp_path / "2.jsonl", *rows)
    table = import_trace(path, tokenizer=tokenizer)
    assert format_of(table) == "verl"
    assert table.column("acc").to_pylist() == [1.0, None]
    assert io.provenance(table)["ignored_columns"] == ["gts", "pred", "turns"]
    names = {"output_tokens": "response_length", "prompt_tokens": "response_length"}
    lengths = import_trace(path, column_map=names)
    assert lengths.column("output_tokens").to_pylist() == [9, 4]
    assert "token_ids" not in lengths.column_names
    assert "output_tokens=KEY" in refused(path, column_map={"prompt_tokens": "response_length"})
    assert "only prompt_tokens and output_tokens can be named" in refused(path, column_map={"reward": "acc"})
    assert "key 'no_such': None is not a whole number" in refused(
        path, column_map={**names, "output_tokens": "no_such"}
    )


def test_verl_as_it_writes_itself(tmp_path, tokenizer):
    """RayPPOTrainer._write_generations of the installed verl, run by itself: its module needs Ray and a GPU."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("verl is not installed")
    module = Path(spec.submodule_search_locations[0]) / "trainer/ppo/ray_trainer.py"
    found = [one for one in ast.walk(ast.parse(module.read_text())) if getattr(one, "name", "") == "_write_generations"]
    found[0].decorator_list = []
    space = {}
    exec(f"import os, json\n{ast.unparse(found[0])}", space)
    extras = {"acc": [True, False], "request_id": ["a", "b"], "short": [1]}
    space["_write_generations"](
        ["What is", "What is"], ["two", "plus one"], ["2", None], [1.0, 0.0], extras, tmp_path / "d", 4
    )
    table = import_trace(tmp_path / "d", tokenizer=tokenizer)
    assert table.column("step").to_pylist() == [4, 4]
    assert table.column("sample").to_pylist() == [0, 1]
    assert table.column("acc").to_pylist() == [1.0, 0.0]
    assert table.column("token_ids").to_pylist() == [[3], [4, 5]]


# slime


def sample(prompt, response, status="completed", **more):
    """What Sample.to_dict gives (slime, July 2026), of what matters here."""
    return {
        "group_index": 3, "index": 7, "prompt": "What is", "tokens": [*prompt, *response], "response": "two",
        "response_length": len(response), "label": None, "reward": 1.0, "loss_mask": None, "weight_versions": ["1"],
        "rollout_log_probs": [-0.5] * len(response), "status": status, "metadata": {},
        "spec_info": {"spec_accept_token_num": 2, "spec_verify_ct": 1},
    } | more  # fmt: skip


def slime_dump(path, *samples, rollout_id=5, **options):
    """As RolloutManager._save_debug_rollout_data writes it."""
    torch = pytest.importorskip("torch", reason="slime's dumps are written by torch")
    path.parent.mkdir(exist_ok=True)
    torch.save({"rollout_id": rollout_id, "samples": list(samples)}, path, **options)
    return path


def test_slime_folder(tmp_path):
    slime_dump(tmp_path / "d" / "10.pt", sample([1, 2], [3]), rollout_id=10)
    slime_dump(
        tmp_path / "d" / "9.pt",
        sample([1, 2], [3, 4], "truncated"),
        sample([1], [5, 6], "aborted", reward={"score": 0.5, "acc": True}),
        sample([1, 2], [7], "pending", reward=None),
        rollout_id=9,
    )
    table = import_trace(tmp_path / "d")
    trace = io.from_table(table)
    assert format_of(table) == "slime"
    assert trace.step.tolist() == [9, 9, 9, 10]
    assert trace.prompt.tolist() == [0, 1, 0, 0]
    assert trace.sample.tolist() == [0, 0, 1, 0]
    assert table.column("prompt_token_ids").to_pylist() == [[1, 2], [1], [1, 2], [1, 2]]
    assert table.column("token_ids").to_pylist() == [[3, 4], [5, 6], [7], [3]]
    assert table.column("finish_reason").to_pylist() == ["length", "aborted", None, "stop"]
    assert table.column("reward").to_pylist() == [1.0, 0.5, None, 1.0]
    assert table.column("logprobs").to_pylist()[0] == [-0.5, -0.5]
    assert table.column("spec_info.spec_verify_ct").to_pylist() == [1.0] * 4
    assert GROUPED in io.provenance(table)["assumed"]


def test_slime_turns_and_masks(tmp_path):
    """What a tool wrote (no loss, no log-probability) is left out; a response that is only kept out of the loss is not."""
    tool = sample([1], [2, 3, 4, 5], loss_mask=[1, 0, 0, 1], rollout_log_probs=[-1.0, 0.0, 0.0, -2.0])
    earlier = sample([1], [2, 3, 4], loss_mask=[0, 1, 1], rollout_log_probs=[-1.0, -1.0, -2.0])  # of an older policy
    overlong = sample([1], [2, 3], loss_mask=[0, 0], rollout_log_probs=None)
    table = import_trace(slime_dump(tmp_path / "1.pt", tool, earlier, overlong))
    assert table.column("token_ids").to_pylist() == [[2, 5], [2, 3, 4], [2, 3]]
    assert table.column("turns").to_pylist() == [[{"generated_tokens": 1, "wait_s": 0.0}] * 2, None, None]
    assert "logprobs" not in table.column_names
    assert "logprobs is left out, which some rows are without" in io.provenance(table)["assumed"]
    whole = slime_dump(tmp_path / "2.pt", sample([1], [9]), rollout_id=6)
    assert "logprobs" not in import_trace([tmp_path / "1.pt", whole]).column_names


def test_slime_tensors_and_arrays(tmp_path):
    torch = pytest.importorskip("torch", reason="slime's dumps are written by torch")
    long = torch.arange(20)
    made = sample([1], [2, 3], tokens=long[2:10:3], rollout_log_probs=torch.tensor([-0.5, -1.5], dtype=torch.bfloat16))
    other = sample(
        [1], [2, 3], tokens=np.array([2, 5, 9]), rollout_log_probs=np.array([-1.0, -2.0]), reward=np.float32(0.25)
    )
    for protocol in (2, 4):
        table = import_trace(slime_dump(tmp_path / "1.pt", made, other, pickle_protocol=protocol))
        assert table.column("token_ids").to_pylist() == [[5, 8], [5, 9]]
        assert table.column("logprobs").to_pylist() == [[-0.5, -1.5], [-1.0, -2.0]]
        assert table.column("reward").to_pylist() == [1.0, 0.25]


class Status(enum.Enum):
    COMPLETED = 1


class Harm:
    def __reduce__(self):
        return Path("/nonexistent").write_text, ("run",)


@pytest.mark.parametrize("held", [Status.COMPLETED, Harm(), Path("x"), print, OrderedDict(a=np.array([{}], object))])
def test_slime_runs_no_code(tmp_path, held):
    message = refused(slime_dump(tmp_path / "1.pt", sample([1], [2], metadata={"x": held})))
    assert message.startswith(f"{tmp_path / '1.pt'}: holds ")
    assert "if you trust the file" in message


def torch_like(path, content, **parts):
    """A zip as torch.save makes it, around a pickle made by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, part in parts.items():
            archive.writestr(f"archive/data/{name}", part)
    return path


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nLongStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02csamples tokens response\nsystem\n.", "which only running its code would make"),
        (b"\x80\x02(X\x05\x00\x00\x00other", "is damaged"),
        (b"\x80\x02}X\x07\x00\x00\x00samplesK\x01s.", "holds no list of 'samples'"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00(K\x09t(K\x01ttR.",
            "larger than its storage",
        ),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00(K\x02t(J\xff\xff\xff\xffttR.",
            "impossible shape",
        ),
        (b"\x80\x02cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.", "not of numbers"),
        (b"\x80\x02ccollections\nOrderedDict\n)R(Nctorch\nSize\n)Rtb.", "holds no list of 'samples'"),
        (b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR.", "holds __builtin__.eval"),
    ],
)
def test_torch_files_made_by_hand(tmp_path, content, message):
    path = torch_like(tmp_path / "1.pt", content, **{"0": b"\x00" * 16})
    assert message in refused(path, "slime")


def test_torch_files_that_are_not_whole(tmp_path):
    path = tmp_path / "1.pt"
    whole = slime_dump(tmp_path / "2.pt", sample([1], [2])).read_bytes()
    path.write_bytes(whole[:-30])
    assert "is damaged, or no torch file" in refused(path, "slime")
    path.write_bytes(pickle.dumps({"samples": []}))
    assert "is damaged, or no torch file" in refused(path, "slime")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": "text"}, "sample 0, key 'tokens': is not a list of numbers"),
        ({"tokens": [[1], [2, 3]]}, "key 'tokens': is not a list of numbers"),
        ({"response_length": 9}, "key 'response_length': 9 of 2 tokens"),
        ({"rollout_log_probs": [0.0, 0.0]}, "2 elements but response_length is 1"),
        ({"loss_mask": [1, 1]}, "2 elements but response_length is 1"),
        ({"status": "done"}, "key 'status': 'done' is not one of completed, truncated"),
        ({"status": ["done"]}, "key 'status': ['done'] is not one of"),
        ({"reward": np.zeros((2, 2))}, "key 'reward': '[[0. 0.] [0. 0.]]' is not a number"),
        ({"reward": "good"}, "key 'reward': 'good' is not a number"),
        ({"response_length": 0, "rollout_log_probs": []}, "sample 0: 0 output tokens"),
        ({"tokens": [-1, 2]}, "-1 is a negative token id"),
        ({"tokens": [1, 2**40]}, "sample 0, column 'token_ids': array([1099511627776]) is not list<"),
        ({"tokens": [1, 2.5]}, "sample 0: has token ids that are no whole numbers"),
    ],
)
def test_slime_refusals(tmp_path, change, message):
    path = slime_dump(tmp_path / "1.pt", sample([1], [2]) | change)
    text = refused(path)
    assert text.startswith(f"{path}: ")
    assert message in text


# NeMo-RL


def nemo_line(prompt, response, pad=0, **more):
    """A line of Logger.log_batched_dict_as_jsonl, of what GRPO's loop gives it (NeMo-RL, 2026)."""
    tokens, mask = [*prompt, *response], [0] * len(prompt) + [1] * len(response)
    return {
        "content": "What is two", "rewards": 1.0, "input_lengths": len(tokens), "token_ids": tokens + [0] * pad,
        "token_loss_mask": mask + [0] * pad, "sample_loss_mask": 1.0, "advantages": [0.1] * (len(tokens) + pad),
        "generation_logprobs": [-0.5 * one for one in mask] + [0.0] * pad, "prev_logprobs": [0.0] * (len(tokens) + pad), "idx": 0,
    } | more  # fmt: skip


def test_nemo_rl(tmp_path):
    jsonl(tmp_path / "train_data_step10.jsonl", nemo_line([1, 2], [3]))
    rows = (nemo_line([1, 2], [3, 4], rewards=None), nemo_line([9], [5], pad=2), nemo_line([1, 2], [6], pad=1))
    jsonl(tmp_path / "train_data_step2.jsonl", *rows)
    table = import_trace(tmp_path)
    trace = io.from_table(table)
    assert format_of(table) == "nemo-rl"
    assert trace.step.tolist() == [2, 2, 2, 10]
    assert trace.sample.tolist() == [0, 0, 1, 0]
    assert table.column("prompt_token_ids").to_pylist() == [[1, 2], [9], [1, 2], [1, 2]]
    assert table.column("token_ids").to_pylist() == [[3, 4], [5], [6], [3]]
    assert table.column("logprobs").to_pylist()[0] == [-0.5, -0.5]
    assert table.column("reward").to_pylist() == [None, 1.0, 1.0, 1.0]
    assert "advantages" in io.provenance(table)["ignored_columns"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": [1]}, "key 'token_ids': is 1 elements, needs a list of input_lengths = 2"),
        ({"token_ids": ["a", "b"]}, "key 'token_ids': holds what is not a number"),
        ({"token_loss_mask": None}, "key 'token_loss_mask': is NoneType"),
        ({"input_lengths": -1}, "key 'input_lengths': -1 is less than 0"),
        ({"rewards": "x"}, "key 'rewards': 'x' is not a number"),
        ({"token_loss_mask": [0, 0]}, "line 1: 0 output tokens"),
    ],
)
def test_nemo_rl_refusals(tmp_path, change, message):
    path = jsonl(tmp_path / "train_data_step1.jsonl", nemo_line([1], [2], **change))
    assert message in refused(path)


def test_nemo_rl_without_tokens(tmp_path):
    row = nemo_line([1], [2])
    del row["token_ids"]
    assert "older NeMo-RL logged the text alone" in refused(jsonl(tmp_path / "train_data_step1.jsonl", row))


# TRL


def trl_dump(path, **columns):
    """As GRPOTrainer.log writes completions_{step}.parquet (TRL 1.16)."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_trl_folder(tmp_path, tokenizer):
    texts = {"prompt": ["What is two"] * 2, "completion": ["three", "no idea"]}
    for step in (5, 10):
        trl_dump(
            tmp_path / "d" / f"completions_{step:05d}.parquet",
            step=[step, step], **texts, correct_reward=[1.0, None], format_reward=[0.5, 0.25], tag=["a", "b"], advantage=[0.1, 0],
        )  # fmt: skip
    table = import_trace(tmp_path / "d", tokenizer=tokenizer)
    assert format_of(table) == "trl"
    assert table.column("step").to_pylist() == [5, 5, 10, 10]
    assert table.column("sample").to_pylist() == [0, 1, 0, 1]
    assert table.column("token_ids").to_pylist()[:2] == [[6], [7, 8]]
    assert table.column("reward").to_pylist()[:2] == [1.5, 0.25]
    assert table.column("format_reward").to_pylist()[:2] == [0.5, 0.25]
    note = io.provenance(table)
    assert "the reward is the sum of correct_reward, format_reward, unweighted" in note["assumed"]
    assert note["ignored_columns"] == ["tag"]


def test_trl_conversations(tmp_path, tokenizer):
    prompt = [{"role": "system", "content": "What"}, {"role": "user", "content": "is two"}]
    answer = [
        {"role": "assistant", "content": "three"}, {"role": "tool", "content": "one one"}, {"role": "assistant", "content": "no"},
    ]  # fmt: skip
    path = trl_dump(
        tmp_path / "completions_00001.parquet",
        step=["1"], prompt=[prompt], completion=[answer], accuracy=[1.0], advantage=[0.0],
    )  # fmt: skip
    table = import_trace(path, tokenizer=tokenizer)
    assert table.column("prompt_token_ids").to_pylist() == [[1, 2, 3]]
    assert table.column("token_ids").to_pylist() == [[6, 7]]
    assert table.column("reward").to_pylist() == [1.0]
    assert any("chat template" in sentence for sentence in io.provenance(table)["assumed"])


def test_trl_refusals(tmp_path, tokenizer):
    columns = {"step": [1], "prompt": ["What"], "completion": ["two"], "advantage": [0.0]}
    path = trl_dump(tmp_path / "completions_00001.parquet", **columns)
    message = refused(path)
    assert "holds text without prompt_tokens and output_tokens" in message
    assert "trace import" not in message  # which is what was just run
    trl_dump(path, **columns | {"prompt": [None]})
    assert "row 0, column 'prompt': is NoneType, not text" in refused(path, tokenizer=tokenizer)
    trl_dump(path, **columns | {"step": ["x"]})
    assert "row 0, column 'step': 'x' is not a whole number" in refused(path, tokenizer=tokenizer)


# OpenRLHF


class _Tensor(list):
    def tolist(self):
        return list(self)


class _Experience:
    """What SamplesGenerator._process_response_into_experience makes (OpenRLHF 0.11.2); its mask begins at token 1."""

    def __init__(self, prompt, response, truncated, reward):
        self.sequences = [_Tensor([*prompt, *response])]
        self.action_mask = [_Tensor([0] * (len(prompt) - 1) + [1] * len(response))]
        self.prompts, self.truncated, self.rewards = ["What is"], [truncated], reward if reward is None else [reward]


def test_openrlhf_hook(tmp_path, monkeypatch):
    """The code in docs/importing.md dumps what is generated, and the dump is imported as it is."""
    text = (Path(__file__).parents[2] / "docs/importing.md").read_text()
    hook = text.split("### OpenRLHF")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.setenv("ROLLOUTS", str(tmp_path / "rollouts"))

    class SamplesGenerator:
        def generate_samples(self, **options):
            return (
                [_Experience([1, 2], [3, 4], True, 0.5), _Experience([1, 2], [5], False, None)],
                None,
                options["n"],
                False,
            )

    exec(hook, {"SamplesGenerator": SamplesGenerator})
    generator = SamplesGenerator()
    for n in (7, 8):
        samples, *rest = generator.generate_samples(n=n)
        assert (len(samples), rest) == (2, [None, n, False])
    table = import_trace(tmp_path / "rollouts")
    assert table.column("step").to_pylist() == [0, 0, 1, 1]
    assert table.column("sample").to_pylist() == [0, 1, 0, 1]
    assert table.column("prompt_token_ids").to_pylist()[:2] == [[1, 2], [1, 2]]
    assert table.column("token_ids").to_pylist()[:2] == [[3, 4], [5]]
    assert table.column("finish_reason").to_pylist()[:2] == ["length", "stop"]
    assert table.column("reward").to_pylist()[:2] == [0.5, None]


# Text in any table


def test_text_under_any_name(tmp_path, tokenizer):
    """Text is encoded where a tokenizer is given, in JSON lines, CSV and Parquet alike; long prompt ids are hashed."""
    rows = [{"prompt": "What is two " * 9, "said": "three no"}, {"prompt": "What is two " * 9, "said": "idea \ud800"}]
    names = {"prompt_id": "prompt", "prompt_token_ids": "prompt", "token_ids": "said"}
    table = import_trace(jsonl(tmp_path / "a.jsonl", *rows), column_map=names, tokenizer=tokenizer)
    assert table.column("token_ids").to_pylist() == [[6, 7], [8, 0]]
    assert table.column("prompt_tokens").to_pylist() == [27, 27]
    assert table.column("sample").to_pylist() == [0, 1]
    assert len(table.column("prompt_id")[0].as_py()) == 12
    assert "prompt ids of more than 64 characters are hashed" in io.provenance(table)["assumed"]
    rows[1]["said"] = "idea"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("prompt,said\n" + "".join(f"{row['prompt']},{row['said']}\n" for row in rows))
    parquet, csv = (
        import_trace(tmp_path / f"a.{end}", column_map=names, tokenizer=tokenizer) for end in ("parquet", "csv")
    )
    assert parquet.column("token_ids").to_pylist() == csv.column("token_ids").to_pylist() == [[6, 7], [8]]
    assert parquet.column("prompt_id").equals(csv.column("prompt_id"))
    pq.write_table(pa.table({"prompt": ["a", "b"], "said": ["two", None]}), tmp_path / "a.parquet")
    assert "row 1, column 'token_ids': is NoneType" in refused(
        tmp_path / "a.parquet", column_map=names, tokenizer=tokenizer
    )
