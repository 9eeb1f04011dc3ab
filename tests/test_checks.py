"""The mode in which functions look at what they are given and at what is asked of their gradients."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg

HERMITIAN: dict[str, Callable[[Tensor], object]] = {
    "eigh": eg.eigh,
    "topk_eigh": lambda A: eg.topk_eigh(A, 1),
    "projector": lambda A: eg.projector(A, 1),
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": eg.inv_sqrtm,
    "logm": eg.logm,
    "expm": eg.expm,
    "powm": lambda A: eg.powm(A, 0.5),
    "matrix_function": lambda A: eg.matrix_function(A, lambda x: x * x, lambda x, y: x + y),
    "spectral_sum": lambda A: eg.spectral_sum(A, torch.log),
}
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def here() -> str:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return re.escape(f"{__file__}:{frame.f_back.f_lineno + 1}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HERMITIAN)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_no_hermitian_matrix(name: str, scale: float, dtype: torch.dtype) -> None:
    good = scale * eg.testing.hermitian(torch.tensor([1.0, 2.0, 4.0]), dtype=dtype)
    batch = good.expand(4, 3, 3).clone()
    batch[2, 0, 1] += scale
    with eg.analysis.checks():
        HERMITIAN[name](good / scale if name == "expm" else good)
        with pytest.raises(ValueError, match=rf"{name} at .*: matrix 2 of the batch must be Hermitian.*{name} reads"):
            HERMITIAN[name](batch)
    HERMITIAN[name](batch / scale)


def test_the_line_is_named() -> None:
    with eg.analysis.checks():
        with pytest.raises(ValueError, match=rf"^sqrtm at {here()}: A must be Hermitian"):
            eg.sqrtm(torch.ones(3, 3).triu())
        with pytest.raises(ValueError, match=r"^svd at .*: matrix \(0, 1\) of the batch holds NaN or infinity"):
            eg.svd(torch.tensor([1.0, torch.nan]).view(1, 2, 1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_loss_may_ask_for(dtype: torch.dtype) -> None:
    """Neither within a tie nor elsewhere does a well defined loss ask for anything undefined."""
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 2.0, 4.0]), dtype=dtype).expand(3, 4, 4).clone().requires_grad_()
    W = torch.randn(4, 4, dtype=dtype)
    with eg.analysis.checks():
        L, V = eg.eigh(A)
        ((W * ((V * L.sin().unsqueeze(-2)) @ V.mH)).real.sum()).backward()
        _, V = eg.topk_eigh(A, 1)
        ((W * (V @ V.mH)).real.sum()).backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rotation_within_a_tie(dtype: torch.dtype) -> None:
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 2.0, 4.0]), dtype=dtype).requires_grad_()
    with eg.analysis.checks():
        _, V = eg.eigh(A)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"eigh at .*: the loss depends on the basis among eigenvectors of equal"):
        (weights.unsqueeze(-1) * V.abs().square() * weights.square()).sum().backward()
    separated = eg.testing.hermitian(torch.tensor([1.0, 2.0, 3.0, 4.0]), dtype=dtype).requires_grad_()
    with eg.analysis.checks():
        _, V = eg.eigh(separated)
        (weights.unsqueeze(-1) * V.abs().square() * weights.square()).sum().backward()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_a_phase(dtype: torch.dtype, scale: float) -> None:
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 4.0]), dtype=dtype).requires_grad_()
    with eg.analysis.checks():
        _, V = eg.eigh(A)
    with pytest.raises(ValueError, match=r"eigh at .*: the loss depends on the phase of an eigenvector"):
        (scale * (V.real + 2 * V.imag)).sum().backward()


OTHERS: dict[str, tuple[str, Callable[[Tensor, Tensor], object]]] = {
    "eigh": ("B", lambda X, Y: eg.eigh(Y, B=X)),
    "topk_eigh": ("B", lambda X, Y: eg.topk_eigh(Y, 1, B=X)),
    "projector": ("B", lambda X, Y: eg.projector(Y, 1, B=X)),
    "eigsh": ("A", lambda X, Y: eg.eigsh(X, 1)),
    "bures_distance": ("B", eg.spd.bures_distance),
    "frechet_distance": ("A", lambda X, Y: eg.spd.frechet_distance(Y[0], X, Y[0], Y)),
    "optimal_transport_map": ("A", eg.spd.optimal_transport_map),
    "affine_invariant_distance": ("A", eg.spd.affine_invariant_distance),
    "log_euclidean_distance": ("A", eg.spd.log_euclidean_distance),
    "geometric_mean": ("A", eg.spd.geometric_mean),
    "log_map": ("base", eg.spd.log_map),
    "exp_map": ("S", lambda X, Y: eg.spd.exp_map(Y, X)),
    "parallel_transport": ("S", lambda X, Y: eg.spd.parallel_transport(X, Y, Y)),
    "karcher_mean": ("A", lambda X, Y: eg.spd.karcher_mean(torch.stack([Y, X]))),
    "bures_barycenter": ("A", lambda X, Y: eg.spd.bures_barycenter(torch.stack([Y, X]))),
    "lyapunov": ("A", eg.spd.lyapunov),
    "sylvester": ("A", lambda X, Y: eg.spd.sylvester(X, Y, Y)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize("name", OTHERS)
def test_every_hermitian_argument(name: str, dtype: torch.dtype) -> None:
    """Not only the first one, and of every function: named as the function names it, with the line."""
    label, function = OTHERS[name]
    if label == "B" and name == "bures_distance":
        function = lambda X, Y: eg.spd.bures_distance(Y, X)  # noqa: E731
    identity, good = torch.eye(3, dtype=dtype), eg.testing.hermitian(torch.tensor([1.0, 2.0, 4.0]), dtype=dtype)
    with eg.analysis.checks():
        function(good, identity)
        with pytest.raises(
            ValueError, match=rf"^{name} at {re.escape(__file__)}:\d+: .*must be Hermitian, but {label} -"
        ):
            function(good + 1e-3 * torch.ones(3, 3).triu(1), identity)
        with pytest.raises(ValueError, match=rf"^{name} at .*: .* holds NaN or infinity"):
            function(good * torch.nan, identity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    X = torch.randn(5, 9)
    with eg.analysis.checks():
        eg.sqrtm((X @ X.mT).to(dtype))
        with pytest.raises(ValueError, match="A must be Hermitian"):
            eg.sqrtm(torch.tensor([[2.0, 1.0], [0.0, 2.0]], dtype=dtype))


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_cotangents_of_other_pairs(scale: float) -> None:
    """Of the generalised problem, whose vectors have B's scale, and of eigsh."""
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 2.0, 4.0]).double()).requires_grad_()
    B = scale * torch.eye(4).double()
    W = torch.arange(16.0).double().reshape(4, 4)
    for function in (lambda: eg.eigh(A, B=B), lambda: eg.eigsh(A, 3, B=B), lambda: eg.topk_eigh(A, 3, B=B)):
        with eg.analysis.checks():
            _, V = function()
        (W * (V[:, -3:] @ V[:, -3:].mT)).sum().backward()
        with eg.analysis.checks():
            _, V = function()
        with pytest.raises(ValueError, match="depends on the basis among eigenvectors of equal"):
            (W[:, : V.shape[1]].square() * V.square()).sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(3, 3), (5, 3), (3, 5)])
@pytest.mark.parametrize("full", [False, True])
def test_cotangents_of_singular_vectors(full: bool, m: int, n: int, dtype: torch.dtype) -> None:
    """What both sides ask for counts together; here the first two values are tied."""
    U, V = (torch.linalg.qr(torch.randn(size, 3, dtype=dtype))[0] for size in (m, n))
    A = ((U * torch.tensor([2.0, 2.0, 1.0])) @ V.mH).requires_grad_()
    W = torch.randn(m, n, dtype=dtype)
    with eg.analysis.checks():
        for loss in (
            lambda U, S, Vh: (W.conj() * (U[:, :3] @ Vh[:3])).real.sum(),
            lambda U, S, Vh: (U[0, 2] * Vh[2, 1]).abs().square() + S.sin().sum(),
            lambda U, S, Vh: S.square().sum(),
        ):
            assert torch.autograd.grad(loss(*eg.svd(A, full_matrices=full)), A)[0].isfinite().all()
        result, weights = eg.svd(A, full_matrices=full), torch.arange(6.0).view(3, 2).square()
        with pytest.raises(ValueError, match=r"svd at .*: the loss depends on the basis among those of equal singular"):
            (weights * result.U[:3, :2].abs() ** 2 * result.Vh[0, :3, None].abs() ** 2).sum().backward()
        if dtype.is_complex:
            result = eg.svd(A, full_matrices=full)
            with pytest.raises(ValueError, match=r"svd at .*: the loss depends on the phase of a pair of singular"):
                result.Vh[2, 0].imag.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_knows_ties_from_gaps(dtype: torch.dtype) -> None:
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 4.0])).to(dtype).requires_grad_()
    with eg.analysis.checks():
        eg.eigh(A).eigenvectors[0].square().square().sum().backward()


def test_the_line_is_that_of_a_user_of_torch() -> None:
    """Not of torch, by way of which a function is called."""
    with eg.analysis.checks(), pytest.raises(ValueError, match=rf"^eigsh at {here()}: A must be .* takes that for"):
        torch.compiler.disable(eg.eigsh)(torch.ones(3, 3).triu(), 1)


def test_off_it_is_off() -> None:
    bad = torch.ones(3, 3).triu()
    with pytest.raises(ZeroDivisionError), eg.analysis.checks():
        _ = 1 / 0
    eg.expm(bad)
    with eg.analysis.checks():
        torch.vmap(eg.expm)(bad.expand(2, 3, 3))
        torch.compile(eg.expm, backend="eager")(bad)


def test_a_loss_of_eigenvalues_alone() -> None:
    A = torch.tensor([1.0, 2.0, 3.0]).diag().requires_grad_()
    with eg.analysis.checks():
        for result in (eg.eigh(A), eg.topk_eigh(A, 2)):
            assert torch.autograd.grad(result.eigenvalues.sum(), A)[0].isfinite().all()
