"""Every public function of matrices, as a map from positive definite ``A (*, n, n)``, any n, to a tuple of tensors."""

from collections.abc import Callable

import torch
from torch import Tensor

import eigengrad as eg

Results = tuple[Tensor, ...]


def positive_definite(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Random matrices of this shape with separated eigenvalues between 1/2 and ``n + 1/2``."""
    generator = torch.Generator().manual_seed(seed)
    n = shape[-1]
    L = torch.arange(n).double() + torch.empty(shape[:-1], dtype=torch.float64).uniform_(0.5, 1.0, generator=generator)
    return eg.testing.hermitian(L, dtype=dtype, generator=generator)


def shifted(A: Tensor) -> Tensor:
    """A matrix that is not symmetric, nor square if n is odd."""
    return (A + A.triu() / 2)[..., : A.shape[-1] - A.shape[-1] // 3]


LARGEST_TWO = slice(-2, None)
"""Or one of one."""


FUNCTIONS: dict[str, Callable[[Tensor], Results]] = {
    "eigh": lambda A: tuple(eg.eigh(A)),
    "eigh_generalised": lambda A: tuple(eg.eigh(A, B=2 * A + A @ A)),
    "topk_eigh": lambda A: tuple(eg.topk_eigh(A, LARGEST_TWO)),
    "projector": lambda A: (eg.projector(A, LARGEST_TWO),),
    "svd": lambda A: tuple(eg.svd(shifted(A))),
    "polar": lambda A: tuple(eg.polar(shifted(A))),
    "sqrtm": lambda A: (eg.sqrtm(A),),
    "inv_sqrtm": lambda A: (eg.inv_sqrtm(A),),
    "logm": lambda A: (eg.logm(A),),
    "expm": lambda A: (eg.expm(-A),),
    "powm": lambda A: (eg.powm(A, 0.3),),
    "sqrtm_lifted": lambda A: (eg.sqrtm(A, rtol=0.4),),
    "pinv": lambda A: (eg.pinv(shifted(A)),),
    "matrix_function": lambda A: (eg.matrix_function(A, lambda x: x**3, lambda x, y: x * x + x * y + y * y),),
}
"""Real or complex."""

FUNCTIONS_OF_DATA: dict[str, Callable[[Tensor], Results]] = {
    "procrustes": lambda A: tuple(eg.procrustes(A, A @ A + A.flip(-1), scaling=True)),
    "whiten": lambda A: (eg.whiten(observations(A), eps=0.1, group_size=min(3, A.shape[-1])),),
    "denoise": lambda A: (eg.denoise(observations(A), rank=1, eps=0.1),),
    "pool_covariance": lambda A: (eg.pool_covariance(observations(A).mT.unsqueeze(0), eps=0.1),),
}
"""Real only; the last three of one matrix, or of all matrices together."""


def observations(A: Tensor) -> Tensor:
    """``(N, n)``, correlated."""
    n = A.shape[-1]
    rows = (A + A.triu()).reshape(-1, n)
    return torch.cat([rows, rows.square() / n, rows.flip(-1).cos()])


def weigh(results: Results) -> Tensor:
    """A real loss that gives every entry of every result a cotangent of its own."""
    total = torch.zeros((), dtype=results[0].dtype.to_real(), device=results[0].device)
    for result in results:
        weights = torch.linspace(-1.0, 2.0, result.numel(), dtype=total.dtype, device=total.device)
        weighted = weights.reshape(result.shape) * result
        total = total + (weighted.real + 2 * weighted.imag if result.is_complex() else weighted).sum()
    return total


def gradient(function: Callable[[Tensor], Results], A: Tensor) -> Tensor:
    leaf = A.detach().clone().requires_grad_()
    return torch.autograd.grad(weigh(function(leaf)), leaf)[0]
