"""Eigendecomposition with a gradient of the user's choice."""

from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.function import Function, hermitian_part
from eigengrad.gradients import GradientRule, PowerIteration, Unrolled, check_rule

__all__ = ["eigh"]


def eigh(
    A: Tensor,
    UPLO: str = "L",
    *,
    gradient: GradientRule | Unrolled = PowerIteration(),  # noqa: B008 (a frozen value)
    solver: str | solvers.Solver = "auto",
) -> torch.return_types.linalg_eigh:  # type: ignore[name-defined]
    r"""Eigenvalues and eigenvectors of Hermitian matrices, differentiable where eigenvalues meet.

    A drop-in replacement for :func:`torch.linalg.eigh` with two choices more: how the values are computed
    (``solver``) and how they are differentiated (``gradient``). The gradient is

    .. math:: g_A = V (\mathrm{diag}(g_L) + K \circ (V^H g_V)) V^H, \text{ made Hermitian,}

    with the matrix K of the rule (see :mod:`eigengrad.gradients`). All of PyTorch's transforms apply: second
    derivatives, ``torch.func``, ``torch.compile``, ``torch.export``.

    Eigenvectors are defined up to sign (or phase, for complex input); a loss must not depend on it.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128.
        UPLO: the triangle of ``A`` that is read, ``"L"`` or ``"U"``. The other one is taken to be its adjoint.
        gradient: a rule, or :class:`eigengrad.Unrolled` with the power iteration solver. The default gives the paper's
            gradient, which is bounded by ``19 / abs(eigenvalue)``. For functions of the whole matrix, such as the
            inverse square root, prefer :mod:`eigengrad.matrix_functions`, which need no rule.
        solver: ``"auto"``, ``"eigh"``, ``"svd"`` (positive semidefinite input), ``"qr"``, ``"power_iteration"``, or an
            object of :mod:`eigengrad.solvers`.

    Returns:
        A named tuple ``(eigenvalues, eigenvectors)``, as torch's.

    Shape:
        ``A (*, n, n)``, eigenvalues ``(*, n)``, real and ascending, eigenvectors ``(*, n, n)`` in columns. Empty
        batches and ``n = 0`` are legal.

    Raises:
        TypeError: if ``gradient`` or ``solver`` is not one.
        ValueError: for an unknown solver, or for ``Unrolled()`` with a solver that autograd cannot walk.
        torch.linalg.LinAlgError: if the solver does not converge, for example on NaN.

    Example:
        >>> import torch, eigengrad as eg
        >>> A = torch.eye(3, requires_grad=True)
        >>> L, V = eg.eigh(A)
        >>> (L * V[0] ** 2).sum().backward()
        >>> bool(A.grad.isfinite().all())
        True
    """
    algorithm = solvers.resolve(solver)
    if isinstance(gradient, Unrolled):
        if not algorithm.differentiable:
            raise ValueError(
                f"gradient=Unrolled() needs a solver written in differentiable steps, got solver={solver!r}; "
                "use solver='power_iteration', or one of the gradient rules"
            )
        return torch.return_types.linalg_eigh(algorithm(A, UPLO))  # type: ignore[attr-defined]
    check_rule(gradient)
    return torch.return_types.linalg_eigh(_Eigh.call(A, UPLO, gradient, algorithm))  # type: ignore[attr-defined]


class _Eigh(Function):
    """One function for every rule and every solver. Saves its outputs, so backward is differentiable in turn."""

    @staticmethod
    def forward(A: Tensor, UPLO: str, gradient: GradientRule, solver: solvers.Solver) -> tuple[Tensor, Tensor]:
        return solver(A, UPLO)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, _, ctx.gradient, _ = inputs
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.set_materialize_grads(False)  # a loss of eigenvalues alone must not meet K at all

    @staticmethod
    def backward(ctx: Any, gL: Tensor | None, gV: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        L, V = ctx.saved_tensors
        return pull_back(ctx.gradient, L, V, gL, gV), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, Tensor]:
        L, V = ctx.saved_tensors
        return push_forward(ctx.gradient, L, V, dA)


def pull_back(gradient: GradientRule, L: Tensor, V: Tensor, gL: Tensor | None, gV: Tensor | None) -> Tensor | None:
    """Cotangent of ``A (*, n, n)`` from those of the eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)``."""
    if gV is None:
        return None if gL is None else (V * gL.unsqueeze(-2)) @ V.mH
    rotated = V @ (gradient.kernel(L) * (V.mH @ gV))
    if gL is not None:
        rotated = torch.addcmul(rotated, V, gL.unsqueeze(-2).to(V.dtype))
    gA = rotated @ V.mH
    return (gA + gA.mH).mul_(0.5)


def push_forward(gradient: GradientRule, L: Tensor, V: Tensor, dA: Tensor) -> tuple[Tensor, Tensor]:
    """Tangents of the eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)`` from that of ``A (*, n, n)``."""
    B = V.mH @ hermitian_part(dA) @ V
    return B.diagonal(dim1=-2, dim2=-1).real, V @ (gradient.kernel(L) * B)
