"""The compiled kernel among threads and processes: callers side by side, forks, limits of threads and of memory."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from eigengrad import native, solvers

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")


def matrices(count: int, n: int, generator: torch.Generator) -> Tensor:
    X = torch.randn(count, n, n, generator=generator)
    return X + X.mT


def test_callers_on_several_threads(generator: torch.Generator) -> None:
    A = matrices(2000, 8, generator)
    expected, wrong = solvers.Native()(A), []

    def call() -> None:
        for _ in range(20):
            L, V = solvers.Native()(A)
            if not (torch.equal(L, expected[0]) and torch.equal(V, expected[1])):
                wrong.append(1)

    torch.set_num_threads(3)
    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(1)
    assert not wrong


class Decomposed(torch.utils.data.Dataset[Tensor]):
    """Eigenvalues, found in whatever process asks for them."""

    def __init__(self, A: Tensor) -> None:
        self.A = A

    def __len__(self) -> int:
        return len(self.A)

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(2)  # a worker has one by default
        return solvers.Native()(self.A[index])[0]


def test_forked_workers_after_threads_were_used(generator: torch.Generator) -> None:
    A = matrices(6 * 2000, 8, generator).unflatten(0, (6, 2000))
    torch.set_num_threads(3)
    expected = solvers.Native()(A)[0]
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(Decomposed(A), num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(torch.cat(list(loader)), expected)


def run(program: str) -> str:
    """What a fresh process prints."""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_works_on_torchs_own_threads() -> None:
    """None is added to those that torch's operators use, which would keep others off the cores."""
    program = """
import os, torch
from eigengrad import solvers
A = torch.eye(8).expand(20_000, 8, 8).contiguous()
for threads in (1, 2, 4, 2):
    torch.set_num_threads(threads)
    torch.ones(1_000_000).exp()
    before = set(os.listdir("/proc/self/task"))  # OpenMP's thread that is no longer wanted may yet be on its way out
    L, V = solvers.Native()(A)
    assert (L == 1).all(), L
    print(len(set(os.listdir("/proc/self/task")) - before))
"""
    assert run(program).split() == ["0"] * 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_a_forked_process_has_a_pool() -> None:
    """OpenMP's threads are lost in a fork, and OpenMP does not know: there, the kernel has threads of its own."""
    program = """
import os, torch
from eigengrad import solvers
A = torch.eye(8).expand(20_000, 8, 8).contiguous()
torch.set_num_threads(3)
solvers.Native()(A)
if os.fork() == 0:
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        before = len(os.listdir("/proc/self/task"))
        L, V = solvers.Native()(A)
        print(len(os.listdir("/proc/self/task")) - before, bool((L[:, 0] == 1).all().item()), flush=True)
    os._exit(0)
os.wait()
"""
    assert run(program).split() == ["0", "True", "1", "True", "2", "True", "0", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads its size in /proc")
def test_out_of_memory() -> None:
    """An error, after which there is a next time."""
    program = """
import resource, torch
from eigengrad import solvers
A = torch.eye(700).expand(2, 700, 700).contiguous()
solvers.Native()(A[:, :3, :3])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, -1))
try:
    solvers.Native()(A)
except MemoryError:
    print("no memory")
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert torch.equal(solvers.Native()(A)[0], torch.ones(2, 700))
"""
    assert run(program) == "no memory\n"
