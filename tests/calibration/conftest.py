"""Torch on one thread, as two that share busy cores wait for each other at every operation; Triton kernels without a GPU."""

import os

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton, as some modules of torch do
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
