"""Eigendecomposition with a gradient of the user's choice."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import Errors, as_integer, check_errors, check_square
from eigengrad.autograd import Function, has_values, hermitian_part, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.gradients import GradientRule, Lorentzian, Unrolled, check_rule
from eigengrad.phase import check_phase
from eigengrad.solvers.base import hermitian

__all__ = ["EighResult", "columns_of", "eigh", "mirrored", "ordinary_problem", "topk_eigh"]


class EighResult(NamedTuple):
    """Of :func:`eigh` and :func:`topk_eigh`."""

    eigenvalues: Tensor
    eigenvectors: Tensor


@public
def eigh(
    A: Tensor,
    UPLO: str = "L",
    *,
    gradient: GradientRule | Unrolled = Lorentzian(),  # noqa: B008 (a frozen value)
    solver: solvers.Name | solvers.Solver = "auto",
    B: Tensor | None = None,
    errors: Errors = "raise",
) -> EighResult:
    r"""Eigenvalues and eigenvectors of Hermitian matrices, differentiable where eigenvalues meet.

    A drop-in replacement for :func:`torch.linalg.eigh` with two choices more: how the values are computed
    (``solver``) and how they are differentiated (``gradient``). The gradient is

    .. math:: g_A = V (\mathrm{diag}(g_L) + K \circ (V^H g_V)) V^H, \text{ made Hermitian,}

    with the matrix K of the rule (see :mod:`eigengrad.gradients`). All of PyTorch's transforms apply: second
    derivatives, ``torch.func``, ``torch.compile``, ``torch.export``.

    Eigenvectors are defined up to sign (or phase, for complex input); a loss must not depend on it. On a CPU, the
    backward pass of complex input raises ``RuntimeError`` as torch's does, but relative to the cotangent's size (over
    1% of it).

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128.
        UPLO: the triangle of ``A`` that is read, ``"L"`` or ``"U"``, or in lower case. The other one is taken to be
            its adjoint.
        gradient: a rule, or :class:`eigengrad.Unrolled` with the power iteration solver. The default is exact to
            rounding where the gaps are wide, and bounded where they close; a loss of the space that tied vectors span
            has its exact gradient there, too. For functions of the whole matrix, such as the inverse square root,
            prefer :mod:`eigengrad.matrix_functions`, which need no rule; nothing else has the share of the gradient
            *between* tied vectors that are weighted by functions of their eigenvalues.
        solver: ``"auto"``, ``"eigh"``, ``"svd"`` (positive semidefinite input), ``"qr"``, ``"power_iteration"``, or an
            object of :mod:`eigengrad.solvers`.
        B: Hermitian positive definite matrices for the generalised problem ``A v = l B v``, which is differentiated in
            A and in B. Eigenvectors then satisfy ``V^H B V = I``. The same triangle is read.
        errors: ``"raise"``, or ``"nan"``: a matrix with NaN or infinity in it, or whose B is not positive definite,
            gives NaN, and its neighbours are what they are.

    Returns:
        A named tuple ``(eigenvalues, eigenvectors)``, as torch's, with types that checkers see.

    Shape:
        ``A (*, n, n)`` and B alike, eigenvalues ``(*, n)``, real and ascending, eigenvectors ``(*, n, n)`` in columns.
        Empty batches and ``n = 0`` are legal.

    Raises:
        TypeError: if ``gradient`` or ``solver`` is not one; if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices, or ``B`` none of that size and dtype, or of a batch that
            does not broadcast with A's; for another ``UPLO``; for an unknown solver, or for ``Unrolled()``
            with a solver that autograd cannot walk.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it; or if ``B`` is not
            positive definite.

    Example:
        >>> import torch, eigengrad as eg
        >>> A = torch.eye(3, requires_grad=True)
        >>> L, V = eg.eigh(A)
        >>> (L * V[0] ** 2).sum().backward()
        >>> bool(A.grad.isfinite().all())
        True
    """
    check_square(A)
    algorithm = solvers.resolve(solver, errors)
    UPLO = UPLO.upper() if UPLO in ("l", "u") else UPLO
    if B is not None:
        check_errors(errors)
        G, ordinary = ordinary_problem(A, B, UPLO, errors)
        L, V = eigh(ordinary, gradient=gradient, solver=algorithm)
        return EighResult(L, torch.linalg.solve_triangular(G.mH, V, upper=True))
    if isinstance(gradient, Unrolled):
        if not algorithm.differentiable:
            raise ValueError(
                f"gradient=Unrolled() needs a solver written in differentiable steps, got solver={solver!r}; "
                "use solver='power_iteration', or one of the gradient rules"
            )
        return EighResult(*algorithm(A, UPLO))
    check_rule(gradient)
    return EighResult(*_Eigh.call(A, UPLO, gradient, algorithm))


@public
def topk_eigh(
    A: Tensor,
    k: int | slice,
    *,
    gradient: GradientRule = Lorentzian(),  # noqa: B008 (a frozen value)
    solver: solvers.Name | solvers.Solver = "auto",
    B: Tensor | None = None,
    errors: Errors = "raise",
) -> EighResult:
    """The k largest eigenvalues and their eigenvectors, with a backward pass at the cost of k.

    As a slice of :func:`eigh`, whose gradient this is; but the products of the backward pass have k columns, not n.
    (The forward pass finds all eigenvectors, of which the gradient of each is made.) For a function of the subspace
    that they span, prefer :func:`eigengrad.projector`.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        k: how many of the largest eigenvalues, from 0 to n; or a slice of the ascending spectrum, such as
            ``slice(0, 2)`` for the two smallest.
        gradient: a rule.
        solver, B, errors: as for :func:`eigh`.

    Returns:
        A named tuple ``(eigenvalues, eigenvectors)``, ascending.

    Shape:
        ``A (*, n, n)``, eigenvalues ``(*, k)``, eigenvectors ``(*, n, k)``. Empty batches and ``n = 0`` are legal.

    Raises:
        TypeError: if ``k`` is neither an integer nor a slice; if ``gradient`` is no rule; for ``A`` as :func:`eigh`.
        ValueError: if ``k`` does not lie between 0 and n, or the slice has a step; for an unknown solver; if ``A`` is
            no batch of square matrices.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.topk_eigh(torch.tensor([3.0, 1.0, 2.0]).diag(), 2).eigenvalues
        tensor([2., 3.])
    """
    check_rule(gradient)
    check_square(A)
    algorithm, columns = solvers.resolve(solver, errors), columns_of(A.shape[-1], k)
    if B is None:
        values, vectors, _, _ = _TopK.call(A, columns, gradient, algorithm)
        return EighResult(values, vectors)
    G, ordinary = ordinary_problem(A, B, "L", errors)
    values, vectors, _, _ = _TopK.call(ordinary, columns, gradient, algorithm)
    return EighResult(values, torch.linalg.solve_triangular(G.mH, vectors, upper=True))


def columns_of(n: int, k: int | slice) -> slice:
    """The slice of an ascending spectrum of size n that ``k`` names: the k largest, or a slice as it is."""
    if isinstance(k, slice):
        if k.step not in (None, 1):
            raise ValueError(f"k must be a slice without a step, got {k}")
        try:
            kept = range(n)[k]  # not k.indices(n), which Dynamo of torch 2.11 cannot trace
        except TypeError:
            raise TypeError(f"k must be a slice of integers, got {k}") from None
        return slice(kept.start, max(kept.start, kept.stop))
    k = as_integer(k, "k", "an int or a slice")
    if not 0 <= k <= n:
        raise ValueError(f"k must lie between 0 and n = {n}, got {k}")
    return slice(n - k, n)


def ordinary_problem(A: Tensor, B: Tensor, UPLO: str, errors: Errors) -> tuple[Tensor, Tensor]:
    """G of ``B = G G^H``, and ``G^-1 A G^-H``: of the eigenvalues of ``A v = l B v`` and the vectors ``G^H v``."""
    check_square(B, "B")
    if B.dtype != A.dtype or B.shape[-1] != A.shape[-1]:
        raise ValueError(
            f"B must have A's dtype and size, {A.dtype} and n = {A.shape[-1]}, got {B.dtype} and n = {B.shape[-1]}"
        )
    try:
        torch.broadcast_shapes(A.shape, B.shape)
    except RuntimeError:
        shapes = f"{tuple(A.shape[:-2])}, got {tuple(B.shape[:-2])}"
        raise ValueError(f"B's batch must broadcast with A's, {shapes}") from None
    G, info = torch.linalg.cholesky_ex(mirrored(B, UPLO), check_errors=errors == "raise" and not has_values(B))
    if errors == "nan":
        G = torch.where((info == 0)[..., None, None], G, torch.nan)
    elif has_values(B) and bool(info.any()):
        index = int(info.flatten().nonzero()[0])
        raise torch.linalg.LinAlgError(f"B must be positive definite, but matrix {index} of the batch is not")
    half = torch.linalg.solve_triangular(G, mirrored(A, UPLO), upper=False)
    return G, hermitian_part(torch.linalg.solve_triangular(G, half.mH, upper=False))


def mirrored(A: Tensor, UPLO: str) -> Tensor:
    """The Hermitian matrix of one triangle of ``A``, with a gradient in both, as that of :func:`eigh` is."""
    return _Mirrored.call(A, UPLO)


class _Mirrored(Function):
    @staticmethod
    def forward(A: Tensor, UPLO: str) -> Tensor:
        return hermitian(A, UPLO)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return hermitian_part(g), None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, _: None) -> Tensor:
        return hermitian_part(dA)


class _Eigh(Function):
    """One function for every rule and every solver. Saves its outputs, so backward is differentiable in turn."""

    @staticmethod
    def forward(A: Tensor, UPLO: str, gradient: GradientRule, solver: solvers.Solver) -> tuple[Tensor, Tensor]:
        return solver(A, UPLO)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, _, ctx.gradient, _ = inputs
        save(ctx, *output)
        ctx.set_materialize_grads(False)  # a loss of eigenvalues alone must not meet K at all

    @staticmethod
    def backward(ctx: Any, gL: Tensor | None, gV: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        basis = Eigenbasis(*ctx.saved_tensors)
        check_phase("eigh", (basis.V, gV))
        return basis.pull_back(ctx.gradient, gL, gV), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, Tensor]:
        return Eigenbasis(*ctx.saved_tensors).push_forward(ctx.gradient, dA)


class _TopK(Function):
    """Some eigenvalues and eigenvectors; after them all of both, which second derivatives need."""

    @staticmethod
    def forward(
        A: Tensor, columns: slice, gradient: GradientRule, solver: solvers.Solver
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        L, V = solver(A)
        return L[..., columns].clone(), V[..., columns].clone(), L, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.columns, ctx.gradient, _ = inputs
        _, _, L, V = output
        save(ctx, L, V)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, gL_some: Tensor | None, gV_some: Tensor | None, gL: Tensor | None, gV: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        basis = Eigenbasis(*ctx.saved_tensors)
        if gV is None:
            check_phase("topk_eigh", (basis.V[..., ctx.columns], gV_some))
        some = basis.pull_back(ctx.gradient, gL_some, gV_some, ctx.columns)
        rest = basis.pull_back(ctx.gradient, gL, gV)
        return (some if rest is None else rest if some is None else some + rest), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, ...]:
        dL, dV = Eigenbasis(*ctx.saved_tensors).push_forward(ctx.gradient, dA)
        return dL[..., ctx.columns].clone(), dV[..., ctx.columns].clone(), dL, dV
