"""Fixtures of the Python tests: the devices there are, and comparison by bits."""

import pytest
import torch

from helpers import DEVICES


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every test that takes it runs on the CPU, and on CUDA where samebits has kernels for the GPU."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
