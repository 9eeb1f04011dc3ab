"""A few eigenpairs of large operators, against dense matrices and their exact gradients."""

import warnings

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import eigengrad as eg
from eigengrad.eigsh import MultipletWarning
from eigengrad.eigsh.linear_solves import minres

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # torch: CSR is in beta
EXACT_AT_TIES = eg.Masked(1e-9)


def matrix_of(eigenvalues, dtype=torch.float64, seed=0):
    L = torch.as_tensor(eigenvalues, dtype=torch.float64)
    Q = torch.randn(len(L), len(L), dtype=dtype, generator=torch.Generator().manual_seed(seed))
    Q = torch.linalg.qr(Q)[0]
    A = (Q * L) @ Q.mH
    return (A + A.mH) / 2


def with_multiplets(n=500, dtype=torch.float64):
    """1.1, a triple 1.2 and a double 1.3 above the interval from 0 to 1."""
    return matrix_of([*torch.linspace(0, 1, n - 6).tolist(), 1.1, 1.2, 1.2, 1.2, 1.3, 1.3], dtype)


def grid_laplacian(m, spread=0.0):
    ones = torch.ones(m - 1, dtype=torch.float64)
    T = 2 * torch.eye(m, dtype=torch.float64) - ones.diag(1) - ones.diag(-1)
    identity = torch.eye(m, dtype=torch.float64)
    D = torch.kron(T, identity) + torch.kron(identity, T)
    return D + spread * torch.rand(m * m, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).diag()


def of_subspace(L, V):
    """A loss that respects multiplets, if they are whole."""
    C = torch.randn(len(V), len(V), dtype=V.dtype, generator=torch.Generator().manual_seed(2))
    P = V @ V.mH
    return ((P * (C + C.mH)).sum() + ((P @ C @ P).abs() ** 2).sum() / len(V)).real + (L**3).sum()


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("which", "k"), [("largest", 6), ("largest", 5), ("largest", 2), ("magnitude", 5), ("smallest", 3)]
)
def test_gradient_is_the_dense_exact_one_with_ties_in_the_block(which, k, dtype):
    A, at = with_multiplets(dtype=dtype).requires_grad_(), slice(0, k) if which == "smallest" else k
    L, V = eg.eigsh(A, k, which=which, gradient=EXACT_AT_TIES)
    dense = eg.topk_eigh(A, at, gradient=EXACT_AT_TIES)
    assert torch.allclose(L, dense.eigenvalues, atol=1e-13)
    (ours,) = torch.autograd.grad(of_subspace(L, V), A)
    (exact,) = torch.autograd.grad(of_subspace(*dense), A)
    assert relative(ours, exact) < 1e-10


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 5e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("n", [40, 500])
def test_the_null_space_of_a_laplacian_is_a_tie(n, dtype, accuracy):
    """Its rounding errors are small beside the largest eigenvalue, not beside its own."""
    parts, size = 4, n // 4
    of_part = size * torch.eye(size) - torch.ones(size, size)
    A = torch.block_diag(*[of_part] * parts).to(dtype).requires_grad_()
    P = torch.block_diag(*[torch.full((size, size), 1 / size, dtype=dtype)] * parts)
    R = torch.randn(n, n, dtype=dtype)
    R = R + R.T
    _, X = eg.eigsh(A, parts, which="smallest")
    (gradient,) = torch.autograd.grad((X * (R @ X)).sum(), A)
    rest = torch.eye(n, dtype=dtype) - P
    exact = -(P @ R @ rest + rest @ R @ P) / size
    assert (gradient - exact).abs().max() < accuracy * exact.abs().max()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_gradient_of_a_sparse_matrix_has_its_pattern(which, layout):
    D = grid_laplacian(22, spread=0.1)
    S = (D.to_sparse_coo() if layout == torch.sparse_coo else D.to_sparse_csr()).requires_grad_()
    of_subspace(*eg.eigsh(S, 6, which=which)).backward()
    assert S.grad.layout == layout
    assert S.grad.values().shape == S.values().shape if layout == torch.sparse_csr else S.grad._nnz() == S._nnz()
    dense = D.clone().requires_grad_()
    of_subspace(*eg.topk_eigh(dense, 6 if which == "largest" else slice(0, 6), gradient=eg.Exact())).backward()
    assert relative(S.grad.to_dense(), dense.grad * (D != 0)) < 1e-10


@pytest.mark.parametrize("n", [6, 100])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_second_derivatives_of_a_sparse_matrix(layout, n):
    D = torch.diag(torch.arange(1.0, n + 1).double()) + torch.diag(torch.ones(n - 1).double(), 1)
    D = torch.triu(D) + torch.triu(D, 1).mT
    found = []
    for A in (D.to_sparse(layout=layout).requires_grad_(), D.clone().requires_grad_()):
        (g,) = torch.autograd.grad((eg.eigsh(A, 2).eigenvalues ** 2).sum(), A, create_graph=True)
        penalty = g.values() if g.layout == torch.sparse_csr else g.to_dense() * (D != 0)
        found.append(torch.autograd.grad(penalty.square().sum(), A)[0].to_dense() * (D != 0))
    assert relative(*found) < 1e-10


def test_an_implicit_covariance_gets_the_gradient_in_its_data():
    data = torch.randn(2000, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    L, V = eg.eigsh(lambda X, data: data.mT @ (data @ X) / 2000, 4, n=300, params=[data])
    (ours,) = torch.autograd.grad(of_subspace(L, V), data)
    dense = eg.topk_eigh(data.mT @ data / 2000, 4, gradient=eg.Exact())
    assert relative(ours, torch.autograd.grad(of_subspace(*dense), data)[0]) < 1e-10


@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_first_and_second_derivatives(dtype, generalised):
    A = matrix_of(torch.linspace(-1, 2, 40) ** 3, dtype).requires_grad_()
    B = matrix_of(torch.linspace(1, 2, 40), dtype, seed=1).requires_grad_()

    def pairs(A, B=None):
        L, V = eg.eigsh((A + A.mH) / 2, 3, B=None if B is None else (B + B.mH) / 2, gradient=eg.Exact())
        return L, V.abs() ** 2

    arguments = (A, B) if generalised else (A,)
    assert torch.autograd.gradcheck(pairs, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(pairs, arguments, fast_mode=True)


def test_second_derivatives_of_a_sparse_matrix_given_as_a_function_of_its_values():
    S = grid_laplacian(6, spread=1.0).to_sparse_coo().coalesce()
    rows, columns = S.indices()
    transposed = torch.argsort(columns * 36 + rows)  # where entry (j, i) of entry (i, j) is

    def product(X, values):
        return torch.zeros_like(X).index_add(0, rows, (values + values[transposed])[:, None] / 2 * X[columns])

    def pairs(values):
        L, V = eg.eigsh(product, 2, which="smallest", gradient=eg.Exact(), n=36, params=[values])
        return L, V**2

    values = S.values().clone().requires_grad_()
    assert torch.autograd.gradcheck(pairs, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(pairs, values, fast_mode=True)


def test_generalised_problem_with_preconditioner_and_without():
    A, B = with_multiplets(400) + 0.01 * torch.eye(400), matrix_of(torch.linspace(1, 2, 400), seed=1)
    A, B = A.requires_grad_(), B.requires_grad_()
    dense = eg.eigh(A, B=B, gradient=eg.Exact())
    expected = torch.autograd.grad(of_subspace(dense.eigenvalues[:4], dense.eigenvectors[:, :4]), (A, B))
    for preconditioner in (None, torch.linalg.inv(A.detach())):
        L, V = eg.eigsh(A, 4, which="smallest", B=B, preconditioner=preconditioner, gradient=eg.Exact())
        assert torch.allclose(L, dense.eigenvalues[:4], atol=1e-13)
        assert torch.allclose(V.mH @ B @ V, torch.eye(4, dtype=torch.float64), atol=1e-12)
        ours = torch.autograd.grad(of_subspace(L, V), (A, B))
        assert max(map(relative, ours, expected)) < 1e-9


def test_more_copies_than_a_block_has_columns_are_found():
    L, _ = eg.eigsh(matrix_of([*torch.linspace(0, 1, 290).tolist(), *[2.0] * 10]), 10)
    assert torch.allclose(L, torch.full((10,), 2.0, dtype=torch.float64))
    with pytest.warns(MultipletWarning, match="eigenvalues 3 and 4"):
        eg.eigsh(matrix_of([*torch.linspace(0, 1, 290).tolist(), *[2.0] * 10]), 3)


def test_copies_that_a_krylov_space_of_the_block_misses():
    spectrum = [*torch.linspace(0, 0.1, 294).tolist(), 1.9, *[2.0] * 5]
    assert torch.allclose(eg.eigsh(matrix_of(spectrum), 5).eigenvalues, torch.full((5,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("n", [30, 500])
def test_a_multiplet_cut_is_said(n):
    A = with_multiplets(n)
    with pytest.warns(MultipletWarning, match="k = 3 cuts a multiplet: eigenvalues 3 and 4"):
        L, V = eg.eigsh(A, 3)
    assert L.shape == (3,) and V.shape == (n, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eg.eigsh(A, 5)


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 3e-6), (torch.complex128, 1e-14)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scales(scale, dtype, accuracy):
    A = with_multiplets(dtype=torch.complex128 if dtype.is_complex else torch.float64)
    X = (A * scale).to(dtype).requires_grad_()
    L, V = eg.eigsh(X, 6, gradient=eg.Masked(1e-4))
    assert float((L.detach().double() / scale - torch.linalg.eigvalsh(A)[-6:]).abs().max()) < accuracy
    (g,) = torch.autograd.grad((V @ V.mH).real[0, :9].sum(), X)
    Y = A.clone().requires_grad_()
    Z = eg.topk_eigh(Y, 6, gradient=EXACT_AT_TIES).eigenvectors
    assert relative(g.to(Y.dtype) * scale, torch.autograd.grad((Z @ Z.mH).real[0, :9].sum(), Y)[0]) < 1e3 * accuracy


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_small_operators(n):
    A = matrix_of(torch.arange(n, dtype=torch.float64)).requires_grad_()
    for k in range(n + 1):
        L, V = eg.eigsh(A, k)
        assert torch.allclose(L, torch.arange(n - k, n, dtype=torch.float64), atol=1e-13)
        assert V.shape == (n, k)
        if k:
            of_subspace(L, V).backward()
    assert n == 0 or A.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore::eigengrad.eigsh.MultipletWarning")
@pytest.mark.parametrize("A", [torch.eye(300), torch.zeros(300, 300), torch.ones(300, 300)], ids=["I", "0", "rank 1"])
def test_operators_whose_krylov_spaces_end_at_once(A):
    L, V = eg.eigsh(A.double(), 4)
    assert torch.allclose(L, torch.linalg.eigvalsh(A.double())[-4:], atol=1e-12)
    assert torch.allclose(V.mT @ V, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_a_start_and_a_preconditioner_save_products():
    A, products = grid_laplacian(40), 0

    def counted(X):
        nonlocal products
        products += X.shape[1]
        return A @ X

    found = eg.eigsh(counted, 3, which="smallest", n=1600, dtype=torch.float64)
    cold, products = products, 0
    again = eg.eigsh(counted, 3, which="smallest", n=1600, dtype=torch.float64, start=found.eigenvectors)
    warm, products = products, 0
    inverse = torch.linalg.inv(A)
    preconditioned = eg.eigsh(counted, 3, which="smallest", n=1600, dtype=torch.float64, preconditioner=inverse)
    assert warm < 0.8 * cold and products < 0.8 * cold
    for other in (again, preconditioned):
        assert torch.allclose(found.eigenvalues, other.eigenvalues, atol=1e-12)


def test_transforms_of_torch_func():
    A = with_multiplets(200)
    assert torch.allclose(
        torch.func.grad(lambda A: eg.eigsh(A, 2).eigenvalues.sum())(A).trace(), torch.tensor(2.0).double()
    )


@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_forward_mode(dtype, generalised):
    """Plain, of torch.func, over itself and over reverse mode; in tied blocks, what reverse mode says."""
    A, B = matrix_of(torch.linspace(-1, 2, 30) ** 3, dtype), matrix_of(torch.linspace(1, 2, 30), dtype, seed=1)

    def pairs(A, B):
        L, V = eg.eigsh((A + A.mH) / 2, 3, B=(B + B.mH) / 2 if generalised else None, gradient=eg.Exact())
        return torch.cat([L, (V.abs() ** 2).flatten()])

    at = A.clone().requires_grad_(), B.clone().requires_grad_()
    if generalised or dtype.is_complex:
        assert torch.autograd.gradcheck(pairs, at, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(pairs, at, fast_mode=True, check_fwd_over_rev=True)
    tangents = tuple((X.roll(1, 0) + X.roll(1, 0).mH) / 9 for X in (A, B))
    along = lambda A, B: torch.func.jvp(pairs, (A, B), tangents)[1]  # noqa: E731
    pushed = torch.func.jvp(along, (A, B), tangents)[1]
    gradients = torch.autograd.grad(pairs(*at).square().sum(), at, create_graph=True, materialize_grads=True)
    inner = sum((g.conj() * v).real.sum() for g, v in zip(gradients, tangents, strict=True))
    second = torch.autograd.grad(inner, at, materialize_grads=True)
    expected = sum((g.conj() * v).real.sum() for g, v in zip(second, tangents, strict=True))
    first = along(A, B)
    assert torch.allclose(2 * (first.square().sum() + (pairs(A, B) * pushed).sum()), expected, rtol=1e-8)


def test_jacobians_and_compilers():
    A = matrix_of(torch.linspace(-1, 2, 12) ** 3)
    squares = lambda A: eg.eigsh((A + A.mT) / 2, 2, gradient=eg.Exact()).eigenvectors.square()  # noqa: E731
    assert torch.allclose(torch.func.jacrev(squares)(A), torch.func.jacfwd(squares)(A))
    data = torch.randn(30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def implicit(data):
        return eg.eigsh(lambda X, data: data.mT @ (data @ X), 2, n=12, params=[data]).eigenvectors[0] ** 2

    (g,) = torch.autograd.grad(implicit(data).sum(), data)
    pushed = torch.func.jvp(implicit, (data.detach(),), (data.detach() ** 2,))[1]
    assert torch.allclose(pushed.sum(), (g * data**2).sum())
    compiled = torch.compile(lambda A: 2 * squares(2 * A), backend="eager")
    assert torch.allclose(compiled(A), 2 * squares(A))


def test_an_operator_within_autocast():
    """The caller's products, and the search's, are of single precision, as without it."""
    D = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    D = D + D.mT
    found = []
    for within in (False, True):
        A = D.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=within):
            L, _ = eg.eigsh(lambda X, A: A @ X, 3, n=300, params=[A])
            found.append((L.detach(), *torch.autograd.grad(L.sum(), A)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_bad_input_is_named():
    A = with_multiplets(300)
    with pytest.raises(
        torch.linalg.LinAlgError, match=r"4 of 4 pairs did not converge .* are eigenvalue .*Raise max_iterations"
    ):
        eg.eigsh(grid_laplacian(30), 4, which="smallest", max_iterations=1)
    with pytest.raises(torch.linalg.LinAlgError, match="NaN or infinity"):
        eg.eigsh(A * torch.nan, 3)
    with pytest.raises(ValueError, match="A must be Hermitian"):
        eg.eigsh(A.triu(), 3)
    with pytest.raises(ValueError, match="k must lie between 0 and n = 300, got 301"):
        eg.eigsh(A, 301)
    with pytest.raises(ValueError, match="which must be one of"):
        eg.eigsh(A, 3, which="LA")
    with pytest.raises(ValueError, match="one square matrix"):
        eg.eigsh(A.expand(2, 300, 300), 3)
    with pytest.raises(ValueError, match="needs n"):
        eg.eigsh(lambda X: X, 3)
    with pytest.raises(TypeError, match=r"dtype must be float32, .* got torch\.int64; give one"):
        eg.eigsh(lambda X, p: X, 3, n=300, params=[torch.arange(3)])
    with pytest.raises(ValueError, match="must have X's shape"):
        eg.eigsh(lambda X: X[:1], 3, n=300)
    with pytest.raises(TypeError, match="tensor or a function"):
        eg.eigsh("A", 3)
    with pytest.raises(ValueError, match=r"B must have A's dtype, device and size, .* got torch\.float32"):
        eg.eigsh(A, 3, B=torch.eye(300))
    with pytest.raises(ValueError, match=r"preconditioner must have A's dtype, device and size, .* and n = 299"):
        eg.eigsh(A, 3, preconditioner=torch.eye(299).double())
    with pytest.raises(TypeError, match=r"A must be a dense, sparse COO or sparse CSR tensor, got torch.sparse_csc"):
        eg.eigsh(A.to_sparse_csc(), 3)
    with pytest.raises(TypeError, match=r"start must be real, as A is, got torch.complex64"):
        eg.eigsh(A, 3, start=torch.ones(300, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="start must be on A's device, cpu, got meta"):
        eg.eigsh(A, 3, start=torch.ones(300, 2, device="meta"))
    with pytest.raises(TypeError, match="start must be a tensor of columns"):
        eg.eigsh(A, 3, start=3)
    with pytest.raises(TypeError, match=r"k must be an int, got 2.0 of type float"):
        eg.eigsh(A, 2.0)
    with pytest.raises(ValueError, match="start must be finite"):
        eg.eigsh(A, 3, start=torch.full((300, 2), torch.nan))
    with pytest.raises(TypeError, match="tol must be a number, got 'a'"):
        eg.eigsh(A, 3, tol="a")
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
        eg.eigsh(A, 3, generator=0)
    with pytest.raises(TypeError, match=r"max_iterations must be an int, got 2\.5"):
        eg.eigsh(A, 3, max_iterations=2.5)
    with pytest.raises(ValueError, match="n must be A's size, 300, or be left out, got 50"):
        eg.eigsh(A, 3, n=50)
    with pytest.raises(TypeError, match="params must be a list of tensors, got a tensor"):
        eg.eigsh(lambda X, A: A @ X, 3, n=300, params=A)
    with pytest.raises(ValueError, match="B must be Hermitian"):
        eg.eigsh(A[:10, :10] + A[:10, :10].mT, 3, B=(torch.ones(10, 10) + torch.eye(10)).triu().double())
    with pytest.raises(torch.linalg.LinAlgError, match="B must be positive definite"):
        eg.eigsh(A[:10, :10] + A[:10, :10].mT, 3, B=-torch.eye(10).double())
    with pytest.raises(ValueError, match="which make_fx and export hide"):
        make_fx(lambda A: eg.eigsh(A, 3).eigenvalues, tracing_mode="fake")(A)
    leaf = A[:60, :60].clone().requires_grad_()
    V = eg.eigsh((leaf + leaf.mT) / 2, 3).eigenvectors
    with pytest.raises(ValueError, match=r"vectorize=True hide: use torch\.func\.jacrev"):
        torch.autograd.grad(V, leaf, torch.ones(2, *V.shape).double(), is_grads_batched=True)
    with pytest.raises(ValueError, match="vmap hides: loop over the operators"):
        torch.vmap(lambda A: eg.eigsh(A, 3).eigenvalues)(A[None])
    with pytest.raises(TypeError, match="float32, float64"):
        eg.eigsh(A.to(torch.int64), 3)


def test_the_gradient_says_if_its_equations_are_too_hard():
    A = matrix_of([*torch.linspace(0, 1, 36).tolist(), *(2 + 1e-5 * torch.arange(4.0)).tolist()]).requires_grad_()
    _, V = eg.eigsh(A, 2, max_iterations=1)
    with pytest.raises(torch.linalg.LinAlgError, match="the gap behind the last pair is narrow"):
        (V[0] * V[1]).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_minres_solves_indefinite_systems_with_their_own_shifts(dtype):
    A, shifts = matrix_of(torch.linspace(-1, 1, 200), dtype), torch.tensor([0.005, 3.0, -0.4721], dtype=torch.float64)
    right = torch.randn(200, 3, dtype=dtype, generator=torch.Generator().manual_seed(3))
    right[:, 1] = 0
    w, share = minres(lambda X: A @ X - X * shifts, right, 1.0, max_iterations=2000)
    assert (share <= 1).all() and (w[:, 1] == 0).all()
    for j, shift in enumerate(shifts):
        exact = torch.linalg.solve(A - shift * torch.eye(200, dtype=dtype), right[:, j])
        assert float((w[:, j] - exact).norm()) <= 1e-10 * float(exact.norm())


def test_inspection_of_pairs():
    found = eg.analysis.inspect(with_multiplets(), 3)
    assert found.cut and "k = 3 cuts a multiplet of 3: take k = 5, or k = 2." in str(found)
    assert len(found.eigenvalues) == 5 and len(found.gaps) == 3 and found.condition > 1e12
    assert (found.residuals < 1e-12).all()
    found = eg.analysis.inspect(grid_laplacian(20).to_sparse_coo(), 3, which="smallest")
    assert not found.cut and "wide enough" in found.advice
    exact = torch.linalg.eigvalsh(grid_laplacian(20))
    assert abs(float(found.gaps[-1]) / float((exact[3] - exact[2]) / exact[-1]) - 1) < 0.1
    whole = eg.analysis.inspect(torch.eye(3).double() * torch.arange(3), 3)
    assert not whole.cut and whole.condition == 1
    with pytest.raises(ValueError, match="k must be at least 1"):
        eg.analysis.inspect(with_multiplets(), 0)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "callable"])
def test_func_vjp_and_jacrev(sparse):
    """Once the transform is over, what it saved does not say that it wants a gradient."""
    A = with_multiplets()[:60, :60]
    A = (A + A.mT) / 2
    values = A.to_sparse_coo().coalesce().values() if sparse else A
    indices = A.to_sparse_coo().coalesce().indices()

    def pairs(values):
        return eg.eigsh(product, 2, n=60, params=[values]) if sparse else eg.eigsh(values, 2)

    def product(X, values):
        rows, columns = indices
        return torch.zeros_like(X).index_add(0, rows, values[:, None] * X[columns])

    def loss(values):
        L, V = pairs(values)
        return L.sum() + (V[:5] @ V[:5].mT).square().sum()

    leaf = values.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    (found,) = torch.func.vjp(loss, values)[1](torch.ones((), dtype=torch.float64))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12) and expected.any()
    assert torch.allclose(torch.func.grad(loss)(values), expected, rtol=1e-9, atol=1e-12)
    of_values = torch.func.jacrev(lambda values: pairs(values).eigenvalues)(values)
    each = torch.stack([torch.autograd.grad(pairs(leaf).eigenvalues[i], leaf)[0] for i in range(2)])
    assert torch.allclose(of_values, each, atol=1e-12)


def test_an_implicit_covariance_trains_its_data():
    """Its gradient is that of the covariance itself, and a few steps down it lower the loss."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(400, 120, dtype=torch.float64, generator=generator) * torch.logspace(0, -1, 120).double()
    target = torch.linalg.qr(torch.randn(120, 3, dtype=torch.float64, generator=generator)).Q

    def loss(data):
        _, V = eg.eigsh(lambda X, data: data.mT @ (data @ X) / 400, 3, n=120, params=[data])
        return 3 - (V.mT @ target).square().sum()

    losses = []
    for _ in range(4):
        data.requires_grad_()
        value = loss(data)
        (g,) = torch.autograd.grad(value, data)
        if not losses:
            V = torch.linalg.eigh(data.mT @ data / 400).eigenvectors[:, -3:]
            (expected,) = torch.autograd.grad(3 - (V.mT @ target).square().sum(), data)
            assert float((g - expected).norm() / expected.norm()) < 1e-9
        losses.append(float(value.detach()))
        data = data.detach() - g * (0.1 * losses[-1] / g.square().sum())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("n", [5, 20])
def test_one_triangle_is_no_hermitian_matrix(n):
    A = matrix_of(torch.arange(float(n)).double())
    for wrong in (A.triu(), A.triu().to_sparse_coo()):
        with pytest.raises(ValueError, match="A must be Hermitian"):
            eg.eigsh(wrong, 2)


@pytest.mark.parametrize("diagonal", ["-1", "0", "nan", "one -1", "half -1"])
def test_a_b_that_is_not_positive_definite(diagonal: str) -> None:
    """Whatever the search meets first; it must not go on for ever."""
    n = 100
    A = torch.randn(n, n, dtype=torch.float64)
    values = {"one -1": torch.ones(n).index_fill(0, torch.tensor(3), -1.0), "half -1": torch.ones(n)}
    values["half -1"][: n // 2] = -1
    b = values[diagonal] if diagonal in values else torch.full((n,), float(diagonal))
    with pytest.raises(ValueError, match=r"B must be positive definite, got x\^H B x = "):
        eg.eigsh(A + A.mT, 3, B=b.double().diag())
