"""What all tests share."""

import pytest
import torch
from hypothesis import settings

# Examples are drawn the same way in every run, so that a failure on one machine is a failure on all; and
# without a deadline, because shared machines stall.
settings.register_profile("normtut", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("normtut")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
