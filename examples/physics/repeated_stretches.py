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


def lattice(size: int = 11, width: float = 0.045) -> tuple[Tensor, Tensor]:
    """Stretches ``(points, 3)`` that keep the volume, and where they lie in the plane of their logarithms."""
    counts = torch.cartesian_prod(torch.arange(-size, size + 1), torch.arange(-size, size + 1))
    counts = torch.cat([counts, -counts.sum(1, keepdim=True)], 1)
    counts = counts[counts.abs().amax(1) <= size]
    basis = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 2.0]], dtype=torch.float64)
    logarithms = width * counts.double()
    return logarithms.exp(), logarithms @ torch.nn.functional.normalize(basis, dim=1).T


# %%
# The modulus of shear between the first two axes, ``d^2 W / dF_12^2``, for every triple in one ``vmap``. In the middle
# is rest, where it is the shear modulus; on three lines through it, two of the stretches are equal.

stretches, places = lattice()
moduli = {}
for name, energy in (("eg.powm", by_powers), ("torch.linalg.eigvalsh", by_eigenvalues)):
    tangents = torch.func.vmap(torch.func.hessian(energy))(stretches.diag_embed())
    moduli[name] = tangents[:, 0, 1, 0, 1]
    print(f"{name:22} {tangents.isfinite().flatten(1).all(1).sum()} of {len(stretches)} moduli are finite")
rest = moduli["eg.powm"][places.norm(dim=1).argmin()].item()
print(f"at rest {rest:.12f}, the shear modulus is {SHEAR}")

figure, axes = plt.subplots(1, 2, figsize=(8, 4.9), layout="constrained")
for axis, (name, values) in zip(axes, moduli.items(), strict=True):
    lost = ~values.isfinite()
    shown = axis.scatter(*places[~lost].T, c=values[~lost], cmap="viridis", marker="h", s=118, vmin=0.6, vmax=1.6)
    axis.plot(*places[lost].T, "x", color="crimson", ms=7, mew=2)
    for pair, corner in (("1 = 2", (0, -0.87)), ("1 = 3", (-0.866, 0.5)), ("2 = 3", (0.866, 0.5))):
        axis.annotate(pair, 1.1 * places.norm(dim=1).max() * torch.tensor(corner), ha="center", va="center", fontsize=9)
    axis.set(title=f"{name}: {lost.sum()} not a number" if lost.any() else name, aspect="equal")
    axis.axis("off")
figure.colorbar(shown, ax=axes, location="bottom", shrink=0.5, label="modulus of shear between axes 1 and 2")
plt.show()
