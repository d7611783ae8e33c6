"""Choices made on earlier RL steps against the clock: within what repeats of one policy are apart."""

import pytest

from tests.advise import truth


@pytest.mark.parametrize("batch", truth.BATCHES)
def test_the_first_choice_is_within_repeats_of_the_best_that_a_decoder_was_timed_under(batch):
    found = truth.timed_decoder(batch)
    assert found.chosen != "none"
    assert found.regret <= found.apart


@pytest.mark.parametrize("slots", truth.VLLM)
def test_the_first_choice_is_the_best_that_vllm_was_timed_under(slots):
    assert truth.timed_vllm(slots).chosen == "proposer fixed:8"


@pytest.mark.parametrize("slots", truth.VLLM)
def test_the_first_choice_of_vllms_own_is_within_repeats_of_their_best(slots):
    found = truth.timed_vllm(slots, own=True)
    assert found.regret <= found.apart
