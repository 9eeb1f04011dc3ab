"""What every test starts from: one thread, no hypothesis database, a seeded generator."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the matrices are small, and the order of summation should not depend on the machine
settings.register_profile("eigengrad", deadline=None, derandomize=True, database=None, max_examples=80)
settings.load_profile("eigengrad")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random starts of the power iteration solver are drawn from torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
