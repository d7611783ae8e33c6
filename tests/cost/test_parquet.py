"""Profiles in Parquet: every number comes back, fast, and a file that is none is refused in one line."""

import hashlib
import json
import random
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.cost import Affine, Profile, Roof, StepWork, Table, list_profiles, load_profile, roofline
from simulator.cost.operators import row
from simulator.cost.parquet import KEY, SCHEMA, from_parquet, to_parquet
from simulator.cost.profiles import write_profile
from tests.cost.packed import assert_packed_alike
from traces.errors import InputError

NAN = float("nan")


def table(shape, seed=0, when="any_decode", per=None) -> Table:
    rng = np.random.default_rng(seed)
    axes = ("decode_seqs", "decode_context", "decode_width", "prefill_chunk")[: len(shape)]
    grid = tuple(np.cumsum(rng.random(size) + 0.1) for size in shape)
    return Table(f"attention {seed}", axes, grid, rng.random(shape) * 1e-5, 36, when, per)


EVERYTHING = Profile(
    name='naïve "q" \U0001f600',
    kind="table",
    operators=(
        Affine("overhead", row(constant=1e-3, query_tokens=1 / 3 * 1e-6)),
        Roof("mlp", row(constant=1e-3), row(pairs=1e-17, padded_tokens=2e-5), 3),
        table((3, 4, 2)),
        table((2, 3, 2, 5), 1, "mixed", "further_chunks"),
        table((7,), 2, "always"),
    ),
    model="m",
    device="d",
    source="s",
    uncertainty="u",
    valid_range={"live": (np.float64(1.0), 64)},
    relative_error=0.125,
    notes="two lines: 'one' and \\ another",
    drafter_costs={"eagle": {"per_proposal_s": 1e-5}},
    derived={"decode_width": 1.0},
    derivation="because",
    held_out={"attention 0": {"points": 12.0, "median": 0.03, "p95": 0.1}},
    spread={"attention 0": {"points": 12.0, "median": 0.003, "p95": 0.01}},
    fits={"das": {"constant_s": 1e-3, "points": 5.0, "median": 0.3, "p95": 0.4}},
    measured={"copy_bandwidth_bytes_per_s": 4.3e12},
    parallel={"tensor_parallel_size": 2, "expert_parallel_size": 8},
)


def same(one: Profile, other: Profile) -> None:
    """Equal in every number and word, the file's digest aside."""
    for name in Profile.__dataclass_fields__.keys() - {"operators", "sha256"}:
        assert getattr(one, name) == getattr(other, name), name
    assert len(one.operators) == len(other.operators)
    for mine, theirs in zip(one.operators, other.operators, strict=True):
        if isinstance(mine, Table):
            assert (mine.name, mine.axes, mine.repeat, mine.when, mine.per) == (
                theirs.name, theirs.axes, theirs.repeat, theirs.when, theirs.per,
            )  # fmt: skip
            for array, copy in zip((*mine.grid, mine.values_s), (*theirs.grid, theirs.values_s), strict=True):
                np.testing.assert_array_equal(array, copy)
        else:
            assert mine == theirs
    assert_packed_alike(one, other)


@pytest.mark.parametrize("suffix", [".parquet", ".yaml", ".yml"])
def test_every_form_reads_back_the_same(tmp_path, suffix):
    file = tmp_path / f"mine{suffix}"
    write_profile(EVERYTHING, file)
    found = load_profile(file)
    same(EVERYTHING, found)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_profile(str(file)).sha256 == found.sha256


def test_shipped_and_estimated_profiles_read_back_the_same():
    device = {"bandwidth_bytes_per_s": 3e12, "peak_flops_per_s": 1e15}
    config = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 99,
    }
    for profile in [*map(load_profile, list_profiles()), roofline(config, device)]:
        same(profile, from_parquet(to_parquet(profile)))
        assert to_parquet(from_parquet(to_parquet(profile))) == to_parquet(profile)


def test_writing_picks_the_form_by_suffix(tmp_path):
    write_profile(EVERYTHING, tmp_path / "a.parquet")
    write_profile(EVERYTHING, tmp_path / "a.yaml")
    assert (tmp_path / "a.parquet").read_bytes()[:4] == b"PAR1"
    assert (tmp_path / "a.yaml").read_text().startswith("format: rolloutsim.profile/1\n")
    with pytest.raises(InputError, match=r"mine\.json: a profile is written as \.yaml, \.yml, \.parquet"):
        write_profile(EVERYTHING, tmp_path / "mine.json")
    with pytest.raises(InputError, match="cannot be written"):
        write_profile(EVERYTHING, tmp_path / "absent" / "a.parquet")


def test_a_table_of_100_000_values_is_read_in_under_50_ms(tmp_path):
    large = replace(EVERYTHING, operators=(EVERYTHING.operators[0], table((20, 25, 20, 10))))
    file = tmp_path / "large.parquet"
    write_profile(large, file)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        found = load_profile(file)
        taken.append(time.perf_counter() - start)
    same(large, found)
    assert min(taken) < 0.05  # about 4 ms on one slow core
    work = StepWork.decode([1, 7], 5)
    np.testing.assert_array_equal(found.step_time_s(work), large.step_time_s(work))


def test_a_package_can_ship_parquet(tmp_path, monkeypatch):
    from importlib.metadata import EntryPoint

    from simulator.cost import profiles

    (tmp_path / "shipped_parquet").mkdir()
    (tmp_path / "shipped_parquet" / "__init__.py").touch()
    write_profile(EVERYTHING, tmp_path / "shipped_parquet" / "my-gpu.parquet")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "shipped_parquet", profiles.ENTRY_POINTS)
    monkeypatch.setattr(profiles, "entry_points", lambda group: [point])
    assert list_profiles() == ["my-gpu"]
    same(EVERYTHING, load_profile("my-gpu"))


GOOD = to_parquet(EVERYTHING)


def rewritten(change_table=None, change_told=None) -> bytes:
    """The file with its table, or what its metadata tells, changed."""
    found = pq.read_table(pa.BufferReader(GOOD))
    told = json.loads(found.schema.metadata[KEY])
    columns = {name: found.column(name).to_pylist() for name in found.column_names}
    schema = SCHEMA
    if change_table is not None:
        schema = change_table(columns) or schema
    if change_told is not None:
        told = change_told(told) or told
    made = pa.table(columns, schema=schema.with_metadata({KEY: json.dumps(told).encode()}))
    sink = pa.BufferOutputStream()
    pq.write_table(made, sink)
    return sink.getvalue().to_pybytes()


def cell(column, at, value):
    def change(columns):
        columns[column][at] = value

    return {"change_table": change}


def told(*path, value):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return {"change_told": change}


def without(column):
    def change(columns):
        del columns[column]
        return pa.schema([field for field in SCHEMA if field.name != column])

    return {"change_table": change}


def retyped(column, kind, values):
    def change(columns):
        columns[column] = values
        return pa.schema([pa.field(f.name, kind) if f.name == column else f for f in SCHEMA])

    return {"change_table": change}


def many(columns):
    for name in columns:
        columns[name] = columns[name][:1] * 20_000


FLAT = EVERYTHING.operators[2].values_s.ravel().tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cell("name", 0, None), r"row 1: name None"),
        (cell("name", 1, ""), r"row 2: name ''"),
        (cell("name", 1, "overhead"), r"operators\[1\].name 'overhead' is empty or taken"),
        (cell("kind", 1, "cubic"), r"row 2 \('mlp'\): .*kind 'cubic'.* give one of affine, roof, table"),
        (cell("kind", 0, "roof"), r"row 1 \('overhead'\): memory_s is empty"),
        (cell("repeat", 1, None), r"row 2 \('mlp'\): .*repeat None"),
        (cell("repeat", 1, 0), r"row 2 \('mlp'\): repeat = 0"),
        (cell("when", 2, "sometimes"), r"row 3 .*when = 'sometimes'"),
        (cell("per", 2, "luck"), r"row 3 .*per = 'luck' is not a feature"),
        (cell("axes", 2, None), "row 3 .*axes is empty"),
        (cell("axes", 2, ["live", None, "pairs"]), "row 3 .*'None' is not a feature"),
        (cell("axes", 2, ["live"]), "grid has 3 axes, axes names 1"),
        (cell("axes", 2, []), r"row 3 .*axes \[\]"),
        (cell("grid", 2, [[1.0, 2.0], None, [1.0, 2.0]]), r"values_s has 24 numbers, the grid \(2, 0, 2\)"),
        (cell("grid", 2, [[1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0]]), "2 is followed by 2"),
        (cell("grid", 2, [[1.0, 2.0, NAN], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0]]), "grid of decode_seqs has nan"),
        (cell("grid", 2, []), r"the grid \(\)"),
        (cell("values_s", 2, FLAT[1:]), r"values_s has 23 numbers, the grid \(3, 4, 2\)"),
        (cell("values_s", 2, [NAN, *FLAT[1:]]), r"row 3 .*values_s\[0\]\[0\]\[0\] = nan"),
        (cell("values_s", 2, [*FLAT[1:], None]), r"values_s\[2\]\[3\]\[1\] = nan"),
        (cell("values_s", 2, [-1.0, *FLAT[1:]]), r"values_s\[0\]\[0\]\[0\] = -1"),
        (cell("coefficients_s", 0, [1.0]), "row 1 .*coefficients_s has 1 numbers: give 7"),
        (cell("coefficients_s", 0, [0.0] * 7), "coefficients_s is zero throughout"),
        (cell("coefficients_s", 0, [NAN] * 7), "coefficients_s.constant = nan"),
        (cell("memory_s", 1, [None] * 7), "coefficients_s.constant = nan|memory_s.constant = nan"),
        (without("grid"), "column grid is missing, expected one of list"),
        (retyped("repeat", pa.string(), ["1"] * 5), "column repeat is string, expected one of int64"),
        (retyped("values_s", pa.list_(pa.float32()), [[1.0]] * 5), "column values_s is list.*float"),
        ({"change_table": many}, "20,000 rows"),
        ({"change_told": lambda told: ["x"]}, "metadata rolloutsim.profile is missing"),
        (told("row_keys", value=["constant"]), "row_keys.*another version"),
        (told("profile", value=[1]), "expected 'profile', an object"),
        (told("profile", "sourse", value="x"), "sourse is not a key of a profile: did you mean 'source'"),
        (told("profile", "source", value=None), "source is missing"),
        (told("profile", "kind", value="affine"), r"operators\[1\] 'mlp' is of kind roof"),
        (told("profile", "kind", value=["table"]), "kind .* is unknown"),
        (told("profile", "format", value="rolloutsim.profile/9"), "profile/9"),
        (told("profile", "relative_error", value=-1), "relative_error = -1"),
        (told("profile", "valid_range", value={"live": [64, 1]}), "valid_range.live"),
    ],
)
def test_files_that_are_wrong(tmp_path, change, message):
    file = tmp_path / "broken.parquet"
    file.write_bytes(rewritten(**change))
    with pytest.raises(InputError, match=message) as caught:
        load_profile(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", GOOD[:-1], GOOD[:200], b"PAR1" + bytes(100) + b"PAR1", b"format: rolloutsim.profile/1\n"]
)
def test_files_that_are_no_parquet(tmp_path, content):
    file = tmp_path / "broken.parquet"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a Parquet file that can be read"):
        load_profile(file)


def test_a_parquet_file_of_something_else(tmp_path):
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), file)
    with pytest.raises(InputError, match=r"metadata rolloutsim\.profile is missing"):
        load_profile(file)


def test_damaged_bytes_are_refused_or_harmless():
    rng = random.Random(7)
    refused = []
    for _ in range(300):
        content = bytearray(GOOD)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            from_parquet(bytes(content))
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 200  # pages carry checksums; what is left is padding
    assert not any("\n" in message for message in refused)
