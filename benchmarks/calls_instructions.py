"""Instructions of one call of ``eg.eigh`` and of ``torch.linalg.eigh``, counted by valgrind: no clock, so no noise.

One process under ``valgrind --tool=callgrind`` imports both and forks a child for every count: a child makes some calls
to warm up, then N or 2N more, and the difference divided by N is one call. Valgrind knows no AVX-512, so that the
kernels of both sides take AVX2 there: this witnesses the overhead of small calls, not the speed of large ones.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch

import eigengrad as eg
from benchmarks.calls_cases import loss, spd

WARMUP, CALLS = 20, 100
SIZES, MODES, SIDES = (3, 16), ("forward", "forward and backward"), ("ours", "torch")


def call(n: int, mode: str, side: str) -> Callable[[], None]:
    """One call of a 32-bit matrix."""
    decompose = eg.eigh if side == "ours" else torch.linalg.eigh
    A, W = spd(1, n, torch.float32).requires_grad_(mode != "forward"), torch.ones(n, n)

    def run() -> None:
        A.grad = None
        result = decompose(A)
        if A.requires_grad:
            loss(result, W).backward()

    return run


def fork_and_call() -> None:
    """The process under valgrind: a child for each count, whose id and whose case are printed."""
    torch.set_num_threads(1)
    for n, mode, side in product(SIZES, MODES, SIDES):
        for times in (1, 2):
            child = os.fork()
            if not child:
                run = call(n, mode, side)
                for _ in range(WARMUP + times * CALLS):
                    run()
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, f"{side}, n = {n}, {mode}: a child ended with {status}"
            print(child, flush=True)


def count() -> dict[str, dict[str, float]] | None:
    """Instructions of ours, of torch's, and their ratio, by case; or None where there is no valgrind. Minutes."""
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: no instructions were counted (apt-get install valgrind)")
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "-q",
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/%p",
            sys.executable,
            "-m",
            __name__,
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = [re.search(r"^totals: (\d+)", (Path(folder) / child).read_text(), re.M) for child in output.split()]
    totals = iter(int(match[1]) for match in found if match)
    counts: dict[str, dict[str, float]] = {}
    for n, mode, side in product(SIZES, MODES, SIDES):
        counts.setdefault(f"eigh, {mode}, 1 of {n}x{n}", {})[side] = (-next(totals) + next(totals)) / CALLS
    return {case: {**sides, "ratio": sides["ours"] / sides["torch"]} for case, sides in counts.items()}


if __name__ == "__main__":
    fork_and_call()
