"""Measured costs of drafting: what is measured can be read back, and what cannot be read says why."""

from pathlib import Path

import pytest
import yaml

from calibration.drafter import measure
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.cost import FORMAT, load_draft_cost
from traces.errors import InputError


def test_a_measurement_reads_back(tmp_path: Path) -> None:
    document = measure((3000, 20_000))
    assert [row["history_tokens"] for row in document["measured"]] == sorted(
        r["history_tokens"] for r in document["measured"]
    )
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(document))
    cost = load_draft_cost(str(file))
    assert 1e-9 < cost.per_query_s < 1e-4, "seconds per query on any machine of this decade"
    assert 1e-9 < cost.per_emitted_token_s < 1e-4
    assert cost == DraftCost(per_query_s=cost.per_query_s, per_emitted_token_s=cost.per_emitted_token_s)


def test_the_shipped_measurement_and_none() -> None:
    assert load_draft_cost("suffix-epyc").per_query_s > 0
    assert load_draft_cost("none") == DraftCost()


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("", "empty"),
        ("format: x\ncost: {per_query_s: 1}\n", "format"),
        (f"format: {FORMAT}\n", "cost"),
        (f"format: {FORMAT}\ncost: {{}}\n", "cost"),
        (f"format: {FORMAT}\ncost: {{per_qery_s: 1}}\n", "per_query_s"),
        (f"format: {FORMAT}\ncost: {{per_query_s: -1}}\n", "-1"),
        (f"format: {FORMAT}\ncost: {{per_query_s: .nan}}\n", "nan"),
        (f"format: {FORMAT}\ncost: {{per_query_s: soon}}\n", "soon"),
    ],
)
def test_bad_files_name_the_fault(text: str, mention: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=mention) as refusal:
        load_draft_cost(str(file))
    assert str(file) in str(refusal.value)
    with pytest.raises(InputError, match="suffix-epyc"):
        load_draft_cost("sufix-epyc")
