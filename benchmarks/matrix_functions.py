"""Cost of matrix functions against ``torch.linalg.eigh`` with the eigenvectors' gradient, forward plus backward."""

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import claim, ratios, report

FUNCTIONS = {
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": eg.inv_sqrtm,
    "logm": eg.logm,
    "expm": eg.expm,
    "powm 0.3": lambda A: eg.powm(A, 0.3),
    "projector n/4": lambda A: eg.projector(A, A.shape[-1] // 4),
    "topk_eigh n/4": lambda A: eg.topk_eigh(A, A.shape[-1] // 4).eigenvectors,
}


def rival(A: Tensor, gL: Tensor, gV: Tensor) -> None:
    """Forward and backward with given cotangents."""
    torch.autograd.grad([*torch.linalg.eigh(A)], A, [gL, gV])


def main() -> None:
    """Measure, report, and assert the claim."""
    generator = torch.Generator().manual_seed(0)
    measured = {}
    for batch, n in ((1024, 4), (128, 16), (16, 64), (4, 128)):
        X = torch.randn(batch, n, 4 * n, generator=generator)
        A = (X @ X.mT / (4 * n)).requires_grad_()
        gL, gV = torch.randn(batch, n, generator=generator), torch.randn(batch, n, n, generator=generator)
        for name, function in FUNCTIONS.items():
            G = gV[..., : function(A).shape[-1]]
            measured[f"{name}, batch {batch}, n = {n}"] = ratios(
                lambda A=A, function=function, G=G: torch.autograd.grad(function(A), A, G),
                {"torch.linalg.eigh": lambda A=A, gL=gL, gV=gV: rival(A, gL, gV)},
                rounds=30,
            )
    report("matrix_functions", measured)
    for name in ("sqrtm", "inv_sqrtm"):
        worst = max(rivals["torch.linalg.eigh"]["ratio"] for case, rivals in measured.items() if case.startswith(name))
        claim(f"{name} costs at most 1.2x torch.linalg.eigh: {worst:.2f}x", worst <= 1.2)


if __name__ == "__main__":
    main()
