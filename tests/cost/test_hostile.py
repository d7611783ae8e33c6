"""Profile files that are wrong: each is refused with one line naming file, key, value and fix."""

import copy
import re

import pytest
import yaml

from simulator.cost import load_profile
from traces.errors import InputError

GOOD = {
    "format": "rolloutsim.profile/1",
    "name": "toy",
    "kind": "table",
    "model": "m",
    "device": "d",
    "source": "bench of 2026-01-01",
    "uncertainty": "2 %",
    "valid_range": {"live": [1, 64]},
    "operators": [
        {"name": "overhead", "kind": "affine", "coefficients_s": {"constant": 1e-3}},
        {"name": "mlp", "kind": "roof", "memory_s": {"constant": 1e-3}, "compute_s": {"query_tokens": 1e-5}},
        {
            "name": "attention",
            "kind": "table",
            "repeat": 32,
            "axes": ["live", "context_tokens"],
            "grid": [[1, 8, 64], [0, 4096]],
            "values_s": [[1e-5, 2e-5], [2e-5, 4e-5], [3e-5, 1e-4]],
        },
    ],
}
DELETE = object()
TABLE = ("operators", 2)
NAN, INF = float("nan"), float("inf")


def changed(path: tuple, value: object) -> dict:
    document = copy.deepcopy(GOOD)
    at = document
    for key in path[:-1]:
        at = at[key]
    if value is DELETE:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return document


def refused(tmp_path, content: bytes | str, message: str) -> str:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_profile(file)
    text = str(caught.value)
    assert str(file) in text
    assert "\n" not in text
    assert re.search(r"[:;,?] \S", text.split("broken.yaml", 1)[1]), "names what to do"
    return text


def test_the_unbroken_file_loads(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    assert [one.name for one in load_profile(file).operators] == ["overhead", "mlp", "attention"]
    assert load_profile(str(file)).sha256 == load_profile(file).sha256


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sourse",), "x", "sourse is not a key of a profile: did you mean 'source'"),
        (("zzz",), "x", "zzz is not a key of a profile: known keys: format, name"),
        (("source",), DELETE, "source is missing"),
        (("source",), "  ", "source = '  ' is not text"),
        (("uncertainty",), DELETE, "uncertainty is missing"),
        (("model",), 8, "model = 8 is not text"),
        (("format",), DELETE, "format = None"),
        (("format",), "rolloutsim.profile/9", "profile/9"),
        (("kind",), "cubic", "kind 'cubic' is unknown"),
        (("kind",), "affine", r"operators\[1\] 'mlp' is of kind roof"),
        (("operators",), [], r"operators = \[\]: give a list"),
        (("operators",), DELETE, "operators = None"),
        (("operators",), {"name": "x"}, "operators = "),
        (("operators", 0), "fast", r"operators\[0\] = 'fast' is not a mapping"),
        (("operators", 0, "kind"), "afine", r"operators\[0\].kind = 'afine'"),
        (("operators", 0, "coefficient_s"), {}, r"operators\[0\].coefficient_s .* did you mean 'coefficients_s'"),
        (("operators", 0, "coefficients_s"), DELETE, r"operators\[0\].coefficients_s is missing"),
        (("operators", 0, "coefficients_s"), {}, r"operators\[0\]: coefficients_s is zero throughout"),
        (("operators", 0, "coefficients_s"), [1, 2], r"operators\[0\]: coefficients_s = \[1, 2\] is not a mapping"),
        (("operators", 0, "coefficients_s", "tokens"), 1e-3, r"coefficients_s.tokens .* did you mean 'kv_tokens'"),
        (("operators", 0, "coefficients_s", "constant"), -1e-3, r"coefficients_s.constant = -0.001: .* >= 0"),
        (("operators", 0, "coefficients_s", "constant"), NAN, "coefficients_s.constant = nan"),
        (("operators", 0, "coefficients_s", "constant"), INF, "coefficients_s.constant = inf"),
        (("operators", 0, "coefficients_s", "constant"), 10**400, "coefficients_s.constant = inf"),
        (("operators", 0, "coefficients_s", "constant"), "fast", "coefficients_s.constant = 'fast' is not a number"),
        (("operators", 0, "coefficients_s", "constant"), True, "coefficients_s.constant = True is not a number"),
        (("operators", 0, "coefficients_s", "constant"), None, "coefficients_s.constant = None is not a number"),
        (("operators", 1, "memory_s"), DELETE, r"operators\[1\].memory_s is missing"),
        (("operators", 1, "compute_s", "query_tokens"), -1, r"operators\[1\]: compute_s.query_tokens = -1"),
        (("operators", 0, "name"), "mlp", r"operators\[1\].name 'mlp' is empty or taken"),
        (("operators", 0, "repeat"), 0, r"operators\[0\]: repeat = 0"),
        (("operators", 0, "repeat"), 1.5, r"operators\[0\].repeat = 1.5"),
        ((*TABLE, "axes"), ["live"], "grid has 2 axes, axes names 1"),
        ((*TABLE, "axes"), ["live", "live"], "different features"),
        ((*TABLE, "axes"), ["live", "contxt"], "'contxt' is not a feature"),
        ((*TABLE, "axes"), [], r"axes \[\]"),
        ((*TABLE, "axes"), "live", "axes = 'live': give a list"),
        ((*TABLE, "grid"), [[1, 8, 64]], "values_s"),
        ((*TABLE, "grid", 0), [1, 8, 8], "grid of live is not ascending: 8 is followed by 8"),
        ((*TABLE, "grid", 0), [8, 1, 64], "grid of live is not ascending: 8 is followed by 1"),
        ((*TABLE, "grid", 0), [1, NAN, 64], r"grid\[0\]\[1\] = nan"),
        ((*TABLE, "grid", 0), [1, 8, INF], "grid of live has inf"),
        ((*TABLE, "grid", 1), [-5, 4096], "grid of context_tokens has -5"),
        ((*TABLE, "grid", 1), "0..9", "grid = "),
        ((*TABLE, "grid"), [[], []], r"values_s has 3 entries, the grid 0"),
        ((*TABLE, "values_s"), [[1e-5, 2e-5], [2e-5, 4e-5]], "values_s has 2 entries, the grid 3 points"),
        ((*TABLE, "values_s", 1), [2e-5], r"values_s\[1\] has 1 entries, the grid 2 points"),
        ((*TABLE, "values_s", 1), 2e-5, r"values_s\[1\] = 2e-05, the grid 2 points"),
        ((*TABLE, "values_s", 1, 1), [4e-5], r"values_s\[1\]\[1\] = \[4e-05\] is not a number"),
        ((*TABLE, "values_s", 1, 1), -4e-5, r"operators\[2\]: values_s\[1\]\[1\] = -4e-05"),
        ((*TABLE, "values_s", 0, 0), NAN, r"values_s\[0\]\[0\] = nan"),
        ((*TABLE, "values_s", 0, 0), INF, r"values_s\[0\]\[0\] = inf"),
        (("valid_range", "live"), [64, 1], r"valid_range.live = \[64, 1\]"),
        (("valid_range", "live"), [1], r"valid_range.live = \[1\]: give \[lowest, highest\]"),
        (("valid_range", "live"), 64, r"valid_range.live = 64"),
        (("valid_range", "live"), [1, INF], r"valid_range.live = \[1, inf\]"),
        (("valid_range", "live"), [NAN, 4], "valid_range.live = nan"),
        (("valid_range", "lives"), [1, 4], "valid_range.lives .* did you mean 'live'"),
        (("valid_range",), [1, 4], "valid_range = .* is not a mapping"),
        (("relative_error",), -0.5, "relative_error = -0.5"),
        (("relative_error",), "small", "relative_error = 'small'"),
        (("drafter_costs",), {"eagle": {"per_proposal_s": -1.0}}, "drafter_costs.eagle.per_proposal_s = -1"),
        (("drafter_costs",), {"eagle": 3}, "drafter_costs.eagle = 3"),
        (("notes",), ["a"], "notes = "),
    ],
)
def test_wrong_documents(tmp_path, path, value, message):
    refused(tmp_path, yaml.safe_dump(changed(path, value)), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "is not text"),
        (b"\x00\x00\x00\x00", "not YAML"),
        (b"a: [1, 2", "line .*not YAML"),
        (b"a: b: c", "line 1: not YAML"),
        (b"- 1\n- 2\n", "holds a list, not a mapping"),
        (b"just words", "holds a str, not a mapping"),
        (b"format: x\nformat: y\n", "line 2: key 'format' is given twice"),
        (b"a: !!python/object/apply:os.system [echo]\n", "not YAML"),
        (b"[" * 50_000, "not YAML"),
        (b"? [1, 2]\n: 3\n", "line 1: not YAML"),
        (b"{1: 2}", "1 is not a key of a profile"),
    ],
)
def test_files_that_are_no_profiles(tmp_path, content, message):
    refused(tmp_path, content, message)


def test_nested_aliases_cannot_grow_beyond_the_grid(tmp_path):
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join(['*' + chr(97 + level)] * 9)}]\n" for level in range(20)
    )
    refused(tmp_path, bomb, "line 7: aliases make more than 1,000,000 values")
    values = "values_s: [*u, *u, *u]"
    head = yaml.safe_dump(changed((*TABLE, "values_s"), [[1e-5, 2e-5]] * 3))
    assert "values_s" in head
    refused(tmp_path, bomb + values, "aliases make more than")


def test_directory_and_long_values(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        load_profile(tmp_path)
    text = refused(tmp_path, yaml.safe_dump(changed(("operators",), "x" * 10_000)), "operators = 'xxx")
    assert len(text) < 400


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    text = yaml.safe_dump(changed(("operators", 0, "coefficients_s", "constant"), 0.25)).replace("0.25", "1e-3")
    assert isinstance(yaml.safe_load(text)["operators"][0]["coefficients_s"]["constant"], str)
    file = tmp_path / "exponent.yaml"
    file.write_text(text)
    assert load_profile(file).operators[0].row_s[0] == 1e-3
