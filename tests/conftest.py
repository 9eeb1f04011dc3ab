"""What every test starts from: one thread, no hypothesis database, a seeded generator; sets of instructions."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from eigengrad import native

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


@pytest.fixture(params=(0, 1, 2), ids=("baseline", "avx2", "avx512"))
def instructions(request: pytest.FixtureRequest) -> Iterator[int]:
    """Every instruction set of this processor, one after the other."""
    names = ("baseline", "avx2", "avx512")
    if not native._LIBRARY.eigengrad_choose_instructions(request.param):
        pytest.skip(f"this processor or this build has no {names[request.param]}")
    yield request.param
    assert native._LIBRARY.eigengrad_choose_instructions(names.index(str(native.instructions())))
