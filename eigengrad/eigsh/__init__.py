"""A few eigenpairs of a large Hermitian operator, with their gradient.

``iteration`` finds them, ``linear_solves`` and ``pairs`` differentiate them, ``operators`` is what they are pairs of.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from eigengrad.arguments import as_integer, as_threshold
from eigengrad.autograd import Function, is_traced, public
from eigengrad.eigh import EighResult, eigh
from eigengrad.eigsh.iteration import Found, Problem, find_pairs
from eigengrad.eigsh.operators import Operator, as_operator, scaled
from eigengrad.eigsh.pairs import Setting, pairs
from eigengrad.gradients import GradientRule, Lorentzian, check_rule

__all__ = ["MultipletWarning", "Search", "eigsh", "search"]

Which = Literal["largest", "smallest", "magnitude"]
Product = Callable[[Tensor], Tensor]

UNITS = 1024.0
"""Of rounding: the tolerance by default. Copies of an eigenvalue on their way mix, which leaves hundreds."""
TIES = 128.0
"""Units of rounding: eigenvalues so close count as equal, as those of pairs with residuals within the tolerance are."""
ITERATIONS = 1000
"""Of the search, by default; an iteration has up to some hundred products."""
SOLVES = 20
"""Times ``max_iterations``: those of the gradient's linear equations, of one product each."""


class MultipletWarning(UserWarning):
    """k takes some of a group of equal eigenvalues and leaves others."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
@public
def eigsh(
    A: Tensor | Callable[..., Tensor],
    k: int,
    *,
    which: Which = "largest",
    B: Tensor | Product | None = None,
    preconditioner: Tensor | Product | None = None,
    start: Tensor | None = None,
    gradient: GradientRule = Lorentzian(),  # noqa: B008 (a frozen value)
    tol: float | None = None,
    max_iterations: int | None = None,
    generator: torch.Generator | None = None,
    n: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    params: Sequence[Tensor] = (),
) -> EighResult:
    r"""A few eigenvalues and eigenvectors of a large Hermitian operator, differentiable where eigenvalues meet.

    Only products with A are made, in the search (a block Davidson iteration with Chebyshev polynomials) and in the
    gradient, so that memory is that of some :math:`12k` vectors. The gradient is implicit: between the pairs that were
    found by the rule, as in :func:`eigengrad.eigh`, and toward all others exactly, by linear equations, as well
    conditioned as the gap behind the last pair is wide. Derivatives of every order follow in the same way, in reverse
    and forward mode, by ``torch.func.jacrev``, ``jacfwd`` and ``hessian``, too. A search goes on until it has found
    what it looks for: a compiler's graph breaks here, and ``vmap`` over operators is an error (loop over them).

    Args:
        A: Hermitian: a dense tensor, a sparse COO or CSR tensor (both triangles stored), or a function
            ``(X, *params) -> A X`` of blocks of vectors, linear in X.
        k: how many pairs, from 0 to n.
        which: ``"largest"`` or ``"smallest"`` eigenvalues, or those largest in ``"magnitude"``.
        B: Hermitian positive definite, for ``A v = l B v``; as A, but a function has no params. Vectors then satisfy
            ``V^H B V = I``. Give a preconditioner, too: without one the search is slow.
        preconditioner: a Hermitian positive definite tensor or function of blocks that approximates the inverse of
            A (of ``-A`` for the largest ones) near the wanted eigenvalues. The gradient's equations use it, too.
        start: columns ``(n, c)`` near the eigenvectors, from a problem before, say.
        gradient: a rule, for pairs of eigenvectors that were both found.
        tol: residuals ``norm(A v - l B v)`` at most this share of the largest eigenvalue's magnitude; by default
            1024 units of rounding.
        max_iterations: of the search, by default 1000, and a twentieth of the gradient's.
        generator: of the random columns that the search begins with; by default one of the same seed always.
        n, dtype, device: of a function's vectors. The last two are by default those of the first of ``params``.
        params: tensors that a function A is made of, which get the gradient.

    Returns:
        A named tuple ``(eigenvalues, eigenvectors)``, ascending. The gradient of a sparse A has its pattern and layout.
        Its first derivatives are right at multiplets that were found whole, of losses that do not depend on the basis
        there. The second ones of eigenvectors are not: rounding splits the found eigenvalues, and divides by that.
        For these :func:`eigengrad.projector` is right, of a dense A. At scales whose squares leave the range (1e-20,
        1e20 in float32), second derivatives of eigenvectors want a scaled A; vectors are those of ``A / scale``.

    Shape:
        ``A (n, n)``, eigenvalues ``(k,)``, real, eigenvectors ``(n, k)``.

    Raises:
        TypeError: for an A that is none of these, another dtype, a rule that is none.
        ValueError: for a shape, k, which, tol or start that does not fit; if A is visibly not Hermitian.
        torch.linalg.LinAlgError: if pairs have not converged, with their residuals and what to do; if products are not
            finite; in the backward pass, if the gap behind the last pair is too narrow for the linear equations.

    Warns:
        MultipletWarning: if ``k`` cuts through a group of equal eigenvalues. Which of its vectors are returned is then
            arbitrary, and a loss of them has no derivative; that of the eigenvalues has none either.

    Source: Zhou and Saad, SIMAX 29, 2007 (the search); Ionescu et al. 2015 and Andrew, Chu, Lancaster, SIMAX 14, 1993
    (the derivative).

    Example:
        >>> import torch, eigengrad as eg
        >>> data = torch.randn(500, 200, dtype=torch.float64, requires_grad=True)
        >>> covariance = lambda X, data: data.mT @ (data @ X) / 500
        >>> L, V = eg.eigsh(covariance, 3, n=200, params=[data])
        >>> L.sum().backward()
        >>> data.grad.shape
        torch.Size([500, 200])
    """
    check_rule(gradient)
    found = search(
        A, k, which=which, B=B, preconditioner=preconditioner, start=start, tol=tol, max_iterations=max_iterations,
        generator=generator, n=n, dtype=dtype, device=device, params=params,
    )  # fmt: skip
    if found.cut:
        following = found.pairs.following if len(found.pairs.values) == k else float(found.pairs.values[k])
        warnings.warn(
            f"eigsh: k = {k} cuts a multiplet: eigenvalues {k} and {k + 1} in the order of which={which!r} are "
            f"{float(found.pairs.values[k - 1]):.9g} and {following:.9g}. Take it whole, or leave it",
            MultipletWarning,
            stacklevel=3,
        )
    setting = Setting(
        found.A, found.B, gradient, found.preconditioner, SOLVES * (max_iterations or ITERATIONS),
        found.a, found.b, found.pairs.scale,
    )  # fmt: skip
    order = found.pairs.values.argsort(stable=True)
    L, V = pairs(setting, found.pairs.values[order], found.pairs.vectors[:, order])
    if len(order) > k:
        asked = (order < k).nonzero().squeeze(-1)
        L, V = L[asked], V[:, asked]
    return EighResult(L, V)


class _Random(Function):
    """Columns, the same for all that ``vmap`` knows of, as where it takes derivatives in many directions."""

    generate_vmap_rule = False

    @classmethod
    def vmap(cls, _: Any, in_dims: Any, *arguments: Any) -> tuple[Tensor, None]:
        return cls.call(*arguments), None

    @staticmethod
    def forward(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator, device=generator.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)


class Search(NamedTuple):
    """What was looked for, and what was found."""

    A: Operator
    B: Operator | None
    preconditioner: Product | None
    pairs: Found
    """In the order of ``which``; more than k where k cuts a multiplet."""
    a: float
    b: float
    """Powers of two near the norms of A and B."""
    cut: bool
    """Whether it does."""


def search(
    A: Tensor | Callable[..., Tensor],
    k: int,
    *,
    which: Which,
    B: Tensor | Product | None,
    preconditioner: Tensor | Product | None,
    start: Tensor | None,
    tol: float | None,
    max_iterations: int | None,
    generator: torch.Generator | None,
    n: int | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    params: Sequence[Tensor],
) -> Search:
    """The forward pass of :func:`eigsh`, whose arguments these are."""
    if is_traced():
        raise ValueError("eigsh searches by looking at values, which make_fx and export hide: leave it out of graphs")
    given: object = params
    if isinstance(given, Tensor):  # which is iterable, too
        raise TypeError("params must be a list of tensors, got a tensor: pass [params]")
    size, of_A = n, as_operator(A, "A", n=n, dtype=dtype, device=device, params=tuple(params))
    n = of_A.n
    if size is not None and size != n:
        raise ValueError(f"n must be A's size, {n}, or be left out, got {size}")
    of_B = None if B is None else as_operator(B, "B", n=n, dtype=of_A.dtype, device=of_A.device)
    if of_B is not None:
        _check_like(of_B, of_A, "B")
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {get_args(Which)}, got {which!r}")
    k = as_integer(k, "k")
    if any(map(_is_batched, (*of_A.params, *(() if of_B is None else of_B.params)))):
        raise ValueError("eigsh searches by looking at values, which vmap hides: loop over the operators, and stack")
    if not 0 <= k <= n:
        raise ValueError(f"k must lie between 0 and n = {n}, got {k}")
    if start is not None:
        _check_start(start, of_A)
    if tol is not None and not as_threshold(tol, "tol") > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if max_iterations is not None and as_integer(max_iterations, "max_iterations") < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    M = _preconditioner(preconditioner, of_A)
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    def random(columns: int) -> Tensor:
        at: Tensor = _Random.call((n, columns), of_A.dtype, generator)
        return at.to(of_A.device)

    tol = UNITS * torch.finfo(of_A.dtype).eps if tol is None else tol
    tie = max(TIES * torch.finfo(of_A.dtype).eps, tol**2)
    with torch.no_grad(), torch._C._DisableAutocast():  # of products with a caller's function, too
        beginning = random(min(max(4, k // 2), 16))
        (a, product_of_A), (b, product_of_B) = scaled(of_A.constant(), beginning), (1.0, None)
        if of_B is not None:
            b, product_of_B = scaled(of_B.constant(), beginning)
        problem = Problem(
            product_of_A, product_of_B, M, n, k, which, tol, tie, max_iterations or ITERATIONS, beginning.shape[1]
        )
        if n <= 2 * problem.capacity or k == 0:
            found = _all_pairs(problem, beginning)
        else:
            if start is not None:
                beginning = torch.cat([start[:, : problem.kept].to(beginning), beginning], dim=1)
            found = find_pairs(problem, beginning, random)
    cut = 0 < k < n and (
        len(found.values) > k or abs(found.following - float(found.values[k - 1])) <= tie * found.scale
    )
    found = found._replace(
        values=found.values * (a / b), vectors=found.vectors / b**0.5, residuals=found.residuals * (a / b**0.5),
        following=found.following * (a / b), scale=found.scale * (a / b),
    )  # fmt: skip
    return Search(of_A, of_B, M, found, a, b, cut)


def _check_like(operator: Operator, A: Operator, name: str) -> None:
    if (operator.n, operator.dtype, operator.device) != (A.n, A.dtype, A.device):
        of_A, got = (f"{X.dtype} on {X.device} and n = {X.n}" for X in (A, operator))
        raise ValueError(f"{name} must have A's dtype, device and size, {of_A}, got {got}")


def _check_start(start: Tensor, A: Operator) -> None:
    if not isinstance(start, Tensor):
        raise TypeError(f"start must be a tensor of columns ({A.n}, c), got {type(start).__name__}")
    if start.dim() != 2 or start.shape[0] != A.n:
        raise ValueError(f"start must be columns ({A.n}, c), got shape {tuple(start.shape)}")
    if start.device != A.device:
        raise ValueError(f"start must be on A's device, {A.device}, got {start.device}; move it")
    if not bool(start.isfinite().all()):
        raise ValueError("start must be finite, got NaN or infinity in it")
    if start.is_complex() and not A.dtype.is_complex:
        raise TypeError(f"start must be real, as A is, got {start.dtype}; take its real part")


def _is_batched(X: Tensor) -> bool:
    while functorch.is_functorch_wrapped_tensor(X):
        if functorch.is_batchedtensor(X):
            return True
        X = functorch.get_unwrapped(X)
    return False


def _preconditioner(M: Tensor | Product | None, A: Operator) -> Product | None:
    if M is None:
        return None
    operator = as_operator(M, "preconditioner", n=A.n, dtype=A.dtype, device=A.device)
    _check_like(operator, A, "preconditioner")
    return operator.constant()


def _all_pairs(problem: Problem, like: Tensor) -> Found:
    """Of an operator so small that a search would not be shorter."""
    identity = torch.eye(problem.n, dtype=like.dtype, device=like.device)
    matrix = problem.A(identity)
    _check_hermitian(matrix, "A")
    B = None if problem.B is None else problem.B(identity)
    if B is not None:
        _check_hermitian(B, "B")
    L, V = eigh(matrix, B=B, gradient=Lorentzian())
    order = problem.order(L)
    L, V = L[order], V[:, order]
    scale = float(L.abs().amax()) if problem.n else 0.0
    p = problem.k
    while 0 < p < problem.n and float((L[p] - L[p - 1]).abs()) <= problem.tie * scale:
        p += 1
    X, Y = V[:, :p], V[:, :p] if B is None else B @ V[:, :p]
    residuals = torch.linalg.vector_norm(matrix @ X - Y * L[:p], dim=0)
    return Found(L[:p], X, residuals, float(L[p]) if p < problem.n else float("nan"), scale or 1.0, problem.n)


def _check_hermitian(X: Tensor, name: str) -> None:
    size = float(X.abs().amax()) if X.numel() else 0.0
    if size and float((X - X.mH).abs().amax()) > torch.finfo(X.dtype).eps ** 0.5 * size:
        raise ValueError(
            f"{name} must be Hermitian, with both triangles stored; pass ({name} + {name}.mH) / 2, or mirror one"
        )
