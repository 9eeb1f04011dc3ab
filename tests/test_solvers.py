"""Every solver decomposes what it is given: sizes, batches, dtypes, scales, ties; and says so where it cannot."""

import dataclasses

import pytest
import torch
from spectra import DTYPES, PSD, SPECTRA, diagonal, hermitian, invariant_loss, relative_error, symmetrised
from torch import Tensor
from torch._subclasses import FakeTensorMode

import eigengrad as eg
from eigengrad import solvers
from eigengrad.native import reference

GENERAL = [solvers.Eigh(), solvers.QR()]
ANY = [*GENERAL, solvers.SVD()]
SIZES = (0, 1, 2, 3, 5, 16, 33, 64)


def check(solver: solvers.Solver, A: Tensor, UPLO: str = "L") -> None:
    """``A = V diag(L) V^H`` with ascending L and orthonormal V, to rounding; in double, where nothing overflows."""
    L, V = solver(A, UPLO)
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    assert (L.shape, V.shape) == (A.shape[:-1], A.shape)
    assert (L.dtype, V.dtype) == (A.dtype.to_real(), A.dtype)
    assert (L.diff(dim=-1) >= 0).all()
    wide = torch.complex128 if A.is_complex() else torch.float64
    L, V, A = L.double(), V.to(wide), A.to(wide)
    tolerance = 10 * eps * max(n, 4)
    assert torch.linalg.matrix_norm(V.mH @ V - torch.eye(n, dtype=wide)).le(tolerance).all()
    error, scale = torch.linalg.matrix_norm((V * L.unsqueeze(-2)) @ V.mH - A), torch.linalg.matrix_norm(A)
    assert (error <= tolerance * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("solver", ANY, ids=repr)
def test_sizes(solver: solvers.Solver, spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    if isinstance(solver, solvers.SVD) and spectrum not in PSD:
        spectrum = "separated"
    for n in SIZES if spectrum in ("separated", "indefinite") else (2, 5, 9, 16, 16, 16):  # each time another basis
        check(solver, hermitian(SPECTRA[spectrum](n), dtype, generator))
        check(solver, diagonal(SPECTRA[spectrum](n), dtype))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", ANY, ids=repr)
def test_scales(solver: solvers.Solver, dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    for spectrum in ("separated", "tie", "rank_deficient"):
        for n in (2, 3, 9):
            check(solver, hermitian(SPECTRA[spectrum](n) * scale, dtype, generator))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", ANY, ids=repr)
def test_entries_near_underflow(solver: solvers.Solver, dtype: torch.dtype) -> None:
    """Couplings of 1e-31 and below beside entries of 1, in float32: complex division must not make NaN of them."""
    tiny = torch.finfo(dtype).tiny
    for coupling in (tiny / 100, tiny, tiny * 1e5):
        for values in ([1.0, 1.0, 1.0], [1.0, 0.0, 0.0]):
            A = diagonal(torch.tensor(values), dtype)
            A[2, 0] = A[0, 2] = coupling
            check(solver, A)


@pytest.mark.parametrize("shape", [(0, 3, 3), (0, 0), (2, 0, 0), (1, 4, 4), (2, 3, 4, 4), (2, 0, 4, 4)])
@pytest.mark.parametrize("solver", ANY, ids=repr)
def test_batches(solver: solvers.Solver, shape: tuple[int, ...], generator: torch.Generator) -> None:
    """Members differ in scale and structure, so that an algorithm in step must treat each by itself."""
    X = torch.randn(shape, dtype=torch.float64, generator=generator)
    A = X @ X.mH * torch.logspace(-8, 8, max(shape[0], 1)).double()[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    if len(shape) == 4 and A.numel():
        A[0, 0], A[1, 1] = torch.eye(4), torch.zeros(4, 4)
    check(solver, A if len(shape) > 2 else X)
    for index in [(i, j) for i in range(shape[0]) for j in range(shape[1])] if len(shape) == 4 else []:
        torch.testing.assert_close(
            solver(A)[0][index], solver(A[index])[0], rtol=1e-13, atol=1e-13 * float(A[index].norm())
        )


@pytest.mark.parametrize("solver", [*ANY, solvers.PowerIteration(120)], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_triangle_is_read(solver: solvers.Solver, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = hermitian(torch.tensor([0.1, 0.3, 1.0]).double(), dtype, generator)
    junk = torch.full_like(A, torch.nan)
    expected = torch.linalg.eigvalsh(A)
    torch.testing.assert_close(solver(A.tril() + junk.triu(1).nan_to_num(7), "L")[0], expected)
    torch.testing.assert_close(solver(A.triu() + junk.tril(-1).nan_to_num(7), "U")[0], expected)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_power_iteration_of_separated_magnitudes(dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    solver = solvers.PowerIteration(200, generator)
    for values in ([], [3.0], [-2.0, 1.0], [0.1, -0.4, 1.0, 3.0]):
        A = hermitian(torch.tensor(values, dtype=torch.float64) * scale, dtype, generator)
        check(solver, torch.stack([A, 2 * A]))
    check(solver, torch.zeros(0, 3, 3, dtype=dtype))


def test_power_iteration_with_few_iterations_is_rough(generator: torch.Generator) -> None:
    """What the paper shows of it: 19 products do not separate magnitudes 5% apart."""
    A = hermitian(torch.tensor([0.95, 1.0]).double(), torch.float64, generator)
    L, V = solvers.PowerIteration(19, generator)(A)
    assert 1e-6 < relative_error((V * L) @ V.mH, A) < 0.1


def test_power_iteration_is_reproducible() -> None:
    A = torch.eye(4) + torch.ones(4, 4)

    def run(seed: int) -> Tensor:
        return eg.eigh(A, solver=solvers.PowerIteration(2, torch.Generator().manual_seed(seed)))[1]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    torch.manual_seed(1)
    expected = eg.eigh(A, solver="power_iteration")[1]
    torch.manual_seed(1)
    assert torch.equal(eg.eigh(A, solver="power_iteration")[1], expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("position", [(0, 0), (3, 1), (4, 4)])
def test_qr_isolates_a_bad_matrix(bad: float, position: tuple[int, int], generator: torch.Generator) -> None:
    A = torch.stack([hermitian(SPECTRA["separated"](5), torch.float64, generator) for _ in range(3)])
    L, V = solvers.QR()(A)
    A[1][position] = bad
    with pytest.raises(torch.linalg.LinAlgError, match="matrix 1 of the batch has no eigendecomposition"):
        solvers.QR()(A)
    spoilt_L, spoilt_V = eg.eigh(A, solver="qr", errors="nan")
    assert not spoilt_L[1].isfinite().all()
    assert torch.equal(spoilt_L[[0, 2]], L[[0, 2]])
    assert torch.equal(spoilt_V[[0, 2]], V[[0, 2]])


def test_qr_says_when_it_gives_up(generator: torch.Generator) -> None:
    A = torch.stack([hermitian(SPECTRA["indefinite"](6), torch.float64, generator), torch.eye(6)])
    with pytest.raises(torch.linalg.LinAlgError, match="1 of 2 matrices did not converge within 1 sweeps at row 5"):
        eg.eigh(A, solver=solvers.QR(max_sweeps=1))
    check(solvers.QR(max_sweeps=0), torch.eye(6))  # nothing to sweep


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("auto", solvers.Auto()),
        ("eigh", solvers.Eigh()),
        ("native", solvers.Native()),
        ("svd", solvers.SVD()),
        ("qr", solvers.QR()),
        ("power_iteration", solvers.PowerIteration()),
    ],
)
def test_names(name: str, solver: solvers.Solver) -> None:
    assert solvers.resolve(name) == solver
    assert solvers.resolve(solver) is solver
    assert hash(solver) == hash(dataclasses.replace(solver))


def test_errors() -> None:
    with pytest.raises(
        ValueError, match=r"solver must be one of 'auto', 'eigh', 'native', 'svd', 'qr', 'power_iteration'.*'lapack'"
    ):
        eg.eigh(torch.eye(2), solver="lapack")
    for solver in (None, solvers.QR, 3, torch.linalg.eigh):
        with pytest.raises(TypeError, match="solver must be a name or a solver object"):
            eg.eigh(torch.eye(2), solver=solver)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        solvers.PowerIteration(0)
    for solver in (solvers.SVD(), solvers.QR(), solvers.PowerIteration()):
        with pytest.raises(ValueError, match=r"A must be a batch of square matrices .*got shape \(2, 3\)"):
            solver(torch.zeros(2, 3))
        with pytest.raises(ValueError, match="UPLO must be 'L' or 'U', got 'X'"):
            solver(torch.eye(2), "X")


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_unrolled_is_exact_once_converged(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Autograd through every step; the gradient lies in the triangle that is read, hence the Hermitian part."""
    A = hermitian(torch.tensor([-0.3, 0.1, 1.0]).double(), dtype, generator).expand(2, 3, 3).clone().requires_grad_()
    loss = invariant_loss(3, dtype, generator)
    solver = solvers.PowerIteration(150, generator)
    (unrolled,) = torch.autograd.grad(loss(*eg.eigh(A, gradient=eg.Unrolled(), solver=solver)), A)
    (exact,) = torch.autograd.grad(loss(*eg.eigh(A, gradient=eg.Exact())), A)
    assert not unrolled.triu(1).any()
    assert relative_error(symmetrised(unrolled), exact) < 1e-10


def test_unrolled_is_finite_where_unconverged() -> None:
    A = torch.eye(4, requires_grad=True)
    L, V = eg.eigh(A, gradient=eg.Unrolled(), solver="power_iteration")
    (gradient,) = torch.autograd.grad((L + V.square().sum(-2) + V[0].pow(3)).sum(), A)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (2, 5), (3, 1, 4), (2, 3)])
def test_pieces_for_cusolver(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """What large batches on CUDA go through, tried on a CPU: the same values, shapes and strides as in one piece."""
    A = torch.randn(*shape, 3, 3, dtype=dtype, generator=generator)
    sizes, whole = [], torch.linalg.eigh

    def recording(A: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(A))
        return whole(A)

    expected = torch.linalg.eigh(A)
    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "eigh", recording)
        patched.setattr(reference, "too_many_for_cusolver", lambda A: True)
        patched.setattr(reference, "PIECE", 3)
        L, V = reference.eigh(A, False, False, True)
    torch.testing.assert_close((L, V), tuple(expected))  # LAPACK's last bits depend on where a matrix lies
    assert V.stride()[-2:] == expected.eigenvectors.stride()[-2:]
    batch = A[..., 0, 0].numel()
    assert sizes == [min(3, batch - start) for start in range(0, batch, 3)]


def test_what_goes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA what cuSOLVER, which fails above about 65,000 matrices, would be given at once; nothing on a CPU."""
    with FakeTensorMode():
        for size, device, expected in ((65_000, "cuda", True), (3, "cuda", False), (65_000, "cpu", False)):
            A = torch.empty(size, 1, 1, device=device)
            monkeypatch.setattr(torch.torch_version, "__version__", "2.13.0")
            assert reference.too_many_for_cusolver(A) == expected
            monkeypatch.setattr(torch.torch_version, "__version__", "2.11.0")
            assert not reference.too_many_for_cusolver(A)
