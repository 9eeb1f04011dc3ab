"""The symmetric QR algorithm, batched: tridiagonal form, shifted sweeps, deflation.

One matrix product after the other on the whole batch, with ``torch.linalg.qr`` for the factorisations. The matrices of
a batch are deflated in step: row ``m`` is swept until it has split off in every matrix, and those where it already has
wait. That keeps one active size for the batch and costs little, since two or three sweeps per row are usual.

Source: Golub, Van Loan, *Matrix Computations*, 4th edition, sections 8.3.1 and 8.3.3; Wilkinson's shift.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eigengrad.solvers.base import check_triangle, hermitian

__all__ = ["QR"]


@dataclass(frozen=True)
class QR:
    """The shifted QR algorithm with deflation on a tridiagonal form.

    Written for comparison with the literature's "QR" baseline; :class:`Eigh` is faster.

    Args:
        max_sweeps: sweeps allowed for one eigenvalue before ``torch.linalg.LinAlgError`` is raised. Two or three are
            usual; 30 is LAPACK's allowance.
    """

    differentiable: ClassVar[bool] = False
    max_sweeps: int = 30

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        check_triangle(A, UPLO)
        return solve(hermitian(A, UPLO), self.max_sweeps)


@torch.library.custom_op("eigengrad::qr_algorithm", mutates_args=())
def solve(A: Tensor, max_sweeps: int) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)`` of exactly Hermitian ``A (*, n, n)``.

    A NaN or infinity spoils the matrix that holds it and no other. An operator of its own, since the number of sweeps
    depends on the data: ``torch.compile`` and ``torch.export`` pass it through.

    Raises:
        torch.linalg.LinAlgError: if a row needs more than ``max_sweeps`` sweeps.
    """
    if A.shape[-1] == 0:
        return A.new_empty(A.shape[:-1], dtype=A.real.dtype), A.clone()
    largest = A.abs().amax(dim=(-2, -1), keepdim=True)  # LAPACK's complex QR gives NaN on entries near underflow
    scale = torch.where(largest > 0, largest, 1.0)
    T, V = _tridiagonalise(A / scale)
    for m in range(A.shape[-1] - 1, 0, -1):
        sweeps = 0
        while (active := _coupled(T, m)).any():
            if sweeps == max_sweeps:
                raise torch.linalg.LinAlgError(
                    f"eigengrad.solvers.QR: {int(active.sum())} of {active.numel()} matrices did not converge within "
                    f"{max_sweeps} sweeps at row {m}; raise max_sweeps, or use solver='eigh'"
                )
            _sweep(T, V, m, active)
            sweeps += 1
    L, order = (T.diagonal(dim1=-2, dim2=-1).real * scale[..., 0]).sort(dim=-1)
    return L, V.gather(-1, order.unsqueeze(-2).expand(V.shape)).contiguous()


@solve.register_fake
def _(A: Tensor, max_sweeps: int) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape[:-1], dtype=A.real.dtype), A.new_empty(A.shape)


@solve.register_vmap
def _(_: Any, in_dims: tuple[int, None], A: Tensor, max_sweeps: int) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return solve(A.movedim(in_dims[0], 0), max_sweeps), (0, 0)


def _tridiagonalise(A: Tensor) -> tuple[Tensor, Tensor]:
    """``T, Q`` with ``A = Q T Q^H``, T Hermitian and tridiagonal, by n - 2 Householder reflections."""
    T = A.clone()
    Q = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape).clone()
    for k in range(A.shape[-1] - 2):
        reflector = _householder(T[..., k + 1 :, k])
        T = _reflect(_reflect(T, reflector, k + 1).mH, reflector, k + 1).mH
        Q = _reflect(Q.mH, reflector, k + 1).mH
    return ((T + T.mH) / 2).triu(-1).tril(1), Q


def _householder(x: Tensor) -> Tensor:
    """Unit vector ``u (*, m, 1)`` for which ``(I - 2 u u^H) x`` has a first entry only; zero if ``x`` already is so.

    The largest entry scales ``x`` first: squares of 1e-30 would underflow in float32.
    """
    largest = x.abs().amax(-1, keepdim=True)
    negligible = torch.finfo(x.dtype).tiny / torch.finfo(x.dtype).eps  # complex division fails near underflow
    u = torch.where(largest > negligible, x, 0.0) / torch.where(largest > negligible, largest, 1.0)
    norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    head = u[..., :1]
    small = head.abs() <= negligible
    phase = torch.where(small, torch.ones_like(head), head / torch.where(small, 1.0, head.abs()))
    u = torch.cat([head + phase * norm, u[..., 1:]], dim=-1)
    length = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    return (u / torch.where(length > 0, length, 1.0)).unsqueeze(-1)


def _reflect(M: Tensor, u: Tensor, first: int) -> Tensor:
    """``(I - 2 u u^H) M``, where ``u`` acts on the rows from ``first`` on."""
    rows = M[..., first:, :]
    return torch.cat([M[..., :first, :], rows - 2 * u @ (u.mH @ rows)], dim=-2)


def _coupled(T: Tensor, m: int) -> Tensor:
    """Which matrices still couple row ``m`` to the row above it, by the usual relative test. False for NaN."""
    eps = torch.finfo(T.dtype).eps
    neighbours = T[..., m, m].abs() + T[..., m - 1, m - 1].abs()
    coupling = T[..., m, m - 1].abs()
    return (coupling > eps * neighbours) & (coupling > torch.finfo(T.dtype).tiny)


def _sweep(T: Tensor, V: Tensor, m: int, active: Tensor) -> None:
    """One shifted QR step on the leading block of size ``m + 1`` of the ``active`` matrices, in place."""
    size, moving = m + 1, active[..., None, None]
    block, columns = T[..., :size, :size], V[..., :size]
    shift = _wilkinson_shift(T, m)[..., None, None] * torch.eye(size, dtype=T.dtype, device=T.device)
    Q, R = torch.linalg.qr(block - shift)
    swept = R @ Q + shift
    # In exact arithmetic the step keeps the tridiagonal form; dropping what rounding adds keeps it here too.
    swept = ((swept + swept.mH) / 2).triu(-1).tril(1)
    block.copy_(torch.where(moving, swept, block))
    columns.copy_(torch.where(moving, columns @ Q, columns))


def _wilkinson_shift(T: Tensor, m: int) -> Tensor:
    """The eigenvalue of the trailing 2x2 block nearest to its last entry."""
    c, b = T[..., m, m].real, T[..., m, m - 1].abs()
    half = (T[..., m - 1, m - 1].real - c) / 2
    root = torch.hypot(half, b)
    sign = torch.where(half >= 0, 1.0, -1.0)
    return c - sign * b * (b / torch.where(root > 0, half.abs() + root, 1.0))
