"""The oracle: the paper's procedure taken literally, stage after stage, with autograd walking every step.

Wang et al., NeurIPS 2019, section 3: the forward pass gives the eigenvectors as constants; each is then fed to power
iteration as the start, which leaves it where it is and attaches a gradient to it; then the matrix is deflated.
"""

import torch
from torch import Tensor


def eigh(A: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(n,)`` and eigenvectors ``(n, n)`` of Hermitian ``A (n, n)``, ascending, signs free."""
    L, starts = torch.linalg.eigh(A.detach())
    n = L.shape[-1]
    # Decreasing magnitude; of two equal magnitudes the later one first, which is the rules' convention.
    by_magnitude = n - 1 - L.abs().flip(-1).argsort(descending=True, stable=True)
    M = A
    values, vectors = [], []
    for stage in range(n):
        column = by_magnitude[stage].reshape(1, 1).expand(n, 1)
        v = starts.gather(-1, column)
        for _ in range(iterations):
            image = M @ v
            v = image / torch.linalg.vector_norm(image)
        image = M @ v
        values.append((v.mH @ image).real.reshape(1))
        vectors.append(v)
        M = M - image @ v.mH
    ascending = by_magnitude.argsort()
    columns = torch.cat(vectors, dim=-1)
    return torch.cat(values).gather(-1, ascending), columns.gather(-1, ascending.unsqueeze(0).expand(n, n))
