"""Cost of matrix functions against ``torch.linalg.eigh`` with the eigenvectors' gradient, forward plus backward."""

import torch

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

ROOTS = ("sqrtm", "inv_sqrtm")
BATCHES = (
    *((1024, 4), (128, 16), (16, 64), (4, 128)),
    *((1, n) for n in (3, 16, 36, 64, 128, 256, 512, 1024)),
)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def compare(name: str, batch: int, n: int, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Forward and backward with given cotangents, torch's such that a phase does not matter, which it insists on."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(batch, n, 4 * n, dtype=dtype, generator=generator)
    A = (X @ X.mH / (4 * n)).requires_grad_()
    G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
    gL = torch.randn(batch, n, dtype=A.real.dtype, generator=generator)
    gV = torch.linalg.eigh(A.detach()).eigenvectors @ (G + G.mH)
    function = FUNCTIONS[name]
    columns = function(A).shape[-1]
    return ratios(
        lambda: torch.autograd.grad(function(A), A, G[..., :columns]),
        {"torch.linalg.eigh": lambda: torch.autograd.grad([*torch.linalg.eigh(A)], A, [gL, gV])},
        rounds=30 if batch > 1 else 300,
        seconds=10.0,
    )


def main() -> None:
    """Measure, report, and assert the claim."""
    measured, roots = {}, []
    for dtype in DTYPES:
        for batch, n in BATCHES:
            for name in FUNCTIONS if dtype == torch.float32 else ROOTS:
                size = f"batch {batch}" if batch > 1 else "one matrix"
                case = f"{name}, {str(dtype).removeprefix('torch.')}, {size}, n = {n}"
                measured[case] = compare(name, batch, n, dtype)
                roots += [case] if name in ROOTS else []
    report("matrix_functions", measured)
    for name in ROOTS:
        worst = max(measured[case]["torch.linalg.eigh"]["ratio"] for case in roots if case.startswith(name))
        claim(f"{name} costs at most 1.2x torch.linalg.eigh: {worst:.2f}x", worst <= 1.2)


if __name__ == "__main__":
    main()
