"""Spectral projectors: the derivative sees the gap at the cut, and no other.

The projector ``P = U U^H`` on the span of some eigenvectors commutes with ``A``. With ``Q = I - P``, its derivative is
``dP = X + X^H``, where ``X = Q X P`` solves the Sylvester equation

    X A - A X = Q dA P,

whose solution in the eigenbasis divides by ``l_j - l_i`` with i dropped and j kept: the gaps at the cut.
Differentiating the equation itself gives another of the same kind,

    dX = Z + [X, dP],    Z A - A Z = Q (dB + [B, dP] + [dA, X]) P,

so that every derivative, of any order, is right where eigenvalues meet on one side of the cut. A gradient rule replaces
``1/(l_j - l_i)`` by its weight K, wherever and as often as it occurs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import Errors, check_square
from eigengrad.autograd import Function, constant, hermitian_part, public, save
from eigengrad.eigenbasis import conjugate
from eigengrad.eigh import columns_of, ordinary_problem
from eigengrad.gradients import Exact, GradientRule, Lorentzian, check_rule, in_kernel
from eigengrad.gradients.gaps import pairs
from eigengrad.native import operators
from eigengrad.native.operators import KINDS

__all__ = ["projector"]

Choice = Callable[[Tensor], Tensor]
"""From ascending eigenvalues ``(*, n)`` to booleans: which ones to keep."""


@public
def projector(
    A: Tensor,
    k: int | slice | Choice,
    *,
    gradient: GradientRule = Lorentzian(),  # noqa: B008 (a frozen value)
    solver: solvers.Name | solvers.Solver = "auto",
    B: Tensor | None = None,
    errors: Errors = "raise",
) -> Tensor:
    """The orthogonal projector ``U U^H`` on the span of the k leading eigenvectors, or of a slice of the spectrum.

    It depends on no sign, no phase and no basis chosen among the kept eigenvectors, so a loss of it is well defined.
    Only the gaps between a kept and a dropped eigenvalue matter to its derivative, and only there the rule applies.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        k: how many of the largest eigenvalues to keep, from 0 to n; or a slice of the ascending spectrum, such as
            ``slice(0, 2)`` for the two smallest; or a function from the ascending eigenvalues ``(*, n)`` to booleans,
            such as ``lambda L: L > 0``.
        gradient: a rule for the gaps at the cut. The default is bounded as such a gap closes, and leaves out a share
            ``eps/d^2`` at a gap d relative to the largest magnitude (see :class:`eigengrad.Lorentzian`): with a gap
            that is narrow and open, take ``Exact()``.
        solver, errors: as for :func:`eigengrad.eigh`.
        B: Hermitian positive definite matrices, for the projector on the span of eigenvectors of ``A v = l B v``:
            ``U U^H B``, which is orthogonal in the inner product of B; differentiated in A and in B.

    Returns:
        ``P``, with ``P P = P`` and trace k; Hermitian, without ``B``.

    Shape:
        ``(*, n, n)`` to ``(*, n, n)``. Empty batches and ``n = 0`` are legal.

    Raises:
        TypeError: if ``k`` is none of these; if ``gradient`` is no rule; if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices; if ``k`` does not lie between 0 and n, or the slice has a
            step; for an unknown solver.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.projector(torch.tensor([1.0, 5.0, 5.0]).diag(), 2)
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    check_square(A)
    check_rule(gradient)
    algorithm = solvers.resolve(solver, errors)
    if B is None:
        P, *_ = _Projector.call(A, k, gradient, algorithm)
        return P
    G, ordinary = ordinary_problem(A, B, "L", errors)
    P, *_ = _Projector.call(ordinary, k, gradient, algorithm)
    return torch.linalg.solve_triangular(G.mH, P @ G.mH, upper=True)


def _kept(L: Tensor, k: int | slice | Choice) -> Tensor:
    """1 for the ascending eigenvalues ``(*, n)`` that are kept, 0 for the others."""
    if callable(k):
        chosen = k(L)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool:
            what = chosen.dtype if isinstance(chosen, Tensor) else type(chosen).__name__
            raise TypeError(f"k must return a tensor of booleans, got {what}")
        if chosen.shape != L.shape:
            raise ValueError(
                f"k must return a boolean for each eigenvalue, {tuple(L.shape)}, got shape {tuple(chosen.shape)}"
            )
        return chosen.to(L.dtype)
    n = L.shape[-1]
    columns = columns_of(n, k)
    kept = L.new_ones(columns.stop - columns.start)
    return torch.nn.functional.pad(kept, (columns.start, n - columns.stop)).expand(L.shape)


def _weights(L: Tensor, kept: Tensor, rule: GradientRule) -> Tensor:
    """``W[i, j] = K[i, j]`` for i dropped and j kept, 0 elsewhere."""
    row, column = pairs(kept)
    return torch.where(column > row, rule.kernel(L), 0.0)


def _sylvester(A: Tensor, P: Tensor, B: Tensor, W: Tensor, V: Tensor) -> Tensor:
    return _Sylvester.call(A, P, B, W, V)


class _Projector(Function):
    """``A -> P``; also what is kept, L and V, as constants."""

    @staticmethod
    def forward(
        A: Tensor, k: int | slice | Choice, gradient: GradientRule, solver: solvers.Solver
    ) -> tuple[Tensor, ...]:
        L, V = solver(A)
        kept = _kept(L, k)
        return operators.recompose(V, kept), kept.contiguous(), L, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        A, _, ctx.rule, _ = inputs
        P, *constants = output
        ctx.set_materialize_grads(False)
        save(ctx, A, P, *constants)

    @staticmethod
    def backward(ctx: Any, gP: Tensor | None, *_: None) -> tuple[Tensor | None, None, None, None]:
        return None if gP is None else _Tangent.call(*ctx.saved_tensors, gP, ctx.rule), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, ...]:
        _, _, *constants = ctx.saved_tensors
        return _Tangent.call(*ctx.saved_tensors, dA, ctx.rule), *constant(*constants)


class _Tangent(Function):
    """``A, P, dA -> dP = X + X^H``, for the Hermitian part of dA: its own adjoint in it, at the cost of one product."""

    @staticmethod
    def forward(A: Tensor, P: Tensor, kept: Tensor, L: Tensor, V: Tensor, dA: Tensor, rule: GradientRule) -> Tensor:
        by_rule = (0.0, 0, 0) if type(rule) is Exact else in_kernel(rule, L.dtype)
        if by_rule is not None:
            return operators.pull_back(V, dA, L, kept, KINDS["projector"], *by_rule)
        W = _weights(L, kept, rule)
        return conjugate(V, W + W.mT, dA)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.rule = inputs
        save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, P, kept, L, V, dA = ctx.saved_tensors
        E, W = hermitian_part(dA), _weights(L, kept, ctx.rule)
        gA, gP, _ = _pull_back_sylvester(A, P, E, _sylvester(A, P, E, W, V), W, V, g + g.mH)
        return gA, gP, None, None, None, _Tangent.call(A, P, kept, L, V, g, ctx.rule), None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dP: Tensor, *others: Any) -> Tensor:
        A, P, kept, L, V, E = ctx.saved_tensors
        *_, dE, _ = others
        E, W = hermitian_part(E), _weights(L, kept, ctx.rule)
        X = _sylvester(A, P, E, W, V)
        right = hermitian_part(dE) + _commutator(E, dP) + _commutator(hermitian_part(dA), X)
        dX = _sylvester(A, P, right, W, V) + _commutator(X, dP)
        return dX + dX.mH


class _Sylvester(Function):
    """``A, P, B -> X = Q X P`` with ``X A - A X = Q B P``. ``W`` and ``V`` solve it and carry no derivative."""

    @staticmethod
    def forward(A: Tensor, P: Tensor, B: Tensor, W: Tensor, V: Tensor) -> Tensor:
        return V @ (W * (V.mH @ B @ V)) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, P, B, W, V = inputs
        save(ctx, A, P, B, output, W, V)

    @staticmethod
    def backward(ctx: Any, gX: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        A, P, B, X, W, V = ctx.saved_tensors
        return *_pull_back_sylvester(A, P, B, X, W, V, gX), None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dP: Tensor, dB: Tensor, *_: None) -> Tensor:
        A, P, B, X, W, V = ctx.saved_tensors
        right = dB + _commutator(B, dP) + _commutator(hermitian_part(dA), X)
        return _sylvester(A, P, right, W, V) + _commutator(X, dP)


def _pull_back_sylvester(
    A: Tensor, P: Tensor, B: Tensor, X: Tensor, W: Tensor, V: Tensor, gX: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gB = _sylvester(A, P, gX, W, V)
    return hermitian_part(_commutator(gB, X.mH)), _commutator(B.mH, gB) + _commutator(X.mH, gX), gB


def _commutator(X: Tensor, Y: Tensor) -> Tensor:
    return X @ Y - Y @ X
