"""
A Hessian at repeated stretches
===============================

A rubber of Ogden's kind stores energy in powers of its principal stretches, eigenvalues of ``C = F^T F``. A
finite-element code needs the stress and the tangent modulus, the first and second derivative of that energy; and at
rest, in every uniaxial and equibiaxial test, stretches are *equal*. By automatic differentiation of eigenvalues the
modulus is NaN there. As a function of the matrix it is not.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import eigengrad as eg

SHEAR, EXPONENT, BULK = 1.0, 3.0, 10.0


def determinant(F: Tensor) -> Tensor:
    """Of a 3 x 3 matrix, as a polynomial: the second derivative of torch's own is NaN at equal stretches, too."""
    return F[0] @ torch.linalg.cross(F[1], F[2])


def by_powers(F: Tensor) -> Tensor:
    """Energy of a deformation gradient ``(3, 3)``, by a power of C."""
    J = determinant(F)
    C = F.mT @ F * J ** (-2 / 3)
    return 2 * SHEAR / EXPONENT**2 * (eg.powm(C, EXPONENT / 2).trace() - 3) + BULK / 2 * (J - 1) ** 2


def by_eigenvalues(F: Tensor) -> Tensor:
    """The same, by eigenvalues."""
    J = determinant(F)
    stretches = torch.linalg.eigvalsh(F.mT @ F * J ** (-2 / 3))
    return 2 * SHEAR / EXPONENT**2 * ((stretches ** (EXPONENT / 2)).sum() - 3) + BULK / 2 * (J - 1) ** 2


def uniaxial(stretch: Tensor) -> Tensor:
    """Deformations ``(*, 3, 3)`` that stretch along one axis and keep the volume: two stretches are equal."""
    return torch.stack([stretch, stretch**-0.5, stretch**-0.5], -1).diag_embed()


# %%
# Stress ``P = dW/dF`` and the modulus of shear ``d^2 W / dF_12^2`` along the test, in one ``vmap``.

stretch = torch.linspace(0.6, 1.8, 61, dtype=torch.float64)
curves = {}
for name, energy in (("eg.powm", by_powers), ("torch.linalg.eigvalsh", by_eigenvalues)):
    stress = torch.func.vmap(torch.func.grad(energy))(uniaxial(stretch))
    modulus = torch.func.vmap(torch.func.hessian(energy))(uniaxial(stretch))
    curves[name] = stress[:, 0, 0] - stretch**-1.5 * stress[:, 1, 1], modulus[:, 1, 2, 1, 2]
    print(f"{name:22} {modulus.isfinite().flatten(1).all(1).sum()} of {len(stretch)} moduli are finite")

# %%
# The modulus between the two equal stretches, where we know it in closed form: half of it at rest is the shear modulus.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.plot(stretch, curves["eg.powm"][0], linewidth=4, alpha=0.4, label="eg.powm")
left.plot(stretch, curves["torch.linalg.eigvalsh"][0], "k--", linewidth=1, label="eigvalsh")
left.axhline(0, color="0.8", zorder=0)
left.set(xlabel="stretch", ylabel="nominal stress", title="first derivatives agree")
left.legend()
right.plot(stretch, curves["eg.powm"][1], linewidth=4, alpha=0.4, label="eg.powm")
theirs = curves["torch.linalg.eigvalsh"][1]
right.plot(stretch, theirs, "k.", markersize=4, label="eigvalsh, where finite")
lost = theirs.isnan()
right.plot(stretch[lost], curves["eg.powm"][1][lost], "x", color="crimson", label="eigvalsh: not a number")
right.plot(1.0, SHEAR, "o", markersize=10, fillstyle="none", color="C2", label="shear modulus at rest")
right.set(xlabel="stretch", ylabel="modulus of shear between the equal stretches", title="second derivatives do not")
right.legend()
plt.show()
