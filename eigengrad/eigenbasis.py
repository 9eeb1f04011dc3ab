"""Eigenvalues and eigenvectors as one value, and the four products that everything here is made of."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.autograd import Function, hermitian_part, save
from eigengrad.gradients import GradientRule, in_kernel
from eigengrad.native import operators
from eigengrad.native.operators import KINDS

__all__ = ["Eigenbasis", "conjugate"]

_SMALL = 64
"""Up to this n a backward pass for some eigenvectors is faster as one operator for all than as products of a few."""


class Eigenbasis(NamedTuple):
    """Of Hermitian matrices ``A = V diag(L) V^H``: L ``(*, n)``, real, and V ``(*, n, n)``, in columns."""

    L: Tensor
    V: Tensor

    @staticmethod
    def for_function(A: Tensor, solver: solvers.Solver) -> "Eigenbasis":
        """As accurate as a function of ``A`` wants it, where the solver leaves a choice.

        Eigenvalues of matrices in single precision may then be out of order by their rounding errors.
        """
        if isinstance(solver, solvers.Auto):
            return Eigenbasis(*operators.eigh(A, False, True, solver.strict))
        return Eigenbasis(*solver(A))

    def recompose(self, x: Tensor) -> Tensor:
        """``V diag(x) V^H`` for real ``x (*, n)``."""
        return operators.recompose(self.V, x)

    def conjugate(self, W: Tensor, B: Tensor) -> Tensor:
        """:func:`conjugate`."""
        return conjugate(self.V, W if W.is_complex() else W.to(self.L.dtype), B)

    def pull_back(
        self, rule: GradientRule, gL: Tensor | None, gV: Tensor | None, columns: slice | None = None
    ) -> Tensor | None:
        """The cotangent of A from those of eigenvalues ``(*, k)`` and eigenvectors ``(*, n, k)``, all or some."""
        if gL is None and gV is None:
            return None
        n = self.V.shape[-1]
        if columns is not None and n <= _SMALL:
            rest = (columns.start, n - columns.stop)
            gL = None if gL is None else torch.nn.functional.pad(gL, rest)
            gV = None if gV is None else torch.nn.functional.pad(gV, rest)
            columns = None
        return _PullBack.call(*self, gL, gV, rule, columns)

    def push_forward(self, rule: GradientRule, dA: Tensor) -> tuple[Tensor, Tensor]:
        """The tangents of L and V from that of A."""
        B = self.V.mH @ hermitian_part(dA) @ self.V
        return B.diagonal(dim1=-2, dim2=-1).real, self.V @ (rule.kernel(self.L) * B)


def conjugate(V: Tensor, W: Tensor, B: Tensor) -> Tensor:
    """``V (W o (V^H herm(B) V)) V^H`` for symmetric ``W``, that broadcasts, and any ``B (*, n, n)``."""
    if W.is_complex():
        return V @ (W * (V.mH @ hermitian_part(B) @ V)) @ V.mH
    return operators.pull_back(V, B, W.expand(V.shape), None, KINDS["function"])


def _formula(
    L: Tensor, V: Tensor, gL: Tensor | None, gV: Tensor | None, rule: GradientRule, columns: slice | None
) -> Tensor:
    """The same in torch's own operators, which can be differentiated."""
    U = V if columns is None else V[..., columns]
    rotated = torch.zeros_like(U) if gL is None else U * gL.unsqueeze(-2)
    if gV is not None:
        K = rule.kernel(L)
        rotated = rotated + V @ ((K if columns is None else K[..., columns]) * (V.mH @ gV))
    return hermitian_part(rotated @ U.mH)


class _PullBack(Function):
    """``L, V, gL, gV -> gA``, linear in the cotangents, differentiable in all."""

    @staticmethod
    def forward(
        L: Tensor, V: Tensor, gL: Tensor | None, gV: Tensor | None, rule: GradientRule, columns: slice | None
    ) -> Tensor:
        if columns is not None:
            return _formula(L, V, gL, gV, rule, columns)
        if gV is None:
            assert gL is not None
            return operators.recompose(V, gL)
        if by_rule := in_kernel(rule, L.dtype):
            return operators.pull_back(V, gV, L, gL, KINDS["rule"], *by_rule)
        return operators.pull_back(V, gV, rule.kernel(L).to(L.dtype).expand(V.shape), gL, KINDS["eigenvectors"])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.rule, ctx.columns = inputs
        ctx.present = [tensor is not None for tensor in tensors]
        save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        function, given = _of_given(ctx)
        cotangents = iter(torch.func.vjp(function, *given)[1](g))
        return (*(next(cotangents) if there else None for there in ctx.present), None, None)

    @staticmethod
    def push_forward(ctx: Any, *tangents: Any) -> Tensor:
        function, given = _of_given(ctx)
        moving = [
            torch.zeros_like(at) if tangent is None else tangent
            for tangent, at in zip(
                [tangent for tangent, there in zip(tangents[:4], ctx.present, strict=True) if there], given, strict=True
            )
        ]
        # torch has no forward mode within dual numbers. The pull-back of the pull-back, which is linear, is the same.
        pull_back: Any = torch.func.vjp(function, *given)[1]
        push_forward: Any = torch.func.vjp(pull_back, torch.zeros_like(ctx.saved_tensors[1]))[1]
        return push_forward(tuple(moving))[0]


def _of_given(ctx: Any) -> tuple[Any, list[Tensor]]:
    """:func:`_formula` as a function of the tensors that are there, and these."""

    def function(*tensors: Tensor) -> Tensor:
        at = iter(tensors)
        L, V, gL, gV = (next(at) if there else None for there in ctx.present)
        assert L is not None and V is not None
        return _formula(L, V, gL, gV, ctx.rule, ctx.columns)

    return function, [tensor for tensor in ctx.saved_tensors if tensor is not None]
