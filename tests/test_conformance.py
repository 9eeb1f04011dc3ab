"""Every rule and every function of the package, found by themselves, through every transform, spectrum and dtype.

Whoever adds a public function gives it a line in ``CALLS``; a test fails until then. What is checked here is agreement:
of transforms with each other, of compiled code with eager, of single precision with double. That the numbers are right
is checked against oracles, function by function, in the other files.
"""

import dataclasses
import inspect
from collections.abc import Callable

import pytest
import torch
from spectra import relative_error, symmetrised
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import check_gradient_rule, hermitian

RULES = [
    rule()
    for name in eg.gradients.__all__
    if dataclasses.is_dataclass(rule := getattr(eg.gradients, name)) and hasattr(rule, "kernel")
]
ELSEWHERE = {"show_config", "eigsh"}  # the latter is an iteration, which no vmap walks: test_eigsh.py
FUNCTIONS = [name for name in eg.__all__ if inspect.isfunction(getattr(eg, name)) and name not in ELSEWHERE]


def pairs(U: Tensor, V: Tensor) -> Tensor:
    """``u v^H`` for each pair of columns, which no phase can change."""
    return U.mT.unsqueeze(-1) * V.mT.conj().unsqueeze(-2)


def of_eigenvectors(result: tuple[Tensor, Tensor]) -> Tensor:
    L, V = result
    return L.sin()[..., None, None] * pairs(V, V)


def of_singular_vectors(result: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    U, S, Vh = result
    return S.sin()[..., None, None] * pairs(U, Vh.mH)


def points(A: Tensor) -> tuple[Tensor, Tensor]:
    """Two clouds of points that depend on A."""
    return A, A @ A + A.flip(-1)


def uneven(x: Tensor) -> Tensor:
    """Observations with some more, so that the eigenvalues of their correlations differ."""
    return torch.cat([x, 3 * torch.arange(9, dtype=x.dtype, device=x.device).view(3, 3).sin()])


WIDE = eg.Lorentzian(1e-3)
"""By default a second derivative at the cluster is of 1e14, and has few digits in common with another way to it."""

# For each function, the ways it is called on positive definite A (*, 3, 3), each with a result that is well defined. At
# a tie, single eigenvectors are not: there the solver, which "auto" chooses by the size of the batch, must be one and
# the same for a batch and for its matrices one by one.
CALLS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "eigh": [
        lambda A: of_eigenvectors(eg.eigh(A, gradient=WIDE, solver="eigh")),
        lambda A: of_eigenvectors(
            eg.eigh(A, gradient=WIDE, solver="eigh", B=A @ A + torch.eye(3, dtype=A.dtype, device=A.device))
        ),
    ],
    "topk_eigh": [lambda A: of_eigenvectors(eg.topk_eigh(A, 2, gradient=WIDE, solver="eigh"))],
    "projector": [
        lambda A: eg.projector(A, 1, solver="eigh"),
        lambda A: eg.projector(A, slice(0, 2), gradient=eg.Taylor(), solver="eigh"),
    ],
    "svd": [
        lambda A: of_singular_vectors(eg.svd(A + A.triu())),
        lambda A: of_singular_vectors(eg.svd(A[..., :2] + A[..., :2].tril())),
    ],
    "polar": [lambda A: eg.polar(A + A.triu()).unitary, lambda A: torch.cat(eg.polar(A[..., :2]), -2)],
    "nearest_rotation": [lambda A: eg.nearest_rotation(A.real + A.real.triu())],
    "procrustes": [lambda A: eg.procrustes(*points(A.real), scaling=True).rotation],
    "singular_value_function": [
        lambda A: eg.singular_value_function(A + A.triu(), lambda s: s**3, lambda x, y: x * x + x * y + y * y)
    ],
    "low_rank": [lambda A: eg.low_rank(A + A.triu(), 1)],
    "pinv": [lambda A: eg.pinv(A[..., :2] + A[..., :2].tril())],
    "soft_threshold": [lambda A: eg.soft_threshold(A + A.triu(), 1.5)],
    "spectral_sum": [lambda A: eg.spectral_sum(A, torch.log)],
    "sqrtm": [eg.sqrtm],
    "inv_sqrtm": [eg.inv_sqrtm, lambda A: eg.inv_sqrtm(A, floor=0.9)],
    "expm": [eg.expm],
    "logm": [eg.logm],
    "powm": [lambda A: eg.powm(A, 0.3), lambda A: eg.powm(A, -2)],
    "matrix_function": [lambda A: eg.matrix_function(A, lambda x: x**3, lambda x, y: x * x + x * y + y * y)],
    "whiten": [lambda A: eg.whiten(points(A.real)[1].reshape(-1, 3), group_size=2, eps=0.1).pow(3)],
    "denoise": [lambda A: eg.denoise(uneven(points(A.real)[1].reshape(-1, 3)), rank=2, eps=0.1).pow(3)],
    "pool_covariance": [lambda A: eg.pool_covariance(points(A.real)[1], eps=0.1)],
}
# Whole results, without products around them that autocast would narrow.
FUNCTION_ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "eigh": lambda A: eg.eigh(A, B=A).eigenvalues,
    "topk_eigh": lambda A: eg.topk_eigh(A, 2).eigenvalues,
    "projector": lambda A: eg.projector(A, 1),
    "svd": lambda A: eg.svd(A).S,
    "polar": lambda A: eg.polar(A).hermitian,
    "procrustes": lambda A: eg.procrustes(A, A.flip(-1)).translation,
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": eg.inv_sqrtm,
    "expm": eg.expm,
    "logm": eg.logm,
    "powm": lambda A: eg.powm(A, 3) + eg.powm(A, 0.3),
    "matrix_function": lambda A: eg.matrix_function(A, lambda x: x**2, lambda x, y: x + y),
}
CASES = [(name, call) for name, calls in CALLS.items() for call in calls]
BATCHED = [(name, call) for name, call in CASES if name not in ("whiten", "denoise")]  # which mix the batch
SPECTRA = {
    "separated": [1.0, 2.0, 3.5],
    "tie": [1.0, 2.0, 2.0],
    "cluster": [1.0, 1.0 + 1e-7, 3.0],
    "identity": [1.0] * 3,
}
DTYPES = (torch.float64, torch.complex128)

every_case = pytest.mark.parametrize(("name", "call"), CASES)
every_batched_case = pytest.mark.parametrize(("name", "call"), BATCHED)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def batch(dtype: torch.dtype) -> Tensor:
    """One matrix ``(3, 3)`` for each spectrum."""
    generator = torch.Generator().manual_seed(1)
    return hermitian(torch.tensor(list(SPECTRA.values())), dtype=dtype, generator=generator)


def loss_of(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def loss(A: Tensor) -> Tensor:
        result = call(symmetrised(A))
        count = result[0].numel() if result.dim() else 1
        weights = torch.linspace(-1, 2, count, dtype=result.dtype, device=result.device)
        return (weights.reshape(result.shape[1:]) * result).real.sum()

    return loss


def single(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda A: loss(A.unsqueeze(0))


def test_every_function_has_a_call() -> None:
    assert set(FUNCTIONS) == set(CALLS)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_keeps_the_contract(rule: eg.gradients.GradientRule) -> None:
    check_gradient_rule(rule, scale_free=not isinstance(rule, eg.Clipped))


@every_dtype
@every_batched_case
def test_batch_and_vmap(name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """A batch, a loop over it and vmap agree in value and gradient."""
    A, loss = batch(dtype), single(loss_of(call))
    gradient = torch.func.grad(loss_of(call))(A)
    looped = torch.stack([torch.func.grad(loss)(matrix) for matrix in A])
    torch.testing.assert_close(gradient, looped)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(A), looped)
    assert torch.equal(gradient.isfinite(), torch.ones_like(gradient, dtype=torch.bool))


@every_dtype
@every_case
def test_forward_mode_is_the_adjoint_of_reverse(
    name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    A, loss = batch(dtype), loss_of(call)
    dA = torch.randn(A.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    value, tangent = torch.func.jvp(loss, (A,), (dA,))
    torch.testing.assert_close(value, loss(A))
    torch.testing.assert_close(tangent, torch.linalg.vecdot(torch.func.grad(loss)(A).flatten(), dA.flatten()).real)


@every_case
def test_hessian(name: str, call: Callable[[Tensor], Tensor]) -> None:
    """Forward over reverse equals reverse over reverse, at every spectrum."""
    A, loss = batch(torch.float64)[:, None], loss_of(call)
    for matrix in A:
        expected = torch.autograd.functional.hessian(loss, matrix)
        torch.testing.assert_close(torch.func.hessian(loss)(matrix), expected)
        assert expected.isfinite().all()


@every_case
def test_nested_forward_mode(name: str, call: Callable[[Tensor], Tensor]) -> None:
    """Forward mode over forward mode, in which torch itself sees constants through an autograd.Function (2.13)."""
    A, loss = batch(torch.float64)[:1], loss_of(call)
    dA = torch.randn(A.shape, dtype=A.dtype, generator=torch.Generator().manual_seed(2))

    def along(t: Tensor) -> Tensor:
        return loss(A + t * dA + t * t * dA.mT)

    zero = torch.zeros(()).double()
    expected = torch.func.grad(torch.func.grad(along))(zero)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.jacfwd(along))(zero), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(torch.func.jacfwd(along)))(zero[None])[0], expected)


@every_dtype
@every_batched_case
def test_vmap_of_grad_of_vmap(name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    A, loss = batch(dtype), single(loss_of(call))

    def inner(A: Tensor) -> Tensor:
        return torch.func.vmap(loss)(A).sum()

    actual = torch.func.vmap(torch.func.grad(inner))(torch.stack([A, 2 * A]))
    torch.testing.assert_close(actual, torch.stack([torch.func.grad(loss_of(call))(B) for B in (A, 2 * A)]))


@pytest.mark.parametrize(("name", "function"), FUNCTION_ALONE.items(), ids=FUNCTION_ALONE)
def test_autocast(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """As in torch.linalg, computed in float32 whatever autocast says; gradients taken outside of it."""
    A = batch(torch.float32)[:1].requires_grad_()
    expected = function(A)
    with torch.autocast("cpu", torch.bfloat16):
        actual, of_half = function(A), function(A.bfloat16())
    assert actual.dtype == of_half.dtype == torch.float32
    torch.testing.assert_close(actual, expected)
    G = torch.ones_like(actual)
    torch.testing.assert_close(torch.autograd.grad(actual, A, G)[0], torch.autograd.grad(expected, A, G)[0])


@every_dtype
@every_case
def test_strides(name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Transposed, sliced and expanded input and cotangents give what contiguous ones do."""
    A, loss = batch(dtype), loss_of(call)
    spread = torch.zeros(*A.shape, 2, dtype=dtype)
    spread[..., 0] = A
    for strided in (spread[..., 0], A.mT.contiguous().mT, A.flip(0).flip(0)):
        torch.testing.assert_close(torch.func.grad(loss)(strided), torch.func.grad(loss)(A))


@every_dtype
@every_case
def test_compile(name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Forward and backward in one graph each."""
    torch._dynamo.reset()
    A, loss = batch(dtype).requires_grad_(), loss_of(call)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(A), loss(A)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, A)[0], torch.autograd.grad(expected, A)[0])


@every_case
def test_export(name: str, call: Callable[[Tensor], Tensor]) -> None:
    class Module(torch.nn.Module):
        def forward(self, A: Tensor) -> Tensor:
            return call(A)

    A = batch(torch.float64)
    program = torch.export.export(Module(), (A,)).module()
    torch.testing.assert_close(program(2 * A), call(2 * A))


@pytest.mark.parametrize(("narrow", "wide"), [(torch.float32, torch.float64), (torch.complex64, torch.complex128)])
@every_case
def test_single_precision(name: str, call: Callable[[Tensor], Tensor], narrow: torch.dtype, wide: torch.dtype) -> None:
    """Single precision gives what double does, on input that it represents."""
    A, loss = batch(narrow)[:1], loss_of(call)
    gradient, expected = (torch.func.grad(loss)(A.to(dtype)) for dtype in (narrow, wide))
    assert gradient.dtype == narrow
    assert relative_error(gradient, expected) < 1e-4


def embed(A: Tensor) -> Tensor:
    """The real matrices ``[[Re, -Im], [Im, Re]]``, whose eigenvalues and singular values are those of A, twice each."""
    return torch.cat([torch.cat([A.real, -A.imag], -1), torch.cat([A.imag, A.real], -1)], -2)


def of_some(result: tuple[Tensor, Tensor]) -> Tensor:
    L, V = result
    return (V * L.sin().unsqueeze(-2)) @ V.mH


# By pairs, where how many are meant doubles with the embedding; Masked keeps to what is defined inside a doubled pair.
EMBEDDED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "eigh": lambda A, _: of_some(eg.eigh(A, gradient=eg.Masked(1e-9))),
    "topk_eigh": lambda A, times: of_some(eg.topk_eigh(A, 2 * times, gradient=eg.Masked(1e-9))),
    "projector": lambda A, times: eg.projector(A, 2 * times),
    "svd": lambda A, _: (lambda _, S, Vh: (Vh.mH * S.sin().unsqueeze(-2)) @ Vh)(*eg.svd(A, gradient=eg.Masked(1e-9))),
    "polar": lambda A, _: eg.polar(A).unitary,
    "sqrtm": lambda A, _: eg.sqrtm(A),
    "inv_sqrtm": lambda A, _: eg.inv_sqrtm(A),
    "expm": lambda A, _: eg.expm(A),
    "logm": lambda A, _: eg.logm(A),
    "powm": lambda A, _: eg.powm(A, 0.3) + eg.powm(A, -2),
    "matrix_function": lambda A, _: eg.matrix_function(A, lambda x: x**3, lambda x, y: x * x + x * y + y * y),
}


@pytest.mark.parametrize("copies", [1, 20])
@pytest.mark.parametrize("name", EMBEDDED)
def test_real_embedding(name: str, copies: int) -> None:
    """Complex matrices agree with their real embedding in value and gradient, beside a tie and in a batch."""
    generator = torch.Generator().manual_seed(4)
    # A tie, but for what goes by single eigenvectors, with a mask inside of it.
    last = 4.0 if name in ("eigh", "topk_eigh", "svd") else 3.0
    A = hermitian(torch.tensor([0.5, 2.0, 3.0, last]), dtype=torch.complex128, generator=generator)
    A = A.repeat(copies, 1, 1).requires_grad_()
    R = embed(A.detach()).requires_grad_()
    G = torch.randn(A.shape, dtype=A.dtype, generator=generator)
    actual, expected = EMBEDDED[name](A, 1), EMBEDDED[name](R, 2)
    torch.testing.assert_close(embed(actual), expected)
    gA, gR = torch.autograd.grad(actual, A, G)[0], torch.autograd.grad(expected, R, embed(G))[0]
    torch.testing.assert_close(embed(gA), gR)
