"""Error of the gradient of a subspace loss through nearly tied eigenvectors, rule by rule and gap by gap.

The loss is `sum(G * (U @ U.T))` with U the eigenvectors of a block of eigenvalues that lie a gap apart, relative to the
largest. It does not depend on the basis in the block, so its derivative exists at every gap, 0 included: that of the
projector, taken in closed form and double precision. Each figure is the worst relative error of 30 matrices of size 8.
"""

import math

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import RESULTS, claim, provenance, write

N, DRAWS = 8, 30
GAPS = (0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
RULES = {
    "`Lorentzian()`, the default": eg.Lorentzian(),
    "`Exact()`": eg.Exact(),
    "`PowerIteration(19)`": eg.PowerIteration(19),
    "`PowerIteration(1000)`": eg.PowerIteration(1000),
    "`Taylor(9)`": eg.Taylor(9),
    "`Masked(1e-6)`": eg.Masked(),
    "`Lorentzian(1e-12)`": eg.Lorentzian(1e-12),
}


def spectra(gap: float) -> dict[str, tuple[Tensor, int]]:
    """Eigenvalues, the largest of which is 1, and how many of the first are the block."""
    rest = torch.linspace(0.4, 1.0, N).double()
    return {
        "a pair": (torch.cat([torch.tensor([0.2, 0.2 + gap]).double(), rest[2:]]), 2),
        "three": (torch.cat([torch.tensor([0.2, 0.2 + gap, 0.2 + 2 * gap]).double(), rest[3:]]), 3),
        "three, at the top": (torch.cat([torch.tensor([1.0, 1 - gap, 1 - 2 * gap]).double(), 0.6 * rest[:5]]), 3),
        "three, one of them single": (torch.cat([torch.tensor([0.1, 0.3, 0.3 + gap]).double(), 0.2 + rest[3:]]), 3),
        "six of eight": (torch.cat([0.2 + gap * torch.arange(6).double(), 0.5 + 0.5 * rest[6:] + 5 * gap]), 6),
        "of both signs": (torch.cat([torch.tensor([-0.2, -0.2 - gap, 0.2]).double(), -rest[3:]]), 3),
    }


def worst_error(rule: eg.gradients.GradientRule, L: Tensor, block: int, dtype: torch.dtype) -> float:
    """Over random bases and cotangents; NaN where one gradient has no number."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for _ in range(DRAWS):
        A = eg.testing.hermitian(L, dtype=dtype, generator=generator).requires_grad_()
        G = torch.randn(N, N, dtype=dtype, generator=generator)
        G = G + G.mT
        ascending, V = torch.linalg.eigh(A.detach().double())
        kept = torch.isin(L.argsort(), torch.arange(block)).double()
        cut = kept.unsqueeze(-1) - kept.unsqueeze(-2)
        gap = torch.where(cut != 0, ascending.unsqueeze(-1) - ascending.unsqueeze(-2), math.inf)
        right = V @ (cut / gap * (V.mT @ G.double() @ V)) @ V.mT
        U = eg.eigh(A, gradient=rule).eigenvectors[:, kept.bool()]
        found = torch.autograd.grad((G * (U @ U.mT)).sum(), A)[0]
        error = eg.testing.relative_error(found, right)
        worst = math.nan if math.isnan(error) or math.isnan(worst) else max(worst, error)
    return worst


def main() -> None:
    """Measure, print, write ``results/gaps.md``, and assert the claim."""
    header = f"| precision | block | rule | {' | '.join(f'gap {gap:g}' for gap in GAPS)} |"
    lines, of_default = [header, "|---" * (3 + len(GAPS)) + "|"], {torch.float64: 0.0, torch.float32: 0.0}
    for dtype in of_default:
        for block in spectra(0.0):
            for label, rule in RULES.items():
                errors = [worst_error(rule, *spectra(gap)[block], dtype) for gap in GAPS]
                shown = " | ".join(f"{error:.0e}" for error in errors)
                lines.append(f"| {str(dtype).removeprefix('torch.')} | {block} | {label} | {shown} |")
                if rule == eg.Lorentzian():
                    of_default[dtype] = max(of_default[dtype], *errors)
    text = "\n".join(lines) + "\n"
    print(text)
    said = "\n".join(f"* {key}: {value}" for key, value in provenance("gaps").items())
    title = "# Relative error of the gradient of a subspace loss, by gap"
    write(
        RESULTS / "gaps.md",
        "\n\n".join([title, (__doc__ or "").split("\n\n", 1)[1].strip(), text.strip(), said]) + "\n",
    )
    for dtype, error in of_default.items():
        root = torch.finfo(dtype).eps ** 0.5
        claim(f"the default errs by at most sqrt(eps) = {root:.1e} in {dtype}: {error:.1e}", error <= root)


if __name__ == "__main__":
    main()
