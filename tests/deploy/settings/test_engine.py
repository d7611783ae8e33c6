"""Names of engines and releases, and what is said of those that nobody read."""

import pytest

from simulator.deploy.settings import parse_engine
from tests.deploy.settings.choices import OWN_SUFFIX, check_of, settings
from traces.errors import InputError


@pytest.mark.parametrize(
    ("text", "release"), [("vllm==0.33", "0.33"), (" SGLang==0.5.6.post2 ", "0.5.6.post2"), ("vllm", "0.33")]
)
def test_names_and_releases_are_read(text: str, release: str) -> None:
    assert str(parse_engine(text).version) == release


def test_releases_are_compared_as_numbers() -> None:
    assert parse_engine("vllm==0.24").since("0.9")
    assert not parse_engine("sglang==0.5.9").since("0.5.10")
    assert parse_engine("sglang==0.5.10.post1").since("0.5.10")
    assert parse_engine("vllm==0.24.0rc1").since("0.24")


@pytest.mark.parametrize(
    ("text", "new"), [("vllm==0.33.1", False), ("vllm==0.33.0+cu130", False), ("vllm==0.34.0.dev3", True), ("vllm==1", True),
                      ("sglang==0.5.23.post1", False), ("sglang==0.5.24", True)],
)  # fmt: skip
def test_patches_and_builds_of_the_newest_release_are_known(text: str, new: bool) -> None:
    assert parse_engine(text).too_new is new


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "use vllm or sglang"),
        ("vlm", "did you mean 'vllm'?"),
        ("tensorrt-llm==1", "use vllm or sglang"),
        ("vllm==", "'' is no version: write for example vllm==0.33"),
        ("vllm==latest", "'latest' is no version"),
        ("vllm>=0.24", "use vllm or sglang"),
        ("vllm==0.9.2", "settings are known from vllm 0.10 to 0.33: upgrade vllm"),
        ("sglang==0.4.10", "upgrade sglang"),
    ],
)
def test_what_is_no_engine_is_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as found:
        parse_engine(text)
    assert says in str(found.value)
    assert "\n" not in str(found.value)


def test_the_newest_release_stands_in_where_none_is_named() -> None:
    assert check_of(settings("vllm", "fixed:8", OWN_SUFFIX), "no release was named").level == "warning"
    assert not [one for one in settings("vllm==0.33", "fixed:8", OWN_SUFFIX).checks if "release" in one.text]


def test_a_release_that_nobody_read_gets_those_of_the_newest() -> None:
    new, newest = settings("vllm==0.40", "fixed:8", OWN_SUFFIX), settings("vllm==0.33", "fixed:8", OWN_SUFFIX)
    assert new.command == newest.command
    assert "newer than 0.33," in check_of(new, "newest release that is known").text
