r"""The map of optimal transport between centred Gaussians, with every derivative, for matrices of any rank.

Of ``A = G G^H`` and ``B = H H^H`` a singular value decomposition ``H^H G = P diag(c) W^H``, without its zeros, gives

    X = G W,   Y = H P:    A Y = X c,   B X = Y c,   Y^H X = c.

The fidelity is ``sum c``, its derivatives in A and B half of the maps ``T = Y c^-1 Y^H``, which carries A to B, and
``S = X c^-1 X^H``, which carries B back. These pairs, those of ``A B`` that are not zero, are analytic functions of A
and B, and all that counts where the rank of ``A B`` does not rise. Their perturbation theory, with ``E = I - T S``,
makes the derivative of T solve

    M dT + dT M^H = R - E R E^H,   M = T A,   R = dB - T dA T + E B E^H dA J + J dA E B E^H,   J = Y c^-2 Y^H,

and J solves it for 2 T. Where A and B are definite E is zero, and this is Lyapunov's equation. Its own derivative is
another such equation: every order, exact where eigenvalues meet, and where A = B.

Source: Bhatia, Jain, Lim, *On the Bures-Wasserstein distance between positive definite matrices*, 2019; Peyré and
Cuturi, *Computational Optimal Transport*, 2019, remark 2.31. The derivative at rank deficiency is our own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad.autograd import Function, hermitian_part, save

__all__ = ["Pairs", "SquaredDistance", "Transport", "reciprocal"]


class Pairs(NamedTuple):
    """Of A and B, as above, n of each, those that do not count with a c of zero; they carry no derivative."""

    X: Tensor
    Y: Tensor
    c: Tensor


def reciprocal(x: Tensor) -> Tensor:
    """``1/x``, and 0 for 0."""
    return torch.where(x > 0, 1 / torch.where(x > 0, x, 1.0), 0.0)


class SquaredDistance(Function):
    """``A, B -> tr A + tr B - 2 sum c``, whose value is given, by their pairs."""

    @staticmethod
    def forward(A: Tensor, B: Tensor, value: Tensor, X: Tensor, Y: Tensor, c: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, B, _, *pairs = inputs
        save(ctx, A, B, *pairs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gA, gB = _gradient(*ctx.saved_tensors)
        g = g[..., None, None]
        return g * gA, g * gB, None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dB: Tensor, *_: None) -> Tensor:
        gA, gB = _gradient(*ctx.saved_tensors)
        return ((gA.conj() * dA).sum((-2, -1)) + (gB.conj() * dB).sum((-2, -1))).real


def _gradient(A: Tensor, B: Tensor, X: Tensor, Y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return identity - Transport.call(A, B, X, Y, c), identity - Transport.call(B, A, Y, X, c)


class Transport(Function):
    """``A, B -> T`` by their pairs. That of ``B, A`` by ``Y, X, c`` is S."""

    @staticmethod
    def forward(A: Tensor, B: Tensor, X: Tensor, Y: Tensor, c: Tensor) -> Tensor:
        return Y * reciprocal(c).unsqueeze(-2) @ Y.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        save(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, gT: Tensor) -> tuple[Tensor | None, ...]:
        A, B, X, Y, c, T = ctx.saved_tensors
        M, E, J, rest = _at(A, B, T, Pairs(X, Y, c))
        Z = _Solve.call(M.mH, E.mH, hermitian_part(gT), Y, X, c)
        outside = rest @ Z @ J
        return outside + outside.mH - T @ Z @ T, Z - E.mH @ Z @ E, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dB: Tensor, *_: None) -> Tensor:
        A, B, X, Y, c, T = ctx.saved_tensors
        M, E, J, rest = _at(A, B, T, Pairs(X, Y, c))
        outside = rest @ dA @ J
        R = dB - E @ dB @ E.mH - T @ dA @ T + outside + outside.mH
        return _Solve.call(M, E, hermitian_part(R), X, Y, c)


def _at(A: Tensor, B: Tensor, T: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """M, E, J and ``E B E^H``, as functions of A and B."""
    X, Y, c = pairs
    M = T @ A
    E = torch.eye(T.shape[-1], dtype=T.dtype, device=T.device) - T @ Transport.call(B, A, Y, X, c)
    E = E * _is_singular(c)
    return M, E, _Solve.call(M, E, 2 * T, X, Y, c), E @ B @ E.mH


class _Solve(Function):
    """``M, E, R -> Q`` with ``M Q + Q M^H + u E Q E^H = R``, for Hermitian R and Q.

    With a unit u, of the size of c, it determines all of Q, and its adjoint is that for ``M^H`` and ``E^H``.
    """

    @staticmethod
    def forward(M: Tensor, E: Tensor, R: Tensor, X: Tensor, Y: Tensor, c: Tensor) -> Tensor:
        image, over_c = E @ R, reciprocal(c).unsqueeze(-2)
        within = reciprocal(c.unsqueeze(-1) + c.unsqueeze(-2)) * (X.mH @ R @ X) / 2
        half = ((Y * over_c) @ within + (image @ X) * over_c) @ (Y * over_c).mH
        return half + half.mH + image @ E.mH / _unit(c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        M, E, _, *pairs = inputs
        save(ctx, M, E, output, *pairs)

    @staticmethod
    def backward(ctx: Any, gQ: Tensor) -> tuple[Tensor | None, ...]:
        M, E, Q, X, Y, c = ctx.saved_tensors
        Z = _Solve.call(M.mH, E.mH, hermitian_part(gQ), Y, X, c)
        return -2 * Z @ Q, -2 * _unit(c) * (Z @ E @ Q), Z, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dM: Tensor, dE: Tensor, dR: Tensor, *_: None) -> Tensor:
        M, E, Q, X, Y, c = ctx.saved_tensors
        change = dM @ Q + _unit(c) * (dE @ Q @ E.mH)
        return _Solve.call(M, E, hermitian_part(dR - change - change.mH), X, Y, c)


def _is_singular(c: Tensor) -> Tensor:
    """1 where there are null vectors, 0 where there are none, of which E would be the rounding."""
    return (c == 0).any(-1)[..., None, None].to(c.dtype)


def _unit(c: Tensor) -> Tensor:
    largest = c.amax(-1) if c.shape[-1] else c.sum(-1)
    return torch.where(largest > 0, largest, 1.0)[..., None, None]
