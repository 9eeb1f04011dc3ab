"""The compiled kernel against LAPACK: as accurate on every spectrum, and the same bits wherever a matrix stands."""

import ctypes
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native, native_wins, solvers, testing

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
REAL = (torch.float32, torch.float64)
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 33, 64, 97)


@pytest.fixture(params=(0, 1, 2), ids=("baseline", "avx2", "avx512"))
def instructions(request: pytest.FixtureRequest) -> Iterator[int]:
    """Every instruction set of this processor, one after the other."""
    names = ("baseline", "avx2", "avx512")
    if not native._LIBRARY.eigengrad_choose_instructions(request.param):
        pytest.skip(f"this processor or this build has no {names[request.param]}")
    yield request.param
    assert native._LIBRARY.eigengrad_choose_instructions(names.index(native.instructions()))


def solve(A: Tensor, threads: int = 1) -> tuple[Tensor, Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return solvers.Native()(A)
    finally:
        torch.set_num_threads(before)


def errors(A: Tensor, L: Tensor, V: Tensor, exact: Tensor) -> Tensor:
    """Residual, loss of orthogonality and error of the eigenvalues ``(3, batch)``, in units of ``n eps norm(A)``."""
    n, unit = A.shape[-1], A.shape[-1] * torch.finfo(A.dtype).eps
    A, L, V = A.double(), L.double(), V.double()
    norm = torch.linalg.matrix_norm(A).clamp_min(torch.finfo(torch.float64).tiny)
    residual = torch.linalg.matrix_norm(A @ V - V * L.unsqueeze(-2)) / norm
    orthogonality = torch.linalg.matrix_norm(V.mT @ V - torch.eye(n, dtype=torch.float64)) / n**0.5
    return torch.stack([residual, orthogonality, (L - exact).abs().amax(-1) / norm]) / unit


def eigenvalues(A: Tensor) -> Tensor:
    """With digits to spare: of float32 in double, of float64 by Rayleigh quotients in extended precision."""
    L, V = torch.linalg.eigh(A.double())
    if A.dtype == torch.float32:
        return L
    wide, vectors = A.numpy().astype(np.longdouble), V.numpy().astype(np.longdouble)
    quotients = (vectors * (wide @ vectors)).sum(-2) / (vectors * vectors).sum(-2)
    return torch.from_numpy(quotients.astype(np.float64)).sort(-1).values


def check(A: Tensor) -> None:
    """As accurate as LAPACK to a factor of 2 in the worst case, or to rounding where LAPACK is exact; ascending."""
    L, V = solve(A)
    assert (L.diff(dim=-1) >= 0).all()
    # From here on at a scale of 1, by a power of two: squares of the norm must neither overflow nor vanish.
    exponent = A.abs().amax((-2, -1)).frexp().exponent
    lapack, A, L = torch.linalg.eigh(A), A.ldexp(-exponent[:, None, None]), L.ldexp(-exponent[:, None])
    exact = eigenvalues(A)
    ours = errors(A, L, V, exact).amax(-1)
    theirs = errors(A, lapack[0].ldexp(-exponent[:, None]), lapack[1], exact).amax(-1)
    assert (ours <= torch.maximum(2 * theirs, torch.tensor(1.0 / A.shape[-1] ** 0.5))).all(), (ours, theirs)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", SIZES)
def test_random_matrices(n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Over 100,000 in all."""
    X = torch.randn(12_000 if n <= 9 else 200 if n <= 33 else 40, n, n, dtype=dtype, generator=generator)
    check(X + X.mT)
    check(X @ X.mT)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", [*testing.SPECTRA, "geometric_to_1e-30", "wilkinson", "alternating"])
def test_spectra(kind: str, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    for n in SIZES:
        members = []
        for scale in (1e-30, 1e-10, 1.0, 1e10, 1e30):
            if kind == "wilkinson":
                members.append(testing.wilkinson(n) * scale)
                continue
            if kind == "alternating":  # graded against the direction of the reduction
                L = torch.logspace(0, -30, n).double() * scale
            elif kind == "geometric_to_1e-30":
                L = torch.logspace(-30, 0, n).double() * scale
            else:
                L = testing.spectrum(kind, n, scale=scale)
            members += [testing.hermitian(L, generator=generator), L.diag(), L.flip(-1).diag()]
            D = L.abs().sqrt()
            X = torch.randn(n, n, dtype=torch.float64, generator=generator)
            members.append(D[:, None] * (X + X.mT) * D)  # graded in its rows
        check(torch.stack(members).to(dtype))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", SIZES)
def test_known_matrices(n: int, dtype: torch.dtype) -> None:
    """Zero and diagonal matrices have no error at all."""
    values = torch.arange(n, 0, -1).to(dtype)
    L, V = solve(torch.stack([torch.zeros(n, n, dtype=dtype), torch.eye(n, dtype=dtype), values.diag()]))
    assert torch.equal(L, torch.stack([torch.zeros(n, dtype=dtype), torch.ones(n, dtype=dtype), values.flip(0)]))
    assert torch.equal(V.abs(), torch.eye(n, dtype=dtype).expand(3, n, n).clone().index_copy_(
        0, torch.tensor([2]), torch.eye(n, dtype=dtype).flip(0)[None]))  # fmt: skip


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", SIZES)
def test_extremes(n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Near overflow, subnormal, and single tiny couplings."""
    X = torch.randn(n, n, dtype=torch.float64, generator=generator)
    A = (X + X.mT) / (X + X.mT).abs().sum()
    info = torch.finfo(dtype)
    couplings = [torch.eye(n, dtype=torch.float64) for _ in range(3)]
    for C, size in zip(couplings, (info.tiny / 100, info.tiny, info.eps**2), strict=True):
        C[-1, 0] = C[0, -1] = size
    check(torch.stack([A * info.max, A * info.tiny * 1e3, *couplings]).to(dtype))
    L, V = solve((A * info.tiny).to(dtype))
    assert L.isfinite().all()
    assert torch.linalg.matrix_norm(V.mT @ V - torch.eye(n, dtype=dtype)) <= 10 * n * info.eps


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 8, 13, 17, 40, 100))
def test_same_bits_everywhere(n: int, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    """Whatever the size of the batch, the place in it, the neighbours and the number of threads."""
    X = torch.randn(150, n, n, dtype=dtype, generator=generator)
    X[::3] *= torch.logspace(-20, 20, 50, dtype=dtype)[:, None, None]
    X[1::7] = 0
    A = X + X.mT
    L, V = solve(A)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    for size in (1, 2, 3, 7, 16, 31, 33, 64):
        for threads in (1, 2, 3):
            part = slice(5, 5 + size)
            for expected, actual in zip((L, V), solve(A[part], threads), strict=True):
                assert torch.equal(actual.contiguous().view(bits), expected[part].contiguous().view(bits))
    order = torch.randperm(150, generator=generator)
    for expected, actual in zip((L, V), solve(A[order], 2), strict=True):
        assert torch.equal(actual.contiguous().view(bits), expected[order].contiguous().view(bits))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 6, 16, 20, 64))
def test_one_bad_matrix(n: int, dtype: torch.dtype, bad: float, generator: torch.Generator) -> None:
    X = torch.randn(70, n, n, dtype=dtype, generator=generator)
    A = X + X.mT
    expected = solve(A)
    for index, row in ((0, 0), (33, n // 2), (69, n - 1)):
        spoilt = A.clone()
        spoilt[index, row, 0] = bad
        others = torch.arange(70) != index
        for actual, good in zip(solve(spoilt), expected, strict=True):
            assert actual[index].isnan().all()
            assert torch.equal(actual[others], good[others])


@pytest.mark.parametrize("shape", [(0, 3, 3), (0, 0), (2, 0, 0), (1, 1), (3, 3), (2, 3, 4, 4), (2, 0, 4, 4)])
def test_shapes(shape: tuple[int, ...], generator: torch.Generator) -> None:
    A = torch.randn(shape, generator=generator)
    A = A + A.mT
    L, V = solve(A)
    expected = torch.linalg.eigh(A)
    assert (L.shape, V.shape, V.stride()) == (A.shape[:-1], A.shape, expected.eigenvectors.stride())
    torch.testing.assert_close(L, expected.eigenvalues)
    torch.testing.assert_close((V * L.unsqueeze(-2)) @ V.mT, A)


def test_one_triangle_is_read_of_any_layout(generator: torch.Generator) -> None:
    for n in (1, 3, 4, 9, 20):
        X = torch.randn(5, n, n, generator=generator)
        A = X + X.mT
        lower = (A.tril() + torch.full_like(A, 7).triu(1))[:, :, :]
        L, V = solve(A)
        assert torch.equal(solve(lower)[1], V)
        assert torch.equal(solvers.Native()(lower.mT, "U")[1], V)
        assert torch.equal(solve(torch.stack([lower, lower], -1)[..., 0])[0], L)
        assert torch.equal(solve(A[:1].expand(5, n, n))[0], L[:1].expand(5, n))


def test_it_does_not_read_or_write_beyond(generator: torch.Generator) -> None:
    """The last matrix ends where the storage ends; around the outputs nothing changes."""
    for n in (2, 3, 5, 17):
        for count in (1, 5, 33):
            A = torch.randn(count, n, n, generator=generator)
            L, V = torch.full((count + 2, n), 7.0), torch.full((count + 2, n, n), 7.0)
            native._LIBRARY.eigengrad_eigh_float32(A.data_ptr(), L[1].data_ptr(), V[1].data_ptr(), count, n, 2)
            assert (L[[0, -1]] == 7).all()
            assert (V[[0, -1]] == 7).all()
            assert torch.equal(L[1:-1], solve(A)[0])


def test_callers_on_several_threads(generator: torch.Generator) -> None:
    X = torch.randn(2000, 8, 8, generator=generator)
    A = X + X.mT
    expected, wrong = solve(A), []

    def call() -> None:
        for _ in range(20):
            L, V = solvers.Native()(A)
            if not (torch.equal(L, expected[0]) and torch.equal(V, expected[1])):
                wrong.append(1)

    torch.set_num_threads(3)
    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(1)
    assert not wrong


def gradients(function: Callable[[Tensor], Tensor], A: Tensor, G: Tensor) -> Tensor:
    leaf = A.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, G)[0]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 7, 8, 13, 16, 31))
def test_fused_roots(n: int, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    """Values and gradients of the square roots, in single precision as close to double as torch's products are."""
    X = torch.randn(300, n, n + 3, dtype=torch.float64, generator=generator)
    A = X @ X.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    A[7], A[8] = torch.eye(n), 2 * torch.eye(n)  # ties
    A, G = A.to(dtype), torch.randn(300, n, n, dtype=dtype, generator=generator)
    assert native.multiplies(A)
    for function in (eg.inv_sqrtm, eg.sqrtm):
        for cotangent in (G, G.mT, G.expand(300, n, n)[:, :1].expand(300, n, n)):
            actual = [function(A), gradients(function, A, cotangent)]
            lapack = lambda A, function=function: function(A, solver="eigh")  # noqa: E731
            expected = [lapack(A.double()), gradients(lapack, A.double(), cotangent.double())]
            for ours, exact in zip(actual, expected, strict=True):
                # The error of a gradient is that of the eigenvalues, relative to the smallest.
                assert testing.relative_error(ours, exact) < 3e3 * n * torch.finfo(dtype).eps
                assert torch.equal(ours, ours.mT)


def test_fused_root_at_its_floor() -> None:
    A = torch.diag_embed(torch.tensor([[4.0, 1.0, -1e-9]])).expand(64, 3, 3)
    X = eg.inv_sqrtm(A, floor=0.25)
    torch.testing.assert_close(X, torch.tensor([0.5, 1.0, 2.0]).diag().expand(64, 3, 3))
    spoilt = A.clone()
    spoilt[3, 1, 1] = torch.nan
    assert eg.inv_sqrtm(spoilt)[3].isnan().all()
    assert torch.equal(eg.inv_sqrtm(spoilt, floor=0.25)[4:], X[4:])


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 7, 8, 13, 16, 31))
def test_fused_rules(n: int, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    """The gradient of every rule against the same formula in torch's products."""
    X = torch.randn(150, n, n, dtype=dtype, generator=generator)
    A, gL = X + X.mT, torch.randn(150, n, dtype=dtype, generator=generator)
    for gV in (X, X.mT):
        for rule in (eg.Exact(), eg.PowerIteration(), eg.Taylor(), eg.Lorentzian(1e-3)):
            leaf = A.clone().requires_grad_()
            L, V = eg.eigh(leaf, gradient=rule)
            for cotangents in ((gL, gV), (None, gV)):
                outputs = [x for x, g in zip((L, V), cotangents, strict=True) if g is not None]
                given = [g for g in cotangents if g is not None]
                (fused,) = torch.autograd.grad(outputs, leaf, given, retain_graph=True)
                (plain,) = torch.autograd.grad(outputs, leaf, given, create_graph=True)
                assert plain.requires_grad
                assert not fused.requires_grad
                assert (fused - plain).norm() <= 100 * torch.finfo(dtype).eps * plain.norm()


def test_second_derivatives_beside_the_fused_first(generator: torch.Generator) -> None:
    X = torch.randn(5, 3, 3, dtype=torch.float64, generator=generator)
    A = (X @ X.mT + torch.eye(3)).requires_grad_()
    assert native.multiplies(A)
    for function in (eg.inv_sqrtm, eg.sqrtm, lambda A: eg.eigh(A)[1].square()):
        symmetric = lambda A, function=function: function((A + A.mT) / 2)  # noqa: E731
        if function in (eg.inv_sqrtm, eg.sqrtm):
            assert torch.autograd.gradcheck(symmetric, A, check_forward_ad=True, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(symmetric, A)
        (first,) = torch.autograd.grad(symmetric(A).sum(), A, create_graph=True)
        assert torch.autograd.grad(first.square().sum(), A)[0].isfinite().all()


def test_errors() -> None:
    for A in (torch.eye(2, dtype=torch.complex64), torch.eye(2).half(), torch.eye(2, device="meta")):
        with pytest.raises(ValueError, match="solver='native' takes float32 or float64 matrices on a CPU, got torch"):
            eg.eigh(A, solver="native")
    with pytest.raises(ValueError, match=r"A must be a batch of square matrices .*got shape \(2, 3\)"):
        solvers.Native()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="UPLO must be 'L' or 'U', got 'X'"):
        solvers.Native()(torch.eye(2), "X")


def test_auto_chooses_by_size_alone() -> None:
    """One matrix, complex matrices and large ones go to LAPACK, bit for bit; a large batch of small ones does not."""
    for A in (
        torch.eye(3),
        torch.eye(3)[None],
        torch.eye(3).expand(999, 3, 3).cfloat(),
        torch.eye(300).expand(2, 300, 300),
    ):
        assert not native.chosen(A)
    assert native.chosen(torch.full((4096, 3, 3), torch.nan))
    assert solvers.Auto()(torch.full((4096, 3, 3), torch.nan))[0].isnan().all()
    for rows in native_wins.SMALLEST_BATCH.values():
        assert [n for n, _ in rows] == sorted(n for n, _ in rows)


def test_without_a_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(native, "_LIBRARY", None)
    monkeypatch.setattr(native, "_DETAIL", "not built")
    native._function.cache_clear()
    A = torch.eye(3).expand(4096, 3, 3)
    assert torch.equal(eg.eigh(A)[0], torch.linalg.eigh(A)[0])
    with pytest.raises(RuntimeError, match="native kernel: not built; use solver='eigh'"):
        eg.eigh(A, solver="native")
    eg.show_config()
    assert "native kernel: not built" in capsys.readouterr().out
    assert native.instructions() is None


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, generator: torch.Generator) -> None:
    X = torch.randn(64, 3, 3, generator=generator)
    A = X + X.mT
    for solver in ("native", "auto"):
        compiled = torch.compile(lambda A, solver=solver: eg.eigh(A, solver=solver), fullgraph=True, dynamic=dynamic)
        assert torch.equal(compiled(A)[1], eg.eigh(A, solver=solver)[1])


def test_vmap(generator: torch.Generator) -> None:
    X = torch.randn(64, 3, 3, generator=generator)
    A = X + X.mT
    for solver in ("native", "auto"):
        mapped = torch.func.vmap(lambda A, solver=solver: eg.eigh(A, solver=solver), in_dims=1)(A.movedim(0, 1))
        assert torch.equal(mapped[1], eg.eigh(A, solver=solver)[1])


def test_export(generator: torch.Generator) -> None:
    """An operator of this package is in the graph, whose choice under ``"auto"`` is made when it runs."""

    class Solve(torch.nn.Module):
        def __init__(self, solver: str) -> None:
            super().__init__()
            self.solver = solver

        def forward(self, A: Tensor) -> Tensor:
            return eg.eigh(A, solver=self.solver)[0]

    X = torch.randn(64, 3, 3, generator=generator)
    A = X + X.mT
    batch = {"A": {0: torch.export.Dim("batch", min=2)}}
    for solver in ("native", "auto"):
        exported = torch.export.export(Solve(solver), (A,), dynamic_shapes=batch)
        for size in (2, 64):
            assert torch.equal(exported.module()(A[:size]), eg.eigh(A[:size], solver=solver)[0])


def test_operator_contract() -> None:
    for shape in ((5, 3, 3), (2, 2, 4, 4), (0, 3, 3), (3, 3)):
        torch.library.opcheck(torch.ops.eigengrad.eigh.default, (torch.zeros(shape), True))


def test_interface_is_plain_c() -> None:
    for name in ("eigengrad_eigh_float64", "eigengrad_root_float64", "eigengrad_pull_back_float64"):
        assert isinstance(native._LIBRARY[name], ctypes._CFuncPtr)
