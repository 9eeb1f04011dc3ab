"""The oracle for matrix functions: values and gradients in mpmath's arithmetic of many digits.

The floating-point matrix is taken as exact. Its eigenvalues are separated to far fewer digits than are carried, so that
the plain quotient of the divided difference is right, but for exact ties.
"""

from collections.abc import Callable

import mpmath
import torch
from torch import Tensor

DIGITS = 120

Scalar = Callable[[mpmath.mpf], mpmath.mpf]


def scalar_functions() -> dict[str, tuple[Scalar, Scalar]]:
    """Each function with its derivative."""
    half = mpmath.mpf(1) / 2
    third = mpmath.mpf(0.3)  # the exponent as float64 has it
    return {
        "sqrtm": (mpmath.sqrt, lambda x: half / mpmath.sqrt(x)),
        "inv_sqrtm": (lambda x: 1 / mpmath.sqrt(x), lambda x: -half / mpmath.sqrt(x) ** 3),
        "logm": (mpmath.log, lambda x: 1 / x),
        "expm": (mpmath.exp, mpmath.exp),
        "powm": (lambda x: x**third, lambda x: third * x ** (third - 1)),
    }


def value_and_gradient(name: str, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """``f(A)`` and the cotangent of Hermitian ``A (n, n)`` for the cotangent G of ``f(A)``, rounded to float64.

    For ``"polar"``, of any square real A, ``f(A)`` is the orthogonal factor.
    """
    if name == "polar":
        return _polar_and_gradient(A, G)
    with mpmath.workdps(DIGITS):
        function, derivative = scalar_functions()[name]
        L, V = mpmath.eigsy(_exact(A)) if not A.is_complex() else mpmath.eighe(_exact(A))
        n = A.shape[0]
        f = [function(x) for x in L]
        G_exact = _exact(G)
        rotated = V.H * ((G_exact + G_exact.H) / 2) * V
        for i in range(n):
            for j in range(n):
                # Roots of the characteristic polynomial that agree to half of the digits are one root.
                tied = abs(L[i] - L[j]) <= mpmath.mpf(10) ** (-DIGITS // 2) * max(abs(L[i]), abs(L[j]))
                rotated[i, j] *= derivative(L[i]) if tied else (f[i] - f[j]) / (L[i] - L[j])
        value = V * mpmath.diag(f) * V.H
        return _rounded(value, A.is_complex()), _rounded(V * rotated * V.H, A.is_complex())


def _polar_and_gradient(A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """``U V^T`` of ``A = U S V^T``, and ``U (X / (s_i + s_j)) V^T`` with ``X = U^T G V - V^T G^T U``."""
    with mpmath.workdps(DIGITS):
        U, S, Vh = mpmath.svd_r(_exact(A))
        inner = U.T * _exact(G) * Vh.T
        skew = inner - inner.T
        for i in range(len(S)):
            for j in range(len(S)):
                skew[i, j] /= S[i] + S[j]
        return _rounded(U * Vh, False), _rounded(U * skew * Vh, False)


def _exact(A: Tensor) -> mpmath.matrix:
    number = mpmath.mpc if A.is_complex() else mpmath.mpf
    return mpmath.matrix([[number(x) for x in row] for row in A.tolist()])


def _rounded(A: mpmath.matrix, is_complex: bool) -> Tensor:
    number = complex if is_complex else float
    rows = [[number(A[i, j]) for j in range(A.cols)] for i in range(A.rows)]
    return torch.tensor(rows, dtype=torch.complex128 if is_complex else torch.float64)
