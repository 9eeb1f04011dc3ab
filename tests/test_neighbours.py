"""The doors of examples/neighbours.py, each against the real package where it is installed."""

import copy
import runpy
from pathlib import Path

import pytest
import torch

import eigengrad as eg

NEIGHBOURS = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "neighbours.py"))
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def definite(*shape, seed=0, dtype=torch.float64):
    X = torch.randn(*shape, shape[-1], dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return X @ X.mT + 0.1 * torch.eye(shape[-1], dtype=dtype)


def test_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)[:, :12].double()

    def metric():
        it = fid.FrechetInceptionDistance(Features())
        for real in (True, False):
            it.update(torch.rand(40, 3, 2, 2, generator=torch.Generator().manual_seed(int(real))), real=real)
        return it.compute()

    alone = metric()
    with NEIGHBOURS["torchmetrics_fid"]():
        assert torch.allclose(metric(), alone, rtol=1e-6)

    X, Y = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (20, 30))
    for dtype, accuracy in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        few, real = X.to(dtype).requires_grad_(), Y.to(dtype)
        with NEIGHBOURS["torchmetrics_fid"]():
            value = fid._compute_fid(few.mean(0), few.mT.cov(), real.mean(0), real.mT.cov())
        (g,) = torch.autograd.grad(value, few)
        precise = few.detach().double().requires_grad_()
        exact = NEIGHBOURS["fid_of_few"](precise, real.double())
        assert abs(float(value.detach() / exact.detach()) - 1) < accuracy
        (exact,) = torch.autograd.grad(exact, precise)
        assert float((g - exact).norm() / exact.norm()) < accuracy
    assert float(NEIGHBOURS["torchmetrics_error"]()) > 1e-4  # theirs; once it is right the door can close


def test_pot():
    gaussian = pytest.importorskip("ot.gaussian")
    A, B = definite(5), definite(5, seed=1)
    m = torch.zeros(5, dtype=torch.float64)
    alone = gaussian.bures_wasserstein_distance(m, m, A, B)
    mapping, _ = gaussian.bures_wasserstein_mapping(m, m, A, B)
    with NEIGHBOURS["pot_roots"]():
        assert torch.allclose(gaussian.bures_wasserstein_distance(m, m, A, B), alone)
        X = A.clone().requires_grad_()
        distance = lambda X: gaussian.bures_distance((X + X.mT) / 2, B)  # noqa: E731
        assert torch.autograd.gradgradcheck(distance, X, fast_mode=True)
        identity = torch.eye(5, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradgradcheck(distance, identity, fast_mode=True)
        barycenter = gaussian.bures_wasserstein_barycenter(
            m.expand(2, 5), torch.stack([A, B]), eps=1e-14, num_iter=500
        )[1]
    assert torch.allclose(eg.spd.bures_distance(A, B), alone)
    assert torch.allclose(eg.spd.optimal_transport_map(A, B), mapping)
    assert torch.allclose(eg.spd.bures_barycenter(torch.stack([A, B])), barycenter, atol=1e-7)


def test_pyriemann():
    geometry = pytest.importorskip("pyriemann.geometry")
    from pyriemann.geometry import distance, geodesic, mean, tangentspace

    A = definite(50, 22)
    theirs = mean.mean_riemann(A.numpy(), tol=1e-13, maxiter=200)
    ours = eg.spd.karcher_mean(A)
    assert float((ours - torch.from_numpy(theirs)).norm() / ours.norm()) < 1e-10
    P, Q = A[0], A[1]
    for value, expected in (
        (eg.spd.affine_invariant_distance(P, Q), distance.distance_riemann(P.numpy(), Q.numpy())),
        (eg.spd.log_euclidean_distance(P, Q), distance.distance_logeuclid(P.numpy(), Q.numpy())),
        (eg.spd.bures_distance(P, Q), distance.distance_wasserstein(P.numpy(), Q.numpy())),
        (eg.spd.geometric_mean(P, Q, 0.3), geodesic.geodesic_riemann(P.numpy(), Q.numpy(), 0.3)),
        (eg.spd.log_map(P, Q), tangentspace.log_map_riemann(Q.numpy(), P.numpy(), C12=True)),
    ):
        assert torch.allclose(value, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)
    same = torch.eye(4, dtype=torch.float64).requires_grad_()
    with NEIGHBOURS["pyriemann_functions"]():
        assert torch.allclose(mean.mean_riemann(A, tol=1e-13, maxiter=200), ours, rtol=1e-9)
        value = distance.distance_logeuclid(same, 2 * torch.eye(4, dtype=torch.float64))
        assert torch.autograd.grad(value, same)[0].isfinite().all()
    assert geometry.base.logm is not eg.logm


@pytest.mark.parametrize(("dtype", "upper"), [(torch.float32, True), (torch.float64, True), (torch.float64, False)])
def test_spd_learn(dtype, upper):
    models = pytest.importorskip("spd_learn.models")
    torch.manual_seed(0)
    theirs = models.SPDNet(input_type="cov", subspacedim=10, n_chans=12, n_outputs=3, threshold=0.5, upper=upper).to(
        dtype
    )
    ours = NEIGHBOURS["spdnet"](copy.deepcopy(theirs))
    X, y = definite(16, 12, dtype=dtype), torch.arange(16) % 3
    losses = []
    for network in (theirs, ours):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(network(X), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    assert torch.allclose(
        torch.stack(losses[:5]), torch.stack(losses[5:]), rtol=1e-10 if dtype == torch.float64 else 1e-4
    )


def test_karcher_mean_of_50_by_finite_differences():
    A, E = definite(50, 22).requires_grad_(), definite(50, 22, seed=2)
    C = definite(22, seed=3)
    value = lambda A: (eg.spd.karcher_mean(A) * C).sum()  # noqa: E731
    (g,) = torch.autograd.grad(value(A), A)
    with torch.no_grad():
        h = 1e-5
        steps = [float(value(A + s * h * E)) for s in (-2, -1, 1, 2)]
    difference = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h)
    assert abs(float((g * E).sum()) / difference - 1) < 1e-7
