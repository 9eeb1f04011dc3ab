"""The geometry of positive definite matrices, against mpmath, closed forms and finite differences."""

import mpmath
import pytest
import torch
from oracle import _exact, _rounded

import eigengrad as eg

PAIRS = {
    "geometric_mean": eg.spd.geometric_mean,
    "geometric_mean, t = 0.3": lambda A, B: eg.spd.geometric_mean(A, B, 0.3),
    "optimal_transport_map": eg.spd.optimal_transport_map,
    "log_map": eg.spd.log_map,
    "bures_distance": lambda A, B: eg.spd.bures_distance(A, B, squared=True),
    "affine_invariant_distance": lambda A, B: eg.spd.affine_invariant_distance(A, B, squared=True),
    "log_euclidean_distance": lambda A, B: eg.spd.log_euclidean_distance(A, B, squared=True),
}


def hermitian(X):
    return (X + X.mH) / 2


def definite(*shape, dtype=torch.float64, seed=0):
    X = torch.randn(*shape, shape[-1], dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return X @ X.mH + 0.3 * torch.eye(shape[-1], dtype=dtype)


def of_rank(n, rank, dtype=torch.float64, seed=1):
    X = torch.randn(n, rank, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return X @ X.mH


def relative(a, b):
    return float((a - b).norm() / b.norm())


def many_digits(name, A, B):
    """The functions by eigenvectors, in many digits."""

    def of(X, f):
        L, V = mpmath.eigsy(X) if not B.is_complex() else mpmath.eighe(X)
        return V * mpmath.diag([f(x) for x in L]) * V.H

    with mpmath.workdps(60):
        A_, B_ = _exact(A), _exact(B)
        root, inverse = of(A_, mpmath.sqrt), of(A_, lambda x: 1 / mpmath.sqrt(x))
        middle, product = inverse * B_ * inverse, root * B_ * root
        clip = lambda x: mpmath.sqrt(max(x, 0))  # noqa: E731 (a semidefinite B, as it was rounded)
        trace = lambda X: sum(mpmath.re(X[i, i]) for i in range(X.rows))  # noqa: E731
        value = {
            "geometric_mean": lambda: root * of(middle, clip) * root,
            "geometric_mean, t = 0.3": lambda: root * of(middle, lambda x: x ** mpmath.mpf(0.3)) * root,
            "optimal_transport_map": lambda: inverse * of(product, clip) * inverse,
            "log_map": lambda: root * of(middle, mpmath.log) * root,
            "bures_distance": lambda: trace(A_) + trace(B_) - 2 * trace(of(product, clip)),
            "affine_invariant_distance": lambda: trace(of(middle, lambda x: mpmath.log(x) ** 2)),
            "log_euclidean_distance": lambda: trace((of(A_, mpmath.log) - of(B_, mpmath.log)) ** 2),
        }[name]()
        return (
            _rounded(value, A.is_complex())
            if isinstance(value, mpmath.matrix)
            else torch.tensor(float(mpmath.re(value)), dtype=torch.float64)
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", PAIRS)
def test_values_in_many_digits(name, dtype):
    A, B = definite(5, dtype=dtype), definite(5, dtype=dtype, seed=1)
    assert relative(PAIRS[name](A, B), many_digits(name, A, B)) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("at", ["general", "equal", "identity"])
@pytest.mark.parametrize("name", PAIRS)
def test_first_and_second_derivatives(name, at, dtype):
    A = torch.eye(4, dtype=dtype) if at == "identity" else definite(4, dtype=dtype)
    B = definite(4, dtype=dtype, seed=1) if at == "general" else A.clone()
    arguments = A.requires_grad_(), B.requires_grad_()
    function = lambda A, B: PAIRS[name](hermitian(A), hermitian(B))  # noqa: E731
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_first_and_second_derivatives_of_the_rest(dtype):
    generator = torch.Generator().manual_seed(3)
    A, B = definite(4, dtype=dtype).requires_grad_(), definite(4, dtype=dtype, seed=1).requires_grad_()
    C, m, k = (torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_() for shape in ((4, 4), (4,), (4,)))
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    h = hermitian
    for function, arguments in (
        (lambda A, S: eg.spd.exp_map(h(A), h(S) / 3), (A, C)),
        (lambda S, A, B: eg.spd.parallel_transport(h(S), h(A), h(B)), (C, A, B)),
        (lambda A, C: eg.spd.lyapunov(h(A), C), (A, C)),
        (lambda A, B, C: eg.spd.sylvester(h(A), h(B), C), (A, B, C)),
        (lambda m, A, k, B: eg.spd.frechet_distance(m, h(A), k, h(B)), (m, A, k, B)),
        (lambda A, B, t: eg.spd.geometric_mean(h(A), h(B), t), (A, B, t)),
    ):
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_scales_and_commuting_matrices(scale):
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    a, b = torch.tensor([1.0, 1, 2, 3, 3, 9]).double() * scale, torch.tensor([4.0, 4, 2, 1, 5, 0.1]).double() * scale
    A, B = hermitian((Q * a) @ Q.mT).requires_grad_(), hermitian((Q * b) @ Q.mT).requires_grad_()
    spd = eg.spd
    matrix = lambda x: (Q * x) @ Q.mT  # noqa: E731
    for value, expected in (
        (spd.bures_distance(A, B), (a.sqrt() - b.sqrt()).norm()),
        (spd.bures_distance(A, A), torch.tensor(0.0)),
        (spd.affine_invariant_distance(A, B), (a / b).log().norm()),
        (spd.log_euclidean_distance(A, B), (a / b).log().norm()),
        (spd.geometric_mean(A, B), matrix((a * b).sqrt())),
        (spd.optimal_transport_map(A, B), matrix((b / a).sqrt())),
        (spd.log_map(A, B), matrix(a * (b / a).log())),
        (spd.exp_map(A, B), matrix(a * (b / a).exp())),
        (spd.parallel_transport(A, A, B), B),
        (spd.lyapunov(A, B), matrix(b / a / 2)),
        (spd.karcher_mean(torch.stack([A, B])), matrix((a * b).sqrt())),
        (spd.bures_barycenter(torch.stack([A, B])), matrix((a.sqrt() + b.sqrt()) ** 2 / 4)),
    ):
        assert float((value - expected).detach().norm()) <= 1e-12 * float(
            expected.detach().norm() or A.detach().norm().sqrt()
        )
    (g,) = torch.autograd.grad(spd.bures_distance(A, B, squared=True), A)
    assert relative(g, matrix(1 - (b / a).sqrt())) < 1e-12
    (g,) = torch.autograd.grad(spd.affine_invariant_distance(A, B, squared=True), B)
    assert relative(g, matrix(2 * (b / a).log() / b)) < 1e-12


def test_distances_of_equal_matrices_are_zero_with_zero_gradients():
    for A in (torch.eye(5).double(), definite(5), of_rank(5, 2), torch.zeros(5, 5).double()):
        X = A.clone().requires_grad_()
        d = eg.spd.bures_distance(X, A)
        assert float(d.detach()) <= 1e-14 * float(A.norm() ** 0.5)
        (g,) = torch.autograd.grad(d, X)
        assert g.isfinite().all()
    for A in (torch.eye(5).double(), definite(3, 5), definite(5, dtype=torch.complex128), definite(6).float()):
        X = A.requires_grad_()
        for distance in (eg.spd.bures_distance, eg.spd.affine_invariant_distance, eg.spd.log_euclidean_distance):
            d = distance(X, X.detach())
            (g,) = torch.autograd.grad(d.sum(), X, create_graph=True)
            assert (d == 0).all() and (g == 0).all()
            assert (torch.autograd.grad(g.sum().real, X, materialize_grads=True)[0] == 0).all()
    near = definite(5) + 1e-9 * (tangent := hermitian(torch.randn(5, 5).double()))
    S = eg.sqrtm(definite(5))
    exact = 1e-9 * float((S @ eg.spd.lyapunov(definite(5), tangent)).norm())  # d^2 = tr(X A X), A X + X A = dA
    assert abs(float(eg.spd.bures_distance(near, definite(5))) / exact - 1) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("rank", range(6))
def test_one_matrix_of_any_rank(rank, dtype):
    """Of a singular B, the gradient in A, and the one in a factor of B, by finite differences."""
    X = torch.randn(5, rank, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
    A = definite(5, dtype=dtype).requires_grad_()
    assert relative(eg.spd.bures_distance(A, X @ X.mH, squared=True), many_digits("bures_distance", A, X @ X.mH)) < 1e-7
    m = torch.zeros(5, dtype=dtype)
    for function in (
        lambda A, X: eg.spd.bures_distance(hermitian(A), X @ X.mH),
        lambda A, X: eg.spd.bures_distance(X @ X.mH, hermitian(A), squared=True),
        lambda A, X: eg.spd.frechet_distance(m, hermitian(A), m, X @ X.mH),
        lambda A, X: eg.spd.frechet_distance(m, X @ X.mH, m, hermitian(A)),
    ):
        assert torch.autograd.gradcheck(function, (A, X), fast_mode=True, atol=1e-6)
    B = (X @ X.mH).detach()
    assert torch.autograd.gradcheck(lambda A: eg.spd.optimal_transport_map(hermitian(A), B), A, fast_mode=True)


def along(curve, t):
    """A Hermitian matrix at t: ``(H + t K)(H + t K)^H + t L``, L or none."""
    H, K, L = curve
    H = H + t * K
    A = H @ H.mH if isinstance(H, torch.Tensor) else H * H.H
    return A if L is None else A + t * L


def curves(n, ranks, dtype):
    """Of two matrices of these ranks, which they keep; but the one of larger rank moves freely, too."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, dtype=dtype, generator=generator)  # noqa: E731
    first, second = ([random(n, rank), random(n, rank), None] for rank in ranks)
    for mine, other in ((first, second), (second, first)):
        if mine[0].shape[1] > other[0].shape[1]:
            mine[2] = hermitian(random(n, n))
    return first, second


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("ranks", [(4, 4), (4, 2), (2, 4), (3, 2), (2, 3), (2, 2), (1, 4)])
def test_three_derivatives_at_any_ranks_in_many_digits(ranks, dtype):
    """Along all moves that the distance has derivatives for: of a factor, and of the matrix of larger rank at will."""
    first, second = curves(4, ranks, dtype)
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    derivatives = [eg.spd.bures_distance(along(first, t), along(second, t), squared=True)]
    m = torch.zeros(4, dtype=dtype)
    derivatives.append(eg.spd.frechet_distance(m, along(first, t), m, along(second, t)))

    with mpmath.workdps(60):
        exactly = [[None if X is None else _exact(X) for X in curve] for curve in (first, second)]

        def squared(t):
            A, B = (along(curve, t) for curve in exactly)
            (H, K, _), other = (exactly[0], B) if ranks[0] <= ranks[1] else (exactly[1], A)
            product = (H + t * K).H * other * (H + t * K)
            L = (mpmath.eighe if dtype.is_complex else mpmath.eigsy)(product, eigvals_only=True)
            return sum(mpmath.re(A[i, i] + B[i, i]) for i in range(4)) - 2 * sum(map(mpmath.sqrt, L))

        expected = [float(mpmath.diff(squared, 0, order, h=mpmath.mpf(10) ** -12)) for order in range(4)]
    for value in derivatives:
        for order, exact in enumerate(expected):
            assert abs(float(value.detach()) / exact - 1) < 1e-8, order
            if order < 3:
                (value,) = torch.autograd.grad(value, t, create_graph=True)


def test_what_is_returned_where_there_is_no_derivative():
    """Into A's null space, where the squared distance falls like a root: the derivative without that root."""
    a = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    b = torch.tensor([4.0, 9.0, 0.0], dtype=torch.float64)
    A, B = a.diag().requires_grad_(), b.diag().requires_grad_()
    gradients = torch.autograd.grad(eg.spd.bures_distance(A, B, squared=True), (A, B))
    assert torch.allclose(gradients[0], torch.tensor([-1.0, 1, 1]).double().diag())  # 1 - sqrt(b / a) where a > 0
    assert torch.allclose(gradients[1], torch.tensor([0.5, 1, 1]).double().diag())
    A = torch.eye(3).double().requires_grad_()
    (g,) = torch.autograd.grad(eg.spd.bures_distance(A, B.detach(), squared=True), A)
    assert torch.allclose(g, torch.tensor([-1.0, -2, 1]).double().diag())  # all of it: A is definite


def test_gradient_of_fid_with_fewer_samples_than_features():
    images, real = (torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    images.requires_grad_()

    def fid(images, real):
        return eg.spd.frechet_distance(images.mean(0), images.mT.cov(), real.mean(0), real.mT.cov())

    assert torch.autograd.gradcheck(lambda X: fid(X, real), images, atol=1e-6)


@pytest.mark.parametrize("rank", [300, 200])
def test_frechet_distance_of_large_matrices(rank):
    A, B, m = of_rank(300, rank) / 300, definite(300, seed=1) / 300, torch.zeros(300, dtype=torch.float64)
    X = A.clone().requires_grad_()
    squared = eg.spd.bures_distance(X, B, squared=True)
    value = eg.spd.frechet_distance(m, X, m, B)
    assert relative(value, squared) < 1e-7 and relative(eg.spd.frechet_distance(m, A, m, B), squared) < 1e-7
    G = torch.randn(300, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(1))  # A's factor
    gradients = [torch.autograd.grad(d, X, create_graph=True)[0] for d in (value, squared)]
    assert relative(*(g.detach() @ G for g in gradients)) < 1e-7
    E = G @ torch.randn(rank, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 300
    turns = (E + E.mT).requires_grad_()  # of A's range
    assert relative(*(torch.autograd.grad((g * turns).sum(), X)[0] @ G for g in gradients)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_derivatives_of_large_matrices(dtype):
    """In both arguments, in forward mode and of second order: those of the distance that knows no large ones."""
    n = 270  # more than one block
    A, B, E = (definite(n, dtype=dtype, seed=seed) / n + torch.eye(n, dtype=dtype) for seed in range(3))
    m = torch.zeros(n, dtype=dtype)

    def fid(A, B):
        return eg.spd.frechet_distance(m, A, m, B)

    def squared(A, B):
        return eg.spd.bures_distance(A, B, squared=True)

    wide = torch.complex128 if dtype.is_complex else torch.float64
    bound = 1e4 * torch.finfo(dtype).eps
    found, right = [], []
    for function, to, into in ((fid, dtype, found), (squared, wide, right)):
        X, Y, Z = A.to(to).requires_grad_(), B.to(to).requires_grad_(), E.to(to)
        value = function(X, Y)
        gradients = torch.autograd.grad(value, (X, Y), create_graph=to == torch.float64)
        into += [value, *gradients, torch.autograd.grad(function(X, Y.detach()), X)[0]]
        into.append(torch.func.jvp(function, (X.detach(), Y.detach()), (Z, Z))[1])
        if to == torch.float64 == dtype:
            into += torch.autograd.grad((gradients[0] * Z).sum() + (gradients[1] * Z).sum(), (X, Y))
    for ours, other in zip(found, right, strict=False):
        assert relative(ours.to(wide), other) < bound


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("mean", [eg.spd.karcher_mean, eg.spd.bures_barycenter])
def test_means_solve_their_equation_and_have_two_derivatives(mean, dtype):
    A = definite(7, 3, dtype=dtype)
    w = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    M = mean(A, w)
    if mean is eg.spd.karcher_mean:
        residual = (w[:, None, None] * eg.spd.log_map(M, A)).sum(0) / w.sum()
    else:
        residual = (w[:, None, None] * eg.spd.optimal_transport_map(M, A)).sum(0) / w.sum() - torch.eye(3)
    assert float(residual.norm()) < 1e-13 * float(A.abs().amax())
    arguments = A[:4].clone().requires_grad_(), w[:4].clone().requires_grad_()
    function = lambda A, w: mean(hermitian(A), w)  # noqa: E731
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)
    batch = torch.stack([A[:4], 1e-3 * A[3:]])
    assert torch.allclose(mean(batch)[1], mean(1e-3 * A[3:]), atol=1e-15)


@pytest.mark.parametrize("mean", [eg.spd.karcher_mean, eg.spd.bures_barycenter])
def test_transforms_of_means(mean):
    """``vmap`` in any dimension, forward mode of all kinds, of second order, too, and gradients of batches."""
    A, w = definite(3, 4, 3), torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    M, close = mean(A, w), lambda a, b: torch.allclose(a, b, rtol=1e-9, atol=1e-11)
    assert close(torch.vmap(mean)(A, w), M)
    assert close(torch.vmap(mean, in_dims=1)(A.movedim(0, 1), w.mT), M)
    assert close(torch.vmap(mean, in_dims=(None, 0))(A[0], w), mean(A[:1].expand(A.shape), w))
    tangents = definite(4, 3, seed=1) - definite(4, 3, seed=2), w[1] - w[2]
    at = A[0].clone().requires_grad_(), w[0].clone().requires_grad_()
    function = lambda A, w: mean(hermitian(A), w)  # noqa: E731
    assert torch.autograd.gradcheck(function, at, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, at, fast_mode=True, check_fwd_over_rev=True)
    along = lambda A, w: torch.func.jvp(function, (A, w), tangents)[1]  # noqa: E731
    C = definite(3, seed=3)
    pushed = torch.func.jvp(along, at, tangents)[1]
    of_gradients = torch.autograd.grad((function(*at) * C).sum(), at, create_graph=True)
    second = torch.autograd.grad(sum((g * v).sum() for g, v in zip(of_gradients, tangents, strict=True)), at)
    assert close((pushed * C).sum(), sum((g * v).sum() for g, v in zip(second, tangents, strict=True)))
    loss = lambda A, w: (mean(A, w) * C).sum()  # noqa: E731
    of_batch, of_one = torch.vmap(torch.func.grad(loss, (0, 1)))(A, w), torch.func.grad(loss, (0, 1))(A[2], w[2])
    assert all(close(g[2], h) for g, h in zip(of_batch, of_one, strict=True))


@pytest.mark.parametrize("mean", [eg.spd.karcher_mean, eg.spd.bures_barycenter])
def test_a_compiled_mean(mean):
    A = definite(4, 3).requires_grad_()
    compiled = torch.compile(lambda A: 3 * mean(2 * A), backend="eager")
    assert torch.allclose(compiled(A), 6 * mean(A))
    gradients = [torch.autograd.grad(f(A).square().sum(), A)[0] for f in (compiled, lambda A: 6 * mean(A))]
    assert torch.allclose(*gradients)


def test_weights_of_zero_and_semidefinite_matrices():
    A = definite(3, 4)
    for mean in (eg.spd.karcher_mean, eg.spd.bures_barycenter):
        w = torch.tensor([2.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
        assert relative(mean(A, w), mean(A[::2])) < 1e-13
        (g,) = torch.autograd.grad(mean(A, w).trace(), w)
        step = torch.tensor([0.0, 1e-6, 0.0], dtype=torch.float64)
        assert abs(float(mean(A, w.detach() + step).trace() - mean(A, w.detach()).trace()) / 1e-6 - float(g[1])) < 1e-5
    roots = torch.tensor([[1.0, 2, 3], [0, 1, 5]], dtype=torch.float64).requires_grad_()
    M = eg.spd.bures_barycenter(torch.diag_embed(roots**2))
    assert torch.allclose(M, torch.diag(roots.mean(0) ** 2))
    assert torch.allclose(torch.autograd.grad(M.trace(), roots)[0], roots.mean(0).expand(2, 3).where(roots > 0, 0))


@pytest.mark.parametrize(("n", "m", "condition"), [(3, 2, 1e6), (6, 3, 1e8), (4, 20, 1e10), (10, 3, 1e6)])
def test_newton_converges_from_far_away(n, m, condition):
    generator = torch.Generator().manual_seed(0)
    L = torch.logspace(0, -float(torch.tensor(condition).log10()), n, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(20, m, n, n, dtype=torch.float64, generator=generator)).Q
    A = hermitian((Q * L) @ Q.mT)
    M = eg.spd.karcher_mean(A, max_iterations=40)
    G = torch.linalg.inv(torch.linalg.cholesky(M)).unsqueeze(1)
    assert float(eg.logm(hermitian(G @ A @ G.mT)).mean(1).norm(dim=(-2, -1)).max()) < 1e-14 * condition


def test_mean_of_equal_matrices():
    A = definite(4).requires_grad_()
    for mean in (eg.spd.karcher_mean, eg.spd.bures_barycenter):
        M = mean(A.expand(3, 4, 4))
        assert relative(M, A) < 1e-14
        assert relative(torch.autograd.grad(M.trace(), A)[0], torch.eye(4)) < 1e-12


def test_transforms_and_empty_batches():
    A, B = definite(3, 4), definite(3, 4, seed=1)
    for function in PAIRS.values():
        expected = function(A, B)
        assert torch.allclose(torch.vmap(function)(A, B), expected)
        assert torch.allclose(function(A[:, None], B)[1, 2], function(A[1], B[2]))
        assert function(A[:0], B[:0]).shape == expected[:0].shape
        assert function(A[0, :0, :0], B[0, :0, :0]).numel() in (0, 1)
        gradient = torch.func.grad(lambda A, B: function(A, B).sum())  # noqa: B023
        assert torch.allclose(torch.vmap(gradient)(A, B)[2], gradient(A[2], B[2]))
        assert function(A.float(), B.float()).dtype == torch.float32


def test_bad_input_is_named():
    A = definite(4)
    with pytest.raises(ValueError, match="B must have the dtype, device and size of A"):
        eg.spd.bures_distance(A, definite(3))
    with pytest.raises(ValueError, match="mean2 must be vectors"):
        eg.spd.frechet_distance(A[0], A, A[0, :3], A)
    with pytest.raises(ValueError, match=r"C must be \(\*, 4, 4\)"):
        eg.spd.lyapunov(A, A[:3])
    with pytest.raises(TypeError, match="of one dtype"):
        eg.spd.sylvester(A, A, A.float())
    with pytest.raises(ValueError, match="at least one matrix"):
        eg.spd.karcher_mean(A)
    with pytest.raises(ValueError, match="weights must have shape"):
        eg.spd.karcher_mean(definite(2, 4), torch.ones(3))
    for weights, got in (([1.0, -0.5], "got -0.5 among"), ([0.0, 0.0], "and 0 for a sum"), ([1.0, torch.nan], "nan")):
        with pytest.raises(ValueError, match=f"weights must be at least 0, with a positive sum .*{got}"):
            eg.spd.karcher_mean(definite(2, 4), torch.tensor(weights))
    with pytest.raises(TypeError, match="weights must be a tensor, got list"):
        eg.spd.karcher_mean(definite(2, 4), [1, 1])
    with pytest.raises(TypeError, match=r"weights must be real, got torch\.complex64"):
        eg.spd.bures_barycenter(definite(2, 4), torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"mean1 must be vectors .* on cpu, as the covariances, got .* on meta"):
        eg.spd.frechet_distance(A[0].to("meta"), A, A[0], A)
    with pytest.raises(TypeError, match="mean2 must be a tensor, got int"):
        eg.spd.frechet_distance(A[0], A, 0, A)
    with pytest.raises(ValueError, match=r"dtype, device and size of A, .* on cpu and n = 4, got .* on meta and n = 4"):
        eg.spd.bures_distance(A, A.to("meta"))
    with pytest.raises(ValueError, match=r"batches of A and B must broadcast, got \(2, 4, 4\) and \(3, 4, 4\)"):
        eg.spd.affine_invariant_distance(definite(2, 4), definite(3, 4))
    with pytest.raises(torch.linalg.LinAlgError, match="no convergence in max_iterations = 1"):
        eg.spd.karcher_mean(definite(3, 4), max_iterations=1)
    with pytest.raises(torch.linalg.LinAlgError, match="matrix 1 of those of mean 2 of the batch is not positive"):
        eg.spd.karcher_mean(
            torch.stack([definite(2, 4), definite(2, 4), torch.stack([A, A - 2 * A.norm() * torch.eye(4)])])
        )
    with pytest.raises(torch.linalg.LinAlgError):
        eg.spd.geometric_mean(-A, A)
    for distance in (eg.spd.bures_distance, lambda A, B: eg.spd.frechet_distance(A[0, 0], A, A[0, 0], B)):
        indefinite = torch.stack([A, A - 9 * A.trace() / 4 * torch.eye(4)])
        for arguments in ((indefinite, A.expand(2, 4, 4)), (A.expand(2, 4, 4), indefinite)):
            with pytest.raises(torch.linalg.LinAlgError, match=r"[AB] must be positive semidefinite, got one, 1 of"):
                distance(*arguments)
    with pytest.raises(torch.linalg.LinAlgError, match="B must be positive semidefinite, got one, 0 of the"):
        eg.spd.parallel_transport(A, A, -A)
    with pytest.raises(TypeError, match="t must be a real number or tensor, got 'a'"):
        eg.spd.geometric_mean(A, A, "a")
    for mean in (eg.spd.karcher_mean, eg.spd.bures_barycenter):
        with pytest.raises(ValueError, match="max_iterations must be at least 1, got 0"):
            mean(definite(2, 4), max_iterations=0)
        with pytest.raises(TypeError, match=r"max_iterations must be an int, got 2\.5"):
            mean(definite(2, 4), max_iterations=2.5)
    for function in (eg.spd.affine_invariant_distance, eg.spd.geometric_mean, eg.spd.log_map):
        with pytest.raises(torch.linalg.LinAlgError, match=r"(A|base) must be positive definite, and finite"):
            function(A * torch.nan, A)
    with pytest.raises(ValueError, match=r"batches of A and C must broadcast, got \(2, 4, 4\) and \(3, 4, 4\)"):
        eg.spd.lyapunov(definite(2, 4), definite(3, 4))
    with pytest.raises(torch.linalg.LinAlgError, match="A must be finite"):
        eg.spd.lyapunov(A * torch.nan, A)
    with pytest.raises(ValueError, match="batches of mean1, A, mean2 and B must broadcast"):
        eg.spd.frechet_distance(torch.zeros(5, 4).double(), definite(3, 4), A[0], A)
    with pytest.raises(ValueError, match="batches of t and A # B must broadcast"):
        eg.spd.geometric_mean(definite(2, 4), A, torch.ones(3))
    with pytest.raises(ValueError, match="t must be finite"):
        eg.spd.geometric_mean(A, A, torch.tensor(torch.nan))
    with pytest.raises(TypeError, match="A must be dense, got torch"):
        eg.spd.bures_distance(A.to_sparse(), A)
    with pytest.raises(TypeError, match="base must be a tensor"):
        eg.spd.log_map("A", A)


@pytest.mark.parametrize("t", [0.3, 0.5, 0.9, 1.5, 2, 2.5])
def test_geometric_means_with_singular_matrices(t):
    """Whose zeros are rounding, of either sign, as in ``A = diag(a), B = a b b^T`` is ``A^-1/2 B A^-1/2``."""
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(40, 4, 1, dtype=torch.float64, generator=generator)
    A = torch.linspace(1, 2, 4).double().diag() + 0.1
    P = eg.inv_sqrtm(A) @ b
    B = (b @ b.mT).requires_grad_()
    length = (P.mT @ P) ** (t - 1)
    root = eg.sqrtm(A)
    M = eg.spd.geometric_mean(A, B, t)
    assert relative(M.detach(), root @ (length * P @ P.mT) @ root) < 1e-4 ** (2 * min(t, 1))
    if t >= 1:  # d tr(A^-1 M) = t tr(X^(t-1) A^-1/2 dB A^-1/2)
        (g,) = torch.autograd.grad((torch.linalg.inv(A) * M).sum(), B)
        direction = b @ b.mT
        assert relative((g * direction).sum((-2, -1)), t * (P.mT @ P).squeeze() ** t) < 1e-7
        assert g.isfinite().all()
    indefinite = torch.diag(torch.tensor([4.0, -9.0, 1.0]))
    for function in (eg.spd.geometric_mean, torch.vmap(lambda A, B, t: eg.spd.geometric_mean(A, B, t), (0, 0, None))):
        at = (torch.eye(3).expand(2, 3, 3), torch.stack([torch.eye(3), indefinite]), t)
        if t == 2:
            assert torch.equal(function(*at)[1], indefinite @ indefinite)
        elif function is eg.spd.geometric_mean:
            with pytest.raises(torch.linalg.LinAlgError, match="B must be positive semidefinite, got one, 1 of the"):
                function(*at)
        else:
            assert torch.equal(function(*at).isnan().flatten(1).any(1), torch.tensor([False, True]))


@pytest.mark.parametrize("n", [3, 256])
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-66, 2.0**66, 2.0**100])
def test_frechet_distance_has_no_scale(n, scale):
    A, B = (definite(n, seed=seed).float() for seed in range(2))
    found = []
    for unit in (1.0, scale):
        X, Y = (unit * A).requires_grad_(), (unit * B).requires_grad_()
        value = eg.spd.frechet_distance(X[0] * 0, X, Y[0] * 0, Y)
        plain = eg.spd.frechet_distance(A[0] * 0, X.detach(), A[0] * 0, Y.detach())
        found.append((value.detach() / unit, plain / unit, *torch.autograd.grad(value, (X, Y))))
    for ours, right in zip(*found, strict=True):
        assert relative(right, ours) < 1e-6


@pytest.mark.parametrize("n", [64, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_frechet_distance_near_equality_is_not_negative(n, dtype):
    X = torch.randn(n, n, dtype=dtype, generator=torch.Generator().manual_seed(0))
    A, m = X @ X.mH / n + 0.3 * torch.eye(n), torch.zeros(n, dtype=dtype)
    A.requires_grad_()
    for share in (0.0, 1e-6):
        B = A.detach() * (1 + share)
        value = eg.spd.frechet_distance(m, A, m, B)
        exact = eg.spd.bures_distance(A.detach(), B, squared=True)
        assert value >= 0 and abs(value - exact) <= 1e-6 * n * A.detach().trace().real
        assert share or float(value) == 0
        assert eg.spd.frechet_distance(m + 1, A, m, B) >= n
        (g,) = torch.autograd.grad(value, A)
        assert g.norm() < (1e-5 if dtype == torch.float64 else 1e-2)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e30])
def test_transport_maps_have_no_scale(scale):
    A, B = (definite(3, dtype=torch.float32, seed=seed) for seed in range(2))
    found = []
    for unit in (1.0, scale):
        X = (unit * A).requires_grad_()
        T = eg.spd.optimal_transport_map(X, unit * B)
        found.append((T, unit * torch.autograd.grad(T[0].sum(), X)[0]))
    for ours, right in zip(*found, strict=True):
        assert relative(right.detach(), ours.detach()) < 1e-4


@pytest.mark.parametrize("exponent", [-600, -100, -66, 50, 66, 100, 600])
@pytest.mark.parametrize("mean", [eg.spd.karcher_mean, eg.spd.bures_barycenter])
def test_means_have_no_scale(mean, exponent):
    """Of A times a power of two: the value, and the first and second derivatives in A and the weights."""
    dtype = torch.float32 if abs(exponent) <= 100 else torch.float64
    A, w = definite(4, 3, dtype=dtype), torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=dtype)
    D = hermitian(torch.randn(4, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)))
    found = []
    for unit in (1.0, 2.0**exponent):
        X, weights = (unit * A).requires_grad_(), w.clone().requires_grad_()
        M = mean(X, weights)
        natural = torch.autograd.grad((M / unit)[0, :2].sum(), (X, weights), retain_graph=True)
        gA, gw = torch.autograd.grad(M[0, :2].sum(), (X, weights), create_graph=True)
        of_gA = torch.autograd.grad((gA * D).sum(), (X, weights), retain_graph=True)
        of_gw = torch.autograd.grad((gw * w.flip(0)).sum() / unit, (X, weights))
        along = torch.func.jvp(mean, (X.detach(), w), (unit * D, w.flip(0)))[1]
        values = M / unit, natural[0] * unit, natural[1], gA, gw / unit
        second = of_gA[0] * unit, of_gA[1], of_gw[0] * unit, of_gw[1], along / unit
        found.append([value.detach() for value in (*values, *second)])
    for other, ours in zip(*found, strict=True):
        assert relative(ours, other) < 1e-5


@pytest.mark.parametrize("condition", [1e4, 1e6])
@pytest.mark.parametrize("mean", [eg.spd.karcher_mean, eg.spd.bures_barycenter])
def test_means_of_ill_conditioned_matrices(mean, condition):
    """One such set among good ones: their means are what they are alone."""
    L = torch.logspace(0, -float(torch.tensor(condition).log10()), 5, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    ill, good = (Q * L) @ Q.mT, definite(3, 5)
    M = mean(torch.stack([good, hermitian(ill)]))
    assert relative(M[0], mean(good)) < 1e-12
    if mean is eg.spd.karcher_mean:
        inverse = torch.linalg.inv(torch.linalg.cholesky(M[1]))
        residual = eg.logm(hermitian(inverse @ ill @ inverse.mT)).sum(0).norm()
    else:
        residual = (eg.spd.optimal_transport_map(M[1].expand(3, 5, 5), hermitian(ill)).mean(0) - torch.eye(5)).norm()
    assert float(residual) < 1e-12 * condition


def test_means_of_nothing():
    assert eg.spd.karcher_mean(torch.zeros(2, 0, 0)).shape == (0, 0)
