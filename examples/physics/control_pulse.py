"""
A control pulse, through exp(-i t H)
====================================

Three coupled spins are steered by a field that is constant on each of a few slices of time. The evolution over a
slice is ``exp(-i t H) = cos(t H) - i sin(t H)``: two functions of a Hermitian matrix, with divided differences that
do not cancel, so that degenerate levels (here: at zero field) cost nothing. The pulse is trained to make a GHZ
state from all spins down.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import eigengrad as eg

SPINS, SLICES, TIME = 3, 24, 0.25
X = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
Y = torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128)
Z = torch.tensor([[1, 0], [0, -1]], dtype=torch.complex128)


def at(operator: Tensor, spin: int) -> Tensor:
    """An operator of one spin, on all of them."""
    product = torch.ones(1, 1, dtype=torch.complex128)
    for place in range(SPINS):
        product = torch.kron(product, operator if place == spin else torch.eye(2, dtype=torch.complex128))
    return product


coupling = sum(at(Z, i) @ at(Z, i + 1) for i in range(SPINS - 1))
controls = torch.stack([at(P, i) for P in (X, Y) for i in range(SPINS)])


def evolution(H: Tensor) -> Tensor:
    """``exp(-i TIME H)`` of Hermitian H ``(*, n, n)``."""
    t = TIME

    def half(x: Tensor, y: Tensor) -> Tensor:
        return t * torch.sinc(t * (x - y) / (2 * torch.pi))

    cosine = eg.matrix_function(H, lambda x: (t * x).cos(), lambda x, y: -(t * (x + y) / 2).sin() * half(x, y))
    sine = eg.matrix_function(H, lambda x: (t * x).sin(), lambda x, y: (t * (x + y) / 2).cos() * half(x, y))
    return cosine - 1j * sine


start = torch.zeros(2**SPINS, dtype=torch.complex128)
start[-1] = 1
ghz = torch.zeros_like(start)
ghz[[0, -1]] = 0.5**0.5


def states(pulse: Tensor) -> Tensor:
    """The state after each slice, ``(SLICES + 1, 8)``."""
    path = [start]
    for U in evolution(coupling + torch.einsum("sc,cij->sij", pulse.to(torch.complex128), controls)):
        path.append(U @ path[-1])
    return torch.stack(path)


# %%
# The pulse begins at zero, where the Hamiltonian's levels are degenerate.

pulse = torch.zeros(SLICES, len(controls), dtype=torch.float64, requires_grad=True)
with torch.no_grad():
    pulse += 0.05 * torch.randn(pulse.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pulse[0] = 0
optimizer = torch.optim.Adam([pulse], lr=0.05)
fidelities = []
for _ in range(150):
    fidelity = (ghz.conj() @ states(pulse)[-1]).abs().square()
    optimizer.zero_grad()
    (1 - fidelity).backward()
    optimizer.step()
    fidelities.append(fidelity.item())
print(f"fidelity {fidelities[-1]:.6f}")

with torch.no_grad():
    probabilities = states(pulse).abs().square()
figure, axes = plt.subplot_mosaic("AB;CC", figsize=(8, 7), layout="constrained")
axes = list(axes.values())
axes[0].semilogy([1 - value for value in fidelities])
axes[0].set(xlabel="step", title="infidelity")
time = TIME * torch.arange(SLICES + 1)
for channel, name in enumerate(f"{axis}{spin + 1}" for axis in "XY" for spin in range(SPINS)):
    axes[1].stairs(pulse[:, channel].detach(), time, label=name, baseline=None)
axes[1].set(xlabel="time", title="the pulse")
axes[1].legend(ncols=2, fontsize=8)
axes[2].stackplot(time, probabilities.T, labels=[f"|{k:03b}>" for k in range(8)])
axes[2].set(xlabel="time", title="probabilities of the eight basis states", xlim=(0, TIME * SLICES), ylim=(0, 1))
axes[2].legend(loc="center left", fontsize=9)
plt.show()
