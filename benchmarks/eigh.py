"""Cost of :func:`eigengrad.eigh` against ``torch.linalg.eigh``, forward plus backward."""

from collections.abc import Callable

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import claim, ratios, report

DEFAULT, PAPER = "Lorentzian(), the default", "PowerIteration(19)"
RULES: dict[str, eg.gradients.GradientRule] = {
    DEFAULT: eg.Lorentzian(),
    "Exact()": eg.Exact(),
    PAPER: eg.PowerIteration(19),
    "PowerIteration(10**6)": eg.PowerIteration(10**6),
    "Taylor(9)": eg.Taylor(9),
}


def step(decompose: Callable[[Tensor], tuple[Tensor, Tensor]], A: Tensor, gL: Tensor, G: Tensor) -> Callable[[], None]:
    """Forward and backward with given cotangents, ``V G`` of the eigenvectors that are found, whose phase is theirs."""
    gV = decompose(A.detach())[1] @ G

    def run() -> None:
        L, V = decompose(A)
        torch.autograd.grad([L, V], A, [gL, gV])

    return run


def compare(rule: eg.gradients.GradientRule, batch: int, n: int, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """A step with the rule against torch's, to which no loss may depend on a phase, and the paper's."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(batch, n, 4 * n, dtype=dtype, generator=generator)
    A = (X @ X.mH / (4 * n)).requires_grad_()
    G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
    gL = torch.randn(batch, n, dtype=dtype.to_real(), generator=generator)
    G = G + G.mH
    ours, rounds = step(lambda A: eg.eigh(A, gradient=rule), A, gL, G), 40 if batch > 1 else 300
    rivals = {
        "torch.linalg.eigh": step(torch.linalg.eigh, A, gL, G),
        PAPER: step(lambda A: eg.eigh(A, gradient=RULES[PAPER]), A, gL, G),
    }
    # In pairs: of three in turn, the one that follows torch's would find nothing of its own in the cache.
    return {name: ratios(ours, {name: rival}, rounds=rounds)[name] for name, rival in rivals.items()}


def main() -> None:
    """Measure, report, and assert the claim."""
    measured = {}
    for batch, n in ((1024, 4), (128, 16), (16, 64), (1, 3), (1, 64)):
        for label, rule in RULES.items():
            measured[f"{label}, batch {batch}, n = {n}"] = compare(rule, batch, n, torch.float32)
        measured[f"{DEFAULT}, complex64, batch {batch}, n = {n}"] = compare(RULES[DEFAULT], batch, n, torch.complex64)
    report("eigh", measured)
    batches = [figures["torch.linalg.eigh"]["ratio"] for case, figures in measured.items() if "batch 1," not in case]
    claim(f"every rule costs at most 1.2x torch.linalg.eigh in batches: {max(batches):.2f}x", max(batches) <= 1.2)
    of_default = [figures[PAPER]["ratio"] for case, figures in measured.items() if case.startswith(DEFAULT)]
    claim(f"the default costs what {PAPER} does, to a twentieth: {max(of_default):.2f}x", max(of_default) <= 1.05)


if __name__ == "__main__":
    main()
