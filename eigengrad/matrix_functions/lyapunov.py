"""Lyapunov's equation ``H Y + Y H = B``, by the eigenvectors of H, with every derivative.

Its solution divides by ``h_i + h_j`` in the eigenbasis, never by a difference. The equation is linear in B with the
equation for ``H^H = H`` as its adjoint, and differentiating it in H gives it again: so whatever is composed of such
solutions and of products has derivatives of any order that are right where eigenvalues meet.
"""

from typing import Any

from torch import Tensor

from eigengrad.autograd import Function, save
from eigengrad.native import operators
from eigengrad.native.operators import KINDS

__all__ = ["Lyapunov"]


class Lyapunov(Function):
    """``H, B -> Y`` for Hermitian H. Its eigenvectors V and the weights solve the equation, and carry no derivative.

    The weights are the eigenvalues ``(*, n)`` of H, for the Hermitian part of B; or ``1/(h_i + h_j)``, ``(*, n, n)``,
    with 0 for what is to be left out, for all of B.
    """

    @staticmethod
    def forward(H: Tensor, B: Tensor, weights: Tensor, V: Tensor) -> Tensor:
        if weights.dim() < V.dim():
            return operators.pull_back(V, B, weights, None, KINDS["square_root"])
        return V @ (weights * (V.mH @ B @ V)) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        H, _, weights, V = inputs
        save(ctx, H, output, weights, V)

    @staticmethod
    def backward(ctx: Any, gY: Tensor) -> tuple[Tensor, Tensor, None, None]:
        H, Y, weights, V = ctx.saved_tensors
        gB = Lyapunov.call(H, gY, weights, V)
        return -(gB @ Y.mH + Y.mH @ gB), gB, None, None

    @staticmethod
    def push_forward(ctx: Any, dH: Tensor, dB: Tensor, *_: None) -> Tensor:
        H, Y, weights, V = ctx.saved_tensors
        return Lyapunov.call(H, dB - dH @ Y - Y @ dH, weights, V)
