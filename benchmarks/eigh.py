"""Cost of :func:`eigengrad.eigh` against ``torch.linalg.eigh``, forward plus backward."""

from collections.abc import Callable

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import claim, ratios, report

RULES = {
    "Exact()": eg.Exact(),
    "PowerIteration(19)": eg.PowerIteration(19),
    "PowerIteration(10**6)": eg.PowerIteration(10**6),
    "Taylor(9)": eg.Taylor(9),
    "Lorentzian()": eg.Lorentzian(),
}


def step(decompose: Callable[[Tensor], tuple[Tensor, Tensor]], A: Tensor, gL: Tensor, gV: Tensor) -> None:
    """Forward and backward with given cotangents."""
    L, V = decompose(A)
    torch.autograd.grad([L, V], A, [gL, gV])


def main() -> None:
    """Measure, report, and assert the claim."""
    generator = torch.Generator().manual_seed(0)
    measured = {}
    for batch, n in ((1024, 4), (128, 16), (16, 64)):
        X = torch.randn(batch, n, 4 * n, generator=generator)
        A = (X @ X.mT / (4 * n)).requires_grad_()
        gL, gV = torch.randn(batch, n, generator=generator), torch.randn(batch, n, n, generator=generator)
        for label, rule in RULES.items():
            measured[f"{label}, batch {batch}, n = {n}"] = ratios(
                lambda A=A, gL=gL, gV=gV, rule=rule: step(lambda A: eg.eigh(A, gradient=rule), A, gL, gV),
                {"torch.linalg.eigh": lambda A=A, gL=gL, gV=gV: step(torch.linalg.eigh, A, gL, gV)},
                rounds=40,
            )
    report("eigh", measured)
    ours = measured["PowerIteration(19), batch 16, n = 64"]["torch.linalg.eigh"]["ratio"]
    claim(f"PowerIteration costs at most 1.4x torch.linalg.eigh at n = 64, batch 16: {ours:.2f}x", ours <= 1.4)


if __name__ == "__main__":
    main()
