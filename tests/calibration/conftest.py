"""Torch on one thread, as two that share busy cores wait for each other at every operation."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
