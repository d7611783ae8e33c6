"""What the pages of MiLo and DiffuSpec say of published figures that are no inputs."""

import pytest

from tests.systems import diffuspec, milo


def test_few_bits_gain_what_they_save_of_bytes_and_nothing_where_operations_decide() -> None:
    found = {(row.device, row.tokens): row for row in milo.rows()}
    for row in found.values():
        assert all(gain < 16 / 3.5 for gain in row.gains), "3.5 bits a parameter in place of 16"
        assert row.gains[0] >= row.gains[1] >= row.gains[2], "factors are bytes, operations and kernels"
    assert found["a100-80gb", 1024].gains[0] == pytest.approx(1.0, abs=0.005)
    assert 1 < found["h100", 1024].gains[0] < 1.2, "published, of passes of 1,024 tokens: 1.2 to 1.26"
    assert found["a100-80gb", 4096].gains[1] < 1


def test_speed_ups_at_batch_1_are_the_tables() -> None:
    found = {(row.prompt_tokens, row.drafts, row.bonus_counted, row.context): row for row in diffuspec.rows()}
    for (tokens, drafts, bonus, context), row in found.items():
        if context == "recomputed":
            assert row.speedup < found[tokens, drafts, bonus, "cached"].speedup
    errors = [row.speedup / row.published - 1 for row in found.values() if row.context == "recomputed"]
    assert min(errors) == pytest.approx(-0.26, abs=0.01), "docs/systems/diffuspec.md"
    assert max(errors) == pytest.approx(0.63, abs=0.01)
